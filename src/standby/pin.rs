//! Pins: notes in a depot that a snapshot is mounted, so that it is kept.
//!
//! A mount writes its pin before it looks for the image, `umount` removes it after. A read-only mount's pin counts until the
//! machine is started again; that of a writable one until it is removed, since its changes need their snapshot.

use super::depot::{Depot, boot_id, names};
use super::error::FollowError;
use crate::model::hold::FilesystemId;
use crate::model::id::Sequence;
use crate::source::filesystem;
use crate::source::stat::Stat;
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is pinned, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub snapshot: Sequence,
    /// Where it is mounted, or where the changes to it are.
    pub path: PathBuf,
    pub writable: bool,
    /// The kernel's name for the time since it started.
    pub boot: String,
    /// The directory that the changes' directory is in, so that one that is gone is told from one whose volume is
    /// not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<FilesystemId>,
}

impl Pin {
    pub fn new(snapshot: Sequence, path: &Path, writable: bool) -> Self {
        let holder = if writable { holder_of(path) } else { None };
        Self { snapshot, path: path.to_owned(), writable, boot: boot_id(), holder }
    }

    /// One for each path and snapshot: a path that moves on has two for a moment.
    fn file(&self, depot: &Depot) -> PathBuf {
        let mut name = blake3::Hasher::new();
        name.update(&self.snapshot.0.to_le_bytes()).update(self.path.as_os_str().as_encoded_bytes());
        depot.pins().join(&name.finalize().to_hex()[..32])
    }

    /// Returns false when the same was pinned already.
    pub fn write(&self, depot: &Depot) -> Result<bool, FollowError> {
        let file = self.file(depot);
        let is_new = !file.exists();
        // That of a read-only mount counts until the machine goes down, and no longer.
        depot.write_new(&file, &serde_json::to_vec(self).unwrap_or_default(), self.writable)?;
        Ok(is_new)
    }

    pub fn remove(&self, depot: &Depot) -> Result<(), FollowError> {
        let file = self.file(depot);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FollowError::io(&file, "remove it")(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the directory for changes was deleted. No when its volume may only not be mounted.
    pub fn is_deleted(&self) -> bool {
        self.writable && !self.path.exists() && self.holder.is_some() && holder_of(&self.path) == self.holder
    }
}

/// What is known of the directory that `path` is in; `None` when there is none.
fn holder_of(path: &Path) -> Option<FilesystemId> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path.parent()?, flags, Mode::empty()).ok()?;
    Some(filesystem::identify(&handle, &Stat::of(&handle).ok()?))
}

/// Forgets what a path was mounted for but `snapshot`.
pub fn keep_only(depot: &Depot, path: &Path, snapshot: Sequence) -> Result<(), FollowError> {
    let others = pins(depot)?;
    let mut others =
        others.iter().filter(|pin| !pin.writable && pin.path == path && pin.snapshot != snapshot);
    others.try_for_each(|pin| pin.remove(depot))
}

/// All pins of a depot. One that cannot be read is an error: what it pins is not known.
pub fn pins(depot: &Depot) -> Result<Vec<Pin>, FollowError> {
    let mut pins = Vec::new();
    for name in names(&depot.pins())?.into_iter().filter(|name| !name.starts_with('.')) {
        let path = depot.pins().join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FollowError::io(&path, "read it")(error)),
        };
        let pin = serde_json::from_slice(&bytes);
        pins.push(pin.map_err(|error| FollowError::io(&path, "read it")(error.into()))?);
    }
    Ok(pins)
}

/// The snapshots that must stay.
pub(super) fn pinned(depot: &Depot) -> Result<BTreeSet<Sequence>, FollowError> {
    let boot = boot_id();
    Ok(pins(depot)?
        .into_iter()
        .filter(|pin| pin.writable || pin.boot == boot)
        .map(|pin| pin.snapshot)
        .collect())
}
