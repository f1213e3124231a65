//! Snapshots of a depot, mounted by the kernel: read-only or writable.
//!
//! A mount needs only the depot, neither the repository nor a network. It first pins its snapshot, so that a
//! concurrent `follow` keeps it.

use super::changes::Changes;
use super::error::StageError;
use super::paths::absolute;
use super::table::{is_mounted, source};
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::standby::depot::Depot;
use crate::standby::error::FollowError;
use crate::standby::pin::Pin;
use crate::support::clock::UnixNanos;
use crate::vfs::error::MountError;
use crate::vfs::overlay::{self, Detached, Layers};
use rustix::fs::{CWD, Mode, OFlags};
use std::path::{Path, PathBuf};

/// Options of a mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Directory for changes; its content belongs to one snapshot.
    pub writable: Option<PathBuf>,
    /// Whether set-user-id bits and device nodes of the snapshot are obeyed.
    pub trusted: bool,
}

/// Returns the published snapshot that `moment` means.
pub fn find(depot: &Depot, store: &StoreName, moment: Moment) -> Result<Sequence, StageError> {
    let published = depot.snapshots()?;
    let found = match moment {
        Moment::Latest => published.last().copied(),
        Moment::At(sequence) => published.iter().find(|s| **s == sequence).copied(),
        Moment::AsOf(time) => {
            let mut found = None;
            for sequence in published.iter().rev() {
                if taken(depot, *sequence)? <= time {
                    found = Some(*sequence);
                    break;
                }
            }
            found
        }
    };
    found.ok_or_else(|| StageError::NotHere {
        store: store.clone(),
        wanted: match moment {
            Moment::At(sequence) => format!("@{sequence}"),
            Moment::AsOf(_) => " at or before that time".to_owned(),
            Moment::Latest => String::new(),
        },
        here: match (published.first(), published.last()) {
            (Some(first), Some(last)) if first != last => {
                format!("{} snapshots are, from {first} to {last}", published.len())
            }
            (Some(only), _) => format!("{only} is"),
            _ => "no snapshot is".to_owned(),
        },
        root: depot.root().to_owned(),
    })
}

/// Checks whether the kernel of this host can mount snapshots.
pub(crate) fn kernel_works() -> Result<(), MountError> {
    overlay::works()
}

/// Returns when the scan of a published snapshot began, by its image's modification time.
pub(crate) fn taken(depot: &Depot, sequence: Sequence) -> Result<UnixNanos, FollowError> {
    let path = depot.image(sequence);
    let modified = std::fs::metadata(&path).and_then(|m| m.modified());
    Ok(modified.map_err(FollowError::io(&path, "stat it"))?.into())
}

/// Mounts a snapshot at `dir`; returns its number.
pub fn mount(
    depot: &Depot,
    wanted: &SnapshotRef,
    dir: &Path,
    options: &MountOptions,
) -> Result<Sequence, StageError> {
    let dir = &absolute(dir)?;
    prepare(depot, wanted, dir, options, |sequence, mount| {
        // A second mount over the first would hide it, and share its pin.
        if is_mounted(dir)? {
            return Err(StageError::Shown(dir.clone()));
        }
        mount.attach(dir)?;
        Ok(sequence)
    })
}

/// Pins a snapshot for `dir`, mounts it detached, and calls `attach`. Removes the pin if that fails.
pub(super) fn prepare<T>(
    depot: &Depot,
    wanted: &SnapshotRef,
    dir: &Path,
    options: &MountOptions,
    attach: impl FnOnce(Sequence, Detached) -> Result<T, StageError>,
) -> Result<T, StageError> {
    let wrong = MountError::path(dir, "open it; the directory to mount on must exist");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, dir, flags, Mode::empty()).map_err(wrong)?;
    let upper = options.writable.as_deref().map(absolute).transpose()?;
    depot.look()?;
    // Checked first, since there may be no depot to lock.
    find(depot, &wanted.store, wanted.moment)?;
    let pins = depot.lock_pins()?;
    let sequence = find(depot, &wanted.store, wanted.moment)?;
    let changes = upper.as_deref().map(|upper| Changes::open(upper, &wanted.store, sequence)).transpose()?;
    let pin = Pin::new(sequence, upper.as_deref().unwrap_or(dir), upper.is_some());
    let is_new = pin.write(depot)?;
    drop(pins);
    let mounted = mount_layers(depot, &wanted.store, sequence, changes.as_ref(), options.trusted);
    let attached = mounted.and_then(|mount| attach(sequence, mount));
    // The changes in `upper` need their snapshot, mounted or not, so the pin stays.
    if attached.is_err() && is_new && upper.is_none() {
        pin.remove(depot)?;
    }
    attached
}

/// Mounts a snapshot, attached nowhere, with a directory for changes that is thrown away with the mount. Whoever asks
/// has pinned the snapshot.
pub(crate) fn throw_away(
    depot: &Depot,
    store: &StoreName,
    sequence: Sequence,
    changes: &Path,
) -> Result<Detached, StageError> {
    depot.look()?;
    let changes = Changes::open(changes, store, sequence)?;
    mount_layers(depot, store, sequence, Some(&changes), false)
}

fn mount_layers(
    depot: &Depot,
    store: &StoreName,
    sequence: Sequence,
    changes: Option<&Changes>,
    trusted: bool,
) -> Result<Detached, StageError> {
    let mut layers = Layers {
        image: depot.image(sequence),
        objects: depot.objects(),
        source: source(store, sequence),
        upper: None,
        trusted,
    };
    if let Some(changes) = changes {
        layers.upper = Some(changes.upper(&layers)?);
    }
    Ok(overlay::mount(&layers)?)
}
