//! Gathers, while this host stands by, what readiness depends on: often what costs nothing, and now and then what
//! asks others.

use crate::edge::context::EdgeContext;
use crate::edge::edges::Edges;
use crate::failover::agent::run::Agent;
use crate::failover::decide::view::Phase;
use crate::failover::peers::question::Ask;
use crate::failover::watch::limits::may_fail_over;
use crate::failover::watch::readiness::{Drill, Facts, Loss, Recovery, Watchers, readiness};
use crate::failover::watch::surroundings::Surroundings;
use crate::model::id::WriterId;
use crate::model::member::Member;
use crate::model::record::StoreState;
use crate::model::snapshot_ref::Moment;
use crate::model::vote::{majority, voters};
use crate::mounts::mount;
use crate::service::agents::around::Daemon;
use crate::service::agents::parts::HostParts;
use crate::service::config::StoreConfig;
use crate::service::watching::surroundings;
use crate::standby::depot::Depot;
use crate::support::child::THIS;
use crate::support::clock::{BootNanos, UnixNanos};
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time between two questions to the other watchers.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Time between two tests of the edges, and between two looks at the last drill.
const TEST_EVERY: Duration = Duration::from_mins(10);
/// Time between two tests of edges that failed.
const TEST_AGAIN: Duration = Duration::from_mins(1);

/// Gathers as long as the agent lives, on a thread of its own.
pub(crate) fn keep(daemon: &Daemon, agent: Weak<Agent>, parts: Arc<HostParts>) {
    let daemon = daemon.clone();
    std::thread::spawn(move || {
        let mut gatherer = Gatherer { daemon, parts, asked: None, tested: None };
        while let Some(agent) = agent.upgrade() {
            gatherer.look(&agent);
            drop(agent);
            gatherer.parts.store.env().sleep(LOOK_EVERY);
        }
    });
}

struct Gatherer {
    daemon: Daemon,
    parts: Arc<HostParts>,
    asked: Option<(BootNanos, Watchers)>,
    tested: Option<(BootNanos, Tested)>,
}

/// What is looked at every few minutes.
#[derive(Clone)]
struct Tested {
    /// Why an edge could not be switched.
    edge: Option<String>,
    drill: Drill,
    recovery: Recovery,
    around: Surroundings,
}

impl Gatherer {
    fn look(&mut self, agent: &Agent) {
        let view = agent.view();
        let config = self.daemon.host().config.store(self.parts.name.as_str()).cloned();
        let primary = view.log.primary.clone();
        let (Phase::Standby, Some(config), Some(primary)) = (&view.phase, config, primary) else {
            (self.asked, self.tested) = (None, None);
            return agent.words().note_items(Vec::new(), Loss::default());
        };
        let state = agent.state();
        let Tested { edge, drill, recovery, around } = self.tested(&config);
        let others = self.parts.peers.others();
        let facts = Facts {
            store: self.parts.name.to_string(),
            unfit: agent.may_serve().err(),
            pause: state.authority.paused.as_ref().map(|pause| pause.reason.clone()),
            limit: may_fail_over(&state.authority.automatic, self.parts.store.env().wall()).err(),
            is_synced: view.rules.needs_set.then(|| view.log.synced.contains(&self.parts.me)),
            lag: self.lag(),
            objective: config.plan.plan().objective(),
            database_lag: self.parts.database_lag(),
            watchers: self.watchers(&state, &primary),
            edge,
            drill,
            recovery,
            recovery_objective: config.watch.objective(),
            around: Surroundings { others, ..around },
        };
        agent.words().note_items(readiness(&facts), facts.loss());
    }

    /// Returns the age of the newest snapshot here.
    fn lag(&self) -> Option<Duration> {
        let standby = self.daemon.host().standby(None).ok()?;
        let depot = Depot::new(&standby, &self.parts.name);
        let snapshot = mount::find(&depot, &self.parts.name, Moment::Latest).ok()?;
        let taken = mount::taken(&depot, snapshot).ok()?;
        Some(self.parts.store.env().wall().since(taken))
    }

    /// Asks who watches.
    fn watchers(&mut self, state: &StoreState, primary: &WriterId) -> Watchers {
        let now = self.parts.store.env().boot();
        if let Some((at, watchers)) = &self.asked
            && now < at.plus(ASK_EVERY)
        {
            return watchers.clone();
        }
        let members = &state.authority.members;
        let all: Vec<_> = voters(members, primary).collect();
        let (parts, epoch) = (&self.parts, state.epoch);
        // Whatever it answers, it is there.
        let answers = |name: &WriterId| {
            *name == parts.me || parts.peers.ask(name, Ask::SawNobodyServed { epoch }).is_some()
        };
        let answering: Vec<_> = std::thread::scope(|scope| {
            let asked: Vec<_> =
                all.iter().map(|member| (member, scope.spawn(move || answers(&member.name)))).collect();
            asked
                .into_iter()
                .filter_map(|(member, thread)| thread.join().unwrap_or(false).then_some(*member))
                .collect()
        });
        let zone = |member: &&Member| member.zone.clone().unwrap_or_else(|| format!("of '{}'", member.name));
        let zones: BTreeSet<_> = answering.iter().map(zone).collect();
        let watchers = Watchers {
            all: all.len(),
            answering: answering.len(),
            needed: majority(members, primary),
            zones: zones.len(),
        };
        self.asked = Some((now, watchers.clone()));
        watchers
    }

    /// Tests the edges, looks when the store was last proven, and at what this host has to offer.
    fn tested(&mut self, config: &StoreConfig) -> Tested {
        let now = self.parts.store.env().boot();
        if let Some((at, tested)) = &self.tested {
            let again = if tested.edge.is_some() { TEST_AGAIN } else { TEST_EVERY };
            if now < at.plus(again) {
                return tested.clone();
            }
        }
        let host = self.daemon.host();
        let context = EdgeContext {
            env: self.parts.store.env().clone(),
            runtime: host.runtime.clone(),
            this: THIS.into(),
        };
        let edges = Edges::new(&config.name, &config.edge, config.customer_url.as_ref(), &context);
        let edge = edges.and_then(|edges| edges.test()).err().map(|error| error.to_string());
        let around = surroundings::look(&self.parts, config, &host);
        let (drill, recovery) = self.drills();
        let tested = Tested { edge, drill, recovery, around };
        self.tested = Some((now, tested.clone()));
        tested
    }

    fn drills(&self) -> (Drill, Recovery) {
        let Ok(note) = self.parts.store.notes().upkeep_of(&self.parts.me) else {
            return (Drill::Never, Recovery::Never);
        };
        let age = |at: UnixNanos| self.parts.store.env().wall().since(at);
        let drill = match (note.drill_error, note.proof.map(|proof| age(proof.proven))) {
            (Some(error), _) => Drill::Failed(error),
            (None, Some(age)) => Drill::Proven(age),
            (None, None) => Drill::Never,
        };
        let recovery = match note.site.map(|site| (site.error, site.proven)) {
            Some((Some(error), _)) => Recovery::Failed(error),
            Some((None, Some(proven))) => Recovery::Proven {
                age: age(proven.at),
                time: Duration::try_from_secs_f64(proven.recovery_seconds).unwrap_or(Duration::MAX),
            },
            Some((None, None)) | None => Recovery::Never,
        };
        (drill, recovery)
    }
}
