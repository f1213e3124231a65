//! A store's runs, as the scheduler knows them: when they are due, and how one ended.

use crate::service::schedule::Schedule;
use crate::support::clock::Now;
use crate::support::failure::FailureKind;

/// A store's number in the scheduler.
pub type JobId = usize;

/// Steps that daemons for time make now and then are no reason to run twice.
pub(super) const STEP_NS: u64 = 5 * 1_000_000_000;

/// What is to be run, and when.
#[derive(Clone, Debug)]
pub struct Job {
    pub schedule: Schedule,
    /// How far behind its schedule this store's ticks are.
    pub slot_ns: u64,
    pub objective_ns: u64,
    /// Maximum wait before it is tried again, however often it failed.
    pub backoff_max_ns: u64,
    /// What happened before is not known, so that it is due when it comes here, whenever it ran last.
    pub due_at_once: bool,
    /// None for a tree that is not watched.
    pub watch: Option<WatchTimes>,
}

/// Times of a tree that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchTimes {
    /// A change makes a run due after this; 0: it makes none due.
    pub debounce_ns: u64,
    /// Maximum time between runs that look at everything.
    pub full_scan_ns: u64,
}

/// When a job is due by its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Wall(u64),
    Boot(u64),
}

impl Job {
    /// Returns its first tick after `ns`, by the clock that its schedule goes by.
    pub fn tick_after(&self, ns: u64) -> u64 {
        let tick = self.schedule.after(ns.saturating_sub(self.slot_ns));
        // Of one that never comes again.
        tick.map_or(u64::MAX, |tick| tick.saturating_add(self.slot_ns))
    }

    /// Returns when it is due by the wall clock after a run at `last_ns`; now, when that is in the future.
    pub fn due_ns(&self, last_ns: u64, now_ns: u64) -> u64 {
        match self.is_too_far(last_ns, now_ns) {
            true => now_ns,
            false => self.tick_after(last_ns),
        }
    }

    /// Whether a run at `last_ns` would put off the next one beyond the first tick that comes.
    fn is_too_far(&self, last_ns: u64, now_ns: u64) -> bool {
        last_ns > now_ns.saturating_add(STEP_NS)
            && self.tick_after(last_ns) > self.tick_after(now_ns.saturating_add(STEP_NS))
    }

    /// Returns the tick after a run that began, or whose scan did, at `last`.
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
    /// With a snapshot whose scan began then; `is_full` when it looked at everything.
    Done {
        scan_start_ns: u64,
        is_full: bool,
    },
    /// Nothing was committed, and an operator has to look: the next tick tries again.
    Held,
    Failed,
    /// There is nothing to do yet, as for a standby whose store has no snapshot: the next tick tries again.
    Waiting,
    /// Another host is the primary: it does not run again.
    Fenced,
}

/// Whether a run that failed is tried again, and when.
impl From<FailureKind> for RunOutcome {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Held => Self::Held,
            FailureKind::Fenced => Self::Fenced,
            // The primary has not been there yet; or this process ends.
            FailureKind::Missing | FailureKind::Stopped => Self::Waiting,
            FailureKind::Usage | FailureKind::Unavailable | FailureKind::Damaged | FailureKind::Failed => {
                Self::Failed
            }
        }
    }
}

/// Returns a last run unless it lies in the future: then it was none.
pub(super) fn past(last_ns: Option<u64>, now: Now) -> Option<u64> {
    last_ns.filter(|last_ns| *last_ns <= now.wall_ns.saturating_add(STEP_NS))
}
