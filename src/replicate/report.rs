//! What a run reports: one object, the same for people and for `--json`.

use crate::model::diff::ChangeCounts;
use crate::model::id::{Sequence, StoreName};
use crate::repository::objects::Requests;
use serde::Serialize;

/// At most so many warnings are told one by one; all of them are counted.
pub const WARNINGS_MAX: usize = 100;

/// What is worth telling of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// It changed while it was read, as often as it was tried.
    Torn,
    /// It could not be read; what the last snapshot has of it was kept.
    Unreadable,
    /// Its bytes differ although size, mtime, ctime and inode are those of the last run.
    ChangedSilently,
}

/// A warning about one entry.
#[derive(Clone, Debug, Serialize)]
pub struct Warning {
    pub kind: WarningKind,
    pub path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Counts of warnings, and the first of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Warnings {
    pub torn: u64,
    pub unreadable: u64,
    pub changed_silently: u64,
    pub first: Vec<Warning>,
}

impl Warnings {
    pub fn add(&mut self, kind: WarningKind, path: String, reason: String) {
        match kind {
            WarningKind::Torn => self.torn += 1,
            WarningKind::Unreadable => self.unreadable += 1,
            WarningKind::ChangedSilently => self.changed_silently += 1,
        }
        if self.first.len() < WARNINGS_MAX {
            self.first.push(Warning { kind, path, reason });
        }
    }

    pub fn any(&self) -> bool {
        self.torn + self.unreadable + self.changed_silently > 0
    }
}

/// Seconds by phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Phases {
    /// Probe, log, index.
    pub open_seconds: f64,
    /// Walk, read, hash, compress; uploads go on beside it.
    pub scan_seconds: f64,
    /// The last uploads, and the check that all arrived.
    pub ship_seconds: f64,
    pub commit_seconds: f64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub store: StoreName,
    pub snapshot: Sequence,
    /// Nanoseconds since 1970: what the lag is counted from.
    pub scan_start_ns: u64,
    pub entries: u64,
    pub size_bytes: u64,
    pub changes: ChangeCounts,
    /// Read from the source.
    pub read_bytes: u64,
    /// Of those, what the store did not have.
    pub new_bytes: u64,
    /// Everything sent: packs with data and pages, index, record.
    pub shipped_bytes: u64,
    pub vanished: u64,
    pub warnings: Warnings,
    /// How often another writer took the number first.
    pub rebased: u32,
    pub requests: Requests,
    pub phases: Phases,
}
