//! Pins: notes in a depot that a snapshot is mounted, so that it is kept.
//!
//! A mount writes its pin before it looks for the image, `umount` removes it after. A read-only mount's pin counts until the
//! machine is started again; that of a writable one until it is removed, since its changes need their snapshot.

use super::depot::{Depot, boot_id, names};
use super::error::FollowError;
use crate::model::id::Sequence;
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
}

impl Pin {
    pub fn new(snapshot: Sequence, path: &Path, writable: bool) -> Self {
        Self { snapshot, path: path.to_owned(), writable, boot: boot_id() }
    }

    /// One for each path, so that the next mount there takes its place.
    fn file(depot: &Depot, path: &Path) -> PathBuf {
        let tag = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        depot.pins().join(&tag[..32])
    }

    pub fn write(&self, depot: &Depot) -> Result<(), FollowError> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        depot.write_new(&Self::file(depot, &self.path), &bytes)
    }

    /// Forgets what is pinned for `path`.
    pub fn remove(depot: &Depot, path: &Path) -> Result<(), FollowError> {
        let file = Self::file(depot, path);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FollowError::io(&file, "remove it")(error))
            }
            _ => Ok(()),
        }
    }
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
