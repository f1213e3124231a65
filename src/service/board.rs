//! What the daemon knows of its stores: schedule, state, last runs. One lock around all of it, held for moments only; those
//! who wait for a change are woken by each.

use super::config::{Config, StoreConfig};
use super::run::RunError;
use super::schedule::{Schedule, slot_ns};
use super::scheduler::{Job, JobId, Outcome, Scheduler};
use crate::api::progress::ProgressFigures;
use crate::api::run::RunReport;
use crate::api::store::{StoreStatus, Totals};
use crate::api::upkeep::UpkeepStatus;
use crate::model::id::{Sequence, StoreName};
use crate::model::role::Role;
use crate::repository::upkeep::{UpkeepNote, last_proof};
use crate::support::clock::{self, Now};
use crate::support::progress::Progress;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Stores that run at once, where nothing is configured.
const AT_ONCE: usize = 2;

/// Returns the last of each duty in all hosts' notes. What was done in the future by some clock says nothing of when, and hides no other.
pub fn upkeep_status(notes: &[UpkeepNote], now_ns: u64) -> UpkeepStatus {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let past = |ns: Option<u64>| ns.filter(|ns| clock::ahead_ns(now_ns, *ns).is_none());
    let known = |note: &UpkeepNote| UpkeepNote {
        pruned_ns: past(note.pruned_ns),
        verified_ns: past(note.verified_ns),
        round_ns: past(note.round_ns),
        drilled_ns: past(note.drilled_ns),
        proof: note.proof.clone().filter(|proof| past(Some(proof.proven_ns)).is_some()),
        ..note.clone()
    };
    let notes = &notes.iter().map(known).collect::<Vec<_>>()[..];
    let last = |of: fn(&UpkeepNote) -> Option<u64>| notes.iter().filter_map(of).max().map(seconds);
    let proof = last_proof(notes);
    let verified = notes.iter().max_by_key(|note| note.verified_ns);
    let drilled = notes.iter().max_by_key(|note| note.drilled_ns);
    UpkeepStatus {
        pruned: last(|note| note.pruned_ns),
        verified: last(|note| note.verified_ns),
        read_whole: last(|note| note.round_ns),
        problems: verified.map_or(0, |note| note.problems),
        proven_snapshot: proof.map(|proof| proof.snapshot),
        proven: proof.map(|proof| seconds(proof.proven_ns)),
        drill_error: drilled.and_then(|note| note.drill_error.clone()),
    }
}

/// What the log says of a store when the daemon begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    pub snapshot: Option<Sequence>,
    pub scan_start_ns: Option<u64>,
}

struct Card {
    config: StoreConfig,
    schedule: Schedule,
    known: Known,
    progress: Option<Arc<Progress>>,
    /// Runs that began, and how the last ended.
    begun: u64,
    ended: Option<Ended>,
    last_run_ns: Option<u64>,
    held: Option<String>,
    /// An operator wants no runs.
    stopped: Option<String>,
    /// The next run may go through although it would be held.
    accept: bool,
    fenced: bool,
    totals: Totals,
    upkeep: Option<UpkeepStatus>,
    last_report: Option<RunReport>,
    gone: bool,
}

/// How a run ended: its number, and its report or its error.
#[derive(Clone, Debug)]
pub struct Ended {
    pub number: u64,
    pub outcome: Outcome,
    /// It failed because the repository did not answer.
    pub unavailable: bool,
    pub result: Result<RunReport, String>,
}

/// What comes of asking for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The store, and the number of the run to wait for.
    Run(JobId, u64),
    /// An operator holds it, for this reason.
    Held(String),
    Unknown,
}

/// A run that is to be made.
pub struct Started {
    pub id: JobId,
    pub config: StoreConfig,
    pub accept: bool,
    pub progress: Arc<Progress>,
}

/// All stores.
pub struct Board {
    scheduler: Scheduler,
    cards: Vec<Card>,
    by_name: BTreeMap<StoreName, JobId>,
    look_seconds: Option<u64>,
    /// Trees are watched between the runs.
    watches: bool,
    stopping: bool,
}

