//! What a resync reports: one object, the same for people, for `--json` and for the daemon's clients.

use super::requests::Requests;
use crate::model::diff::ChangeCounts;
use crate::model::id::{Sequence, StoreName};
use crate::model::rivals::Rivals;
use crate::model::tree_path::TreePath;
use serde::{Deserialize, Serialize};

/// What is worth reporting of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// It changed while it was read, as often as it was tried.
    Torn,
    /// It could not be read; what the last snapshot has of it, and of what is below it, was kept.
    Unreadable,
    /// Its extended attributes could not be read, or not all; its content was.
    Attributes,
    /// It was another thing, or elsewhere, each time it was looked at; what was read last was taken.
    Unsettled,
    /// Its bytes differ although size, mtime, ctime and inode are those of the last run.
    ChangedSilently,
}

/// A warning about one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub kind: WarningKind,
    /// Path below the store's root; bytes that are no UTF-8 are escaped.
    pub path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Counts of warnings, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warnings {
    pub torn: u64,
    pub unreadable: u64,
    pub attributes: u64,
    pub unsettled: u64,
    pub changed_silently: u64,
    pub first: Vec<Warning>,
}

impl Warnings {
    pub fn total(&self) -> u64 {
        self.partial() + self.changed_silently
    }

    /// Returns how many entries the snapshot has not as they were: what exit code 3 says.
    pub fn partial(&self) -> u64 {
        self.torn + self.unreadable + self.attributes + self.unsettled
    }
}

/// Seconds by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Probe, log, index.
    pub open_seconds: f64,
    /// Walk, read, hash, compress; uploads go on meanwhile.
    pub scan_seconds: f64,
    /// The last uploads, and the check that all arrived.
    pub ship_seconds: f64,
    pub commit_seconds: f64,
}

/// One resync.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResyncReport {
    pub store: StoreName,
    pub snapshot: Sequence,
    /// Nanoseconds since 1970: what the lag is counted from.
    pub scan_start_ns: u64,
    pub entries: u64,
    pub size_bytes: u64,
    pub changes: ChangeCounts,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Of those, the bytes that the store did not have.
    pub new_bytes: u64,
    /// Everything sent: packs with data and pages, index, record.
    pub shipped_bytes: u64,
    /// Entries that were listed, and were gone when they were read.
    pub vanished: u64,
    /// Directories of this program's own below the store's root: they are no part of the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    pub warnings: Warnings,
    /// Why the hook `after` failed; the snapshot is committed all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<String>,
    /// How often another writer took the number first.
    pub rebased: u32,
    /// The daemons that resync this store by turns, where the log shows two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rivals: Option<Rivals>,
    pub requests: Requests,
    pub phases: Phases,
    /// Paths where the next run looks again, whatever hints say; none: everywhere. Only for the process that ran it.
    #[serde(skip)]
    pub retry: Option<Vec<TreePath>>,
}

impl ResyncReport {
    /// Whether there is something to look at: exit code 3.
    pub fn has_warnings(&self) -> bool {
        self.warnings.partial() > 0 || self.hook_failed.is_some()
    }
}
