//! What a standby host holds of one store: objects, one for each distinct content, and the images of snapshots.
//!
//! ```text
//! STORE/objects/ab/cdef…       a file's bytes, named by their BLAKE3; read-only, complete from the moment it has the name
//! STORE/images/SEQUENCE.erofs  a published snapshot: all of its objects are there, and on the disk
//! STORE/pins/…                 what a mount needs: kept, whatever else goes
//! STORE/unfinished             a run is under way, or was broken off; holds the kernel's boot id
//! STORE/reported               what the repository was told last
//! STORE/lock                   held by the one process that changes any of this
//! ```
//!
//! Objects are written to a name of their own and renamed; all are written to the disk by one `syncfs` before an
//! image is published. Readers need no lock: what an image names is there as long as the image is.

use super::error::FollowError;
use crate::model::id::{ContentHash, Sequence, StoreName};
use crate::mount::image::object_path;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// What names of objects and images that are being written begin with.
const NEW: &str = ".new-";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// One store's place on a standby host.
#[derive(Clone, Debug)]
pub struct Depot {
    root: PathBuf,
}

/// Held while a depot is changed.
pub struct Lock(#[allow(dead_code)] OwnedFd);

/// How the last run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRun {
    Finished,
    /// Killed. What it wrote is as it wrote it.
    Killed,
    /// The machine went down: what was written after this moment (seconds since 1970) may not have reached the disk.
    PowerLost {
        since_seconds: i64,
    },
}

impl Depot {
    pub fn new(standby: &Path, store: &StoreName) -> Self {
        Self { root: standby.join(store.as_str()) }
    }

