//! Decides what begins now: runs of a few stores at once, and upkeep of one store at a time. Pure: events in,
//! decisions out; the time is passed in, by both clocks.
//!
//! The two lanes are independent: a store's upkeep continues during its runs, and takes no slot from them.
//! Every event is a method that is given the time; nothing here waits. The daemon begins what may begin,
//! waits until [`Scheduler::wake_in`] or the next event, and asks again.

pub mod job;
mod runs;
#[cfg(test)]
mod tests;
mod upkeep;

pub use job::{Job, JobId, RunOutcome, WatchTimes};
pub use runs::Run;
pub use upkeep::UpkeepTimes;

use crate::support::clock::{Now, UnixNanos};
use runs::Runs;
use std::time::Duration;
use upkeep::UpkeepTurns;

/// The state of all stores.
#[derive(Debug)]
pub(crate) struct Scheduler {
    runs: Runs,
    /// The turns of upkeep; none where this scheduler does no upkeep.
    upkeep: Option<UpkeepTurns>,
}

impl Scheduler {
    /// Creates a scheduler without stores. Up to `at_once` stores run at a time; without `upkeep` there is no
    /// upkeep.
    pub fn new(at_once: usize, upkeep: Option<UpkeepTimes>) -> Self {
        Self { runs: Runs::new(at_once), upkeep: upkeep.map(UpkeepTurns::new) }
    }

    /// Adds a store. `last` is the start of the scan of its last snapshot; a store without one is due at
    /// once.
    pub fn add(&mut self, job: Job, last: Option<UnixNanos>, now: Now) -> JobId {
        let id = self.runs.add(job, last, now);
        self.want_upkeep(id, now);
        id
    }

    /// Changes a store's schedule, or brings a removed store back. A run that is under way continues.
    pub fn change(&mut self, id: JobId, job: Job, now: Now) {
        self.runs.change(id, job, now);
        self.want_upkeep(id, now);
    }

    /// Removes a store: nothing of it begins any more.
    pub fn retire(&mut self, id: JobId) {
        self.runs.retire(id);
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.retire(id);
        }
    }

    /// Suspends a store's runs for an operator, until [`Self::change`]; its upkeep continues.
    pub(crate) fn suspend_runs(&mut self, id: JobId) {
        self.runs.retire(id);
    }

    fn want_upkeep(&mut self, id: JobId, now: Now) {
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.want(id, now);
        }
    }

    pub(crate) fn set_at_once(&mut self, at_once: usize) {
        self.runs.set_at_once(at_once);
    }

    /// Changes the times of the looks at upkeep.
    pub(crate) fn set_upkeep_times(&mut self, times: UpkeepTimes) {
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.set_times(times);
        }
    }

    /// Asks for a run now. Returns false when the store is running; then it runs once more after that.
    pub(crate) fn ask(&mut self, id: JobId) -> bool {
        self.runs.ask(id)
    }

    /// Marks whether another host is the primary. A store that is unfenced runs when [`Self::change`] is
    /// called.
    pub(crate) fn set_fenced(&mut self, id: JobId, is_fenced: bool) {
        self.runs.set_fenced(id, is_fenced);
    }

    /// Records that something changed in a watched store.
    pub(crate) fn changed(&mut self, id: JobId, now: Now) {
        self.runs.changed(id, now);
    }

    /// Returns the next store to run, if one is due and may run, and counts it as running.
    pub(crate) fn begin_run(&mut self, now: Now) -> Option<Run> {
        self.runs.begin(now)
    }

    /// Records the end of a run.
    pub(crate) fn end_run(&mut self, id: JobId, now: Now, outcome: RunOutcome) {
        self.runs.end(id, now, outcome);
    }

    /// Begins the upkeep of the next store, if one is due and no other is in progress.
    pub(crate) fn begin_upkeep(&mut self, now: Now) -> Option<JobId> {
        self.upkeep.as_mut()?.begin(now)
    }

    /// Ends the upkeep of a store, with whatever result.
    pub(crate) fn end_upkeep(&mut self, id: JobId, now: Now) {
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.end(id, now);
        }
    }

    /// Returns when to look again; `None` when only an event can change anything.
    pub(crate) fn wake_in(&self, now: Now) -> Option<Duration> {
        let upkeep = self.upkeep.as_ref().and_then(|upkeep| upkeep.wake_in(now));
        [self.runs.wake_in(now), upkeep].into_iter().flatten().min()
    }

    /// Returns when a run is due next, by the wall clock; `None` while it runs, and when it is fenced.
    pub(crate) fn due(&self, id: JobId, now: Now) -> Option<UnixNanos> {
        self.runs.due(id, now)
    }

    pub(crate) fn failures(&self, id: JobId) -> u32 {
        self.runs.failures(id)
    }

    /// Returns the number of stores that are due and do not run yet.
    pub(crate) fn queued(&self) -> usize {
        self.runs.queued()
    }

    pub(crate) fn running(&self) -> usize {
        self.runs.running()
    }

    pub(crate) fn is_upkeep_running(&self) -> bool {
        self.upkeep.as_ref().is_some_and(UpkeepTurns::is_running)
    }
}
