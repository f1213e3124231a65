//! A directory that is being restored into.
//!
//! It gets its metadata when the last job that writes into it is done: the handle is shared by
//! those jobs and by the directories below it, and finishes when the last share is dropped.

use super::apply::{Already, Denied, HandleKind, apply};
use super::error::RestoreError;
use crate::model::entry::{Attributes, Entry};
use crate::model::tree_path::TreePath;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

/// What the jobs of one restore share.
#[derive(Debug, Default)]
pub struct Outcome {
    pub denied: Denied,
    /// The first error of a directory that was finished.
    pub failed: Mutex<Option<RestoreError>>,
}

/// An open directory of the destination.
pub struct Directory {
    pub handle: OwnedFd,
    pub path: TreePath,
    finish: Option<(Entry, Attributes, Already)>,
    outcome: Arc<Outcome>,
    /// Finished after this one.
    _parent: Option<Arc<Directory>>,
    /// Nothing was in it when it was opened: names need not be looked up before they are created.
    pub fresh: bool,
}

impl Directory {
    pub fn new(
        handle: OwnedFd,
        entry: Entry,
        attributes: Attributes,
        fresh: bool,
        outcome: Arc<Outcome>,
        parent: Option<Arc<Directory>>,
    ) -> Self {
        let path = entry.path.clone();
        let finish = Some((entry, attributes, Already::default()));
        Self { handle, path, finish, outcome, _parent: parent, fresh }
    }

    /// A directory that keeps the metadata it has: the destination of a single file.
    pub fn plain(handle: OwnedFd, fresh: bool, outcome: Arc<Outcome>) -> Self {
        Self { handle, path: TreePath::root(), finish: None, outcome, _parent: None, fresh }
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Result<BTreeSet<CString>, Errno> {
        // A handle of its own, since reading moves the position.
        let handle = open_below(&self.handle, c".")?;
        let mut names = BTreeSet::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(&handle, &mut buffer);
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_owned();
            if name.as_c_str() != c"." && name.as_c_str() != c".." {
                names.insert(name);
            }
        }
        Ok(names)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some((entry, attributes, already)) = self.finish.take()
            && let Err(error) =
                apply(&self.handle, HandleKind::Open, &entry, &attributes, already, &self.outcome.denied)
        {
            let mut failed = self.outcome.failed.lock().unwrap_or_else(|e| e.into_inner());
            failed.get_or_insert(error);
        }
    }
}

/// Opens the directory `name` of `dir`; a symlink is not followed.
pub fn open_below(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens a directory below `root`, component by component: any length, no symlink followed.
pub fn open_path(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut handle = open_below(root, c".")?;
    for component in path.split(|b| *b == b'/').filter(|c| !c.is_empty()) {
        handle = open_below(&handle, &name_of(component))?;
    }
    Ok(handle)
}

/// A name without NUL, as tree paths are.
pub fn name_of(component: &[u8]) -> CString {
    CString::new(component).unwrap_or_default()
}

/// Removes `name` and all below it, following nothing. Depth is bounded by open handles only.
pub fn remove_all(dir: impl AsFd, name: &CStr) -> Result<(), Errno> {
    let dir = dir.as_fd();
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let mut stack = vec![(open_below(dir, name)?, name.to_owned())];
    while let Some((handle, name)) = stack.last() {
        let mut below = None;
        let listed = open_below(handle, c".")?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(&listed, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let child = entry.file_name();
            if child == c"." || child == c".." {
                continue;
            }
            if entry.file_type() != FileType::Directory
                && !matches!(
                    rustix::fs::unlinkat(handle, child, AtFlags::empty()),
                    Err(Errno::ISDIR | Errno::PERM)
                )
            {
                continue;
            }
            if rustix::fs::unlinkat(handle, child, AtFlags::REMOVEDIR).is_err() {
                below = Some(child.to_owned());
                break;
            }
        }
        if let Some(child) = below {
            let opened = open_below(handle, &child)?;
            stack.push((opened, child));
            continue;
        }
        let name = name.clone();
        stack.pop();
        let parent = stack.last().map_or(dir, |(handle, _)| handle.as_fd());
        rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}
