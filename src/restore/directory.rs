//! A directory that is being restored into.
//!
//! It gets its metadata when the last job that writes into it is done. Those jobs and the directories below
//! it share the handle, and dropping the last share finishes the directory.
//!
//! The metadata that the kernel gives to a new inode depends on its directory (its set-group-id bit, its
//! group, its default access list), on the filesystem and mount, and on this process. None of that is
//! assumed. A directory is *neutral* when it was checked, on a filesystem that keeps the metadata that it
//! accepts, to have no set-group-id bit, this process's own group, and no attributes except labels that the
//! system insists on. An inode that is created in it then belongs to this process, has the requested mode
//! less the umask, and no attributes (with `grpid` it gets the directory's group, which is the same one). A
//! new directory in a neutral one is neutral, too, so one check at the top of a new tree covers everything
//! below it. An inode that is created in another directory gets all its metadata set; where the filesystem is
//! not known to keep it, it is checked afterwards. A process that changes a directory's group or default list
//! while it is written into can still interfere, as could one that changes the finished tree.

use super::at::names;
use super::error::RestoreError;
use super::filesystem::Filesystem;
use super::metadata::{CreatedWith, Handle, apply, restorer};
use super::session::Session;
use super::shortfall::{ShortfallKind, Told};
use crate::model::entry::{Attributes, Entry};
use crate::model::tree_path::TreePath;
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::support::env::Env;
use crate::support::lock::lock;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// State that the jobs of one restore share.
#[derive(Debug)]
pub struct RestoreTally {
    pub told: Told,
    /// The temporary names that the restore makes next to existing ones.
    pub(crate) session: Session,
    /// The first error of finishing a directory.
    pub failed: Mutex<Option<RestoreError>>,
    /// First names of hardlink groups that could not be made.
    pub lost_names: Mutex<HashSet<TreePath>>,
    /// Whether a page of the manifest could not be read. It is then unknown which entries do not belong.
    pub page_lost: AtomicBool,
}

impl RestoreTally {
    pub fn new(env: &Env) -> Self {
        Self {
            told: Told::default(),
            session: Session::new(env),
            failed: Mutex::default(),
            lost_names: Mutex::default(),
            page_lost: AtomicBool::new(false),
        }
    }
}

/// An open directory of the destination.
pub struct Directory {
    pub handle: OwnedFd,
    pub path: TreePath,
    /// The metadata that it gets at the end; `None` if it keeps its metadata.
    finish: Option<(Entry, Attributes)>,
    outcome: Arc<RestoreTally>,
    /// Its parent, which is finished after it.
    _parent: Option<Arc<Directory>>,
    /// Whether it was empty when it was opened. Names then need no lookup before they are created.
    pub(crate) fresh: bool,
    /// Whether it is neutral: the metadata of an inode created in it is known.
    pub(crate) neutral: bool,
    pub(crate) filesystem: Filesystem,
    /// Whether entries that the snapshot does not have may be removed from it.
    pub(crate) deletes: bool,
    /// Whether nothing in it is replaced.
    pub(crate) adds: bool,
    /// Whether it is on another mount than the destination.
    pub(crate) elsewhere: bool,
    /// Names created in it, on a filesystem that may change names.
    made: Mutex<BTreeSet<CString>>,
    folds_names: AtomicBool,
}

/// A directory as it was found or made.
pub struct Met {
    pub(crate) handle: OwnedFd,
    pub(crate) filesystem: Filesystem,
    pub(crate) fresh: bool,
    pub(crate) neutral: bool,
    pub(crate) deletes: bool,
    pub(crate) adds: bool,
    pub(crate) elsewhere: bool,
}

