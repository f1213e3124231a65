//! What is begun now: runs, a few stores at once, and upkeep, one store at a time. Pure: events in, decisions out; the time is
//! passed in, by both clocks.
//!
//! The two lanes know nothing of each other: a store's upkeep goes on during its runs, and takes no place from them. Every
//! event is a method that is given the time; nothing here waits. Who drives it begins what may begin, waits until [`Scheduler::wake_in`]
//! or the next event, and looks again.

pub mod job;
mod runs;
#[cfg(test)]
mod tests;
mod upkeep;

pub use job::{Job, JobId, RunOutcome, WatchTimes};
pub use runs::Run;
pub use upkeep::UpkeepTimes;

use crate::support::clock::Now;
use runs::Runs;
use std::time::Duration;
use upkeep::UpkeepTurns;

/// The state of all stores.
#[derive(Debug)]
pub struct Scheduler {
    runs: Runs,
    /// None where upkeep is not this scheduler's.
    upkeep: Option<UpkeepTurns>,
}

impl Scheduler {
    /// Without stores. Up to `at_once` of them run at a time; without `upkeep` none has its turn.
    pub fn new(at_once: usize, upkeep: Option<UpkeepTimes>) -> Self {
        Self { runs: Runs::new(at_once), upkeep: upkeep.map(UpkeepTurns::new) }
    }

    /// A store came; `last_ns` is the start of the scan of its last snapshot. One without is due at once.
    pub fn add(&mut self, job: Job, last_ns: Option<u64>, now: Now) -> JobId {
        let id = self.runs.add(job, last_ns, now);
        self.want_upkeep(id, now);
        id
    }

    /// A store has another schedule, or is back; a run that is under way goes on.
    pub fn change(&mut self, id: JobId, job: Job, now: Now) {
        self.runs.change(id, job, now);
        self.want_upkeep(id, now);
    }

    /// A store is gone: nothing of it begins any more.
    pub fn retire(&mut self, id: JobId) {
        self.runs.retire(id);
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.retire(id);
        }
    }

    /// An operator wants no runs of a store; its upkeep goes on. [`Self::change`] ends that.
    pub fn suspend_runs(&mut self, id: JobId) {
        self.runs.retire(id);
    }

    fn want_upkeep(&mut self, id: JobId, now: Now) {
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.want(id, now);
        }
    }

    pub fn set_at_once(&mut self, at_once: usize) {
        self.runs.set_at_once(at_once);
    }

    /// Looks at upkeep come at other times from now on.
    pub fn set_upkeep_times(&mut self, times: UpkeepTimes) {
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.set_times(times);
        }
    }

    /// An operator wants a run now. Returns false when it is running: then it runs once more.
    pub fn ask(&mut self, id: JobId) -> bool {
        self.runs.ask(id)
    }

    /// Another host is the primary, or is so no more as far as is known: then it runs when [`Self::change`] says so.
    pub fn set_fenced(&mut self, id: JobId, is_fenced: bool) {
        self.runs.set_fenced(id, is_fenced);
    }

    /// Something changed in a store that is watched.
    pub fn changed(&mut self, id: JobId, now: Now) {
        self.runs.changed(id, now);
    }

    /// The next store to run, if one is due and may; it counts as running then.
    pub fn begin_run(&mut self, now: Now) -> Option<Run> {
        self.runs.begin(now)
    }

    /// A run ended.
    pub fn end_run(&mut self, id: JobId, now: Now, outcome: RunOutcome) {
        self.runs.end(id, now, outcome);
    }

    /// The next store whose upkeep is looked at, if one is due and none has its turn; it has it then.
    pub fn begin_upkeep(&mut self, now: Now) -> Option<JobId> {
        self.upkeep.as_mut()?.begin(now)
    }

    /// A store's turn ended, whatever came of it.
    pub fn end_upkeep(&mut self, id: JobId, now: Now) {
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.end(id, now);
        }
    }

    /// When to look again; `None` when only an event can change anything.
    pub fn wake_in(&self, now: Now) -> Option<Duration> {
        let upkeep = self.upkeep.as_ref().and_then(|upkeep| upkeep.wake_in(now));
        [self.runs.wake_in(now), upkeep].into_iter().flatten().min()
    }

    /// When a run is due next, by the wall clock; `None` while it runs, and when it is fenced.
    pub fn due_ns(&self, id: JobId, now: Now) -> Option<u64> {
        self.runs.due_ns(id, now)
    }

    pub fn failures(&self, id: JobId) -> u32 {
        self.runs.failures(id)
    }

    /// Returns how many stores' time has come that do not run yet.
    pub fn queued(&self) -> usize {
        self.runs.queued()
    }

    pub fn running(&self) -> usize {
        self.runs.running()
    }

    pub fn is_upkeep_running(&self) -> bool {
        self.upkeep.as_ref().is_some_and(UpkeepTurns::is_running)
    }
}
