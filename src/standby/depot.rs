//! The depot: what a standby host holds of one store. It has objects, one for each distinct content, and the
//! images of snapshots.
//!
//! ```text
//! STORE/objects/ab/cdef…       a file's bytes, named by their BLAKE3; read-only, and on the disk before it has the name
//! STORE/objects/.arriving/…    objects of a run that is under way, or was interrupted (see `arrivals`)
//! STORE/images/SEQUENCE.erofs  a published snapshot: all of its objects are there, and on the disk
//! STORE/pins/…                 keep the snapshots that mounts need
//! STORE/changes/EPOCH          what was written since this host took the store over in that epoch
//! STORE/unfinished             left by an interrupted run of an older version: objects may not be on the disk
//! STORE/reported               the last note to the repository
//! STORE/lock                   held by the one process that changes any of this
//! ```
//!
//! Readers need no lock: an image's objects are there as long as the image is.

use super::error::FollowError;
use crate::content::local_objects::LocalObjects;
use crate::model::id::{ContentHash, Sequence, StoreName};
use crate::support::listing::entries;
use crate::support::private;
use crate::vfs::erofs::image::object_path;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use walkdir::DirEntry;

/// Prefix of temporary names, of objects and images that are being written.
const NEW: &str = ".new-";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The depot of one store.
#[derive(Clone, Debug)]
pub struct Depot {
    root: PathBuf,
}

