//! The directory for the changes of a writable mount (UPPER): it is tied to one snapshot and holds an
//! overlay's upper layer.
//!
//! Its content takes effect on this host directly, even where the mount itself is restricted: a set-user-id
//! program that the store's root creates in the mount is one on this host's filesystem. So only this user can
//! enter the directory, and a directory of another user is refused. It is opened once and then used through
//! that handle, so that a process that renames it meanwhile cannot exchange it.

use super::error::StageError;
use crate::model::id::{Sequence, StoreName};
use crate::restore::access::{ACCESS_LIST, mode_without_list};
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::standby::depot::{names, write_beside};
use crate::standby::error::FollowError;
use crate::support::private;
use crate::vfs::overlay::{self, Layers, Upper};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Name of the file that records the snapshot which the changes belong to.
const BINDING: &str = "understudy.json";

/// The snapshot that a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Binding {
    store: StoreName,
    snapshot: Sequence,
}

/// The open directory for changes.
pub(crate) struct Changes {
    handle: OwnedFd,
    /// Path of the directory, for messages.
    path: PathBuf,
}

impl Changes {
    /// Opens a directory for changes, creating it if needed, and ties it to a snapshot. Fails if it is tied
    /// to another one.
    pub fn open(path: &Path, store: &StoreName, snapshot: Sequence) -> Result<Self, StageError> {
        let wanted = Binding { store: store.clone(), snapshot };
        let above = path.parent().unwrap_or(path);
        std::fs::create_dir_all(above).map_err(FollowError::io(above, "create it"))?;
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(FollowError::io(path, "create it")(error).into());
            }
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, path, flags, Mode::empty());
        let handle = handle.map_err(FollowError::path(path, "open it"))?;
        let changes = Self { handle, path: path.to_owned() };
        changes.bind(&wanted)?;
        Ok(changes)
    }

    /// Returns the path of a name in the directory, reached by the handle.
    fn at(&self, name: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.handle.as_raw_fd().to_string()).join(name)
    }

    fn bind(&self, wanted: &Binding) -> Result<(), StageError> {
        let shown = self.path.join(BINDING);
        match std::fs::read(self.at(BINDING)) {
            Ok(bytes) => match serde_json::from_slice::<Binding>(&bytes) {
                Ok(found) if found == *wanted => self.close(),
                Ok(found) => Err(StageError::Bound {
                    upper: self.path.clone(),
                    found: format!("{}@{}", found.store, found.snapshot),
                    wanted: format!("{}@{}", wanted.store, wanted.snapshot),
                }),
                Err(error) => Err(FollowError::io(&shown, "read it")(error.into()).into()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // A temporary file that a crash left is no change.
                let mut others = names(&self.at("."))?.into_iter().filter(|name| !name.starts_with(".new-"));
                if others.next().is_some() {
                    return Err(StageError::Foreign(self.path.clone()));
                }
                self.close()?;
                let bytes = serde_json::to_vec(wanted).unwrap_or_default();
                Ok(write_beside(&self.at(BINDING), &bytes, true)?)
            }
            Err(error) => Err(FollowError::io(&shown, "read it")(error).into()),
        }
    }

    /// Restricts the directory to this user, who must own it.
    fn close(&self) -> Result<(), StageError> {
        let stat = Stat::of(&self.handle).map_err(FollowError::path(&self.path, "stat it"))?;
        if stat.uid != rustix::process::geteuid().as_raw() {
            return Err(StageError::NotOurs { path: self.path.clone(), owner: stat.uid });
        }
        if stat.mode & 0o077 != 0 {
            rustix::fs::fchmod(&self.handle, Mode::RWXU)
                .map_err(FollowError::path(&self.path, "deny other users access to it"))?;
        }
        Ok(())
    }

    /// Returns the directories of the upper layer. New ones get the metadata of the snapshot's root, which
    /// they represent.
    pub fn upper(&self, layers: &Layers) -> Result<Upper, StageError> {
        let (upper, work, new) = (self.at("upper"), self.at("work"), self.at("upper.new"));
        let io = |name: &str, action| {
            let path = self.path.join(name);
            move |source| FollowError::Io { path, action, source }
        };
        private::make_dirs(&work).map_err(io("work", "create it"))?;
        if !upper.exists() {
            private::make_dirs(&new).map_err(io("upper.new", "create it"))?;
            let snapshot = overlay::mount(layers)?;
            copy_metadata(snapshot.root(), &new)
                .map_err(FollowError::path(&self.path.join("upper.new"), "give it the root's metadata"))?;
            std::fs::rename(&new, &upper).map_err(io("upper", "rename it"))?;
        }
        Ok(Upper { upper, work })
    }
}

fn copy_metadata(root: impl AsFd, to: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    let stat = Stat::of(&from)?;
    let to = rustix::fs::openat(CWD, to, flags, Mode::empty())?;
    rustix::fs::fchown(&to, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))?;
    let mut mode = stat.mode;
    for (name, value) in xattr::read(&from).unwrap_or_default() {
        // This filesystem or user namespace may not support the attribute, which is no reason to leave a
        // store down.
        let set = rustix::fs::fsetxattr(&to, upper_name(&name).as_ref(), &value, XattrFlags::empty());
        if set.is_err() && name == ACCESS_LIST {
            mode = mode_without_list(mode, &value);
        }
    }
    // An access list changes the mode's group bits, so the mode is set after it.
    rustix::fs::fchmod(&to, Mode::from_raw_mode(mode.into()))?;
    let mtime = Timespec { tv_sec: stat.mtime.seconds, tv_nsec: stat.mtime.nanos.into() };
    rustix::fs::futimens(&to, &Timestamps { last_access: mtime, last_modification: mtime })
}

/// Returns an attribute's name on an upper layer. The overlay's own names are escaped, since they would
/// otherwise describe this layer.
fn upper_name(name: &[u8]) -> Cow<'_, [u8]> {
    const OVERLAY: &[u8] = b"trusted.overlay.";
    match name.strip_prefix(OVERLAY) {
        Some(rest) => Cow::Owned([OVERLAY, b"overlay.", rest].concat()),
        None => Cow::Borrowed(name),
    }
}