impl Directory {
    /// Creates a directory that gets the metadata `finish` at the end.
    ///
    /// It is `None` for one that keeps its metadata: the destination of a single file, or a directory that
    /// entries are only added to.
    pub fn new(
        met: Met,
        path: TreePath,
        finish: Option<(Entry, Attributes)>,
        outcome: Arc<RestoreTally>,
        parent: Option<Arc<Directory>>,
    ) -> Self {
        let Met { handle, filesystem, fresh, neutral, deletes, adds, elsewhere } = met;
        let made = Mutex::default();
        Self {
            handle,
            path,
            finish,
            outcome,
            _parent: parent,
            fresh,
            neutral,
            filesystem,
            deletes,
            adds,
            elsewhere,
            made,
            folds_names: AtomicBool::new(false),
        }
    }

    /// Returns its entry, unless it keeps its metadata.
    pub fn entry(&self) -> Option<&Entry> {
        self.finish.as_ref().map(|(entry, _)| entry)
    }

    pub fn outcome(&self) -> &RestoreTally {
        &self.outcome
    }

    /// Returns the names in it, sorted.
    pub(crate) fn names(&self) -> Result<BTreeSet<CString>, Errno> {
        names(&self.handle)
    }

    /// Returns whether it has exactly this name now.
    pub(crate) fn lists(&self, name: &CStr) -> bool {
        self.names().is_ok_and(|names| names.contains(name))
    }

    /// Returns why a name that was not in it could not be created.
    pub(crate) fn taken(&self, name: &CStr, path: &TreePath) -> RestoreError {
        if self.lists(name) {
            return RestoreError::write(path, "create it")(Errno::EXIST);
        }
        self.folds_names.store(true, Ordering::Relaxed);
        RestoreError::SameName(path.to_string())
    }

    /// Returns whether an entry could not be made because its name counts as that of another entry here.
    ///
    /// An entry that seems not to belong may then be that other one.
    pub(crate) fn folds_names(&self) -> bool {
        self.folds_names.load(Ordering::Relaxed)
    }

    /// Records that an entry was made under this name.
    pub(crate) fn note_name(&self, name: &CStr) {
        if !self.filesystem.exact {
            lock(&self.made).insert(name.to_owned());
        }
    }

    fn tell_renamed(&mut self) {
        let made = std::mem::take(self.made.get_mut().unwrap_or_else(PoisonError::into_inner));
        if made.is_empty() {
            return;
        }
        if let Ok(names) = self.names() {
            for name in made.difference(&names) {
                let path = self.path.join(name.as_bytes());
                self.outcome.told.tell(
                    ShortfallKind::Renamed,
                    &path,
                    "this filesystem stored a different name".to_owned(),
                );
            }
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.tell_renamed();
        if let Some((entry, attributes)) = self.finish.take() {
            let already =
                if self.fresh && self.neutral { CreatedWith::neutral(0o700) } else { CreatedWith::default() };
            let handle = Handle::Open(self.handle.as_fd());
            let applied =
                apply(handle, &entry, &attributes, already, self.filesystem.exact, &self.outcome.told);
            if let Err(error) = applied {
                let mut failed = lock(&self.outcome.failed);
                failed.get_or_insert(error);
            }
        }
    }
}

/// Removes inherited metadata from a new directory, so that inodes created in it inherit nothing.
///
/// Returns whether it is neutral now, by checking it.
pub(crate) fn make_neutral(handle: impl AsFd, filesystem: Filesystem) -> bool {
    let handle = handle.as_fd();
    for (name, _) in xattr::read(handle).unwrap_or_default() {
        // A label that the system insists on stays.
        let _ = rustix::fs::fremovexattr(handle, name.as_slice());
    }
    let (_, group) = restorer();
    if !Stat::of(handle).is_ok_and(|stat| stat.gid == group) {
        let _ = rustix::fs::fchown(handle, None, Some(Gid::from_raw(group)));
    }
    let _ = rustix::fs::fchmod(handle, Mode::RWXU);
    let inherits =
        xattr::read(handle).map_or(true, |all| all.iter().any(|(name, _)| !name.starts_with(b"security.")));
    let looked = Stat::of(handle).is_ok_and(|stat| stat.mode == 0o700 && stat.gid == group);
    filesystem.exact && looked && !inherits
}
