//! Opening entries of a directory handle, and reading what is not a file's content.

use super::stat::Stat;
use super::xattr;
use crate::model::entry::Attributes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CStr;

/// What an attempt to read an entry came to.
#[derive(Debug)]
pub enum Attempt<T> {
    Read(T),
    /// It is gone, or is something else by now: not an error.
    Vanished,
    /// It is there and cannot be read.
    Unreadable(Errno),
}

impl<T> Attempt<T> {
    pub fn from_result(result: Result<T, Errno>) -> Self {
        match result {
            Ok(value) => Self::Read(value),
            // The last two: a directory or a socket has taken a file's place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::ISDIR | Errno::NXIO) => {
                Self::Vanished
            }
            Err(errno) => Self::Unreadable(errno),
        }
    }
}

/// Opens a regular file for reading: no symlink is followed, no fifo waited for, and no access time
/// changed where the owner or root reads.
pub fn open_file(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let dir = dir.as_fd();
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// What an entry that is not a regular file consists of.
pub struct Special {
    pub attributes: Attributes,
    /// Of a symlink.
    pub target: Vec<u8>,
}

/// Reads a symlink's target and the attributes of anything, through one handle, so that both are of one inode.
/// `Ok(None)`: it is not what `stat` saw any more.
pub fn read_special(dir: impl AsFd, name: &CStr, stat: &Stat) -> Result<Option<Special>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let now = Stat::of(&handle)?;
    if now.kind != stat.kind || now.fingerprint.inode != stat.fingerprint.inode {
        return Ok(None);
    }
    let target = if stat.kind == rustix::fs::FileType::Symlink {
        rustix::fs::readlinkat(&handle, c"", Vec::new())?.into_bytes()
    } else {
        Vec::new()
    };
    Ok(Some(Special { attributes: xattr::read_by_path(&handle)?, target }))
}
