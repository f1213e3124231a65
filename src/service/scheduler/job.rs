//! A store's runs, as the scheduler knows them: when they are due, and how one ended.

use crate::service::schedule::Schedule;
use crate::support::clock::{BootNanos, Now, UnixNanos};
use crate::support::failure::FailureKind;
use std::time::Duration;

/// A store's number in the scheduler.
pub type JobId = usize;

/// Maximum step of a clock that is ignored. Time daemons make such steps, which are no reason
/// to run twice.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// A store's schedule and the times that follow from its plan.
#[derive(Clone, Debug)]
pub struct Job {
    pub schedule: Schedule,
    /// Offset of this store's ticks after the times of its schedule.
    pub slot: Duration,
    pub objective: Duration,
    /// Maximum wait before a store is tried again, however often it failed.
    pub backoff_max: Duration,
    /// Whether the store is due when it is added, whenever it ran last, since earlier changes are not known.
    pub due_at_once: bool,
    /// Times of a watched tree; none for a tree that is not watched.
    pub watch: Option<WatchTimes>,
}

/// Times of a watched tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchTimes {
    /// Time between a change and the run that it triggers; zero disables such runs.
    pub debounce: Duration,
    /// Maximum time between runs that look at everything.
    pub full_scan: Duration,
}

/// The time at which a job is due by its schedule, with the clock that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Wall(UnixNanos),
    Boot(BootNanos),
}

impl Job {
    /// Returns the first tick after `time`, by the wall clock.
    pub(crate) fn tick_after(&self, time: UnixNanos) -> UnixNanos {
        let tick = self.schedule.after(time.minus(self.slot));
        // A schedule without a next time is never due.
        tick.map_or(UnixNanos::MAX, |tick| tick.plus(self.slot))
    }

    /// Returns when the job is due by the wall clock after a run at `last`; that is now if `last` lies
    /// in the future.
    pub(crate) fn due(&self, last: UnixNanos, now: UnixNanos) -> UnixNanos {
        match self.is_too_far(last, now) {
            true => now,
            false => self.tick_after(last),
        }
    }

    /// Returns whether a run at `last` would put the next one off beyond the first tick that comes.
    fn is_too_far(&self, last: UnixNanos, now: UnixNanos) -> bool {
        last > now.plus(STEP) && self.tick_after(last) > self.tick_after(now.plus(STEP))
    }

    /// Returns the tick after a run that began, or whose scan began, at `last`.
    pub(super) fn due_after(&self, last: Now, now: Now) -> Due {
        match self.schedule.interval() {
            None => Due::Wall(self.due(last.wall, now.wall)),
            Some(period) => {
                let tick = last.boot.minus(self.slot).next_multiple(period);
                Due::Boot(tick.map_or(BootNanos::MAX, |tick| tick.plus(self.slot)))
            }
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// The run committed or published a snapshot whose scan began then; `is_full` says that it looked at
    /// everything.
    Done {
        scan_start: UnixNanos,
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
pub(super) fn past(last: Option<UnixNanos>, now: Now) -> Option<UnixNanos> {
    last.filter(|last| *last <= now.wall.plus(STEP))
}
