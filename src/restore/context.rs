//! The state that all jobs of a restore share.

use super::directory::RestoreTally;
use crate::content::local_objects::LocalObjects;
use crate::content::write::ContentWriter;
use crate::model::tree_path::TreePath;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Counts of a restore.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) files_written: AtomicU64,
    pub(crate) files_kept: AtomicU64,
    /// Number of the written files whose content came from a standby's objects.
    pub(crate) files_local: AtomicU64,
}

/// A restore that is running.
pub struct RestoreContext<'a> {
    pub(crate) writer: ContentWriter<'a>,
    pub(crate) counters: Counters,
    pub(crate) outcome: Arc<RestoreTally>,
    /// A standby's objects of the store on this host. Their content is not fetched.
    pub(crate) local: Option<LocalObjects>,
    /// Mode bits that the kernel clears on creation.
    pub(crate) umask: u16,
    /// Paths in the destination where this program keeps its own files.
    pub(crate) own: Vec<TreePath>,
}
