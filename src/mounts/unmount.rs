//! Unmounts a snapshot and removes what was kept for its mount: its pin, its place, its symlink.
//!
//! The mount is removed first and its pin after it, so that a crash between the two keeps a snapshot too
//! long, never too short.
//!
//! What can race: a mount of the same snapshot at the same path has the same pin. The mount table is checked
//! before the pin is removed; a mount that is made between the two has no pin, so two commands should not
//! mount and unmount one path at the same time.

use super::error::StageError;
use super::paths;
use super::table::{self, MountedSnapshot};
use crate::model::id::Sequence;
use crate::standby::depot::{Depot, names};
use crate::standby::pin;
use crate::vfs::error::MountError;
use crate::vfs::overlay::{self, MountEntry};
use std::path::Path;

/// Unmounts `dir` and removes its pin; with `lazy` also while files in it are open. A symlink that led there
/// is removed as well.
pub fn unmount(standby: &Path, dir: &Path, lazy: bool) -> Result<MountedSnapshot, StageError> {
    let link = paths::unresolved(dir)?;
    let target = std::fs::read_link(&link).ok().and_then(|target| paths::place_of_link(&link, &target));
    let is_link = target.is_some();
    let dir = &target.map_or_else(|| paths::absolute(dir), Ok)?;
    let mounted = overlay::mounts(table::SOURCE)?.into_iter().rev().find(|mount| mount.dir == *dir);
    let Some((mounted, show)) = mounted.and_then(|mount| table::parse(&mount).map(|show| (mount, show)))
    else {
        return Err(MountError::NotOurs(dir.clone()).into());
    };
    match show.method {
        "fuse" => overlay::detach_fuse(dir, lazy)?,
        _ => overlay::detach(dir, lazy)?,
    }
    if is_link {
        let _ = std::fs::remove_file(&link);
    }
    if paths::is_place(dir) {
        paths::remove_place(dir);
    }
    let depot = match mounted.objects.as_deref().and_then(Path::parent) {
        Some(root) => Depot::at(root),
        None => Depot::at(&standby.join(&show.store)),
    };
    if show.method == "kernel"
        && show.writable.is_none()
        && depot.pins().is_dir()
        && let Ok(snapshot) = show.snapshot.parse().map(Sequence)
        && !is_mounted_unpinned(&depot, &mounted, snapshot)?
    {
        pin::forget(&depot, dir, snapshot)?;
    }
    Ok(show)
}

/// Removes the pins of a path that has no mount any more, since it was unmounted by other means. Returns
/// their snapshots.
pub(crate) fn forget_gone(standby: &Path, dir: &Path) -> Result<Vec<String>, StageError> {
    let dir = paths::absolute(dir)?;
    let mut forgotten = Vec::new();
    if overlay::mounts(table::SOURCE)?.iter().any(|mount| mount.dir == dir) {
        return Ok(forgotten);
    }
    for store in names(standby)? {
        let depot = Depot::at(&standby.join(&store));
        let snapshots = pin::forget_all(&depot, &dir)?;
        forgotten.extend(snapshots.iter().map(|snapshot| format!("{store}@{snapshot}")));
    }
    Ok(forgotten)
}

/// Returns whether an unmounted snapshot is mounted elsewhere without a pin of its own: over another mount,
/// or by a bind mount.
fn is_mounted_unpinned(depot: &Depot, gone: &MountEntry, snapshot: Sequence) -> Result<bool, StageError> {
    // Without readable pins it is unknown which mounts have one, so all other mounts count as unpinned.
    let pins = pin::pins(depot).unwrap_or_default();
    let is_pinned =
        |dir: &Path| dir != gone.dir && pins.iter().any(|pin| pin.path == dir && pin.snapshot == snapshot);
    let is_same = |other: &MountEntry| (&other.source, &other.objects) == (&gone.source, &gone.objects);
    Ok(overlay::mounts(table::SOURCE)?.iter().any(|other| is_same(other) && !is_pinned(&other.dir)))
}
