//! What a run has done so far: written by its threads, read by whoever shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A run's steps, in order; a killed run is killed at or between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Opened,
    Scanned,
    Shipped,
    /// A standby has all objects of a snapshot,
    Fetched,
    /// and they are on its disk.
    Synced,
    Committed,
    /// A keyring is there, and no record names it yet.
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
    /// Entries of the last snapshot: what a forecast of the time left rests on.
    pub expected_entries: AtomicU64,
    /// The run is to end as soon as it can; what it shipped is not shipped again.
    pub stop: Arc<AtomicBool>,
}

impl Progress {
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// For a run that begins again. What was shipped is not shipped again, and stays counted.
    pub fn begin_again(&self) {
        for counter in [&self.entries, &self.read_bytes, &self.new_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