impl Board {
    /// `known` tells of each store what the log has. With `watches` trees are watched from the first run on, so that the ones that are begin with
    /// one: what changed before, nobody was told.
    pub fn new(config: &Config, watches: bool, now: Now, known: impl Fn(&StoreConfig) -> Known) -> Self {
        let at_once = config.service.stores_at_once.unwrap_or(AT_ONCE);
        let scheduler = Scheduler::new(Vec::new(), at_once, now);
        let mut board = Self {
            scheduler,
            cards: Vec::new(),
            by_name: BTreeMap::new(),
            look_seconds: None,
            watches,
            stopping: false,
        };
        board.configure(config, now, known);
        board
    }

    /// Takes another configuration: stores come, change and go; runs that are under way go on.
    pub fn configure(&mut self, config: &Config, now: Now, known: impl Fn(&StoreConfig) -> Known) {
        self.scheduler.set_at_once(config.service.stores_at_once.unwrap_or(AT_ONCE));
        self.look_seconds = config.service.look_seconds;
        for store in &config.store {
            let (mut job, schedule) = job(store, self.look_seconds);
            job.due_at_once = self.watches && store.is_watched();
            match self.by_name.get(&store.name).copied() {
                Some(id) => {
                    let card = &mut self.cards[id];
                    // The watch of one that stays as it is goes on.
                    job.due_at_once &= card.gone || card.config != *store;
                    card.config = store.clone();
                    card.schedule = schedule;
                    card.gone = false;
                    if card.stopped.is_none() {
                        self.scheduler.change(id, job, now);
                    }
                }
                None => {
                    let known = known(store);
                    let id = self.scheduler.add(job, known.scan_start_ns, now);
                    self.cards.push(Card::new(store.clone(), schedule, known));
                    self.by_name.insert(store.name.clone(), id);
                }
            }
        }
        for (name, id) in &self.by_name {
            if config.store(name.as_str()).is_none() {
                self.cards[*id].gone = true;
                self.scheduler.retire(*id);
            }
        }
    }

    /// The next run, if one may begin now.
    pub fn begin(&mut self, now: Now) -> Option<Started> {
        if self.stopping {
            return None;
        }
        let id = self.scheduler.begin(now)?;
        let card = &mut self.cards[id];
        let progress = Arc::new(Progress::default());
        card.progress = Some(progress.clone());
        card.begun += 1;
        card.last_run_ns = Some(now.wall_ns);
        let accept = std::mem::take(&mut card.accept);
        Some(Started { id, config: card.config.clone(), accept, progress })
    }

    pub fn end(&mut self, id: JobId, now: Now, result: Result<RunReport, RunError>, known: Known) {
        let card = &mut self.cards[id];
        card.progress = None;
        let outcome = match &result {
            Ok(_) => Outcome::Done { scan_start_ns: known.scan_start_ns.unwrap_or(now.wall_ns) },
            Err(error) => error.outcome(),
        };
        let totals = &mut card.totals;
        match &result {
            Ok(report) => {
                totals.runs_done += 1;
                let requests = match report {
                    RunReport::Resync(report) => {
                        totals.torn_files += report.warnings.torn;
                        totals.unreadable_files += report.warnings.partial() - report.warnings.torn;
                        &report.requests
                    }
                    RunReport::Follow(report) => &report.requests,
                };
                totals.sent_bytes += requests.sent_bytes;
                totals.received_bytes += requests.received_bytes;
                card.known = known;
                card.held = None;
                card.last_report = Some(report.clone());
            }
            Err(error) => match error.hold() {
                Some(hold) => {
                    totals.runs_held += 1;
                    card.held = Some(hold.to_string());
                }
                None if outcome == Outcome::Waiting => {}
                None => totals.runs_failed += 1,
            },
        }
        card.fenced = outcome == Outcome::Fenced;
        let unavailable = result.as_ref().is_err_and(RunError::is_unavailable);
        let result = result.map_err(|error| error.to_string());
        card.ended = Some(Ended { number: card.begun, outcome, unavailable, result });
        self.scheduler.end(id, now, outcome);
    }

