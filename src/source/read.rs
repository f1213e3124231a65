//! Opens entries of a directory handle, and reads entries that are not files.

use super::stat::Stat;
use super::tree::Special;
use super::xattr;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CStr;

/// Opens a regular file for reading.
///
/// It follows no symlink, waits for no fifo, and changes no access time where the owner or root reads.
pub fn open_file(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let dir = dir.as_fd();
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// Reads a symlink's target and any entry's attributes through one handle, so that all are of one inode.
pub(crate) fn read_special(dir: impl AsFd, name: &CStr) -> Result<Special, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = Stat::of(&handle)?;
    let target = if stat.kind == rustix::fs::FileType::Symlink {
        rustix::fs::readlinkat(&handle, c"", Vec::new())?.into_bytes()
    } else {
        Vec::new()
    };
    Ok(Special { stat, target, attributes: xattr::read_all_by_path(&handle) })
}
