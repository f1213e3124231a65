//! The kernel's table of mounts: which of them are snapshots.
//!
//! The table is the only record of what is mounted; no other state could disagree with it. It is a momentary
//! view: a mount may be made or removed right after the table was read.

use super::error::StageError;
use crate::model::id::{Sequence, StoreName};
use crate::vfs::overlay::{self, MountEntry};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Prefix of the source of all mounts; the store and the snapshot follow.
pub(super) const SOURCE: &str = "understudy:";

/// A snapshot that is mounted on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountedSnapshot {
    #[serde(serialize_with = "as_text")]
    pub dir: PathBuf,
    pub store: String,
    pub snapshot: String,
    /// The method: `kernel` or `fuse`.
    pub method: &'static str,
    #[serde(serialize_with = "some_as_text")]
    pub writable: Option<PathBuf>,
}

/// Serialises a path as text; JSON cannot carry other bytes.
pub(crate) fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

pub(crate) fn some_as_text<S: serde::Serializer, P: AsRef<Path>>(
    path: &Option<P>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.as_ref().display().to_string()).serialize(serializer)
}

/// Returns all mounts of snapshots that this process can see.
pub(crate) fn mounted_snapshots() -> Result<Vec<MountedSnapshot>, StageError> {
    Ok(overlay::mounts(SOURCE)?.into_iter().filter_map(|mount| parse(&mount)).collect())
}

pub(super) fn parse(mount: &MountEntry) -> Option<MountedSnapshot> {
    let (store, snapshot) = mount.source.strip_prefix(SOURCE)?.split_once('@')?;
    Some(MountedSnapshot {
        dir: mount.dir.clone(),
        store: store.to_owned(),
        snapshot: snapshot.to_owned(),
        method: if mount.kind.starts_with("fuse") { "fuse" } else { "kernel" },
        writable: mount.upper.as_ref().and_then(|upper| upper.parent().map(Path::to_owned)),
    })
}

/// Returns whether a snapshot is mounted at `dir`.
pub(crate) fn is_mounted(dir: &Path) -> Result<bool, StageError> {
    Ok(overlay::mounts(SOURCE)?.iter().any(|mount| mount.dir == *dir))
}

/// Returns whether a snapshot of this store is mounted read-only at `dir`.
pub(super) fn shows(dir: &Path, store: &StoreName) -> Result<bool, StageError> {
    let of_store = overlay::mounts(&format!("{SOURCE}{store}@"))?;
    Ok(of_store.iter().any(|mount| mount.dir == *dir && mount.upper.is_none()))
}

/// Returns the source of a mount of this snapshot, by which the mount is found again.
pub fn source(store: &StoreName, sequence: Sequence) -> String {
    format!("{SOURCE}{store}@{sequence}")
}
