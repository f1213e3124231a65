//! While this host is the primary: looks whether the store serves, starts its services again, and hands over when
//! that does not help.
//!
//! Two kinds of witnesses speak against a primary: its own probes, services and database, and a majority of the
//! watchers that see nobody served. A store in maintenance is left alone.

use crate::failover::agent::run::Agent;
use crate::failover::decide::view::{Phase, View};
use crate::failover::peers::question::{Answer, Ask};
use crate::failover::watch::health::{Health, HealthRules, Remedy};
use crate::failover::watch::limits::may_fail_over;
use crate::failover::watch::probe::Prober;
use crate::failover::watch::tally::{Tally, TallyRules};
use crate::model::escape;
use crate::model::id::{Epoch, WriterId};
use crate::model::member::shortened;
use crate::model::vote::{majority, voters};
use crate::service::agents::around::Daemon;
use crate::service::agents::parts::HostParts;
use crate::service::config::StoreConfig;
use crate::support::clock::BootNanos;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Time between two looks, where probes are configured, and where only services are asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_SERVICES: Duration = Duration::from_secs(2);
/// Time between two questions to services while probes answer.
const ASK_SERVICES: Duration = Duration::from_secs(10);
/// Time that the machine has to begin a handover.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Time from a start of the services that failed to the next one.
const START_AGAIN: Duration = Duration::from_secs(1);
/// Time that the filesystem has to say whether somebody works on the store.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
const RULES: TallyRules = TallyRules { misses: 3, hits: 1 };
/// Time after a start of the services from which watchers' words count: until then they may be of before.
const WORDS_AFTER: Duration = Duration::from_secs(4);
/// What fails here, for messages.
const READY: &str = "serving customers";
/// Names of the questions that need no configuration.
const SERVICES: &str = "services";
const DATABASE: &str = "database";

/// Attends to the store as long as the agent lives, on a thread of its own.
pub(crate) fn keep(daemon: &Daemon, agent: Weak<Agent>, parts: Arc<HostParts>) {
    let daemon = daemon.clone();
    std::thread::spawn(move || {
        let mut attendant = Attendant {
            daemon,
            parts,
            prober: None,
            epoch: Epoch::default(),
            tallies: BTreeMap::new(),
            asked_services: None,
            anew_since: BootNanos(0),
            health: Health::default(),
        };
        while let Some(agent) = agent.upgrade() {
            let pause = attendant.look(&agent);
            drop(agent);
            attendant.parts.store.env().sleep(pause);
        }
    });
}

struct Attendant {
    daemon: Daemon,
    parts: Arc<HostParts>,
    prober: Option<Prober>,
    /// The epoch that the tallies are of.
    epoch: Epoch,
    tallies: BTreeMap<String, Tally>,
    asked_services: Option<BootNanos>,
    /// Since when watchers' words count.
    anew_since: BootNanos,
    health: Health,
}

impl Attendant {
    /// Looks once; returns the time until the next look.
    fn look(&mut self, agent: &Agent) -> Duration {
        let view = agent.view();
        let config = self.daemon.host().config.store(self.parts.name.as_str()).cloned();
        let (Phase::Primary { epoch, .. }, Some(config)) = (&view.phase, config) else {
            self.begin_anew();
            self.asked_services = None;
            // A handover that does not end is not begun again at once.
            if !view.is_primary() {
                self.health = Health::default();
            }
            agent.words().note_ready(Vec::new());
            self.parts.note_working(READY);
            return LOOK_EVERY;
        };
        if self.epoch != *epoch {
            self.epoch = *epoch;
            self.begin_anew();
        }
        let pause = if config.probe.is_empty() { LOOK_SERVICES } else { LOOK_EVERY };
        if self.prober.is_none() {
            match new_prober(&self.daemon, &self.parts) {
                Ok(prober) => self.prober = Some(prober),
                Err(how) => self.parts.note_failing("probes", how),
            }
        }
        let Some(prober) = self.prober.clone() else { return pause };
        if is_in_maintenance(&prober, &config) {
            self.begin_anew();
            agent.words().note_ready(Vec::new());
            return pause;
        }
        self.ask(&prober, &config);
        let own: Vec<String> = self.tallies.values().filter_map(why_down).collect();
        agent.words().note_ready(own.clone());
        let outside = self.outside(agent, &view);
        let reasons: Vec<String> = own.into_iter().chain(outside).collect();
        match self.remedy(agent, &view, &config, &reasons) {
            Ok(()) if reasons.is_empty() => self.parts.note_working(READY),
            Ok(()) => self.parts.note_failing(READY, reasons.join("; ")),
            Err(how) => self.parts.note_failing(READY, format!("{}; {how}", reasons.join("; "))),
        }
        pause
    }

