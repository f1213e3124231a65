//! Puts an entry in its place.
//!
//! It is made under a temporary name and renamed over an existing entry, or made under its own name in a
//! directory that was empty.
//!
//! An inode that does not get its place is removed, whatever the reason: no half-written file stays under a
//! name of the snapshot. If a name that the directory did not list turns out to be taken, the filesystem
//! folds letters and the name is that of another entry: nothing is replaced then. (Listing the directory
//! again distinguishes this from a process that has just created that very name.)

use super::directory::Directory;
use super::error::RestoreError;
use super::remove::{left_because, remove_all};
use super::shortfall::ShortfallKind;
use crate::model::tree_path::TreePath;
use crate::source::stat::Stat;
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::sync::Arc;

/// Number of attempts to find an unused name.
///
/// The first one succeeds unless a process takes the names on purpose.
const TRIES: usize = 8;

/// The place of an entry.
pub struct Spot {
    pub(crate) dir: Arc<Directory>,
    pub(crate) name: CString,
    /// Whether the directory had this name when it was opened.
    pub(crate) listed: bool,
}

impl Spot {
    /// Runs `make`, which makes something under the name that it is given.
    ///
    /// In a directory that was empty that is the entry's own name, otherwise a temporary one.
    pub(crate) fn make<T>(
        &self,
        path: &TreePath,
        action: &'static str,
        make: impl Fn(&CStr) -> Result<T, Errno>,
    ) -> Result<(T, Unplaced<'_>), RestoreError> {
        if self.dir.fresh {
            return match make(&self.name) {
                Ok(made) => Ok((made, self.unplaced(self.name.clone()))),
                Err(Errno::EXIST) => Err(self.dir.taken(&self.name, path)),
                Err(errno) => Err(RestoreError::write(path, action)(errno)),
            };
        }
        for _ in 0..TRIES {
            let at = self.dir.outcome().session.name();
            match make(&at) {
                Ok(made) => return Ok((made, self.unplaced(at))),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(RestoreError::write(path, action)(errno)),
            }
        }
        Err(RestoreError::write(path, action)(Errno::EXIST))
    }

    fn unplaced(&self, at: CString) -> Unplaced<'_> {
        Unplaced { spot: self, at, linked: false, placed: false }
    }
}

/// An inode made for a spot. It is removed unless it is placed.
pub(crate) struct Unplaced<'a> {
    spot: &'a Spot,
    at: CString,
    /// Whether it is another name of an inode.
    ///
    /// If the place is a name of the same inode, renaming does nothing, and the temporary name must still be
    /// removed.
    pub(crate) linked: bool,
    placed: bool,
}

impl Unplaced<'_> {
    /// Returns its current name.
    pub(crate) fn at(&self) -> &CStr {
        &self.at
    }

    /// Gives the inode its final name. A directory in the way is removed only if deletion is allowed.
    pub(crate) fn place(mut self, path: &TreePath) -> Result<(), RestoreError> {
        let dir = &*self.spot.dir;
        if !dir.fresh {
            self.rename(path)?;
        }
        dir.note_name(&self.spot.name);
        self.placed = dir.fresh || !self.linked;
        Ok(())
    }

    fn rename(&mut self, path: &TreePath) -> Result<(), RestoreError> {
        let wrong = RestoreError::write(path, "put it in its place");
        let Spot { dir, name, listed } = self.spot;
        if dir.adds {
            return self.add(path);
        }
        if !listed {
            let handle = &dir.handle;
            match rustix::fs::renameat_with(handle, &self.at, handle, name, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                // The filesystem does not support this kind of rename.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if Stat::at(handle, name).is_err() => {}
                Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    if !dir.lists(name) {
                        return Err(dir.taken(name, path));
                    }
                }
                Err(errno) => return Err(wrong(errno)),
            }
        }
        let rename = || rustix::fs::renameat(&dir.handle, &self.at, &dir.handle, name);
        match rename() {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) if dir.deletes => {
                let mut left = |at: &TreePath, errno| {
                    dir.outcome().told.tell(ShortfallKind::Left, at, left_because(errno));
                };
                let gone = remove_all(&dir.handle, dir.filesystem.mount, name, path, &mut left)
                    .map_err(RestoreError::write(path, "remove the directory in its place"))?;
                if gone { rename().map_err(wrong) } else { Err(wrong(Errno::BUSY)) }
            }
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                Err(RestoreError::InTheWay(path.to_string()))
            }
            Err(errno) => Err(wrong(errno)),
        }
    }
}

impl Unplaced<'_> {
    /// Gives the inode its final name, unless that is taken: also by a process that took it just now.
    fn add(&mut self, path: &TreePath) -> Result<(), RestoreError> {
        let Spot { dir, name, .. } = self.spot;
        let handle = &dir.handle;
        let mut placed = rustix::fs::renameat_with(handle, &self.at, handle, name, RenameFlags::NOREPLACE);
        if matches!(placed, Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) {
            // The filesystem does not support this kind of rename. A second name is refused as well if it is
            // taken; the temporary one is removed then.
            placed = rustix::fs::linkat(handle, &self.at, handle, name, AtFlags::empty());
            self.linked = true;
        }
        match placed {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(dir.taken(name, path)),
            Err(errno) => Err(RestoreError::write(path, "put it in its place")(errno)),
        }
    }
}

impl Drop for Unplaced<'_> {
    fn drop(&mut self) {
        if !self.placed {
            let _ = rustix::fs::unlinkat(&self.spot.dir.handle, &self.at, AtFlags::empty());
        }
    }
}
