//! Where a drill mounts its snapshot: a directory of its own, which is removed with it.
//!
//! The mount is made in this process, by the same functions as `understudy mount`: by the kernel, or by FUSE with threads of this process's. What
//! is mounted is looked at by a second process, which also removes it when this one is killed (see [`super::drill_look`]). Where both are killed, a
//! directory is left, and a mount whose files nobody serves: both are removed by the next drill, and when a daemon starts.
//!
//! A repository that does not answer makes threads wait, never the daemon: the drill gives up when it is asked to, aborts the FUSE connection,
//! unmounts lazily, and leaves threads that are still waiting to end with their requests.
//!
//! Why that is safe: a drill holds a lock in its directory as long as it lives, whatever its number. Taken away is only what has a drill's name,
//! is this user's alone (owner, mode, no symlink) and is locked by nobody; and never what is in it: it is unmounted, and removed when it is empty.

use super::drill_look::{LookError, Looker};
use crate::model::id::Sequence;
use crate::model::record::{SnapshotRecord, StoreState};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::mounts::error::StageError;
use crate::mounts::mount::{self, MountOptions};
use crate::mounts::served::ServeOptions;
use crate::mounts::tree::Complain;
use crate::mounts::unmount::unmount;
use crate::repository::store::Store;
use crate::standby::depot::Depot;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::vfs::error::MountError;
use crate::vfs::fuse::{self, Serving};
use crate::vfs::overlay;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;

const PREFIX: &str = "understudy-drill-";
/// Held as long as the drill lives.
const LOCK: &str = "lock";
/// What the snapshot is mounted on.
const MOUNTED: &str = "snapshot";
/// Maximum content that a FUSE mount keeps in memory, in bytes: a drill reads every file once.
const CACHE_BYTES: u64 = 32 << 20;
/// How long the threads that serve a mount may take to end once that is unmounted.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Why there is no such place.
#[derive(Debug, Error)]
pub enum PlaceError {
    #[error("{}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Mount(Box<StageError>),
}

impl Failure for PlaceError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Directory { .. } => FailureKind::Failed,
            Self::Mount(error) => error.kind(),
        }
    }
}

impl From<StageError> for PlaceError {
    fn from(error: StageError) -> Self {
        Self::Mount(Box::new(error))
    }
}

/// What a drill mounts.
pub struct Wanted<'a> {
    pub store: &'a Store,
    pub state: &'a StoreState,
    pub sequence: Sequence,
    pub record: &'a SnapshotRecord,
    /// Where this host keeps what it follows of the store.
    pub depot: &'a Depot,
}

/// A snapshot that is mounted for a drill.
pub struct DrillPlace {
    /// What is mounted; the directory around it is this user's, so that nobody else looks at the store through the drill.
    dir: PathBuf,
    _lock: File,
    standby: PathBuf,
    looker: Option<Looker>,
    mounted: Option<Mounted>,
    /// What served a mount that is removed.
    serving: Option<Serving>,
    env: Env,
    /// What the threads that serve the mount complained of last.
    complaint: Arc<Mutex<String>>,
}

/// How it is mounted.
enum Mounted {
    Kernel,
    Fuse(Serving),
}

impl DrillPlace {
    pub fn new(wanted: &Wanted, seed: u64) -> Result<Self, PlaceError> {
        let standby = wanted.depot.standby().to_owned();
        tidy(Some(&standby));
        let around = std::env::temp_dir().join(format!("{PREFIX}{}-{seed:016x}", std::process::id()));
        let wrong = |source| PlaceError::Directory { path: around.clone(), source };
        std::fs::DirBuilder::new().mode(0o700).create(&around).map_err(wrong)?;
        // It has its name once it is locked: another, who tidies, never finds it free.
        let new = around.join("lock.new");
        let dir = around.join(MOUNTED);
        let locked = File::create_new(&new).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            std::fs::rename(&new, around.join(LOCK))?;
            std::fs::create_dir(&dir)?;
            // Before there is a mount that it would have to remove.
            Ok((file, Looker::start(&standby, &dir)?))
        });
        let (lock, looker) = locked.map_err(|source| {
            let _ = remove(&around);
            wrong(source)
        })?;
        let complaint = Arc::default();
        let env = wanted.store.env().clone();
        let mut place = Self {
            dir,
            _lock: lock,
            standby,
            looker: Some(looker),
            mounted: None,
            serving: None,
            env,
            complaint,
        };
        place.mounted = Some(place.mount(wanted)?);
        Ok(place)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process that looks at what is mounted: this one must not.
    pub fn looker(&mut self) -> Result<&mut Looker, LookError> {
        self.looker.as_mut().ok_or(LookError::Lost)
    }

    /// Returns what the mount complained of last; nothing for a mount of the kernel's.
    pub fn complaint(&self) -> String {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a group get to what is mounted, by its path; nobody but this user sees what else is around it. Where that cannot be, who works
    /// in it gets no further than that directory itself: false.
    pub fn let_in(&self, gid: u32) -> bool {
        let (around, mode) = (self.around(), std::os::unix::fs::PermissionsExt::from_mode(0o710));
        std::os::unix::fs::chown(&around, None, Some(gid)).is_ok()
            && std::fs::set_permissions(&around, mode).is_ok()
    }

    /// Mounts it as `understudy mount` would: by the kernel where the snapshot is on this host, else by FUSE.
    fn mount(&self, wanted: &Wanted) -> Result<Mounted, StageError> {
        let Wanted { store, state, sequence, record, depot } = *wanted;
        let moment = Moment::At(sequence);
        if mount::find(depot, store.name(), moment).is_ok() && mount::kernel_works().is_ok() {
            let snapshot = SnapshotRef { store: store.name().clone(), moment };
            mount::mount(depot, &snapshot, &self.dir, &MountOptions::default())?;
            return Ok(Mounted::Kernel);
        }
        let complaint = self.complaint.clone();
        let complain = move || -> Complain {
            let complaint = complaint.clone();
            Box::new(move |said| *complaint.lock().unwrap_or_else(PoisonError::into_inner) = said.to_owned())
        };
        let options = ServeOptions {
            store,
            depot,
            cache_bytes: CACHE_BYTES,
            trusted: false,
            may_mount: fuse::is_privileged(),
            complain: &complain,
        };
        let (mount, serving) = options.serve(state, sequence, record, &self.dir)?;
        if let Some(mount) = mount {
            mount.attach(&self.dir)?;
        }
        Ok(Mounted::Fuse(serving))
    }

    /// Unmounts it, and removes the directories; never with what is in them.
    pub fn take_away(mut self) -> Result<(), PlaceError> {
        self.unmount(false)?;
        let around = self.around();
        remove(&around).map_err(|source| PlaceError::Directory { path: around, source })
    }

    fn around(&self) -> PathBuf {
        self.dir.parent().unwrap_or(&self.dir).to_owned()
    }

    /// `by_force` also while something in it is open; what waits for a FUSE mount then fails.
    fn unmount(&mut self, by_force: bool) -> Result<(), PlaceError> {
        match &self.mounted {
            None => {}
            Some(Mounted::Kernel) => drop(unmount(&self.standby, &self.dir, by_force)?),
            Some(Mounted::Fuse(_)) => {
                if by_force {
                    overlay::abort_fuse(&self.dir);
                }
                match unmount(&self.standby, &self.dir, by_force) {
                    Err(StageError::Mount(MountError::NotOurs(_))) if by_force => {}
                    done => drop(done?),
                }
            }
        }
        if let Some(Mounted::Fuse(serving)) = self.mounted.take() {
            self.serving = Some(serving);
        }
        Ok(())
    }
}

