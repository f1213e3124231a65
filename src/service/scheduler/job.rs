//! A store's runs, as the scheduler knows them: when they are due, and how one ended.

use crate::service::schedule::Schedule;
use crate::support::clock::Now;
use crate::support::failure::FailureKind;

/// A store's number in the scheduler.
pub type JobId = usize;

/// Maximum step of a clock that is ignored, in nanoseconds. Time daemons make such steps, which are no reason
/// to run twice.
pub(super) const STEP_NS: u64 = 5 * 1_000_000_000;

/// A store's schedule and the times that follow from its plan.
#[derive(Clone, Debug)]
pub struct Job {
    pub schedule: Schedule,
    /// Offset of this store's ticks after the times of its schedule.
    pub slot_ns: u64,
    pub objective_ns: u64,
    /// Maximum wait before a store is tried again, however often it failed.
    pub backoff_max_ns: u64,
    /// Whether the store is due when it is added, whenever it ran last, since earlier changes are not known.
    pub due_at_once: bool,
    /// Times of a watched tree; none for a tree that is not watched.
    pub watch: Option<WatchTimes>,
}

/// Times of a watched tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchTimes {
    /// Time between a change and the run that it triggers; 0 disables such runs.
    pub debounce_ns: u64,
    /// Maximum time between runs that look at everything.
    pub full_scan_ns: u64,
}

/// The time at which a job is due by its schedule, with the clock that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Wall(u64),
    Boot(u64),
}

impl Job {
    /// Returns the first tick after `ns`, by the clock that the schedule uses.
    pub(crate) fn tick_after(&self, ns: u64) -> u64 {
        let tick = self.schedule.after(ns.saturating_sub(self.slot_ns));
        // A schedule without a next time is never due.
        tick.map_or(u64::MAX, |tick| tick.saturating_add(self.slot_ns))
    }

    /// Returns when the job is due by the wall clock after a run at `last_ns`; that is now if `last_ns` lies
    /// in the future.
    pub(crate) fn due_ns(&self, last_ns: u64, now_ns: u64) -> u64 {
        match self.is_too_far(last_ns, now_ns) {
            true => now_ns,
            false => self.tick_after(last_ns),
        }
    }

    /// Returns whether a run at `last_ns` would put the next one off beyond the first tick that comes.
    fn is_too_far(&self, last_ns: u64, now_ns: u64) -> bool {
        last_ns > now_ns.saturating_add(STEP_NS)
            && self.tick_after(last_ns) > self.tick_after(now_ns.saturating_add(STEP_NS))
    }

    /// Returns the tick after a run that began, or whose scan began, at `last`.
    pub(super) fn due_after(&self, last: Now, now: Now) -> Due {
        match self.schedule.is_by_calendar() {
            true => Due::Wall(self.due_ns(last.wall_ns, now.wall_ns)),
            false => Due::Boot(self.tick_after(last.boot_ns)),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// The run committed or published a snapshot whose scan began then; `is_full` says that it looked at
    /// everything.
    Done {
        scan_start_ns: u64,
        is_full: bool,
    },
    /// Nothing was committed, and an operator must look; the next tick tries again.
    Held,
    Failed,
    /// There is nothing to do yet, as for a standby whose store has no snapshot; the next tick tries again.
    Waiting,
    /// Another host is the primary; the store does not run again.
    Fenced,
}

/// Decides whether a failed run is tried again, and when.
impl From<FailureKind> for RunOutcome {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Held => Self::Held,
            FailureKind::Fenced => Self::Fenced,
            // The primary has no snapshot yet, or this process ends.
            FailureKind::Missing | FailureKind::Stopped => Self::Waiting,
            FailureKind::Usage | FailureKind::Unavailable | FailureKind::Damaged | FailureKind::Failed => {
                Self::Failed
            }
        }
    }
}

/// Returns the time of the last run; none if it lies in the future, since it then says nothing.
pub(super) fn past(last_ns: Option<u64>, now: Now) -> Option<u64> {
    last_ns.filter(|last_ns| *last_ns <= now.wall_ns.saturating_add(STEP_NS))
}
