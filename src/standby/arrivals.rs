//! Objects between their making and their names: nothing has the name of an object before it is on the disk.
//!
//! ```text
//! objects/.arriving/HASH → one syncfs → objects/ab/cdef… → fsync of these directories → the image
//! ```
//!
//! - The kernel tells of a write that failed once: to each handle that was open then, by the next `syncfs` on it. So the handle of a
//!   run is opened before its first object is written. If its `syncfs` fails, all that is arriving is removed: nobody can
//!   say any more which of it is on the disk.
//! - Whatever is found there when a run begins is in doubt, whyever the last one ended and whatever any clock says. It is written
//!   to the disk, dropped from memory, read back from the disk, and compared with its hash: then it gets its name, or goes.
//!   So what a killed run fetched is not fetched again.
//! - An object replaces one of its name by a rename: a reader has the old bytes or the right ones.
//! - The names themselves are on the disk before the image is (`Arrivals::settle`). Lost with the power before that, they were
//!   needed by nothing that is published.

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

/// Names that are read at once: a directory is not read while its entries go.
const NAMES: usize = 4096;

/// More directories than this are written to the disk by a `syncfs`, which waits for what others write there, too.
const FOLDERS: usize = 32;

/// A run that makes objects.
pub struct Arrivals<'a> {
    depot: &'a Depot,
    /// Of the objects' filesystem, since before anything of this run was written to it.
    filesystem: OwnedFd,
}

impl<'a> Arrivals<'a> {
    /// Begins; what another run left is looked at first.
    pub fn begin(depot: &'a Depot, _lock: &Lock) -> Result<Self, FollowError> {
        let objects = depot.objects();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let filesystem = rustix::fs::openat(CWD, &objects, flags, Mode::empty())
            .map_err(FollowError::path(&objects, "open it"))?;
        let arrivals = Self { depot, filesystem };
        arrivals.take_over()?;
        Ok(arrivals)
    }

    /// Gives what a broken-off run left its names, as far as the disk has it.
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

    /// Removes every object that an older version may have named before it was on the disk, and is not there. Returns how many.
    pub fn remove_lost(&self) -> Result<u64, FollowError> {
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

    /// Writes all that arrived to the disk, gives it its names, and writes those to the disk. Then an image may be published.
    pub fn settle(&self) -> Result<(), FollowError> {
        // Also where nothing arrived: an earlier run may have been broken off before the names that it gave were on the disk.
        if let Err(error) = self.sync() {
            // What cannot be removed either is in doubt for the next run.
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

    /// Some of what is arriving. Other files are removed, if they can be; whatever else lies there is nothing to wait for.
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

    /// Calls `take` with everything that is arriving; it is gone from there then.
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

    /// An object that is about to arrive: whoever gets it writes it whole, and checks it, or discards it.
    pub(crate) fn create_object(&self, hash: ContentHash) -> Result<OwnedFd, Errno> {
        let path = self.arriving_object(hash);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &path, flags, Mode::RUSR)
    }

    /// Forgets an object that was being written; its space may be needed.
    pub(crate) fn discard_object(&self, hash: ContentHash) -> Result<(), Errno> {
        rustix::fs::unlinkat(CWD, self.arriving_object(hash), AtFlags::empty())
    }
}