impl Drop for DrillPlace {
    fn drop(&mut self) {
        // As far as that is possible; what stays is the second process's, and the next drill's.
        let is_mounted = self.mounted.is_some() && self.unmount(true).is_err();
        let _ = remove(&self.around());
        if let Some(looker) = self.looker.take() {
            looker.end(&self.env, is_mounted);
        }
        if let Some(serving) = self.serving.take()
            && !serving.ends_within(&self.env, END_LIMIT)
        {
            let dir = self.dir.display();
            tracing::warn!(%dir, "threads that served a drill still wait for the repository; they end with their requests");
        }
    }
}

/// The directories of a drill, once nothing is mounted there.
fn remove(around: &Path) -> std::io::Result<()> {
    let gone = |done: std::io::Result<()>| match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(std::fs::remove_dir(around.join(MOUNTED)))?;
    gone(std::fs::remove_file(around.join(LOCK)))?;
    gone(std::fs::remove_dir(around))
}

/// Takes away what this user's killed drills left. What cannot be is told, and tried again another time.
pub fn tidy(standby: Option<&Path>) {
    // `support::listing` would open other users' directories, and their filesystems may never answer.
    let all = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for around in all.map(|entry| entry.path()).filter(|path| has_name(path)) {
        let Some(lock) = is_left(&around) else { continue };
        let dir = around.join(MOUNTED);
        if is_mount_point(&dir, &around) {
            // With its pin.
            let _ = standby.map(|standby| unmount(standby, &dir, true));
            // One that is not known as understudy's is a drill's all the same: nobody else mounts here.
            while overlay::detach_fuse(&dir, true).is_ok() {}
        }
        match remove(&around) {
            Ok(()) => {
                tracing::info!(path = %around.display(), "took away what a drill that was killed had left")
            }
            Err(error) => {
                tracing::warn!(path = %around.display(), %error, "a drill that was killed left this")
            }
        }
        drop(lock);
    }
}

fn has_name(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(PREFIX))
}

/// Whether this is a directory that a drill of this user's made, and no living one's. Holds its lock where there is one.
fn is_left(around: &Path) -> Option<Option<File>> {
    let meta = std::fs::symlink_metadata(around).ok()?;
    let is_closed = matches!(meta.mode() & 0o777, 0o700 | 0o710);
    let is_ours = meta.uid() == rustix::process::geteuid().as_raw() && is_closed;
    if !meta.is_dir() || !is_ours {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, around.join(LOCK), flags, Mode::empty()) {
        Ok(lock) => {
            let is_free = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            is_free.then(|| Some(lock.into()))
        }
        // Made just now, or by a version that had no lock: it is its process's, by the number in its name.
        Err(rustix::io::Errno::NOENT) => {
            let name = around.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            let pid: u32 = name.split('-').next()?.parse().ok()?;
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(None)
        }
        Err(_) => None,
    }
}

/// Of one whose server is gone not even the attributes are known.
fn is_mount_point(dir: &Path, around: &Path) -> bool {
    match (std::fs::symlink_metadata(dir), std::fs::symlink_metadata(around)) {
        (Ok(dir), Ok(around)) => dir.dev() != around.dev(),
        (Err(error), _) => error.kind() != std::io::ErrorKind::NotFound,
        _ => false,
    }
}
