//! Where an entry goes, and how it gets there: made beside its name and renamed over what is there, or made under its name in a
//! directory that was empty.
//!
//! What was made and does not get its place is removed again, whatever the reason: nothing half-written stays under a name of the
//! snapshot. A name that the directory did not list, and that turns out to be taken, is another entry's on a filesystem that folds
//! letters: nothing is replaced then. (Whoever makes that very name meanwhile is told apart by listing the directory again.)

use super::directory::{Directory, name_of};
use super::error::RestoreError;
use super::remove::{left_because, remove_all};
use super::shortfall::ShortfallKind;
use crate::model::tree_path::TreePath;
use crate::source::stat::Stat;
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::sync::Arc;

/// What names made beside their place begin with.
const BESIDE: &str = ".understudy-new-";

/// Whether a name is that of what a killed restore left beside a file.
pub(super) fn is_beside(name: &CStr) -> bool {
    name.to_bytes().starts_with(BESIDE.as_bytes())
}

/// Where an entry goes.
pub(super) struct Spot {
    pub(super) dir: Arc<Directory>,
    pub(super) name: CString,
    /// The directory had this name when it was opened.
    pub(super) listed: bool,
}

impl Spot {
    /// The name that it is made under; never longer than a name may be.
    pub(super) fn at(&self) -> CString {
        if self.dir.fresh {
            return self.name.clone();
        }
        let tag = blake3::hash(self.name.to_bytes()).to_hex();
        name_of(format!("{BESIDE}{}", &tag[..16]).as_bytes())
    }

    /// Runs `make`, which makes something under the name that it is given; what a restore that was broken off
    /// has left there goes first.
    pub(super) fn make<T>(
        &self,
        path: &TreePath,
        action: &'static str,
        make: impl Fn(&CStr) -> Result<T, Errno>,
    ) -> Result<(T, Unplaced<'_>), RestoreError> {
        let at = self.at();
        let made = match make(&at) {
            Err(Errno::EXIST) if self.dir.fresh => return Err(self.dir.taken(&self.name, path)),
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.dir.handle, &at, AtFlags::empty())
                    .map_err(RestoreError::write(path, "remove what is beside it"))?;
                make(&at)
            }
            other => other,
        };
        let made = made.map_err(RestoreError::write(path, action))?;
        Ok((made, Unplaced { spot: self, at, linked: false, placed: false }))
    }
}

/// What was made for a spot, and is removed again unless it gets there.
pub(super) struct Unplaced<'a> {
    spot: &'a Spot,
    at: CString,
    /// It is another name of an inode. Where the place is a name of the same one, renaming does nothing, and what is beside is
    /// still there to be removed.
    pub(super) linked: bool,
    placed: bool,
}

impl Unplaced<'_> {
    /// The name that it has so far.
    pub(super) fn at(&self) -> &CStr {
        &self.at
    }

    /// Gives it its name. A directory in the way goes only if deletion is allowed.
    pub(super) fn place(mut self, path: &TreePath) -> Result<(), RestoreError> {
        let dir = &*self.spot.dir;
        if !dir.fresh {
            self.rename(path)?;
        }
        dir.note_name(&self.spot.name);
        self.placed = dir.fresh || !self.linked;
        Ok(())
    }

    fn rename(&self, path: &TreePath) -> Result<(), RestoreError> {
        let wrong = RestoreError::write(path, "put it in its place");
        let Spot { dir, name, listed } = self.spot;
        if !listed {
            let handle = &dir.handle;
            match rustix::fs::renameat_with(handle, &self.at, handle, name, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                // A filesystem that cannot rename so.
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

impl Drop for Unplaced<'_> {
    fn drop(&mut self) {
        if !self.placed {
            let _ = rustix::fs::unlinkat(&self.spot.dir.handle, &self.at, AtFlags::empty());
        }
    }
}
