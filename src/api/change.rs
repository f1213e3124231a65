//! The changes between two snapshots.

use crate::model::diff::{Change, ChangeCounts};
use crate::model::entry::{Entry, Kind};
use crate::model::id::Sequence;
use serde::{Deserialize, Serialize};

/// Query of a request for changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesQuery {
    /// The older snapshot: a number, a moment in UTC, or `latest`.
    pub from: String,
    /// The newer snapshot; default: `latest`.
    pub to: Option<String>,
    /// Maximum number of changes that are listed; the counts include all.
    pub limit: Option<usize>,
}

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    #[serde(rename = "directory")]
    Directory,
    #[serde(rename = "file")]
    File,
    #[serde(rename = "symlink")]
    Symlink,
    #[serde(rename = "fifo")]
    Fifo,
    #[serde(rename = "socket")]
    Socket,
    #[serde(rename = "character device")]
    CharDevice,
    #[serde(rename = "block device")]
    BlockDevice,
}

impl From<&Kind> for EntryKind {
    fn from(kind: &Kind) -> Self {
        match kind {
            Kind::Directory => Self::Directory,
            Kind::File(_) => Self::File,
            Kind::Symlink { .. } => Self::Symlink,
            Kind::Fifo => Self::Fifo,
            Kind::Socket => Self::Socket,
            Kind::CharDevice { .. } => Self::CharDevice,
            Kind::BlockDevice { .. } => Self::BlockDevice,
        }
    }
}

/// One entry that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRow {
    pub change: Change,
    pub kind: EntryKind,
    /// Path below the store's root; bytes that are not UTF-8 are escaped.
    pub path: String,
    pub size_bytes: u64,
}

impl ChangeRow {
    pub fn new(change: Change, entry: &Entry) -> Self {
        Self {
            change,
            kind: EntryKind::from(&entry.kind),
            path: entry.path.to_string(),
            size_bytes: entry.size_bytes(),
        }
    }
}

/// Changes between two snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub from: Sequence,
    pub to: Sequence,
    /// Counts of all changes.
    pub counts: ChangeCounts,
    /// The first changes, sorted by path.
    pub changes: Vec<ChangeRow>,
}
