//! What a drill of a failover has on this host's disk: a directory in the store's depot, and a pin.
//!
//! ```text
//! STORE/site-drill.lock        held by the drill as long as it lives, whatever its process id
//! STORE/site-drill/changes     what filesystems are made on, in another mount namespace
//! STORE/site-drill/give-way    a failover has begun
//! ```
//!
//! The pin is that of a writable mount's directory, and names this one: it keeps the snapshot until it is deleted. What is there
//! without the lock is left from a drill that was killed; nothing else makes such a directory, and none in it is a
//! mount point outside of a drill's own namespace.

use super::report::SiteError;
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::Moment;
use crate::mounts::mount::find;
use crate::standby::depot::Depot;
use crate::standby::error::FollowError;
use crate::standby::pin::{self, Pin};
use crate::support::listing::entries;
use crate::support::private;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const DIR: &str = "site-drill";
const LOCK: &str = "site-drill.lock";
const CHANGES: &str = "changes";
const GIVE_WAY: &str = "give-way";

/// A place that belongs to this process.
pub(super) struct SitePlace {
    depot: Depot,
    _lock: OwnedFd,
}

fn directory(path: &Path) -> impl Fn(std::io::Error) -> SiteError + '_ {
    |source| SiteError::Directory { path: path.to_owned(), source }
}

/// Takes the lock of a depot; none if a drill has it.
fn lock(depot: &Depot) -> std::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(CWD, depot.root().join(LOCK), flags, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes the directory, and the pin that names it.
fn clear(depot: &Depot) -> Result<(), FollowError> {
    let dir = depot.root().join(DIR);
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(FollowError::io(&dir, "delete it"))?,
    }
    pin::tidy(depot)
}

impl SitePlace {
    pub fn take(depot: &Depot) -> Result<Self, SiteError> {
        private::own(depot.root()).map_err(directory(depot.root()))?;
        let taken = || SiteError::Taken(depot.root().join(LOCK));
        let lock = lock(depot).map_err(directory(depot.root()))?.ok_or_else(taken)?;
        let this = Self { depot: depot.clone(), _lock: lock };
        this.clear()?;
        let changes = this.changes();
        private::make_dirs(&changes).map_err(directory(&changes))?;
        Ok(this)
    }

    /// Returns an empty directory, for mounts in another mount namespace.
    pub fn changes(&self) -> PathBuf {
        self.depot.root().join(DIR).join(CHANGES)
    }

    /// Keeps the newest snapshot as long as this place is there. Returns which one that is.
    pub fn pin(&self, store: &StoreName) -> Result<Sequence, SiteError> {
        find(&self.depot, store, Moment::Latest)?;
        let wrong = |error: FollowError| SiteError::Snapshot(Box::new(error.into()));
        let _pins = self.depot.lock_pins().map_err(wrong)?;
        let snapshot = find(&self.depot, store, Moment::Latest)?;
        Pin::new(snapshot, &self.depot.root().join(DIR), true).write(&self.depot).map_err(wrong)?;
        Ok(snapshot)
    }

    /// Returns whether a failover has begun here.
    pub fn gives_way(&self) -> bool {
        self.depot.root().join(DIR).join(GIVE_WAY).exists()
    }

    fn clear(&self) -> Result<(), SiteError> {
        clear(&self.depot).map_err(|error| SiteError::Snapshot(Box::new(error.into())))
    }

    /// Removes everything. All that ran there has ended.
    pub fn remove(self) -> Result<(), SiteError> {
        self.clear()
    }
}

impl Drop for SitePlace {
    fn drop(&mut self) {
        // Best effort; the next drill, or a daemon, removes what remains.
        let _ = self.clear();
    }
}

/// Has a drill of this store end, if there is one: a failover has begun. It answers at once.
pub(crate) fn give_way(depot: &Depot) {
    let dir = depot.root().join(DIR);
    if dir.exists() {
        // A drill that ends just now takes the directory with it.
        let _ = std::fs::write(dir.join(GIVE_WAY), b"");
    }
}

/// Removes what killed drills left in the depots of this host.
pub(crate) fn tidy(standby: &Path) {
    for entry in entries(standby).flatten() {
        let depot = Depot::at(entry.path());
        if !entry.file_type().is_dir() || !depot.root().join(DIR).exists() {
            continue;
        }
        if let Ok(Some(_lock)) = lock(&depot)
            && let Err(error) = clear(&depot)
        {
            let path = depot.root().display();
            tracing::warn!(%path, %error, "cannot remove what a killed drill of a failover left");
        }
    }
}
