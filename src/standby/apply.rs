//! Giving one inode its metadata: owners, attributes, mode, times, in the order in which none undoes another.

use super::error::RestoreError;
use crate::model::entry::{Entry, Timestamp};
use crate::source::xattr;
use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::sync::atomic::{AtomicU64, Ordering};

/// What this process may not set; counted, and told once.
#[derive(Debug, Default)]
pub struct Denied {
    pub owners: AtomicU64,
    pub attributes: AtomicU64,
    pub devices: AtomicU64,
}

/// How a handle may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    /// A file or directory opened for reading or writing.
    Open,
    /// Opened with `O_PATH`: reached by its name in `/proc`.
    Path,
}

/// What creation has given an inode already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Already {
    /// It was created a moment ago by this process, with no attributes of its own.
    pub new: bool,
    pub mode: Option<u16>,
    pub owner: Option<(u32, u32)>,
}

/// Sets owners, attributes, mode and mtime. `attributes` are the entry's, from its page or chunk.
pub fn apply(
    handle: impl AsFd,
    kind: HandleKind,
    entry: &Entry,
    attributes: &[(Vec<u8>, Vec<u8>)],
    already: Already,
    denied: &Denied,
) -> Result<(), RestoreError> {
    let fd = handle.as_fd();
    let wrong = |action| RestoreError::write(&entry.path, action);
    let is_symlink = matches!(entry.kind, crate::model::entry::Kind::Symlink { .. });
    let mut mode = already.mode;
    if already.owner != Some((entry.uid, entry.gid)) {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        match rustix::fs::chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
            Ok(()) => mode = mode.filter(|m| m & 0o6000 == 0),
            Err(Errno::PERM) => {
                denied.owners.fetch_add(1, Ordering::Relaxed);
            }
            Err(errno) => return Err(wrong("set owner")(errno)),
        }
    }
    let proc_path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if !already.new {
        let present = match kind {
            HandleKind::Open => xattr::read(fd),
            HandleKind::Path => xattr::read_by_path(fd),
        };
        for (name, _) in present.map_err(wrong("read attributes"))? {
            let wanted = attributes.iter().any(|(n, _)| *n == name);
            if !wanted && rustix::fs::removexattr(proc_path.as_str(), name.as_slice()).is_err() {
                denied.attributes.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    for (name, value) in attributes {
        let set = match kind {
            HandleKind::Open => rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()),
            HandleKind::Path => {
                rustix::fs::setxattr(proc_path.as_str(), name.as_slice(), value, XattrFlags::empty())
            }
        };
        match set {
            Ok(()) => {}
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {
                denied.attributes.fetch_add(1, Ordering::Relaxed);
            }
            Err(errno) => return Err(wrong("set attribute")(errno)),
        }
    }
    if !is_symlink && mode != Some(entry.mode) {
        let mode = Mode::from_raw_mode(entry.mode.into());
        match kind {
            HandleKind::Open => rustix::fs::fchmod(fd, mode),
            HandleKind::Path => rustix::fs::chmod(proc_path.as_str(), mode),
        }
        .map_err(wrong("set mode"))?;
    }
    let times = times(entry.mtime);
    match kind {
        HandleKind::Open => rustix::fs::futimens(fd, &times),
        HandleKind::Path => rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH),
    }
    .map_err(wrong("set mtime"))
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}