    /// A run is wanted now: the one that is under way, unless a hold is to be let through, or the next.
    pub fn ask(&mut self, name: &StoreName, accept: bool) -> Asked {
        let Some(id) = self.by_name.get(name).copied().filter(|id| !self.cards[*id].gone) else {
            return Asked::Unknown;
        };
        let card = &mut self.cards[id];
        if let Some(reason) = &card.stopped {
            return Asked::Held(reason.clone());
        }
        if card.progress.is_some() && !accept {
            return Asked::Run(id, card.begun);
        }
        card.accept |= accept;
        self.scheduler.ask(id);
        Asked::Run(id, self.cards[id].begun + 1)
    }

    /// Something changed in a store: a run is due by then, by the machine's clock.
    pub fn soon(&mut self, name: &StoreName, boot_ns: u64) {
        if let Some(id) = self.by_name.get(name).copied().filter(|id| !self.cards[*id].gone) {
            self.scheduler.soon(id, boot_ns);
        }
    }

    /// What was done for a store's upkeep.
    pub fn note_upkeep(&mut self, name: &StoreName, upkeep: UpkeepStatus) {
        if let Some(id) = self.by_name.get(name) {
            self.cards[*id].upkeep = Some(upkeep);
        }
    }

    /// The number of a store's run that is under way.
    pub fn number_of(&self, id: JobId) -> u64 {
        self.cards[id].begun
    }

    /// How a run ended, once it has; and how far it is.
    pub fn follow_run(&self, id: JobId, number: u64) -> (Option<Ended>, Option<ProgressFigures>) {
        let card = &self.cards[id];
        let ended = card.ended.clone().filter(|ended| ended.number >= number);
        (ended, card.progress.as_ref().filter(|_| card.begun >= number).map(|p| ProgressFigures::from(&**p)))
    }

    /// No runs of a store until it is released.
    pub fn hold(&mut self, name: &StoreName, reason: String) -> bool {
        let Some(id) = self.by_name.get(name).copied().filter(|id| !self.cards[*id].gone) else {
            return false;
        };
        self.cards[id].stopped = Some(reason);
        self.scheduler.retire(id);
        true
    }

    /// Ends an operator's hold; a run that was held is made again and let through.
    pub fn release(&mut self, name: &StoreName, now: Now) -> bool {
        let Some(id) = self.by_name.get(name).copied().filter(|id| !self.cards[*id].gone) else {
            return false;
        };
        let card = &mut self.cards[id];
        let was_held = card.held.is_some();
        if card.stopped.take().is_some() {
            let (mut job, _) = job(&card.config, self.look_seconds);
            // Changes were told of meanwhile, and made nothing due.
            job.due_at_once = self.watches && card.config.is_watched();
            self.scheduler.change(id, job, now);
        }
        if was_held {
            self.cards[id].accept = true;
            self.scheduler.ask(id);
        }
        true
    }