    /// Forgets what was said: it is about another time.
    fn begin_anew(&mut self) {
        self.tallies.clear();
        self.anew_since = self.parts.store.env().boot().plus(WORDS_AFTER);
    }

    /// Asks what is configured on this host, each within its limit, all at the same time.
    fn ask(&mut self, asked: &Prober, config: &StoreConfig) {
        let now = self.parts.store.env().boot();
        let is_sick = self.tallies.values().any(Tally::is_in_doubt);
        let is_due = self.asked_services.is_none_or(|at| now >= at.plus(ASK_SERVICES));
        let asks_services = config.probe.is_empty() || is_sick || is_due;
        if asks_services {
            self.asked_services = Some(now);
        }
        let (parts, me) = (&self.parts, &self.parts.me);
        let answers: Vec<(String, Result<(), String>)> = std::thread::scope(|scope| {
            let probes: Vec<_> = config
                .probe
                .iter()
                .map(|probe| (probe.name(), scope.spawn(move || asked.ask(probe, me))))
                .collect();
            let mut answers = vec![(DATABASE.to_owned(), parts.database_serves())];
            if asks_services {
                answers.push((SERVICES.to_owned(), parts.services_run()));
            }
            let failed = |_| Err("asking it failed".to_owned());
            answers.extend(
                probes.into_iter().map(|(name, thread)| (name, thread.join().unwrap_or_else(failed))),
            );
            answers
        });
        let now = self.parts.store.env().boot();
        let is_configured = |name: &String| {
            [SERVICES, DATABASE].contains(&name.as_str())
                || config.probe.iter().any(|probe| probe.name() == *name)
        };
        self.tallies.retain(|name, _| is_configured(name));
        for (name, answer) in answers {
            self.tallies.entry(name).or_default().note(RULES, answer, now);
        }
    }

    /// Returns what the watchers say, if a majority of them sees nobody served.
    fn outside(&self, agent: &Agent, view: &View) -> Option<String> {
        if !view.log.is_completed {
            // The edges are being switched.
            return None;
        }
        let now = self.parts.store.env().boot();
        let heard = agent.words().heard(view.log.epoch, self.anew_since, now);
        let state = agent.state();
        let members = &state.authority.members;
        let (all, needed) = (voters(members, &self.parts.me).count(), majority(members, &self.parts.me));
        let (watcher, failed) = heard.iter().next().filter(|_| heard.len() >= needed)?;
        let why = failed.first().map_or("", String::as_str);
        Some(format!("{} of {all} watchers see nobody served; '{watcher}': {why}", heard.len()))
    }

    /// Does what helps.
    ///
    /// # Errors
    /// The reason why it does not help, or is not done.
    fn remedy(
        &mut self,
        agent: &Agent,
        view: &View,
        config: &StoreConfig,
        reasons: &[String],
    ) -> Result<(), String> {
        if view.log.is_paused && !reasons.is_empty() {
            return Err("failover is paused; `understudy resume` ends that".into());
        }
        let can_restart = !config.service.is_empty();
        loop {
            let now = self.parts.store.env().boot();
            match self.health.next(HealthRules::DEFAULT, reasons.is_empty(), can_restart, now) {
                Remedy::Nothing => return Ok(()),
                Remedy::Restart => match self.restart(reasons) {
                    Ok(()) => return Ok(()),
                    // There is nothing to wait for: it does not even start.
                    Err(_) => self.parts.store.env().sleep(START_AGAIN),
                },
                Remedy::HandOver => return self.hand_over(agent, view, reasons),
            }
        }
    }

