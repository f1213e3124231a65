//! Where an entry goes, and how it gets there: made beside its name and renamed over what is there, or made under its name in a
//! directory that was empty.
//!
//! What was made and does not get its place is removed again, whatever the reason: nothing half-written stays under a name of the
//! snapshot. A name that the directory did not list, and that turns out to be taken, is another entry's on a filesystem that folds
//! letters: nothing is replaced then. (Whoever makes that very name meanwhile is told apart by listing the directory again.)

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

/// A name that nobody has is found at once; who exchanges them all meanwhile is not waited for.
const TRIES: usize = 8;

/// Where an entry goes.
pub(crate) struct Spot {
    pub(crate) dir: Arc<Directory>,
    pub(crate) name: CString,
    /// The directory had this name when it was opened.
    pub(crate) listed: bool,
}

impl Spot {
    /// Runs `make`, which makes something under the name that it is given: in a directory that was empty its own, else one that
    /// nobody has.
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

/// What was made for a spot, and is removed again unless it gets there.
pub(crate) struct Unplaced<'a> {
    spot: &'a Spot,
    at: CString,
    /// It is another name of an inode. Where the place is a name of the same one, renaming does nothing, and what is beside is
    /// still there to be removed.
    pub(crate) linked: bool,
    placed: bool,
}

impl Unplaced<'_> {
    /// The name that it has so far.
    pub(crate) fn at(&self) -> &CStr {
        &self.at
    }

    /// Gives it its name. A directory in the way goes only if deletion is allowed.
    pub(crate) fn place(mut self, path: &TreePath) -> Result<(), RestoreError> {
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
