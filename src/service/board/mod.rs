//! The state that the daemon knows of its stores: schedule, runs, holds, upkeep.
//!
//! One lock protects all of it and is held only for moments; each change wakes the requests that wait for
//! one. The scheduler decides what begins; the entries hold what is shown.

mod duty;
mod entry;
mod holds;
mod last_run;
mod standing;
mod timetable;
mod upkeep;

pub(crate) use duty::Duty;
pub use last_run::RunResult;
pub use standing::{Standing, clock_text};
pub use timetable::job;
pub use upkeep::upkeep_status;

use super::config::{Config, ServiceConfig, StoreConfig};
use super::run::RunError;
use super::scheduler::{JobId, RunOutcome, Scheduler, UpkeepTimes};
use crate::api::progress::ProgressFigures;
use crate::api::run::RunReport;
use crate::api::store::StoreStatus;
use crate::api::upkeep::UpkeepStatus;
use crate::model::id::StoreName;
use crate::model::role::{Permission, Role};
use crate::support::clock::Now;
use crate::support::failure::Failure;
use crate::support::progress::Progress;
use entry::StoreEntry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Default number of stores that run at once.
const AT_ONCE: usize = 2;
/// Default number of seconds between looks at what upkeep is due, and the maximum before the first look.
const UPKEEP_SECONDS: u64 = 900;
const UPKEEP_FIRST: Duration = Duration::from_secs(60);

/// The result of asking for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunRequest {
    /// The store, and the number of the run to wait for.
    Run(JobId, u64),
    /// An operator holds the store, for this reason.
    Held(String),
    Unknown,
}

/// A run to be executed.
pub(crate) struct StartedRun {
    pub id: JobId,
    pub config: StoreConfig,
    /// Whether the run looks at everything, whatever changes were reported.
    pub is_full: bool,
    pub accept: bool,
    pub progress: Arc<Progress>,
}

/// A store whose upkeep is to be looked at.
pub(crate) struct StartedUpkeep {
    pub id: JobId,
    pub config: StoreConfig,
}

/// The board of all stores.
pub(crate) struct Board {
    scheduler: Scheduler,
    entries: Vec<StoreEntry>,
    by_name: BTreeMap<StoreName, JobId>,
    look_seconds: Option<u64>,
    /// Whether the daemon keeps running, so that trees are watched between runs and stores get their upkeep.
    stays: bool,
    stopping: bool,
}

impl Board {
    /// Creates a board; `standing` returns where each store stands.
    ///
    /// With `stays`, trees are watched from the first run on. Watched stores therefore begin with a run,
    /// since no event reported what changed earlier.
    pub fn new(config: &Config, stays: bool, now: Now, standing: impl Fn(&StoreConfig) -> Standing) -> Self {
        let upkeep = stays.then(|| upkeep_times(&config.service));
        let mut board = Self {
            scheduler: Scheduler::new(AT_ONCE, upkeep),
            entries: Vec::new(),
            by_name: BTreeMap::new(),
            look_seconds: None,
            stays,
            stopping: false,
        };
        board.configure(config, now, standing);
        board
    }

    /// Applies a new configuration: stores are added, changed and removed. Runs that are under way continue.
    pub(crate) fn configure(
        &mut self,
        config: &Config,
        now: Now,
        standing: impl Fn(&StoreConfig) -> Standing,
    ) {
        self.scheduler.set_at_once(config.service.stores_at_once.unwrap_or(AT_ONCE));
        self.scheduler.set_upkeep_times(upkeep_times(&config.service));
        self.look_seconds = config.service.look_seconds;
        for store in &config.store {
            let store = &self.as_agent_wants(store);
            let mut job = job(store, self.look_seconds);
            let schedule = job.schedule.clone();
            job.due_at_once = self.stays && store.is_watched();
            match self.by_name.get(&store.name).copied() {
                Some(id) => {
                    let entry = &mut self.entries[id];
                    // The watch of a store whose configuration did not change continues.
                    job.due_at_once &= entry.is_gone || entry.config != *store;
                    if entry.config.role != store.role {
                        // A host that was fenced may be a standby now.
                        entry.role = store.role.into();
                        self.scheduler.set_fenced(id, false);
                    }
                    (entry.config, entry.schedule, entry.is_gone) = (store.clone(), schedule, false);
                    let is_held = entry.holds.refusal().is_some();
                    self.scheduler.change(id, job, now);
                    if is_held {
                        self.scheduler.suspend_runs(id);
                    }
                }
                None => {
                    let standing = standing(store);
                    let id = self.scheduler.add(job, standing.scan_start, now);
                    // Otherwise the first run would find this out only after its hook.
                    self.scheduler.set_fenced(id, standing.role == Some(Role::Fenced));
                    self.entries.push(StoreEntry::new(store.clone(), schedule, standing));
                    self.by_name.insert(store.name.clone(), id);
                }
            }
            if store.role == Permission::Watcher
                && let Some(id) = self.find(&store.name)
            {
                // It has nothing to run.
                self.scheduler.suspend_runs(id);
            }
        }
        for (name, id) in &self.by_name {
            if config.store(name.as_str()).is_none() {
                self.entries[*id].is_gone = true;
                self.scheduler.retire(*id);
            }
        }
    }

