//! Restoring symlinks, fifos, sockets and device nodes.

use super::apply::{Already, HandleKind, apply};
use super::directory::{Directory, name_of, remove_all};
use super::error::RestoreError;
use super::file::{Shared, beside, put_in_place};
use crate::model::entry::{Entry, Kind};
use crate::source::stat::Stat;
use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

/// A symlink, fifo, socket or device node.
pub(super) fn special(
    shared: &Shared,
    dir: &Directory,
    name: &CStr,
    entry: &Entry,
    attributes: &[(Vec<u8>, Vec<u8>)],
    delete: bool,
) -> Result<(), RestoreError> {
    let wrong = |action| RestoreError::write(&entry.path, action);
    if !dir.fresh && same_special(dir, name, entry, attributes) {
        return Ok(());
    }
    let at = beside(dir, name);
    if !dir.fresh {
        remove_all(&dir.handle, &at).map_err(wrong("remove what is beside it"))?;
    }
    let mode = Mode::from_raw_mode(0o600);
    let made = match &entry.kind {
        Kind::Symlink { target } => rustix::fs::symlinkat(name_of(target), &dir.handle, &at),
        Kind::Fifo => rustix::fs::mknodat(&dir.handle, &at, FileType::Fifo, mode, 0),
        Kind::Socket => rustix::fs::mknodat(&dir.handle, &at, FileType::Socket, mode, 0),
        Kind::CharDevice { major, minor } => {
            rustix::fs::mknodat(&dir.handle, &at, FileType::CharacterDevice, mode, makedev(*major, *minor))
        }
        Kind::BlockDevice { major, minor } => {
            rustix::fs::mknodat(&dir.handle, &at, FileType::BlockDevice, mode, makedev(*major, *minor))
        }
        Kind::Directory | Kind::File(_) => Ok(()),
    };
    match made {
        Ok(()) => {}
        Err(Errno::PERM) if !matches!(entry.kind, Kind::Symlink { .. }) => {
            shared.outcome.denied.devices.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        Err(errno) => return Err(wrong("create it")(errno)),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(&dir.handle, &at, flags, Mode::empty()).map_err(wrong("open it"))?;
    let already = Already { new: dir.fresh, ..Already::default() };
    apply(&handle, HandleKind::Path, entry, attributes, already, &shared.outcome.denied)?;
    put_in_place(dir, &at, name, entry, delete)
}

fn same_special(dir: &Directory, name: &CStr, entry: &Entry, attributes: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let Ok(stat) = Stat::at(&dir.handle, name) else { return false };
    let kind = match &entry.kind {
        Kind::Symlink { .. } => stat.kind == FileType::Symlink,
        Kind::Fifo => stat.kind == FileType::Fifo,
        Kind::Socket => stat.kind == FileType::Socket,
        Kind::CharDevice { major, minor } => {
            stat.kind == FileType::CharacterDevice && stat.node == (*major, *minor)
        }
        Kind::BlockDevice { major, minor } => {
            stat.kind == FileType::BlockDevice && stat.node == (*major, *minor)
        }
        Kind::Directory | Kind::File(_) => false,
    };
    let is_symlink = stat.kind == FileType::Symlink;
    let same = kind
        && stat.links == 1
        && entry.hardlink.is_none()
        && (is_symlink || stat.mode == entry.mode)
        && (stat.uid, stat.gid, stat.mtime) == (entry.uid, entry.gid, entry.mtime);
    same && match crate::source::read::read_special(&dir.handle, name) {
        Ok(special) => {
            special.stat == stat
                && special.attributes.failed.is_none()
                && special.attributes.attributes == attributes
                && matches!(&entry.kind, Kind::Symlink { target } if *target == special.target) == is_symlink
        }
        _ => false,
    }
}
