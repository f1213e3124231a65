//! The place where a drill mounts its snapshot: a directory of its own, which is removed after it.
//!
//! The mount is made in this process, by the same functions as `understudy mount`: by the kernel, or by FUSE
//! with threads of this process. A second process looks at what is mounted, and also removes it when this one
//! is killed (see [`super::drill_look`]). If both are killed, a directory remains, and a mount that no
//! process serves; both are removed by the next drill, and when a daemon starts.
//!
//! A repository that does not answer makes threads wait, never the daemon: the drill gives up when it is
//! asked to, aborts the FUSE connection, unmounts lazily, and leaves threads that still wait to end with
//! their requests.
//!
//! Why removal is safe: a drill holds a lock in its directory as long as it lives, whatever its process id.
//! Only a directory that has a drill's name, belongs to this user alone (owner, mode, no symlink) and is not
//! locked is removed. Its content is never deleted: the mount is unmounted, and the directories are removed
//! when they are empty.

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
use crate::support::lock::lock;
use crate::vfs::error::MountError;
use crate::vfs::fuse::{self, Serving};
use crate::vfs::overlay;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thiserror::Error;

const PREFIX: &str = "understudy-drill-";
/// Name of the file that is locked as long as the drill lives.
const LOCK: &str = "lock";
/// Name of the directory that the snapshot is mounted on.
const MOUNTED: &str = "snapshot";
/// Maximum content that a FUSE mount keeps in memory, in bytes: a drill reads every file once.
const CACHE_BYTES: u64 = 32 << 20;
/// Maximum time for the threads that serve a mount to end once it is unmounted.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The reason why a place cannot be made or removed.
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

/// The snapshot to mount, and where it comes from.
pub(crate) struct Wanted<'a> {
    pub store: &'a Store,
    pub state: &'a StoreState,
    pub sequence: Sequence,
    pub record: &'a SnapshotRecord,
    /// The depot of the store on this host.
    pub depot: &'a Depot,
}

/// A snapshot that is mounted for a drill.
pub(crate) struct DrillPlace {
    /// The mount point. The directory around it belongs to this user, so that other users do not reach the
    /// store through the drill.
    dir: PathBuf,
    _lock: File,
    standby: PathBuf,
    looker: Option<Looker>,
    mounted: Option<Mounted>,
    /// The threads that served a mount which is removed.
    serving: Option<Serving>,
    env: Env,
    /// The last complaint of the threads that serve the mount.
    complaint: Arc<Mutex<String>>,
}

/// How the snapshot is mounted.
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
        // The file gets its name once it is locked, so that another process that tidies up never finds it
        // unlocked.
        let new = around.join("lock.new");
        let dir = around.join(MOUNTED);
        let locked = File::create_new(&new).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            std::fs::rename(&new, around.join(LOCK))?;
            std::fs::create_dir(&dir)?;
            // The process starts before the mount that it may have to remove.
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

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the process that looks at what is mounted; this process must not access the mount itself.
    pub(crate) fn looker(&mut self) -> Result<&mut Looker, LookError> {
        self.looker.as_mut().ok_or(LookError::Lost)
    }

    /// Returns the last complaint of the threads that serve the mount; empty for a mount by the kernel.
    pub(crate) fn complaint(&self) -> String {
        lock(&self.complaint).clone()
    }

    /// Lets a group reach the mount by its path. Only this user can list what else is around it.
    ///
    /// Returns false where that is impossible; then a command that works in the mount reaches nothing above
    /// it.
    pub(crate) fn let_in(&self, gid: u32) -> bool {
        let (around, mode) = (self.around(), std::os::unix::fs::PermissionsExt::from_mode(0o710));
        std::os::unix::fs::chown(&around, None, Some(gid)).is_ok()
            && std::fs::set_permissions(&around, mode).is_ok()
    }

    /// Mounts the snapshot as `understudy mount` would: by the kernel where the snapshot is on this host,
    /// else by FUSE.
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
            Box::new(move |said| *lock(&complaint) = said.to_owned())
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

    /// Unmounts the snapshot and removes the directories, but never their content.
    pub(crate) fn take_away(mut self) -> Result<(), PlaceError> {
        self.unmount(false)?;
        let around = self.around();
        remove(&around).map_err(|source| PlaceError::Directory { path: around, source })
    }

    fn around(&self) -> PathBuf {
        self.dir.parent().unwrap_or(&self.dir).to_owned()
    }

    /// Unmounts the snapshot. `by_force` does so also while files in it are open; requests to a FUSE mount
    /// then fail.
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
        // Best effort; the second process or the next drill removes what remains.
        let is_mounted = self.mounted.is_some() && self.unmount(true).is_err();
        let _ = remove(&self.around());
        if let Some(looker) = self.looker.take() {
            looker.end(&self.env, is_mounted);
        }
        if let Some(serving) = self.serving.take()
            && !serving.ends_within(&self.env, END_LIMIT)
        {
            let dir = self.dir.display();
            tracing::warn!(%dir, "threads of a drill still wait for the repository; they end with their requests");
        }
    }
}

/// Removes the directories of a drill, once nothing is mounted there.
fn remove(around: &Path) -> std::io::Result<()> {
    let gone = |done: std::io::Result<()>| match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(std::fs::remove_dir(around.join(MOUNTED)))?;
    gone(std::fs::remove_file(around.join(LOCK)))?;
    gone(std::fs::remove_dir(around))
}

/// Removes what this user's killed drills left. What cannot be removed is logged, and tried again later.
pub(crate) fn tidy(standby: Option<&Path>) {
    // `support::listing` would open other users' directories, and their filesystems may never answer.
    let all = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for around in all.map(|entry| entry.path()).filter(|path| has_name(path)) {
        let Some(lock) = is_left(&around) else { continue };
        let dir = around.join(MOUNTED);
        if is_mount_point(&dir, &around) {
            // Removes its pin as well.
            let _ = standby.map(|standby| unmount(standby, &dir, true));
            // A mount whose source is not understudy's is a drill's all the same: no other program mounts here.
            while overlay::detach_fuse(&dir, true).is_ok() {}
        }
        match remove(&around) {
            Ok(()) => {
                tracing::info!(path = %around.display(), "removed leftovers of a killed drill")
            }
            Err(error) => {
                tracing::warn!(path = %around.display(), %error, "cannot remove leftovers of a killed drill")
            }
        }
        drop(lock);
    }
}

fn has_name(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(PREFIX))
}

/// Returns whether a drill of this user made this directory and has ended, with the drill's lock where there
/// is one.
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
        // The directory was made just now, or by a version without a lock. The process id in its name shows
        // whether it is in use.
        Err(rustix::io::Errno::NOENT) => {
            let name = around.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            let pid: u32 = name.split('-').next()?.parse().ok()?;
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(None)
        }
        Err(_) => None,
    }
}

/// Returns whether a directory is a mount point. If the process that served it has ended, not even its
/// attributes can be read.
fn is_mount_point(dir: &Path, around: &Path) -> bool {
    match (std::fs::symlink_metadata(dir), std::fs::symlink_metadata(around)) {
        (Ok(dir), Ok(around)) => dir.dev() != around.dev(),
        (Err(error), _) => error.kind() != std::io::ErrorKind::NotFound,
        _ => false,
    }
}
