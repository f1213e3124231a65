//! What a restore is asked for, and what it reports.

use super::shortfall::Shortfalls;
use crate::content::local_objects::LocalObjects;
use crate::model::tree_path::TreePath;
use serde::Serialize;
use std::path::PathBuf;

/// What to restore, and where.
pub struct RestoreRequest {
    pub destination: PathBuf,
    /// Restores this entry and what is below it, as the destination.
    pub path: TreePath,
    /// Allows a destination that holds something: what differs is replaced.
    pub overwrite: bool,
    /// Also removes what the snapshot does not have.
    pub delete: bool,
    pub threads: usize,
    /// The objects that this host holds of the store as a standby: read first.
    pub local: Option<LocalObjects>,
    /// What this program keeps on this host (repository, cache, standby, key): never removed, whatever the snapshot has.
    pub own: Vec<PathBuf>,
}

/// What a restore did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RestoreReport {
    pub entries: u64,
    pub files_written: u64,
    /// Of those, from this host's own objects.
    pub files_local: u64,
    /// Files whose content was there already.
    pub files_kept: u64,
    pub removed: u64,
    pub written_bytes: u64,
    /// It went on where an earlier run was broken off.
    pub resumed: bool,
    /// What did not come back as it was.
    pub warnings: Shortfalls,
}
