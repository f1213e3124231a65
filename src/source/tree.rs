//! The live tree as a scan sees it: directories and files behind handles, one method a system call or two.
//!
//! The seam at which a scan is tested: [`disk`](super::disk) asks the kernel, the tests' model changes the tree, or fails,
//! between any two calls. Whatever these calls say is true of one moment only: the next call may find another tree.
//!
//! A name is always taken relative to a directory's handle, no symlink is followed, so nothing outside the root is reached.

use super::data_map::DataMap;
use super::error::SourceError;
use super::stat::Stat;
use crate::model::entry::Attributes;
use crate::model::hold::FilesystemId;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;

/// Where trees are opened.
pub trait Tree: Send + Sync {
    /// Opens a store's root: a directory, or a symlink to one (the one symlink that is followed, since the operator named it).
    fn open_root(&self, path: &Path) -> Result<Arc<dyn Directory>, SourceError>;
}

/// An open directory.
pub trait Directory: Send + Sync {
    fn stat(&self) -> Result<Stat, Errno>;

    /// All names in it, read from the beginning; without `.` and `..`, in any order.
    fn names(&self) -> Result<Vec<CString>, Errno>;

    /// Of what has this name; a mount point's is that of what is mounted there.
    fn stat_at(&self, name: &CStr) -> Result<Stat, Errno>;

    /// Fails with `NOTDIR` or `LOOP` where the name is not a directory's.
    fn open_directory(&self, name: &CStr) -> Result<Arc<dyn Directory>, Errno>;

    /// Opens what has this name for reading; waits for no fifo. Fails with `AGAIN` while somebody has to give up a lease.
    fn open_file(&self, name: &CStr) -> Result<Arc<dyn File>, Errno>;

    /// What is neither a file nor a directory, and what it is by now: all of one inode.
    fn special(&self, name: &CStr) -> Result<Special, Errno>;

    fn attributes(&self) -> AttributesRead;

    fn filesystem(&self, stat: &Stat) -> FilesystemId;
}

/// An open file.
pub trait File: Send + Sync {
    fn stat(&self) -> Result<Stat, Errno>;

    fn attributes(&self) -> AttributesRead;

    /// Where its data is, of its first `size_bytes`.
    fn data_map(&self, size_bytes: u64) -> Result<DataMap, Errno>;

    /// Fills `buffer` with the bytes from `at` on. `Err(None)`: the file ends before it is full.
    fn read_exact(&self, buffer: &mut [u8], at: u64) -> Result<(), Option<Errno>>;
}

/// What an entry that is neither a file nor a directory consists of.
pub struct Special {
    pub stat: Stat,
    /// Of a symlink.
    pub target: Vec<u8>,
    pub attributes: AttributesRead,
}

/// Extended attributes, as far as they could be read.
#[derive(Debug, Default)]
pub struct AttributesRead {
    pub attributes: Attributes,
    /// Why some are missing, or all.
    pub failed: Option<Errno>,
}

/// Whether an error is this process's own trouble, and says nothing of the tree.
pub fn is_own_trouble(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// Whether an error may only mean that another thing has the name by now, or none: to be looked at again.
pub fn is_in_motion(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::ISDIR | Errno::NXIO | Errno::NODEV
    )
}
