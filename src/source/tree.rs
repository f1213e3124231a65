//! The live tree as a scan sees it: directories and files as handles, one method a system call or two.
//!
//! This is the seam at which a scan is tested: [`disk`](super::disk) asks the kernel; the tests' model
//! changes the tree, or fails, between any two calls. Each result is true of one moment only: the next call
//! may find another tree.
//!
//! A name is always looked up relative to a directory's handle and no symlink is followed, so nothing outside
//! the root is reached.

use super::data_map::DataMap;
use super::error::SourceError;
use super::stat::Stat;
use crate::model::entry::Attributes;
use crate::model::hold::FilesystemId;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;

/// A place where trees are opened.
pub trait Tree: Send + Sync {
    /// Opens a store's root: a directory, or a symlink to one.
    ///
    /// This is the only symlink that is followed, since the operator named it.
    fn open_root(&self, path: &Path) -> Result<Arc<dyn Directory>, SourceError>;
}

/// An open directory.
pub trait Directory: Send + Sync {
    fn stat(&self) -> Result<Stat, Errno>;

    /// Returns all names in it, read from the beginning; without `.` and `..`, in any order.
    fn names(&self) -> Result<Vec<CString>, Errno>;

    /// Returns the metadata of the entry with this name; for a mount point, of the mounted root.
    fn stat_at(&self, name: &CStr) -> Result<Stat, Errno>;

    /// Opens a directory. Fails with `NOTDIR` or `LOOP` where the name is not a directory's.
    fn open_directory(&self, name: &CStr) -> Result<Arc<dyn Directory>, Errno>;

    /// Opens the entry with this name for reading; waits for no fifo. Fails with `AGAIN` while another
    /// process has to give up a lease.
    fn open_file(&self, name: &CStr) -> Result<Arc<dyn File>, Errno>;

    /// Reads an entry that is neither a file nor a directory, with its present metadata: all of one inode.
    fn special(&self, name: &CStr) -> Result<Special, Errno>;

    fn attributes(&self) -> AttributesRead;

    fn filesystem(&self, stat: &Stat) -> FilesystemId;
}

/// The reason for which bytes of a file were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The file ends before the last of them.
    EndsEarly,
    System(Errno),
}

/// An open file.
pub trait File: Send + Sync {
    fn stat(&self) -> Result<Stat, Errno>;

    fn attributes(&self) -> AttributesRead;

    /// Returns the ranges of data in its first `size_bytes`.
    fn data_map(&self, size_bytes: u64) -> Result<DataMap, Errno>;

    /// Fills `buffer` with the bytes from `at` on.
    fn read_exact(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError>;
}

/// Content of an entry that is neither a file nor a directory.
pub struct Special {
    pub stat: Stat,
    /// Target of a symlink; empty for others.
    pub target: Vec<u8>,
    pub attributes: AttributesRead,
}

/// Extended attributes, as far as they could be read.
#[derive(Debug, Default)]
pub struct AttributesRead {
    pub attributes: Attributes,
    /// Error because of which some or all attributes are missing.
    pub failed: Option<Errno>,
}

/// Returns whether an error means that this process lacks a resource, and so says nothing of the tree.
pub(crate) fn is_own_trouble(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// Returns whether an error may only mean that the name is gone or belongs to another entry by now. Then the
/// name is to be looked at again.
pub(crate) fn is_in_motion(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::ISDIR | Errno::NXIO | Errno::NODEV
    )
}
