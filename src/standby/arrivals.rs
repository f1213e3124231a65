//! Objects that arrive: an object gets its name only after its bytes are on the disk.
//!
//! ```text
//! objects/.arriving/HASH → one syncfs → objects/ab/cdef… → fsync of these directories → the image
//! ```
//!
//! - The kernel reports a failed write once to each handle that was open then, by the next `syncfs` on that
//!   handle. So the handle of a run is opened before its first object is written. If its `syncfs` fails, all
//!   arriving objects are removed, since it is unknown which of them are on the disk.
//! - Objects that are found there when a run begins are in doubt, for whatever reason the last run ended and
//!   whatever a clock says. They are written to the disk, dropped from memory, read back from the disk, and
//!   compared with their hashes: an object that matches gets its name, any other is removed. So what a killed
//!   run fetched is not fetched again.
//! - An object replaces another of its name by a rename: a reader has the old bytes or the right ones.
//! - The names themselves are on the disk before the image is (`Arrivals::settle`). No published snapshot
//!   needs names that are lost in a power cut before that.

use super::depot::{Depot, Lock, sync_directory};
use super::error::FollowError;
use super::materialise::stored_hash;
use crate::model::id::ContentHash;
use crate::support::listing::entries;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use walkdir::DirEntry;

/// Maximum number of names that are read at once, since a directory is not read while entries are removed
/// from it.
const NAMES: usize = 4096;

/// Maximum number of directories that are synced one by one. More are synced by a `syncfs`, which also waits
/// for the writes of other programs.
const FOLDERS: usize = 32;

/// The arriving objects of one run.
pub(crate) struct Arrivals<'a> {
    depot: &'a Depot,
    /// Handle of the objects' filesystem, opened before this run wrote anything to it.
    filesystem: OwnedFd,
}

impl<'a> Arrivals<'a> {
    /// Begins a run, and first checks the objects that another run left.
    pub fn begin(depot: &'a Depot, _lock: &Lock) -> Result<Self, FollowError> {
        let objects = depot.objects();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let filesystem = rustix::fs::openat(CWD, &objects, flags, Mode::empty())
            .map_err(FollowError::path(&objects, "open it"))?;
        let arrivals = Self { depot, filesystem };
        arrivals.take_over()?;
        Ok(arrivals)
    }

    /// Names the objects of an interrupted run that are complete on the disk, and removes the others.
    fn take_over(&self) -> Result<(), FollowError> {
        if self.some()?.is_empty() {
            return Ok(());
        }
        self.sync()?;
        self.each(|path, hash| match stored_hash(path).map_err(FollowError::path(path, "read it"))? {
            Some(found) if found == hash => self.name(hash),
            _ => remove(path),
        })
    }

    /// Removes the objects that an older version may have named before they were on the disk, and that are
    /// not there. Returns their number.
    pub(crate) fn remove_lost(&self) -> Result<u64, FollowError> {
        self.sync()?;
        let mut lost = 0;
        self.depot.each_object(|path, hash| {
            let found = match hash {
                Some(_) => stored_hash(path).map_err(FollowError::path(path, "read it"))?,
                None => None,
            };
            if hash.is_none() || found != hash {
                lost += u64::from(hash.is_some());
                remove(path)?;
            }
            Ok(())
        })?;
        Ok(lost)
    }

    /// Writes the arrived objects to the disk, names them, and writes the names to the disk. After that an
    /// image may be published.
    pub(crate) fn settle(&self) -> Result<(), FollowError> {
        // Needed also if nothing arrived: the names that an interrupted run gave may not be on the disk yet.
        if let Err(error) = self.sync() {
            // An object that cannot be removed is in doubt for the next run.
            let _ = self.each(|path, _| remove(path));
            return Err(error);
        }
        let folders = RefCell::new(BTreeSet::new());
        self.each(|_, hash| {
            folders.borrow_mut().insert(hash.0[0]);
            self.name(hash)
        })?;
        let folders = folders.into_inner();
        if folders.len() > FOLDERS {
            return self.sync();
        }
        for first in folders {
            sync_directory(&self.depot.objects().join(format!("{first:02x}")))?;
        }
        Ok(())
    }

    /// Returns some of the arriving objects. Other files are removed, if possible; entries that are no files
    /// are ignored.
    fn some(&self) -> Result<Vec<(PathBuf, ContentHash)>, FollowError> {
        let dir = self.depot.arriving();
        let arriving = |entry: DirEntry| {
            if !entry.file_type().is_file() {
                return None;
            }
            match blake3::Hash::from_hex(entry.file_name().as_encoded_bytes()) {
                Ok(hash) => Some((entry.into_path(), ContentHash(*hash.as_bytes()))),
                Err(_) => {
                    let _ = std::fs::remove_file(entry.path());
                    None
                }
            }
        };
        let some = entries(&dir).filter_map(|entry| entry.map(arriving).transpose());
        let listed = some.take(NAMES).collect::<std::io::Result<_>>();
        listed.map_err(FollowError::io(&dir, "list it"))
    }

    /// Calls `take` with every arriving object, which must remove it from there.
    fn each(&self, take: impl Fn(&Path, ContentHash) -> Result<(), FollowError>) -> Result<(), FollowError> {
        loop {
            let some = self.some()?;
            if some.is_empty() {
                return Ok(());
            }
            for (path, hash) in some {
                take(&path, hash)?;
            }
        }
    }

    fn name(&self, hash: ContentHash) -> Result<(), FollowError> {
        let (from, to) = (self.depot.arriving_object(hash), self.depot.object(hash));
        rustix::fs::renameat(CWD, &from, CWD, &to).map_err(FollowError::path(&to, "rename it"))
    }

    fn sync(&self) -> Result<(), FollowError> {
        let wrong = FollowError::path(self.depot.root(), "write it to the disk");
        rustix::fs::syncfs(&self.filesystem).map_err(wrong)
    }
}

fn remove(path: &Path) -> Result<(), FollowError> {
    std::fs::remove_file(path).map_err(FollowError::io(path, "remove it"))
}

impl Depot {
    fn arriving_object(&self, hash: ContentHash) -> PathBuf {
        self.arriving().join(hash.to_string())
    }

    /// Creates a file for an arriving object. The caller writes it completely and checks it, or discards it.
    pub(crate) fn create_object(&self, hash: ContentHash) -> Result<OwnedFd, Errno> {
        let path = self.arriving_object(hash);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &path, flags, Mode::RUSR)
    }

    /// Removes an object that was being written, as its space may be needed.
    pub(crate) fn discard_object(&self, hash: ContentHash) -> Result<(), Errno> {
        rustix::fs::unlinkat(CWD, self.arriving_object(hash), AtFlags::empty())
    }
}
