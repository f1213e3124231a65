//! Adds entries to a tree in use: nothing that is there is replaced, changed or removed.
//!
//! An entry gets its own name if that is free, and otherwise a name beside it. Which of them is free is
//! looked up before its content is written, and holds only then: the name is taken at the end by a rename
//! that refuses an existing one. A directory that is there is entered through a handle, never through a
//! symlink. Each name of a file with several becomes a file of its own: the other names may be those of newer
//! files here.

use super::error::{EntryError, RestoreError};
use super::shortfall::ShortfallKind;
use super::spot::Spot;
use super::tree::Restorer;
use crate::content::write::hash_of;
use crate::model::entry::{Entry, Kind};
use crate::model::id::Sequence;
use crate::source::read::{open_file, read_special};
use crate::source::stat::Stat;
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;

/// Maximum length of a name on Linux.
const NAME_MAX_BYTES: usize = 255;

/// The place for an entry in a directory.
enum Found {
    Free(CString),
    /// What has this name is equal to the entry; or both are directories.
    There(CString),
}

impl Restorer<'_, '_> {
    /// Adds an entry to the directory on top of the stack, under its own name or beside it.
    pub(crate) fn add(&mut self, spot: Spot, entry: Entry, beside: Sequence) -> Result<(), RestoreError> {
        let is_directory = entry.kind == Kind::Directory;
        let found = find(&spot, &entry, beside).map_err(EntryError::from);
        let (name, is_there) = match self.context.settle(&spot.dir, &entry, found)? {
            Some(Found::Free(name)) => (name, false),
            Some(Found::There(name)) => (name, true),
            None => {
                self.skip(entry);
                return Ok(());
            }
        };
        if name != spot.name {
            let at = spot.dir.path.join(name.as_bytes());
            let reason = format!("it is {at}: something else has its name");
            self.context.outcome.told.tell(ShortfallKind::Renamed, &entry.path, reason);
        }
        if is_there && !is_directory {
            self.context.counters.files_kept.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let spot = Spot { dir: spot.dir, name, listed: is_there };
        self.make(spot, Entry { hardlink: None, ..entry })
    }
}

/// Looks for a name that the entry can have.
fn find(spot: &Spot, entry: &Entry, beside: Sequence) -> Result<Found, RestoreError> {
    let second = name_beside(&spot.name, beside);
    for name in [spot.name.clone(), second] {
        match is_equal(spot, &name, entry) {
            Ok(true) => return Ok(Found::There(name)),
            Ok(false) => {}
            Err(Errno::NOENT) => return Ok(Found::Free(name)),
            Err(errno) => {
                return Err(RestoreError::write(&entry.path, "compare it with what is there")(errno));
            }
        }
    }
    Err(RestoreError::write(&entry.path, "add it, or put it beside what has its name")(Errno::EXIST))
}

/// Returns the name beside `name`; the end of a long one is cut.
fn name_beside(name: &CStr, beside: Sequence) -> CString {
    let suffix = format!(".stranded-{beside}");
    let own = name.to_bytes();
    let kept = own.len().min(NAME_MAX_BYTES - suffix.len());
    CString::new([&own[..kept], suffix.as_bytes()].concat()).unwrap_or_default()
}

/// Returns whether what has a name is, to a user, the entry's content.
fn is_equal(spot: &Spot, name: &CStr, entry: &Entry) -> Result<bool, Errno> {
    let dir = &spot.dir.handle;
    let stat = Stat::at(dir, name)?;
    if !stat.is_a(&entry.kind) {
        return Ok(false);
    }
    match &entry.kind {
        Kind::File(file) => {
            if stat.size_bytes != file.size_bytes {
                return Ok(false);
            }
            let handle = open_file(dir, name)?;
            // The name may be that of another file by now.
            Ok(Stat::of(&handle)?.is_file() && hash_of(&handle)? == file.hash)
        }
        Kind::Symlink { target } => Ok(read_special(dir, name)?.target == *target),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_beside_fits_whatever_the_name() {
        let beside = |name: &[u8]| name_beside(&CString::new(name).unwrap(), Sequence(7)).into_bytes();
        assert_eq!(beside(b"a.jpg"), b"a.jpg.stranded-7");
        assert_eq!(beside(b"\xff"), b"\xff.stranded-7");
        let long = beside(&[b'x'; 255]);
        assert!(long.len() == 255 && long.ends_with(b"x.stranded-7"));
    }
}
