//! Restores symlinks, fifos, sockets and device nodes.

use super::at::name_of;
use super::context::RestoreContext;
use super::error::RestoreError;
use super::metadata::{CreatedWith, Handle, apply, restorer};
use super::spot::Spot;
use crate::model::entry::{Entry, Kind};
use crate::source::stat::Stat;
use rustix::fd::AsFd;
use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use std::ffi::CStr;

/// Makes a symlink, fifo, socket or device node.
pub fn special(
    context: &RestoreContext,
    spot: &Spot,
    entry: &Entry,
    attributes: &[(Vec<u8>, Vec<u8>)],
) -> Result<(), RestoreError> {
    if spot.listed && same_special(spot, entry, attributes) {
        return Ok(());
    }
    let dir = &spot.dir.handle;
    let mode = Mode::from_raw_mode(0o600);
    let node = |at: &CStr, kind, device| rustix::fs::mknodat(dir, at, kind, mode, device);
    let ((), unplaced) = spot.make(&entry.path, "create it", |at| match &entry.kind {
        Kind::Symlink { target } => rustix::fs::symlinkat(name_of(target), dir, at),
        Kind::Fifo => node(at, FileType::Fifo, 0),
        Kind::Socket => node(at, FileType::Socket, 0),
        Kind::CharDevice { major, minor } => node(at, FileType::CharacterDevice, makedev(*major, *minor)),
        Kind::BlockDevice { major, minor } => node(at, FileType::BlockDevice, makedev(*major, *minor)),
        Kind::Directory | Kind::File(_) => Ok(()),
    })?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, unplaced.at(), flags, Mode::empty())
        .map_err(RestoreError::write(&entry.path, "open it"))?;
    // The node is looked up by its name again. It must be the one that was made, although other processes may
    // write to the directory.
    let found = Stat::of(&handle).map_err(RestoreError::write(&entry.path, "stat it"))?;
    // On a mount that has owners of its own, they say nothing of who made it.
    let is_another_s = spot.dir.filesystem.exact && found.uid != restorer().0;
    if Some(found.kind) != made_as(&entry.kind) || is_another_s || found.links != 1 {
        return Err(RestoreError::write(&entry.path, "keep it while it is created")(Errno::STALE));
    }
    let already = match spot.dir.neutral {
        true => CreatedWith::neutral(0o600 & !context.umask),
        false => CreatedWith::default(),
    };
    let exact = spot.dir.filesystem.exact;
    apply(Handle::Path(handle.as_fd()), entry, attributes, already, exact, &context.outcome.told)?;
    unplaced.place(&entry.path)
}

/// Returns the file type that an entry is made as.
fn made_as(kind: &Kind) -> Option<FileType> {
    match kind {
        Kind::Symlink { .. } => Some(FileType::Symlink),
        Kind::Fifo => Some(FileType::Fifo),
        Kind::Socket => Some(FileType::Socket),
        Kind::CharDevice { .. } => Some(FileType::CharacterDevice),
        Kind::BlockDevice { .. } => Some(FileType::BlockDevice),
        Kind::Directory | Kind::File(_) => None,
    }
}

fn same_special(spot: &Spot, entry: &Entry, attributes: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let (dir, name) = (&spot.dir.handle, &spot.name);
    let Ok(stat) = Stat::at(dir, name) else { return false };
    let is_symlink = stat.kind == FileType::Symlink;
    let same = stat.is_a(&entry.kind)
        && stat.links == 1
        && entry.hardlink.is_none()
        && (is_symlink || stat.mode == entry.mode)
        && (stat.uid, stat.gid, stat.mtime) == (entry.uid, entry.gid, entry.mtime);
    same && match crate::source::read::read_special(dir, name) {
        Ok(special) => {
            special.stat == stat
                && special.attributes.failed.is_none()
                && special.attributes.attributes == attributes
                && matches!(&entry.kind, Kind::Symlink { target } if *target == special.target) == is_symlink
        }
        _ => false,
    }
}