/// A lock that is held while a depot is changed.
pub struct Lock(#[allow(dead_code)] OwnedFd);

impl Depot {
    pub fn new(standby: &Path, store: &StoreName) -> Self {
        Self { root: standby.join(store.as_str()) }
    }

    /// Returns the depot in this directory.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the standby directory, which holds the depots of all stores.
    pub fn standby(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Returns the objects, as a restore on this host reads them.
    pub fn local_objects(&self) -> LocalObjects {
        LocalObjects::new(self.objects())
    }

    pub fn object(&self, hash: ContentHash) -> PathBuf {
        self.objects().join(object_path(hash))
    }

    pub fn image(&self, sequence: Sequence) -> PathBuf {
        self.root.join("images").join(format!("{:020}.erofs", sequence.0))
    }

    pub fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    /// Returns the directory for what is written while this host serves, one for each epoch.
    pub fn changes(&self) -> PathBuf {
        self.root.join("changes")
    }

    /// Returns the path of the file that an interrupted run of an older version left.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.root.join("unfinished")
    }

    /// Returns the directory of objects that have no name yet.
    pub(crate) fn arriving(&self) -> PathBuf {
        self.objects().join(".arriving")
    }

    /// Records that every published snapshot has its objects on the disk, so that nothing is in doubt any
    /// more.
    pub(crate) fn end_doubt(&self, _lock: &Lock) -> Result<(), FollowError> {
        let path = self.unfinished();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FollowError::io(&path, "remove it")(error))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether objects may not be on the disk, since an older version named them too early.
    pub(crate) fn is_in_doubt(&self) -> Result<bool, FollowError> {
        let path = self.unfinished();
        match rustix::fs::stat(&path) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FollowError::path(&path, "stat it")(errno)),
        }
    }

    /// Returns the last note to the repository.
    pub(crate) fn reported(&self) -> Result<Option<Vec<u8>>, FollowError> {
        let path = self.root.join("reported");
        match std::fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FollowError::io(&path, "read it")(error)),
        }
    }

    pub(crate) fn set_reported(&self, told: &[u8]) -> Result<(), FollowError> {
        // If the file is lost, the note is written to the repository once more.
        self.write_new(&self.root.join("reported"), told, false)
    }

    /// Returns the published snapshots, ascending; empty when nothing was ever followed here.
    pub fn snapshots(&self) -> Result<Vec<Sequence>, FollowError> {
        let mut found = Vec::new();
        for name in names(&self.root.join("images"))? {
            let number = name.strip_suffix(".erofs").filter(|n| n.len() == 20).and_then(|n| n.parse().ok());
            found.extend(number.map(Sequence));
        }
        found.sort();
        Ok(found)
    }

    /// Checks who can write to the depot, before its content is shown: the kernel parses the image, and
    /// objects are shown without a further check.
    ///
    /// # Errors
    /// It belongs to another user, or others can write to it.
    pub(crate) fn look(&self) -> Result<(), FollowError> {
        let held = private::look(self.standby()).and_then(|()| private::look(&self.root));
        held.map_err(FollowError::io(&self.root, "check its owner and mode"))
    }

    /// Creates the directories, and locks the depot.
    pub fn lock(&self) -> Result<Lock, FollowError> {
        // A customer's bytes must be readable for this user alone, and no other user may supply any.
        let held = private::hold(self.standby()).and_then(|()| private::own(&self.root));
        held.map_err(FollowError::io(&self.root, "use it"))?;
        for dir in ["images", "pins"] {
            let path = self.root.join(dir);
            std::fs::create_dir_all(&path).map_err(FollowError::io(&path, "create it"))?;
        }
        for first in 0..=255u8 {
            let path = self.objects().join(format!("{first:02x}"));
            std::fs::create_dir_all(&path).map_err(FollowError::io(&path, "create it"))?;
        }
        let path = self.arriving();
        std::fs::create_dir_all(&path).map_err(FollowError::io(&path, "create it"))?;
        let path = self.root.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(FollowError::path(&path, "open it"))?;
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(handle)),
            Err(Errno::WOULDBLOCK) => Err(FollowError::Locked(self.root.clone())),
            Err(errno) => Err(FollowError::path(&path, "lock it")(errno)),
        }
    }

    /// Locks the pins for a moment, so that snapshots are neither dropped nor pinned.
    pub(crate) fn lock_pins(&self) -> Result<Lock, FollowError> {
        let path = self.pins().join(".lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(FollowError::path(&path, "open it"))?;
        rustix::fs::flock(&handle, FlockOperation::LockExclusive)
            .map_err(FollowError::path(&path, "lock it"))?;
        Ok(Lock(handle))
    }

    /// Calls `each` with every object, and with any other file among them.
    pub fn each_object(
        &self,
        mut each: impl FnMut(&Path, Option<ContentHash>) -> Result<(), FollowError>,
    ) -> Result<(), FollowError> {
        for first in 0..=255u8 {
            let first = format!("{first:02x}");
            let dir = self.objects().join(&first);
            for name in names(&dir)? {
                let hash = blake3::Hash::from_hex(format!("{first}{name}")).ok();
                each(&dir.join(&name), hash.map(|hash| ContentHash(*hash.as_bytes())))?;
            }
        }
        Ok(())
    }

    /// Publishes an image that `write` writes: to a temporary name, synced, then renamed.
    pub(crate) fn publish_image<T>(
        &self,
        _lock: &Lock,
        sequence: Sequence,
        write: impl FnOnce(&mut std::fs::File) -> Result<T, FollowError>,
    ) -> Result<T, FollowError> {
        let path = self.image(sequence);
        let new = beside(&path);
        // `write` reads its output back before the image gets its name.
        let options = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&new);
        let mut file = options.map_err(FollowError::io(&new, "create it"))?;
        let written = write(&mut file).and_then(|written| {
            file.sync_all().map_err(FollowError::io(&new, "write it to the disk"))?;
            std::fs::rename(&new, &path).map_err(FollowError::io(&path, "rename it"))?;
            sync_directory(&self.root.join("images"))?;
            Ok(written)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written
    }

    /// Removes a snapshot's image, so that it is no longer published; mounts of it stay.
    pub(crate) fn withdraw_image(&self, _lock: &Lock, sequence: Sequence) -> Result<(), FollowError> {
        let path = self.image(sequence);
        std::fs::remove_file(&path).map_err(FollowError::io(&path, "remove it"))
    }

    /// Removes the temporary images of interrupted runs.
    pub(crate) fn tidy_images(&self) -> Result<(), FollowError> {
        let dir = self.root.join("images");
        for name in names(&dir)?.into_iter().filter(|name| name.starts_with(NEW)) {
            let path = dir.join(name);
            std::fs::remove_file(&path).map_err(FollowError::io(&path, "remove it"))?;
        }
        Ok(())
    }

    /// Writes a small file by a rename. It is synced if it matters after a power cut.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8], durable: bool) -> Result<(), FollowError> {
        write_beside(path, bytes, durable)
    }
}

/// Writes a small file to a temporary name and renames it. If durable, its bytes are on the disk before it
/// has its name, and the name is when this returns.
pub(crate) fn write_beside(path: &Path, bytes: &[u8], durable: bool) -> Result<(), FollowError> {
    let new = beside(path);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&new)?;
        std::io::Write::write_all(&mut file, bytes)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&new, path)
    };
    if let Err(error) = write() {
        let _ = std::fs::remove_file(&new);
        return Err(FollowError::io(path, "write it")(error));
    }
    if durable { sync_directory(path.parent().unwrap_or(Path::new("/"))) } else { Ok(()) }
}

/// Returns the id of this boot; empty where the kernel has none.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).unwrap_or_default()
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    path.with_file_name(format!("{NEW}{name}"))
}

pub(crate) fn sync_directory(dir: &Path) -> Result<(), FollowError> {
    let synced = std::fs::File::open(dir).and_then(|handle| handle.sync_all());
    synced.map_err(FollowError::io(dir, "write it to the disk"))
}

/// Returns the names in a directory; empty when the directory does not exist.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, FollowError> {
    let name = |entry: std::io::Result<DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    match entries(dir).map(name).collect::<std::io::Result<_>>() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(FollowError::io(dir, "list it")),
    }
}
