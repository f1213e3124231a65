//! A directory that is being restored into.
//!
//! It gets its metadata when the last job that writes into it is done: the handle is context by
//! those jobs and by the directories below it, and finishes when the last share is dropped.
//!
//! What the kernel gives to what is created in a directory depends on the directory (its set-group-id bit, its group, its
//! default access list), on its filesystem and mount, and on this process. Nothing of that is assumed. A directory is
//! *neutral* when it was looked at, on a filesystem that keeps what it is given: no set-group-id bit, this process's own group, no
//! attributes but labels that the system insists on. Then whatever is created in it belongs to this process, has the mode
//! that was asked for less the umask, and no attributes (with `grpid` the directory's group is given, and that is the same).
//! A new directory in a neutral one is neutral, too, so that one look at the top of what is new proves all below it. Whatever is
//! created elsewhere gets everything set; where the filesystem is not known to keep it, it is looked at afterwards. Whoever changes
//! a directory's group or default list while it is written into can still interfere, as could whoever changes the finished tree.

use super::at::names;
use super::error::RestoreError;
use super::filesystem::Filesystem;
use super::metadata::{Already, Handle, apply, restorer};
use super::session::Session;
use super::shortfall::{ShortfallKind, Told};
use crate::model::entry::{Attributes, Entry};
use crate::model::tree_path::TreePath;
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::support::env::Env;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the jobs of one restore share.
#[derive(Debug)]
pub struct Outcome {
    pub told: Told,
    /// The names that it makes beside others.
    pub(crate) session: Session,
    /// The first error of a directory that was finished.
    pub failed: Mutex<Option<RestoreError>>,
    /// Names of inodes with several that could not be made.
    pub lost_names: Mutex<HashSet<TreePath>>,
    /// A page of the manifest could not be read: nobody knows any more what does not belong.
    pub page_lost: AtomicBool,
}

impl Outcome {
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
    /// None of one that keeps the metadata it has.
    finish: Option<(Entry, Attributes)>,
    outcome: Arc<Outcome>,
    /// Finished after this one.
    _parent: Option<Arc<Directory>>,
    /// Nothing was in it when it was opened: names need not be looked up before they are created.
    pub(crate) fresh: bool,
    /// What creation gives in it is known.
    pub(crate) neutral: bool,
    pub(crate) filesystem: Filesystem,
    /// What the snapshot does not have may be removed from it.
    pub(crate) deletes: bool,
    /// It is on another mount than the destination.
    pub(crate) elsewhere: bool,
    /// What was made in it, where the filesystem may have changed the names.
    made: Mutex<BTreeSet<CString>>,
    folds_names: AtomicBool,
}

/// How a directory is met.
pub(crate) struct Met {
    pub(crate) handle: OwnedFd,
    pub(crate) filesystem: Filesystem,
    pub(crate) fresh: bool,
    pub(crate) neutral: bool,
    pub(crate) deletes: bool,
    pub(crate) elsewhere: bool,
}

impl Directory {
    /// `finish` is what it gets in the end; none for one that keeps what it has: the destination of a single file.
    pub(crate) fn new(
        met: Met,
        path: TreePath,
        finish: Option<(Entry, Attributes)>,
        outcome: Arc<Outcome>,
        parent: Option<Arc<Directory>>,
    ) -> Self {
        let Met { handle, filesystem, fresh, neutral, deletes, elsewhere } = met;
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
            elsewhere,
            made,
            folds_names: AtomicBool::new(false),
        }
    }

    /// Its entry, unless it keeps what it has.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        self.finish.as_ref().map(|(entry, _)| entry)
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Result<BTreeSet<CString>, Errno> {
        names(&self.handle)
    }

    /// Whether it has this very name now.
    pub(crate) fn lists(&self, name: &CStr) -> bool {
        self.names().is_ok_and(|names| names.contains(name))
    }

    /// Why a name could not be created that was not there.
    pub(crate) fn taken(&self, name: &CStr, path: &TreePath) -> RestoreError {
        if self.lists(name) {
            return RestoreError::write(path, "create it")(Errno::EXIST);
        }
        self.folds_names.store(true, Ordering::Relaxed);
        RestoreError::SameName(path.to_string())
    }

    /// An entry could not be made because its name is another's here: what seems not to belong may be why.
    pub(crate) fn folds_names(&self) -> bool {
        self.folds_names.load(Ordering::Relaxed)
    }

    /// Something was made under this name.
    pub(crate) fn note_name(&self, name: &CStr) {
        if !self.filesystem.exact {
            self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
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
                    "this filesystem gave it another name".to_owned(),
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
                if self.fresh && self.neutral { Already::neutral(0o700) } else { Already::default() };
            let handle = Handle::Open(self.handle.as_fd());
            let applied =
                apply(handle, &entry, &attributes, already, self.filesystem.exact, &self.outcome.told);
            if let Err(error) = applied {
                let mut failed = self.outcome.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
            }
        }
    }
}

/// Takes from a new directory what it inherited, so that what is created in it inherits nothing. Whether it is neutral now:
/// it is looked at, not assumed.
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
