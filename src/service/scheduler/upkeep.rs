//! Decides whose upkeep is looked at now: all stores take turns, one at a time.
//!
//! A look comes soon after a store was added, and then one period after the last one ended.
//! [`crate::service::upkeep::due`] decides which duties are due then, by the notes in the repository. All
//! times follow the machine's clock, which is never set. Of the stores that are due, the one that waits
//! longest is first, so that none starves.

use super::job::JobId;
use crate::support::clock::{BootNanos, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The times at which upkeep is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepTimes {
    /// Maximum time from adding a store to its first look; short, so that a daemon that is restarted every
    /// day looks at every store as well.
    pub first: Duration,
    /// Time from the end of a look to the next.
    pub period: Duration,
}

/// The time that a store waits for.
#[derive(Clone, Copy, Debug)]
struct Wait {
    is_first: bool,
    /// Since when the store waits, by the machine's clock.
    since: BootNanos,
}

/// The turns of all stores.
#[derive(Debug)]
pub(super) struct UpkeepTurns {
    times: UpkeepTimes,
    waiting: BTreeMap<JobId, Wait>,
    /// The same waits, sorted by the time when they are due.
    by_due: BTreeSet<(BootNanos, JobId)>,
    running: Option<JobId>,
    /// Whether the store that has its turn was removed; then it waits for no other turn.
    is_retired: bool,
}

impl UpkeepTurns {
    pub fn new(times: UpkeepTimes) -> Self {
        Self { times, waiting: BTreeMap::new(), by_due: BTreeSet::new(), running: None, is_retired: false }
    }

    fn due(&self, wait: Wait) -> BootNanos {
        let UpkeepTimes { first, period } = self.times;
        wait.since.plus(if wait.is_first { first.min(period) } else { period })
    }

    fn wait(&mut self, id: JobId, wait: Wait) {
        self.waiting.insert(id, wait);
        self.by_due.insert((self.due(wait), id));
    }

    /// Adds a store, which may have been present before.
    pub(crate) fn want(&mut self, id: JobId, now: Now) {
        if self.running == Some(id) {
            self.is_retired = false;
        } else if !self.waiting.contains_key(&id) {
            self.wait(id, Wait { is_first: true, since: now.boot });
        }
    }

    pub fn retire(&mut self, id: JobId) {
        self.is_retired |= self.running == Some(id);
        if let Some(wait) = self.waiting.remove(&id) {
            self.by_due.remove(&(self.due(wait), id));
        }
    }

    pub(crate) fn set_times(&mut self, times: UpkeepTimes) {
        self.times = times;
        self.by_due = self.waiting.iter().map(|(id, wait)| (self.due(*wait), *id)).collect();
    }

    pub fn begin(&mut self, now: Now) -> Option<JobId> {
        if self.running.is_some() {
            return None;
        }
        let (_, id) = self.by_due.first().copied().filter(|(due, _)| *due <= now.boot)?;
        self.retire(id);
        (self.running, self.is_retired) = (Some(id), false);
        Some(id)
    }

    pub(crate) fn end(&mut self, id: JobId, now: Now) {
        if self.running == Some(id) {
            self.running = None;
            if !self.is_retired {
                self.wait(id, Wait { is_first: false, since: now.boot });
            }
        }
    }

    pub(crate) fn wake_in(&self, now: Now) -> Option<Duration> {
        let next = self.by_due.first().filter(|_| self.running.is_none());
        next.map(|(due, _)| due.since(now.boot))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}