    /// Returns a store's configuration with the role that its agent wants, if it has one.
    fn as_agent_wants(&self, store: &StoreConfig) -> StoreConfig {
        let entry = self.by_name.get(&store.name).map(|id| &self.entries[*id]);
        let role = entry.and_then(|entry| entry.duty.as_ref()?.role());
        StoreConfig { role: role.map_or(store.role, |(role, _)| role), ..store.clone() }
    }

    /// Sets which runs a store has, as its failover agent wants it; none gives them back to the schedule.
    pub(crate) fn set_duty(&mut self, name: &StoreName, duty: Option<Duty>, now: Now) {
        let Some(id) = self.find(name) else { return };
        let entry = &mut self.entries[id];
        if entry.duty == duty {
            return;
        }
        let was_waiting = matches!(entry.duty, Some(Duty::Wait(_)));
        let role = duty.as_ref().and_then(Duty::role);
        let reason = match &duty {
            Some(Duty::Wait(reason)) => Some(reason.clone()),
            _ => None,
        };
        entry.holds.set_agent(reason);
        entry.duty = duty;
        let is_new = role.is_some_and(|(role, _)| role != entry.config.role);
        if let Some((role, log_role)) = role {
            (entry.config.role, entry.role) = (role, log_role);
            self.scheduler.set_fenced(id, false);
        }
        if self.entries[id].holds.refusal().is_some() {
            self.scheduler.suspend_runs(id);
        } else if is_new || was_waiting {
            let entry = &mut self.entries[id];
            let mut job = job(&entry.config, self.look_seconds);
            // What a new primary has changed becomes a snapshot soon, and a new standby looks at once.
            job.due_at_once = is_new;
            entry.schedule = job.schedule.clone();
            self.scheduler.change(id, job, now);
        }
    }

    pub(crate) fn is_running(&self, name: &StoreName) -> bool {
        self.find(name).is_some_and(|id| self.entries[id].last_run.is_running())
    }

    /// Returns the number of a configured store.
    fn find(&self, name: &StoreName) -> Option<JobId> {
        self.by_name.get(name).copied().filter(|id| !self.entries[*id].is_gone)
    }

    /// Begins the next run, if one may begin now.
    pub(crate) fn begin_run(&mut self, now: Now) -> Option<StartedRun> {
        if self.stopping {
            return None;
        }
        let run = self.scheduler.begin_run(now)?;
        let entry = &mut self.entries[run.id];
        Some(StartedRun {
            id: run.id,
            config: entry.config.clone(),
            is_full: run.is_full,
            accept: entry.holds.take_accept(),
            progress: entry.last_run.begin(now.wall),
        })
    }

    /// Records the end of a run.
    ///
    /// `is_full` says that it looked at everything; `standing` is where the store stands after it, if it
    /// succeeded.
    pub(crate) fn end_run(
        &mut self,
        id: JobId,
        now: Now,
        result: Result<RunReport, RunError>,
        standing: Standing,
        is_full: bool,
    ) {
        let scan_start = standing.scan_start.unwrap_or(now.wall);
        let outcome = match &result {
            Ok(_) => RunOutcome::Done { scan_start, is_full },
            Err(error) => error.kind().into(),
        };
        self.entries[id].end_run(result, outcome, standing);
        self.scheduler.end_run(id, now, outcome);
    }

    /// Begins the next look at a store's upkeep, if one may begin now.
    pub(crate) fn begin_upkeep(&mut self, now: Now) -> Option<StartedUpkeep> {
        if self.stopping {
            return None;
        }
        let id = self.scheduler.begin_upkeep(now)?;
        Some(StartedUpkeep { id, config: self.entries[id].config.clone() })
    }

    /// Ends a store's look at upkeep and records what is known of its upkeep since.
    pub(crate) fn end_upkeep(&mut self, id: JobId, now: Now, upkeep: Option<UpkeepStatus>) {
        let entry = &mut self.entries[id];
        entry.upkeep = upkeep.or(entry.upkeep.take());
        self.scheduler.end_upkeep(id, now);
    }

