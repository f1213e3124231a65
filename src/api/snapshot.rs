//! A store's snapshots: in short, as the daemon lists them, and with the whole record, as `snapshots --json`
//! prints them.

use crate::model::diff::ChangeCounts;
use crate::model::id::Sequence;
use crate::model::record::SnapshotRecord;
use crate::support::clock::UnixNanos;
use serde::{Deserialize, Serialize};

/// A snapshot in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSummary {
    pub snapshot: Sequence,
    #[serde(rename = "scan_start_ns")]
    pub scan_start: UnixNanos,
    #[serde(rename = "scan_end_ns")]
    pub scan_end: UnixNanos,
    /// Number of entries, including the root directory.
    pub entries: u64,
    /// Sum of the files' sizes.
    pub size_bytes: u64,
    pub changes: ChangeCounts,
    pub torn_files: u64,
    pub unreadable_files: u64,
}

impl SnapshotSummary {
    pub fn new(snapshot: Sequence, record: &SnapshotRecord) -> Self {
        Self {
            snapshot,
            scan_start: record.scan_start,
            scan_end: record.scan_end,
            entries: record.manifest.entries,
            size_bytes: record.manifest.size_bytes,
            changes: record.statistics.changes,
            torn_files: record.statistics.torn_files,
            unreadable_files: record.statistics.unreadable,
        }
    }
}

/// A snapshot with its whole record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotDetails {
    pub snapshot: Sequence,
    #[serde(flatten)]
    pub record: SnapshotRecord,
}