    /// The depot that lies in this directory.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that it lies in, beside those of other stores.
    pub fn standby(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
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

    fn unfinished(&self) -> PathBuf {
        self.root.join("unfinished")
    }

    /// What the repository was told last.
    pub fn reported(&self) -> Result<Option<String>, FollowError> {
        let path = self.root.join("reported");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FollowError::io(&path, "read it")(error)),
        }
    }

    pub fn set_reported(&self, told: &str) -> Result<(), FollowError> {
        // Lost, it is told once more.
        self.write_new(&self.root.join("reported"), told.as_bytes(), false)
    }

    /// Published snapshots, ascending. None when nothing was ever followed here.
    pub fn snapshots(&self) -> Result<Vec<Sequence>, FollowError> {
        let mut found = Vec::new();
        for name in names(&self.root.join("images"))? {
            let number = name.strip_suffix(".erofs").filter(|n| n.len() == 20).and_then(|n| n.parse().ok());
            found.extend(number.map(Sequence));
        }
        found.sort();
        Ok(found)
    }

    /// Makes the directories, and locks the depot.
    pub fn lock(&self) -> Result<Lock, FollowError> {
        for dir in ["images", "pins"] {
            let path = self.root.join(dir);
            std::fs::create_dir_all(&path).map_err(FollowError::io(&path, "create it"))?;
        }
        for first in 0..=255u8 {
            let path = self.objects().join(format!("{first:02x}"));
            std::fs::create_dir_all(&path).map_err(FollowError::io(&path, "create it"))?;
        }
        // A customer's bytes are for nobody else on this host.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&self.root, mode).map_err(FollowError::io(&self.root, "set its mode"))?;
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

    /// Keeps snapshots from being dropped, or from being pinned: held for a moment only.
    pub fn lock_pins(&self) -> Result<Lock, FollowError> {
        let path = self.pins().join(".lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(FollowError::path(&path, "open it"))?;
        rustix::fs::flock(&handle, FlockOperation::LockExclusive)
            .map_err(FollowError::path(&path, "lock it"))?;
        Ok(Lock(handle))
    }

    pub fn last_run(&self) -> Result<LastRun, FollowError> {
        let path = self.unfinished();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LastRun::Finished),
            Err(error) => return Err(FollowError::io(&path, "read it")(error)),
        };
        if !text.is_empty() && text == boot_id() {
            return Ok(LastRun::Killed);
        }
        let stat = rustix::fs::stat(&path).map_err(FollowError::path(&path, "look at it"))?;
        Ok(LastRun::PowerLost { since_seconds: stat.st_mtime as i64 })
    }

    /// Says on the disk that objects are about to be written. The moment of a run that was broken off stays.
    pub fn begin(&self, _lock: &Lock) -> Result<(), FollowError> {
        if self.last_run()? == LastRun::Finished {
            self.write_new(&self.unfinished(), boot_id().as_bytes(), true)?;
        }
        Ok(())
    }

    /// Writes everything to the disk. Then an image may be published.
    pub fn sync(&self, _lock: &Lock) -> Result<(), FollowError> {
        let wrong = |action| FollowError::path(&self.root, action);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &self.root, flags, Mode::empty()).map_err(wrong("open it"))?;
        rustix::fs::syncfs(&handle).map_err(wrong("write it to the disk"))
    }

    /// After `sync`: nothing is in doubt any more.
    pub fn end(&self, _lock: &Lock) -> Result<(), FollowError> {
        match std::fs::remove_file(self.unfinished()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FollowError::io(&self.unfinished(), "remove it")(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what broken-off runs left: names that are being written, and objects whose bytes may be lost.
    /// `intact` says whether an object's bytes are its name's. Returns how many were damaged.
    pub fn tidy(
        &self,
        last: LastRun,
        mut intact: impl FnMut(&Path, ContentHash) -> Result<bool, FollowError>,
    ) -> Result<u64, FollowError> {
        if last == LastRun::Finished {
            return Ok(0);
        }
        let mut damaged = 0;
        let remove = |path: &Path| std::fs::remove_file(path).map_err(FollowError::io(path, "remove it"));
        for name in names(&self.root.join("images"))?.into_iter().filter(|name| name.starts_with(NEW)) {
            remove(&self.root.join("images").join(name))?;
        }
        self.each_object(|path, hash| match (hash, last) {
            (None, _) => remove(path),
            (Some(hash), LastRun::PowerLost { since_seconds }) => {
                let stat = rustix::fs::stat(path).map_err(FollowError::path(path, "look at it"))?;
                // Its name is younger than its bytes; a second more, for coarse clocks.
                if (stat.st_ctime as i64) + 1 >= since_seconds && !intact(path, hash)? {
                    damaged += 1;
                    remove(path)?;
                }
                Ok(())
            }
            _ => Ok(()),
        })?;
        Ok(damaged)
    }

    /// Calls `each` with every object, and with whatever else lies among them.
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

    /// An object that is being written; `publish_object` gives it its name.
    pub fn create_object(&self, hash: ContentHash) -> Result<OwnedFd, Errno> {
        let path = beside(&self.object(hash));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(CWD, &path, flags, Mode::RUSR);
        match open() {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(CWD, &path, AtFlags::empty())?;
                open()
            }
            other => other,
        }
    }

    pub fn publish_object(&self, hash: ContentHash) -> Result<(), Errno> {
        let path = self.object(hash);
        rustix::fs::renameat(CWD, beside(&path), CWD, &path)
    }

    /// Forgets an object that was being written; its space may be needed.
    pub fn discard_object(&self, hash: ContentHash) {
        let _ = rustix::fs::unlinkat(CWD, beside(&self.object(hash)), AtFlags::empty());
    }

    /// Publishes an image that `write` writes: beside, to the disk, renamed.
    pub fn publish_image<T>(
        &self,
        _lock: &Lock,
        sequence: Sequence,
        write: impl FnOnce(&mut std::fs::File) -> Result<T, FollowError>,
    ) -> Result<T, FollowError> {
        let path = self.image(sequence);
        let new = beside(&path);
        let mut file = std::fs::File::create(&new).map_err(FollowError::io(&new, "create it"))?;
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

    /// Writes a small file: beside, renamed; to the disk, unless it means nothing after a power cut.
    pub fn write_new(&self, path: &Path, bytes: &[u8], durable: bool) -> Result<(), FollowError> {
        let new = beside(path);
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&new)?;
            std::io::Write::write_all(&mut file, bytes)?;
            if durable {
                file.sync_all()?;
            }
            std::fs::rename(&new, path)
        };
        write().map_err(FollowError::io(path, "write it"))?;
        if durable { sync_directory(path.parent().unwrap_or(Path::new("/"))) } else { Ok(()) }
    }
}

/// The kernel's name for the time since it started; empty where it has none.
pub fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).unwrap_or_default()
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    path.with_file_name(format!("{NEW}{name}"))
}

fn sync_directory(dir: &Path) -> Result<(), FollowError> {
    let synced = std::fs::File::open(dir).and_then(|handle| handle.sync_all());
    synced.map_err(FollowError::io(dir, "write it to the disk"))
}

/// The names in a directory; none when there is none.
pub fn names(dir: &Path) -> Result<Vec<String>, FollowError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FollowError::io(dir, "list it")(error)),
    };
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<std::io::Result<_>>().map_err(FollowError::io(dir, "list it"))
}