    /// Asks for a run now. That is the run under way, or the next one if there is none or a hold is to be let
    /// through.
    pub(crate) fn ask(&mut self, name: &StoreName, accept: bool) -> RunRequest {
        let Some(id) = self.find(name) else { return RunRequest::Unknown };
        let entry = &mut self.entries[id];
        if let Some(reason) = entry.holds.refusal() {
            return RunRequest::Held(reason.clone());
        }
        if entry.last_run.is_running() && !accept {
            return RunRequest::Run(id, entry.last_run.number());
        }
        if accept {
            entry.holds.accept_next();
        }
        self.scheduler.ask(id);
        RunRequest::Run(id, self.entries[id].last_run.number() + 1)
    }

    /// Records that something changed in a watched store.
    pub(crate) fn changed(&mut self, name: &StoreName, now: Now) {
        if let Some(id) = self.find(name) {
            self.scheduler.changed(id, now);
        }
    }

    /// Returns the role of this host for a store, by the log as it was read last.
    pub(crate) fn role_of(&self, id: JobId) -> Role {
        self.entries[id].role
    }

    /// Returns the number of a store's last run, which may be under way.
    pub(crate) fn number_of(&self, id: JobId) -> u64 {
        self.entries[id].last_run.number()
    }

    /// Returns the result of a run once it has ended, and its progress.
    pub(crate) fn follow_run(&self, id: JobId, number: u64) -> (Option<RunResult>, Option<ProgressFigures>) {
        self.entries[id].last_run.follow(number)
    }

    /// Holds a store: it has no runs until it is released.
    pub fn hold(&mut self, name: &StoreName, reason: String) -> bool {
        let Some(id) = self.find(name) else { return false };
        self.entries[id].holds.set_operator(reason);
        self.scheduler.suspend_runs(id);
        true
    }

    /// Ends an operator's hold. A run that was held is made again and let through.
    pub(crate) fn release(&mut self, name: &StoreName, now: Now) -> bool {
        let Some(id) = self.find(name) else { return false };
        let entry = &mut self.entries[id];
        let was_held = entry.holds.is_run_held();
        if entry.holds.release_operator() {
            if entry.holds.refusal().is_some() {
                return true;
            }
            let mut job = job(&entry.config, self.look_seconds);
            // Changes that were reported during the hold made nothing due.
            job.due_at_once = self.stays && entry.config.is_watched();
            self.scheduler.change(id, job, now);
        }
        if was_held {
            let holds = &mut self.entries[id].holds;
            holds.accept_next();
            // While an agent has no run, nothing may begin one.
            if holds.refusal().is_none() {
                self.scheduler.ask(id);
            }
        }
        true
    }

    /// Stops the board: nothing begins any more, and runs stop at their next step.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        self.entries.iter().for_each(|entry| entry.last_run.stop());
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(crate) fn wake_in(&self, now: Now) -> Option<Duration> {
        self.scheduler.wake_in(now)
    }

    pub(crate) fn running(&self) -> usize {
        self.scheduler.running()
    }

    pub(crate) fn is_upkeep_running(&self) -> bool {
        self.scheduler.is_upkeep_running()
    }

    pub(crate) fn queued(&self) -> usize {
        self.scheduler.queued()
    }

    pub(crate) fn knows(&self, name: &StoreName) -> bool {
        self.find(name).is_some()
    }

    /// Returns the status of all stores, sorted by name.
    pub(crate) fn statuses(&self, now: Now) -> Vec<StoreStatus> {
        let shown = self.by_name.values().filter(|id| !self.entries[**id].is_gone);
        shown.map(|id| self.entries[*id].status(*id, &self.scheduler, now)).collect()
    }

    pub(crate) fn status_of(&self, name: &StoreName, now: Now) -> Option<StoreStatus> {
        self.find(name).map(|id| self.entries[id].status(id, &self.scheduler, now))
    }
}

