//! Removes an entry that does not belong to a snapshot, with all below it, but never beyond its mount.
//!
//! No symlink is followed: a directory is opened through its parent's handle by its own name, and checked
//! once it is open, so that a mount made meanwhile is seen as well. A mount point is left. An entry that
//! cannot be removed (immutable, or of another user) is reported and skipped. A btrfs subvolume is no mount
//! and is removed. Depth is limited only by the number of open handles.

use super::at::open_below;
use super::error::is_own;
use super::filesystem::Mount;
use crate::model::tree_path::TreePath;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

/// Returns why an entry was left, in words for a report.
pub(crate) fn left_because(errno: Errno) -> String {
    match errno {
        Errno::BUSY | Errno::XDEV => {
            "something is mounted here that the snapshot does not have; it was left in place".into()
        }
        errno => format!("cannot remove it: {}", std::io::Error::from(errno)),
    }
}

/// A directory that is being emptied.
struct Frame {
    handle: OwnedFd,
    name: CString,
    path: TreePath,
    /// Names that cannot be removed from it.
    stuck: HashSet<CString>,
}

/// Removes `name` of a directory on `mount`, and all below it. Returns whether it was removed.
///
/// `left` is called for each entry that stays, with the reason. The error is one of this process, such as too
/// many open files.
pub(crate) fn remove_all(
    dir: impl AsFd,
    mount: Mount,
    name: &CStr,
    path: &TreePath,
    left: &mut dyn FnMut(&TreePath, Errno),
) -> Result<bool, Errno> {
    let dir = dir.as_fd();
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(errno) if is_own(errno) => return Err(errno),
        // Both are returned for a directory; the second also for an immutable file.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => {
            left(path, errno);
            return Ok(false);
        }
    }
    let Some(first) = enter(dir, mount, name, path, left)? else { return Ok(false) };
    let mut stack = vec![first];
    while let Some(frame) = stack.last_mut() {
        let below = match empty(frame, left) {
            Ok(below) => below,
            Err(errno) if is_own(errno) => return Err(errno),
            Err(errno) => {
                left(&frame.path, errno);
                frame.stuck.insert(CString::default());
                None
            }
        };
        if let Some(child) = below {
            let path = frame.path.join(child.as_bytes());
            match enter(frame.handle.as_fd(), mount, &child, &path, left)? {
                Some(frame) => stack.push(frame),
                None => drop(frame.stuck.insert(child)),
            }
            continue;
        }
        let Some(frame) = stack.pop() else { break };
        let parent = stack.last().map_or(dir, |frame| frame.handle.as_fd());
        let mut gone = frame.stuck.is_empty();
        if gone && let Err(errno) = rustix::fs::unlinkat(parent, &frame.name, AtFlags::REMOVEDIR) {
            left(&frame.path, errno);
            gone = false;
        }
        match stack.last_mut() {
            _ if gone => {}
            Some(above) => drop(above.stuck.insert(frame.name)),
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Opens a directory that is to be emptied. Returns `None`, and reports it, if it must be left.
fn enter(
    dir: BorrowedFd,
    mount: Mount,
    name: &CStr,
    path: &TreePath,
    left: &mut dyn FnMut(&TreePath, Errno),
) -> Result<Option<Frame>, Errno> {
    let looked = open_below(dir, name).and_then(|handle| Ok((Mount::of(&handle)?, handle)));
    match looked {
        Ok((found, handle)) if found == mount => {
            Ok(Some(Frame { handle, name: name.to_owned(), path: path.clone(), stuck: HashSet::new() }))
        }
        Ok(_) => {
            left(path, Errno::XDEV);
            Ok(None)
        }
        Err(errno) if is_own(errno) => Err(errno),
        // It is no directory, so the kernel refused to remove it for another reason.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            left(path, Errno::PERM);
            Ok(None)
        }
        Err(errno) => {
            left(path, errno);
            Ok(None)
        }
    }
}

/// Removes the content of a directory, up to the first subdirectory that holds something.
fn empty(frame: &mut Frame, left: &mut dyn FnMut(&TreePath, Errno)) -> Result<Option<CString>, Errno> {
    // Reading moves a handle's position, so this uses a second handle.
    let listed = open_below(&frame.handle, c".")?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut entries = RawDir::new(&listed, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let child = entry.file_name();
        if child == c"." || child == c".." || frame.stuck.contains(child) {
            continue;
        }
        let as_file = match entry.file_type() {
            FileType::Directory => Err(Errno::ISDIR),
            _ => rustix::fs::unlinkat(&frame.handle, child, AtFlags::empty()),
        };
        let removed = match as_file {
            Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(&frame.handle, child, AtFlags::REMOVEDIR),
            other => other,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(child.to_owned())),
            Err(errno) if is_own(errno) => return Err(errno),
            Err(errno) => {
                // An immutable file is no directory either.
                let errno = if errno == Errno::NOTDIR { Errno::PERM } else { errno };
                left(&frame.path.join(child.to_bytes()), errno);
                frame.stuck.insert(child.to_owned());
            }
        }
    }
    Ok(None)
}
