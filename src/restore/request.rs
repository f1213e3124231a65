//! The request for a restore, and its report.

use super::shortfall::Shortfalls;
use crate::content::local_objects::LocalObjects;
use crate::model::id::Sequence;
use crate::model::tree_path::TreePath;
use serde::Serialize;
use std::path::PathBuf;

/// How a restore treats a destination that holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The restore is refused.
    Refuse,
    /// Entries that differ are replaced; others stay.
    Replace,
    /// Entries that differ are replaced, and those that the snapshot does not have are removed.
    Mirror,
    /// Entries are added, and nothing that is there is replaced, changed or removed. An entry whose name has
    /// other content gets the name with the suffix `.stranded-N`.
    Add { beside: Sequence },
}

/// The entry to restore, and its destination.
pub struct RestoreRequest {
    pub destination: PathBuf,
    /// Entry that becomes the destination, with all below it.
    pub path: TreePath,
    pub existing: Existing,
    pub threads: usize,
    /// Objects that this host keeps of the store as a standby. They are read first.
    pub local: Option<LocalObjects>,
    /// Paths of this program on this host (repository, cache, standby, key), which are never removed.
    pub own: Vec<PathBuf>,
}

/// The work that a restore did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RestoreReport {
    pub entries: u64,
    pub files_written: u64,
    /// Number of written files whose content came from this host's own objects.
    pub files_local: u64,
    /// Number of files that had their content already.
    pub files_kept: u64,
    pub removed: u64,
    pub written_bytes: u64,
    /// Whether it continued an interrupted run.
    pub resumed: bool,
    /// Entries that were not restored exactly.
    pub warnings: Shortfalls,
}
