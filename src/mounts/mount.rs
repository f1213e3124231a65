//! Snapshots of a depot, mounted: read-only, writable, or moved on to each new snapshot.
//!
//! Needs nothing but the depot: not the repository, not its network. A mount first pins its snapshot, so that a
//! `follow` that runs meanwhile keeps it.

use super::changes::Changes;
use super::error::StageError;
use super::live::{self, Before, Live};
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::standby::depot::{Depot, names};
use crate::standby::error::FollowError;
use crate::standby::pin::{self, Pin};
use crate::vfs::error::MountError;
use crate::vfs::overlay::{self, Detached, Layers, Mounted};
use rustix::fs::{CWD, Mode, OFlags};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What the source of all mounts begins with; the store and the snapshot follow.
const SOURCE: &str = "understudy:";
/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Where changes go; its contents belong to one snapshot.
    pub writable: Option<PathBuf>,
    /// Obeys set-user-id bits and device nodes of the snapshot.
    pub trusted: bool,
}

/// The published snapshot that is meant.
pub fn find(depot: &Depot, store: &StoreName, moment: Moment) -> Result<Sequence, StageError> {
    let published = depot.snapshots()?;
    let found = match moment {
        Moment::Latest => published.last().copied(),
        Moment::At(sequence) => published.iter().find(|s| **s == sequence).copied(),
        Moment::AsOf(ns) => {
            let mut found = None;
            for sequence in published.iter().rev() {
                if taken_ns(depot, *sequence)? <= ns {
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
            Moment::AsOf(_) => " of that moment or before".to_owned(),
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

/// Whether snapshots that are here can be mounted by the kernel.
pub fn kernel_works() -> Result<(), MountError> {
    overlay::works()
}

/// When the scan of a published snapshot began: its image's time.
pub fn taken_ns(depot: &Depot, sequence: Sequence) -> Result<u64, FollowError> {
    let path = depot.image(sequence);
    let modified = std::fs::metadata(&path).and_then(|m| m.modified());
    let modified = modified.map_err(FollowError::io(&path, "stat it"))?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Mounts a snapshot at `dir`; returns which one.
pub fn mount(
    depot: &Depot,
    wanted: &SnapshotRef,
    dir: &Path,
    options: &MountOptions,
) -> Result<Sequence, StageError> {
    let dir = &absolute(dir)?;
    prepare(depot, wanted, dir, options, |sequence, mount| {
        // A second one over it would hide the first, and share its pin.
        if is_shown(dir)? {
            return Err(StageError::Shown(dir.clone()));
        }
        mount.attach(dir)?;
        Ok(sequence)
    })
}

/// Shows a snapshot at `live`, in the place of what it shows.
pub fn move_on(
    depot: &Depot,
    store: &StoreName,
    sequence: Sequence,
    live: &mut Live,
    options: &MountOptions,
) -> Result<Option<Before>, StageError> {
    let wanted = SnapshotRef { store: store.clone(), moment: Moment::At(sequence) };
    let place = live.place(sequence)?;
    let before = prepare(depot, &wanted, &place, options, |_, mount| live.show(place.clone(), Some(mount)))?;
    pin::keep_only(depot, &place, sequence)?;
    Ok(before)
}

/// Pins a snapshot for `dir`, mounts it attached nowhere, and has it attached. The pin goes if that fails.
fn prepare<T>(
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
    // Checked before there is anything to lock.
    find(depot, &wanted.store, wanted.moment)?;
    let pins = depot.lock_pins()?;
    let sequence = find(depot, &wanted.store, wanted.moment)?;
    let changes = upper.as_deref().map(|upper| Changes::open(upper, &wanted.store, sequence)).transpose()?;
    let pin = Pin::new(sequence, upper.as_deref().unwrap_or(dir), upper.is_some());
    let is_new = pin.write(depot)?;
    drop(pins);
    let mounted = mount_layers(depot, &wanted.store, sequence, changes.as_ref(), options.trusted);
    let attached = mounted.and_then(|mount| attach(sequence, mount));
    // Changes keep their snapshot, mounted or not.
    if attached.is_err() && is_new && upper.is_none() {
        pin.remove(depot)?;
    }
    attached
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

/// A snapshot that is mounted on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Show {
    #[serde(serialize_with = "as_text")]
    pub dir: PathBuf,
    pub store: String,
    pub snapshot: String,
    /// `kernel` or `fuse`.
    pub method: &'static str,
    #[serde(serialize_with = "some_as_text")]
    pub writable: Option<PathBuf>,
}

/// A path in a report: JSON has no other bytes than text.
pub fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

pub fn some_as_text<S: serde::Serializer, P: AsRef<Path>>(
    path: &Option<P>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.as_ref().display().to_string()).serialize(serializer)
}

/// All mounts of snapshots that this process can see.
pub fn shown() -> Result<Vec<Show>, StageError> {
    Ok(overlay::mounts(SOURCE)?.into_iter().filter_map(|mount| show(&mount)).collect())
}

fn show(mount: &Mounted) -> Option<Show> {
    let (store, snapshot) = mount.source.strip_prefix(SOURCE)?.split_once('@')?;
    Some(Show {
        dir: mount.dir.clone(),
        store: store.to_owned(),
        snapshot: snapshot.to_owned(),
        method: if mount.kind.starts_with("fuse") { "fuse" } else { "kernel" },
        writable: mount.upper.as_ref().and_then(|upper| upper.parent().map(Path::to_owned)),
    })
}

/// Whether `dir` shows a snapshot.
pub fn is_shown(dir: &Path) -> Result<bool, StageError> {
    Ok(overlay::mounts(SOURCE)?.iter().any(|mount| mount.dir == *dir))
}

/// Whether `dir` shows a snapshot of this store, read-only.
pub(crate) fn shows(dir: &Path, store: &StoreName) -> Result<bool, StageError> {
    let of_store = overlay::mounts(&format!("{SOURCE}{store}@"))?;
    Ok(of_store.iter().any(|mount| mount.dir == *dir && mount.upper.is_none()))
}

/// The source by which a mount of a snapshot is known.
pub fn source(store: &StoreName, sequence: Sequence) -> String {
    format!("{SOURCE}{store}@{sequence}")
}

/// Unmounts `dir` and forgets its pin. `lazy` also while something in it is open. A symlink that showed it goes, too.
pub fn unmount(standby: &Path, dir: &Path, lazy: bool) -> Result<Show, StageError> {
    let link = live::beside_itself(dir)?;
    let target = std::fs::read_link(&link).ok().and_then(|target| live::place_of_link(&link, &target));
    let is_link = target.is_some();
    let dir = &target.map_or_else(|| absolute(dir), Ok)?;
    let mounted = overlay::mounts(SOURCE)?.into_iter().rev().find(|mount| mount.dir == *dir);
    let Some((mounted, show)) = mounted.and_then(|mount| show(&mount).map(|show| (mount, show))) else {
        return Err(MountError::NotOurs(dir.clone()).into());
    };
    match show.method {
        "fuse" => overlay::detach_fuse(dir, lazy)?,
        _ => overlay::detach(dir, lazy)?,
    }
    if is_link {
        let _ = std::fs::remove_file(&link);
    }
    if dir
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|name| name.as_encoded_bytes().ends_with(b".understudy"))
    {
        live::remove_place(dir);
    }
    let depot = match mounted.objects.as_deref().and_then(Path::parent) {
        Some(root) => Depot::at(root),
        None => Depot::at(&standby.join(&show.store)),
    };
    if show.method == "kernel"
        && show.writable.is_none()
        && depot.pins().is_dir()
        && let Ok(snapshot) = show.snapshot.parse().map(Sequence)
        && !is_shown_unpinned(&depot, &mounted, snapshot)?
    {
        pin::forget(&depot, dir, snapshot)?;
    }
    Ok(show)
}

/// Forgets the pins of a path at which nothing is mounted any more: somebody took the mount away by other means. Returns their snapshots.
pub fn forget_gone(standby: &Path, dir: &Path) -> Result<Vec<String>, StageError> {
    let dir = absolute(dir)?;
    let mut forgotten = Vec::new();
    if overlay::mounts(SOURCE)?.iter().any(|mount| mount.dir == dir) {
        return Ok(forgotten);
    }
    for store in names(standby)? {
        let depot = Depot::at(&standby.join(&store));
        let snapshots = pin::forget_all(&depot, &dir)?;
        forgotten.extend(snapshots.iter().map(|snapshot| format!("{store}@{snapshot}")));
    }
    Ok(forgotten)
}

/// Whether a snapshot that was unmounted is shown by a mount without a pin of its own: one over the other, or a bind mount.
fn is_shown_unpinned(depot: &Depot, gone: &Mounted, snapshot: Sequence) -> Result<bool, StageError> {
    // Of one that cannot be read nothing is known: what is shown elsewhere counts as unpinned then.
    let pins = pin::pins(depot).unwrap_or_default();
    let is_pinned =
        |dir: &Path| dir != gone.dir && pins.iter().any(|pin| pin.path == dir && pin.snapshot == snapshot);
    let is_same = |other: &Mounted| (&other.source, &other.objects) == (&gone.source, &gone.objects);
    Ok(overlay::mounts(SOURCE)?.iter().any(|other| is_same(other) && !is_pinned(&other.dir)))
}

/// A path that means the same later; symlinks on the way are resolved as far as it exists.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, FollowError> {
    if let Ok(path) = std::fs::canonicalize(path) {
        return Ok(path);
    }
    // It is not there, or is a mount that nobody serves any more.
    let full = std::path::absolute(path).map_err(FollowError::io(path, "resolve it"))?;
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => Ok(absolute(parent)?.join(name)),
        _ => Ok(full),
    }
}
