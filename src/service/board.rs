//! What the daemon knows of its stores: schedule, state, last runs. One lock around all of it, held for moments only; those
//! who wait for a change are woken by each.

use super::config::{Config, Role, StoreConfig};
use super::run::{RunError, RunReport};
use super::schedule::{Schedule, slot_ns};
use super::scheduler::{Job, JobId, Outcome, Scheduler};
use crate::model::id::{Sequence, StoreName};
use crate::repository::upkeep::{UpkeepNote, last_proof};
use crate::support::progress::Progress;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stores that run at once, where nothing is configured.
const AT_ONCE: usize = 2;

/// One store's state, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    pub store: StoreName,
    pub role: Role,
    pub plan: &'static str,
    pub schedule: String,
    pub objective_seconds: u64,
    /// The last snapshot that was committed, or published here.
    pub snapshot: Option<Sequence>,
    /// Since the START of that snapshot's scan.
    pub lag_seconds: Option<f64>,
    pub running: bool,
    /// Seconds since 1970.
    pub next_run: Option<f64>,
    pub last_run: Option<f64>,
    pub failures: u32,
    pub last_error: Option<String>,
    /// What holds its runs: figures of a run that was held, or an operator's hold.
    pub held: Option<String>,
    pub fenced: bool,
    pub totals: Totals,
    pub upkeep: Option<UpkeepStatus>,
    pub last_report: Option<RunReport>,
    pub progress: Option<ProgressFigures>,
}

/// What was done to keep a store sound, by whichever host did it. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UpkeepStatus {
    pub pruned: Option<f64>,
    pub verified: Option<f64>,
    /// When the verifications by share had last read every pack.
    pub read_whole: Option<f64>,
    /// Broken objects and touched files that the last verification found.
    pub problems: u64,
    /// The snapshot that was last proven restorable by a drill, and when.
    pub proven_snapshot: Option<Sequence>,
    pub proven: Option<f64>,
    pub drill_error: Option<String>,
}

impl UpkeepStatus {
    /// Of all hosts' notes: the last of each.
    pub fn of(notes: &[UpkeepNote]) -> Self {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let last = |of: fn(&UpkeepNote) -> Option<u64>| notes.iter().filter_map(of).max().map(seconds);
        let proof = last_proof(notes);
        let verified = notes.iter().max_by_key(|note| note.verified_ns);
        let drilled = notes.iter().max_by_key(|note| note.drilled_ns);
        Self {
            pruned: last(|note| note.pruned_ns),
            verified: last(|note| note.verified_ns),
            read_whole: last(|note| note.round_ns),
            problems: verified.map_or(0, |note| note.problems),
            proven_snapshot: proof.map(|proof| proof.snapshot),
            proven: proof.map(|proof| seconds(proof.proven_ns)),
            drill_error: drilled.and_then(|note| note.drill_error.clone()),
        }
    }
}

/// Since the daemon started.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    pub runs_done: u64,
    pub runs_held: u64,
    pub runs_failed: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub torn_files: u64,
    pub unreadable_files: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgressFigures {
    pub entries: u64,
    pub expected_entries: u64,
    pub read_bytes: u64,
    pub shipped_bytes: u64,
}

impl ProgressFigures {
    fn of(progress: &Progress) -> Self {
        Self {
            entries: Progress::get(&progress.entries),
            expected_entries: Progress::get(&progress.expected_entries),
            read_bytes: Progress::get(&progress.read_bytes),
            shipped_bytes: Progress::get(&progress.shipped_bytes),
        }
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
    stopping: bool,
}

impl Board {
    /// `known` tells of each store what the log has.
    pub fn new(config: &Config, known: impl Fn(&StoreConfig) -> Known) -> Self {
        let scheduler = Scheduler::new(Vec::new(), config.service.stores_at_once.unwrap_or(AT_ONCE));
        let mut board = Self {
            scheduler,
            cards: Vec::new(),
            by_name: BTreeMap::new(),
            look_seconds: None,
            stopping: false,
        };
        board.configure(config, known);
        board
    }