fn upkeep_times(service: &ServiceConfig) -> UpkeepTimes {
    let seconds = service.upkeep_seconds.unwrap_or(UPKEEP_SECONDS).max(1);
    UpkeepTimes { first: UPKEEP_FIRST, period: Duration::from_secs(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hold::Hold;
    use crate::model::role::Permission;
    use crate::replicate::error::ResyncError;
    use crate::support::clock::{BootNanos, UnixNanos};
    use std::path::Path;

    fn config(more: &str) -> Config {
        let text = format!("[[store]]\nname = 'shop'\npath = '/srv/shop'\nschedule = '* * * * *'\n{more}");
        Config::parse(&text, Path::new("understudy.toml")).unwrap()
    }

    fn at(seconds: u64) -> Now {
        let nanos = seconds * 1_000_000_000;
        Now { wall: UnixNanos(1_800_000_000_000_000_000 + nanos), boot: BootNanos(nanos) }
    }

    fn shop() -> StoreName {
        StoreName::parse("shop").unwrap()
    }

    fn board() -> Board {
        Board::new(&config(""), true, at(0), |_| Standing::default())
    }

    fn wait() -> Duty {
        Duty::Wait("handing over to 'web-2'".into())
    }

    /// Returns the role of the run that begins; none if none does. The run ends at once.
    fn run(board: &mut Board, now: Now) -> Option<Permission> {
        let run = board.begin_run(now)?;
        let standing = Standing { scan_start: Some(now.wall), ..Standing::default() };
        board.end_run(run.id, now, Ok(RunReport::Follow(Box::default())), standing, true);
        Some(run.config.role)
    }

    fn ask(board: &mut Board) -> RunRequest {
        board.ask(&shop(), false)
    }

    #[test]
    fn a_store_that_waits_for_its_agent_has_no_runs() {
        let mut board = board();
        assert!(matches!(ask(&mut board), RunRequest::Run(..)));
        board.set_duty(&shop(), Some(wait()), at(1));
        assert_eq!(ask(&mut board), RunRequest::Held("handing over to 'web-2'".into()));
        board.changed(&shop(), at(2));
        for hours in 1..4 {
            assert!(board.begin_run(at(hours * 3600)).is_none(), "neither asked for, nor due, nor noticed");
        }
        // What an operator holds and releases meanwhile does not run either.
        assert!(board.hold(&shop(), "a look".into()));
        board.release(&shop(), at(4 * 3600));
        assert!(board.begin_run(at(5 * 3600)).is_none());
        board.set_duty(&shop(), Some(Duty::Resync), at(6 * 3600));
        assert!(matches!(ask(&mut board), RunRequest::Run(..)));
        assert_eq!(run(&mut board, at(6 * 3600 + 60)), Some(Permission::Primary));
    }

    #[test]
    fn a_reload_keeps_what_the_agent_wants() {
        let mut board = board();
        board.set_duty(&shop(), Some(Duty::Follow), at(1));
        // The file has another role, and other lines have changed.
        board.configure(&config("role = 'primary'\nexclude = ['cache']\n"), at(2), |_| Standing::default());
        assert!(matches!(ask(&mut board), RunRequest::Run(..)));
        assert_eq!(run(&mut board, at(3)), Some(Permission::Standby));
        board.set_duty(&shop(), Some(wait()), at(4));
        board.configure(&config(""), at(5), |_| Standing::default());
        assert!(matches!(ask(&mut board), RunRequest::Held(_)));
        assert!(board.begin_run(at(3600)).is_none());
        // The same again changes nothing.
        board.set_duty(&shop(), Some(wait()), at(3601));
        assert!(board.begin_run(at(7200)).is_none());
    }

    #[test]
    fn a_new_primary_and_a_new_standby_run_at_once() {
        let mut board = board();
        board.set_duty(&shop(), Some(Duty::Follow), at(1));
        assert_eq!(run(&mut board, at(2)), Some(Permission::Standby));
        board.set_duty(&shop(), Some(wait()), at(3));
        board.set_duty(&shop(), Some(Duty::Resync), at(4));
        assert_eq!(run(&mut board, at(5)), Some(Permission::Primary));
    }

    #[test]
    fn a_held_run_that_is_released_waits_for_the_agent_as_well() {
        let mut board = board();
        assert!(matches!(ask(&mut board), RunRequest::Run(..)));
        let begun = board.begin_run(at(1)).unwrap();
        let held = ResyncError::Held { store: shop(), hold: Hold::EmptyRoot { entries_before: 9 } };
        board.end_run(begun.id, at(2), Err(held.into()), Standing::default(), true);
        board.set_duty(&shop(), Some(wait()), at(3));
        assert!(board.release(&shop(), at(4)));
        assert!(board.begin_run(at(5)).is_none());
        board.set_duty(&shop(), Some(Duty::Resync), at(6));
        assert!(matches!(ask(&mut board), RunRequest::Run(..)));
        assert!(board.begin_run(at(7)).unwrap().accept, "what was released is let through then");
    }

    #[test]
    fn an_operator_s_hold_outlives_what_the_agent_wants() {
        let mut board = board();
        assert!(board.hold(&shop(), "a look".into()));
        board.set_duty(&shop(), Some(wait()), at(1));
        board.set_duty(&shop(), Some(Duty::Resync), at(2));
        assert_eq!(ask(&mut board), RunRequest::Held("a look".into()));
        assert!(board.begin_run(at(3600)).is_none());
    }
}
