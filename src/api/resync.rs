//! The report of a resync: one type for people, for `--json` and for the daemon's clients.

use super::requests::Requests;
use crate::model::diff::ChangeCounts;
use crate::model::id::{Sequence, StoreName};
use crate::model::rivals::Rivals;
use crate::model::tree_path::TreePath;
use crate::support::clock::UnixNanos;
use serde::{Deserialize, Serialize};

/// The kind of a warning about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// The entry changed during every attempt to read it.
    Torn,
    /// The entry could not be read; its last snapshot's state was kept, with everything below it.
    Unreadable,
    /// Its extended attributes could not be read, or not all of them; its content could.
    Attributes,
    /// The entry was a different thing, or elsewhere, at each look; the last state read was taken.
    Unsettled,
    /// Its content differs although size, mtime, ctime and inode equal those of the last run.
    ChangedSilently,
}

/// A warning about one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub kind: WarningKind,
    /// Path below the store's root; bytes that are not UTF-8 are escaped.
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

    /// Returns the number of entries that the snapshot does not have as they were, for which the exit code is
    /// 3.
    pub(crate) fn partial(&self) -> u64 {
        self.torn + self.unreadable + self.attributes + self.unsettled
    }
}

/// Seconds by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Probe, log and index.
    pub open_seconds: f64,
    /// Walking, reading, hashing, compressing; uploads run at the same time.
    pub scan_seconds: f64,
    /// The last uploads, and the check that all of them arrived.
    pub ship_seconds: f64,
    pub commit_seconds: f64,
}

/// The report of one resync.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResyncReport {
    pub store: StoreName,
    pub snapshot: Sequence,
    /// Start of the scan; the lag counts from it.
    #[serde(rename = "scan_start_ns")]
    pub scan_start: UnixNanos,
    pub entries: u64,
    pub size_bytes: u64,
    pub changes: ChangeCounts,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Number of those bytes that the store did not have.
    pub new_bytes: u64,
    /// Number of bytes sent: packs with data and pages, index, record.
    pub shipped_bytes: u64,
    /// Number of entries that were listed but had disappeared when they were read.
    pub vanished: u64,
    /// This program's own directories below the store's root, which are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    pub warnings: Warnings,
    /// The error of the hook `after`; the snapshot is committed all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<String>,
    /// How often another writer committed the record number first.
    pub rebased: u32,
    /// The daemons that resync this store by turns, if the log shows two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rivals: Option<Rivals>,
    pub requests: Requests,
    pub phases: Phases,
    /// Paths where the next run looks again, whatever the hints are; none means everywhere. Only for the
    /// process that made the run.
    #[serde(skip)]
    pub retry: Option<Vec<TreePath>>,
}

impl ResyncReport {
    /// Returns whether an operator should look at the report, for which the exit code is 3.
    pub(crate) fn has_warnings(&self) -> bool {
        self.warnings.partial() > 0 || self.hook_failed.is_some()
    }
}
