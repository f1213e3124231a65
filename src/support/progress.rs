//! Progress of a run: written by its threads, read by those that show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A run's steps, in order; a test that kills a run does so at or between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Opened,
    Scanned,
    Shipped,
    /// A standby has all objects of a snapshot.
    Fetched,
    /// These objects are on its disk.
    Synced,
    Committed,
    /// A new keyring is stored, and no record names it yet.
    Rekeyed,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Opened => "opened",
            Step::Scanned => "scanned",
            Step::Shipped => "shipped",
            Step::Fetched => "fetched",
            Step::Synced => "synced",
            Step::Committed => "committed",
            Step::Rekeyed => "rekeyed",
        }
    }
}

/// Running totals.
#[derive(Debug, Default)]
pub struct Progress {
    pub entries: AtomicU64,
    pub read_bytes: AtomicU64,
    pub new_bytes: AtomicU64,
    pub shipped_bytes: AtomicU64,
    /// Number of entries of the last snapshot, from which the time left is estimated.
    pub expected_entries: AtomicU64,
    /// Whether the run is to end as soon as it can. What it shipped is not shipped again.
    pub stop: Arc<AtomicBool>,
}

impl Progress {
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Resets the totals of a scan that starts again. What was shipped is not shipped again, and stays
    /// counted.
    pub(crate) fn begin_again(&self) {
        for counter in [&self.entries, &self.read_bytes, &self.new_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