    /// Starts the services again.
    ///
    /// # Errors
    /// One of them does not start.
    fn restart(&mut self, reasons: &[String]) -> Result<(), String> {
        let store = &self.parts.name;
        tracing::warn!(%store, why = reasons.join("; "), "the store does not serve; its services are started again");
        let done = self.parts.restart_services();
        match &done {
            Ok(()) => {
                self.begin_anew();
                self.health.restarted(self.parts.store.env().boot());
            }
            Err(how) => tracing::error!(%store, how, "its services do not start"),
        }
        done
    }

    fn hand_over(&self, agent: &Agent, view: &View, reasons: &[String]) -> Result<(), String> {
        if !view.log.is_completed {
            return Err("the last change of the primary is not completed".into());
        }
        may_fail_over(&agent.state().authority.automatic, self.parts.store.env().wall())?;
        let to = self.target(view)?;
        // Part of it may be what watchers said.
        let because = escape::line(&format!("not ready: {}", reasons.join("; "))).into_owned();
        let because = shortened(because);
        let store = &self.parts.name;
        tracing::error!(%store, %to, because, "this host hands over, because the store does not serve here");
        match agent.give_away(&to, &because, ANSWER_LIMIT) {
            Some(refused) if !refused.is_empty() => {
                let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
                Err(format!("'{to}' is not handed over to: {}", refused.join("; ")))
            }
            Some(_) => Ok(()),
            None => Err("the agent did not begin a handover in time".into()),
        }
    }

    /// Returns the member to hand over to: one that has all transactions that a customer was told are done, where
    /// the database here cannot hand out its own.
    fn target(&self, view: &View) -> Result<WriterId, String> {
        let has_database = self.parts.database_serves().is_ok();
        let synced = &view.log.synced;
        let (mut candidates, others): (Vec<_>, Vec<_>) =
            view.candidates().cloned().partition(|host| synced.contains(host));
        if has_database {
            candidates.extend(others);
        } else if candidates.is_empty() {
            return Err("the database does not answer, and no standby is known to have all of its transactions; a person decides: `understudy failover` on a standby".into());
        }
        let mut why = Vec::new();
        for candidate in candidates {
            match self.parts.peers.ask(&candidate, Ask::WouldTakeOver) {
                Some(Answer::Done) => return Ok(candidate),
                Some(Answer::Refused { reasons }) => {
                    why.push(format!("'{candidate}': {}", reasons.join("; ")));
                }
                None => why.push(format!("'{candidate}' does not answer")),
            }
        }
        match why.is_empty() {
            true => Err("no other member may serve; `understudy member invite` adds one".into()),
            false => Err(format!("nobody can take over: {}", why.join("; "))),
        }
    }
}

fn new_prober(daemon: &Daemon, parts: &HostParts) -> Result<Prober, String> {
    let host = daemon.host();
    Prober::new(host.env().clone(), host.runtime.clone(), parts.name.clone())
}

fn why_down(tally: &Tally) -> Option<String> {
    tally.failure.clone().filter(|_| tally.is_down())
}

/// Returns whether somebody works on the store, by a file that the application has for that.
fn is_in_maintenance(prober: &Prober, config: &StoreConfig) -> bool {
    let paths: Vec<_> = config.watch.maintenance.iter().map(|name| config.path.join(name)).collect();
    !config.path.as_os_str().is_empty() && !paths.is_empty() && prober.is_there(paths, LOOK_LIMIT)
}