    pub fn stop(&mut self) {
        self.stopping = true;
        for card in &self.cards {
            if let Some(progress) = &card.progress {
                progress.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub fn wake_in(&self, now: Now) -> Option<Duration> {
        self.scheduler.wake_in(now)
    }

    pub fn running(&self) -> usize {
        self.scheduler.running()
    }

    pub fn queued(&self) -> usize {
        self.scheduler.queued()
    }

    pub fn knows(&self, name: &StoreName) -> bool {
        self.by_name.get(name).is_some_and(|id| !self.cards[*id].gone)
    }

    /// All stores, by name.
    pub fn statuses(&self, now: Now) -> Vec<StoreStatus> {
        let shown = self.by_name.values().filter(|id| !self.cards[**id].gone);
        shown.map(|id| self.status(*id, now)).collect()
    }

    pub fn status_of(&self, name: &StoreName, now: Now) -> Option<StoreStatus> {
        self.by_name.get(name).filter(|id| !self.cards[**id].gone).map(|id| self.status(*id, now))
    }

    fn status(&self, id: JobId, now: Now) -> StoreStatus {
        let card = &self.cards[id];
        let seconds = |ns: u64| ns as f64 / 1e9;
        let start_ns = card.known.scan_start_ns;
        let failed = card.ended.as_ref().and_then(|ended| ended.result.as_ref().err());
        StoreStatus {
            store: card.config.name.clone(),
            role: card.config.role,
            plan: card.config.plan,
            schedule: card.schedule.to_string(),
            objective_seconds: u64::from(card.config.plan.plan().objective_minutes) * 60,
            snapshot: card.known.snapshot,
            lag_seconds: start_ns.and_then(|start_ns| clock::since_ns(now.wall_ns, start_ns)).map(seconds),
            clock_skew_seconds: start_ns
                .map(|start_ns| seconds(clock::ahead_ns(now.wall_ns, start_ns).unwrap_or(0))),
            clock: start_ns.and_then(|start_ns| clock_text(now.wall_ns, start_ns)),
            running: card.progress.is_some(),
            next_run: self.scheduler.due_ns(id, now).map(seconds),
            last_run: card.last_run_ns.map(seconds),
            failures: self.scheduler.failures(id),
            last_error: failed.cloned(),
            held: card.stopped.clone().or_else(|| card.held.clone()),
            fenced: card.fenced,
            totals: card.totals,
            upkeep: card.upkeep.clone(),
            last_report: card.last_report.clone(),
            progress: card.progress.as_ref().map(|progress| ProgressFigures::from(&**progress)),
        }
    }
}

impl Card {
    fn new(config: StoreConfig, schedule: Schedule, known: Known) -> Self {
        Self {
            config,
            schedule,
            known,
            progress: None,
            begun: 0,
            ended: None,
            last_run_ns: None,
            held: None,
            stopped: None,
            accept: false,
            fenced: false,
            totals: Totals::default(),
            upkeep: None,
            last_report: None,
            gone: false,
        }
    }
}

/// When a store's runs are due. A standby looks every few seconds, whatever its plan.
pub fn job(store: &StoreConfig, look_seconds: Option<u64>) -> (Job, Schedule) {
    let plan = store.plan.plan();
    let text = store.schedule.as_deref().unwrap_or(&plan.schedule);
    // Both were parsed before: the plans' by a test, a store's with its configuration.
    let schedule = Schedule::parse(text).or_else(|_| Schedule::parse("0 * * * *"));
    let schedule = schedule.unwrap_or_else(|error| panic!("a schedule: {error}"));
    let schedule = match store.role {
        Role::Primary => schedule,
        Role::Standby => Schedule::every(look_seconds.unwrap_or(30)),
    };
    let slot_ns = match store.role {
        Role::Primary => slot_ns(store.name.as_str(), plan.jitter_ns()),
        Role::Standby => 0,
    };
    // A store that fails is tried often enough to be in time once the cause is gone.
    let backoff_max_ns = match store.role {
        Role::Primary => plan.objective_ns() / 10,
        Role::Standby => 120_000_000_000,
    };
    let objective_ns = plan.objective_ns();
    (Job { schedule: schedule.clone(), slot_ns, objective_ns, backoff_max_ns, due_at_once: false }, schedule)
}

/// What is known of the clocks, when the last snapshot's scan began in the future.
pub fn clock_text(now_ns: u64, scan_start_ns: u64) -> Option<String> {
    let seconds = clock::ahead_ns(now_ns, scan_start_ns)? / 1_000_000_000;
    let ahead = match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} days {h} h"),
    };
    Some(format!(
        "the last snapshot's scan began {ahead} in the future: the clock of this host or of its writer is wrong, and how old the snapshot is nobody knows"
    ))
}
