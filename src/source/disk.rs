//! The tree that the kernel shows.
//!
//! If a call fails because this process lacks handles or memory, it is repeated for a while; only then is the
//! error returned.

use super::content::{self};
use super::data_map::DataMap;
use super::error::SourceError;
use super::stat::{Identity, Stat};
use super::tree::{AttributesRead, Directory, File, ReadError, Special, Tree, is_own_trouble};
use super::{filesystem, read, xattr};
use crate::model::hold::FilesystemId;
use crate::support::env::Env;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Maximum number of repetitions of a call that fails for lack of handles or memory; with `WAIT` some ten
/// seconds.
const WAITS: u32 = 200;
const WAIT: Duration = Duration::from_millis(50);

/// The kernel's trees.
#[derive(Clone, Default)]
pub struct Disk(Env);

impl Disk {
    /// Makes the trees; `env` provides the sleep between repetitions.
    pub fn new(env: &Env) -> Self {
        Self(env.clone())
    }
}

struct OpenDirectory {
    env: Env,
    handle: OwnedFd,
    /// Whether its names were read through this handle before.
    was_read: AtomicBool,
}

struct OpenFile(OwnedFd);

impl Tree for Disk {
    fn open_root(&self, path: &Path) -> Result<Arc<dyn Directory>, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match patiently(&self.0, || rustix::fs::openat(CWD, path, flags, Mode::empty())) {
            Ok(handle) => Ok(OpenDirectory::of(&self.0, handle)),
            Err(Errno::NOTDIR) => Err(SourceError::NotADirectory(path.to_owned())),
            Err(errno) => Err(SourceError::Root { path: path.to_owned(), source: errno.into() }),
        }
    }
}

impl OpenDirectory {
    fn of(env: &Env, handle: OwnedFd) -> Arc<dyn Directory> {
        Arc::new(Self { env: env.clone(), handle, was_read: AtomicBool::new(false) })
    }
}

impl Directory for OpenDirectory {
    fn stat(&self) -> Result<Stat, Errno> {
        Stat::of(&self.handle)
    }

    fn names(&self) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
        if self.was_read.swap(true, Ordering::Relaxed) {
            rustix::fs::seek(&self.handle, SeekFrom::Start(0))?;
        }
        let mut entries = RawDir::new(&self.handle, &mut buffer);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) => {
                    let name = entry.file_name();
                    if name != c"." && name != c".." {
                        names.push(name.to_owned());
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(names)
    }

    fn stat_at(&self, name: &CStr) -> Result<Stat, Errno> {
        patiently(&self.env, || Stat::at(&self.handle, name))
    }

    fn open_directory(&self, name: &CStr) -> Result<Arc<dyn Directory>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = patiently(&self.env, || rustix::fs::openat(&self.handle, name, flags, Mode::empty()))?;
        Ok(OpenDirectory::of(&self.env, handle))
    }

    fn open_file(&self, name: &CStr) -> Result<Arc<dyn File>, Errno> {
        patiently(&self.env, || read::open_file(&self.handle, name))
            .map(|handle| Arc::new(OpenFile(handle)) as _)
    }

    fn special(&self, name: &CStr) -> Result<Special, Errno> {
        patiently(&self.env, || read::read_special(&self.handle, name))
    }

    fn attributes(&self) -> AttributesRead {
        xattr::read_all(&self.handle)
    }

    fn filesystem(&self, stat: &Stat) -> FilesystemId {
        filesystem::identify(&self.handle, stat)
    }
}

impl File for OpenFile {
    fn stat(&self) -> Result<Stat, Errno> {
        Stat::of(&self.0)
    }

    fn attributes(&self) -> AttributesRead {
        xattr::read_all(&self.0)
    }

    fn data_map(&self, size_bytes: u64) -> Result<DataMap, Errno> {
        DataMap::of(self.0.as_fd(), size_bytes)
    }

    fn read_exact(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        content::read_exact(self.0.as_fd(), buffer, at)
    }
}

/// Returns the inode that a path leads to, if it leads to one.
pub fn identity(path: &Path) -> Option<Identity> {
    let handle = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Some(Stat::of(handle).ok()?.identity())
}

/// Repeats a call while it fails for lack of handles or memory, or by a signal.
fn patiently<T>(env: &Env, mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut waits = 0;
    loop {
        match call() {
            Err(Errno::INTR) => {}
            Err(errno) if is_own_trouble(errno) && waits < WAITS => {
                waits += 1;
                env.sleep(WAIT);
            }
            other => return other,
        }
    }
}

/// Raises this process's limit on open handles to the allowed maximum. Returns the limit.
pub(crate) fn raise_handle_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If this fails, fewer directories are listed ahead.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
