//! A store's snapshots: in short, as the daemon lists them, and with the whole record, as `snapshots --json`
//! prints them.

use crate::model::diff::ChangeCounts;
use crate::model::id::Sequence;
use crate::model::record::SnapshotRecord;
use serde::{Deserialize, Serialize};

/// A snapshot in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSummary {
    pub snapshot: Sequence,
    pub scan_start_ns: u64,
    pub scan_end_ns: u64,
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
            scan_start_ns: record.scan_start_ns,
            scan_end_ns: record.scan_end_ns,
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