    /// Takes another configuration: stores come, change and go; runs that are under way go on.
    pub fn configure(&mut self, config: &Config, known: impl Fn(&StoreConfig) -> Known) {
        self.scheduler.set_at_once(config.service.stores_at_once.unwrap_or(AT_ONCE));
        self.look_seconds = config.service.look_seconds;
        for store in &config.store {
            let (job, schedule) = job(store, self.look_seconds);
            match self.by_name.get(&store.name).copied() {
                Some(id) => {
                    let card = &mut self.cards[id];
                    card.config = store.clone();
                    card.schedule = schedule;
                    card.gone = false;
                    if card.stopped.is_none() {
                        self.scheduler.change(id, job);
                    }
                }
                None => {
                    let known = known(store);
                    let id = self.scheduler.add(job, known.scan_start_ns);
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
    pub fn begin(&mut self, now_ns: u64) -> Option<Started> {
        if self.stopping {
            return None;
        }
        let id = self.scheduler.begin(now_ns)?;
        let card = &mut self.cards[id];
        let progress = Arc::new(Progress::default());
        card.progress = Some(progress.clone());
        card.begun += 1;
        card.last_run_ns = Some(now_ns);
        let accept = std::mem::take(&mut card.accept);
        Some(Started { id, config: card.config.clone(), accept, progress })
    }

    pub fn end(&mut self, id: JobId, now_ns: u64, result: Result<RunReport, RunError>, known: Known) {
        let card = &mut self.cards[id];
        card.progress = None;
        let outcome = match &result {
            Ok(_) => Outcome::Done { scan_start_ns: known.scan_start_ns.unwrap_or(now_ns) },
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
        self.scheduler.end(id, now_ns, outcome);
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

    /// Something changed in a store: a run is due by then.
    pub fn soon(&mut self, name: &StoreName, at_ns: u64) {
        if let Some(id) = self.by_name.get(name).copied().filter(|id| !self.cards[*id].gone) {
            self.scheduler.soon(id, at_ns);
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
        (ended, card.progress.as_ref().filter(|_| card.begun >= number).map(|p| ProgressFigures::of(p)))
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
    pub fn release(&mut self, name: &StoreName) -> bool {
        let Some(id) = self.by_name.get(name).copied().filter(|id| !self.cards[*id].gone) else {
            return false;
        };
        let card = &mut self.cards[id];
        let was_held = card.held.is_some();
        if card.stopped.take().is_some() {
            let (job, _) = job(&card.config, self.look_seconds);
            self.scheduler.change(id, job);
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

    pub fn wake_at(&self) -> Option<u64> {
        self.scheduler.wake_at()
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
    pub fn statuses(&self, now_ns: u64) -> Vec<StoreStatus> {
        let shown = self.by_name.values().filter(|id| !self.cards[**id].gone);
        shown.map(|id| self.status(*id, now_ns)).collect()
    }

    pub fn status_of(&self, name: &StoreName, now_ns: u64) -> Option<StoreStatus> {
        self.by_name.get(name).filter(|id| !self.cards[**id].gone).map(|id| self.status(*id, now_ns))
    }

    fn status(&self, id: JobId, now_ns: u64) -> StoreStatus {
        let card = &self.cards[id];
        let seconds = |ns: u64| ns as f64 / 1e9;
        let failed = card.ended.as_ref().and_then(|ended| ended.result.as_ref().err());
        StoreStatus {
            store: card.config.name.clone(),
            role: card.config.role,
            plan: card.config.plan.name(),
            schedule: card.schedule.to_string(),
            objective_seconds: u64::from(card.config.plan.plan().objective_minutes) * 60,
            snapshot: card.known.snapshot,
            lag_seconds: card.known.scan_start_ns.map(|start| seconds(now_ns.saturating_sub(start))),
            running: card.progress.is_some(),
            next_run: self.scheduler.due(id).map(|due| seconds(due.max(now_ns))),
            last_run: card.last_run_ns.map(seconds),
            failures: self.scheduler.failures(id),
            last_error: failed.cloned(),
            held: card.stopped.clone().or_else(|| card.held.clone()),
            fenced: card.fenced,
            totals: card.totals,
            upkeep: card.upkeep.clone(),
            last_report: card.last_report.clone(),
            progress: card.progress.as_ref().map(|progress| ProgressFigures::of(progress)),
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
    (Job { schedule: schedule.clone(), slot_ns, objective_ns: plan.objective_ns(), backoff_max_ns }, schedule)
}
