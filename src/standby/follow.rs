//! Follows a store: makes the objects that its last snapshot needs, then publishes its image.
//!
//! ```text
//! record → entries that differ from the last snapshot here → objects → syncfs → their names → image → report → what is kept
//! ```
//!
//! An image is published only after every object that it names is on the disk under the hash of its bytes
//! (see `arrivals`). If a run is interrupted at any point, published snapshots stay as they are, and the next
//! run finds the objects that were made.
//!
//! One process follows a store on a host (a lock); readers and mounts continue meanwhile.

use super::arrivals::Arrivals;
use super::depot::{Depot, Lock};
use super::error::FollowError;
use super::materialise::{Counters, work, workshop};
use super::pin;
use super::published;
use crate::api::follow::FollowReport;
use crate::content::attributes::attributes_of;
use crate::model::id::{ContentHash, Sequence, WriterId};
use crate::model::record::{ManifestRoot, SnapshotRecord, StoreState};
use crate::model::role::{Permission, role};
use crate::model::snapshot_ref::Moment;
use crate::repository::chunks::ChunkReader;
use crate::repository::diff::join;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::manifest::{EntryStream, ManifestReader};
use crate::repository::standbys::StandbyReport;
use crate::repository::store::Store;
use crate::support::chain::chain;
use crate::support::clock::{HOUR, UnixNanos, seconds};
use crate::support::failure::{Failure, FailureKind};
use crate::support::progress::{Progress, Step};
use crate::vfs::erofs::image::{Image, ImageReport};
use crate::vfs::error::ImageError;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Maximum age of this standby's note, in nanoseconds. It is written again after that, since the repository
/// judges a note by its age.
const TELL_AGAIN: Duration = HOUR.saturating_mul(20);

/// The request of a follow.
pub struct FollowRequest {
    pub moment: Moment,
    /// Number of snapshots that stay published here, in addition to mounted ones.
    pub keep: usize,
    /// A tree that may hold files of the store under their paths.
    pub seed: Option<PathBuf>,
    pub threads: usize,
    /// Name of the host that follows.
    pub host: WriterId,
}

/// Receives a run's progress.
pub struct Observer<'a> {
    pub progress: &'a Progress,
    pub on_step: &'a dyn Fn(Step),
}

/// Records the result of writing the note. The snapshot stays published: if the repository takes no note, for
/// example since it is read-only, that is only a warning.
fn note_told(
    report: &mut FollowReport,
    told: Result<Option<String>, FollowError>,
) -> Result<(), FollowError> {
    match told {
        Ok(renamed_from) => report.renamed_from = renamed_from,
        Err(error) if error.of_repository().is_some() => report.untold = Some(chain(&error)),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Brings the standby up to a snapshot of `store`, usually the latest.
pub fn follow(
    store: &Store,
    depot: &Depot,
    request: &FollowRequest,
    observer: &Observer,
) -> Result<FollowReport, FollowError> {
    let before = store.repository().requests();
    let mut state = store.log().state()?;
    let mut followed = to(store, depot, request, observer, &state);
    if let Err(error) = &followed
        && error.of_repository().is_some_and(|error| error.kind() == FailureKind::Damaged)
    {
        // A pruning may have deleted an object that was about to be read; then the log has grown.
        let now = store.log().state()?;
        if now.head != state.head {
            state = now;
            followed = to(store, depot, request, observer, &state);
        }
    }
    let mut report = followed?;
    report.requests = store.repository().requests().since(&before);
    Ok(report)
}

/// Brings the standby to the state `state`.
fn to(
    store: &Store,
    depot: &Depot,
    request: &FollowRequest,
    observer: &Observer,
    state: &StoreState,
) -> Result<FollowReport, FollowError> {
    let (sequence, record) = store.log().find(state, request.moment)?;
    let published = depot.snapshots()?;
    refuse_rolled_back(store, depot, state, &published)?;
    let mut report = FollowReport {
        store: store.name().to_string(),
        snapshot: sequence,
        before: published.iter().rev().find(|s| **s != sequence).copied(),
        entries: record.manifest.entries,
        role: role(state, &request.host, Permission::Standby),
        ..Default::default()
    };
    let there = published.contains(&sequence);
    if there && !depot.is_in_doubt()? {
        // The last run's note may not have reached the repository, and mounts may have changed.
        note_told(&mut report, tell(store, depot, request, sequence, store.env().wall()))?;
        return Ok(report);
    }
    let lock = depot.lock()?;
    (observer.on_step)(Step::Opened);
    let run = Run { store, depot, request, observer, lock: &lock, state };
    run.publish(sequence, &record, &published, &mut report)?;
    run.drop_old(sequence, &mut report)?;
    Ok(report)
}

/// Fails if the log ends before a snapshot that is published here, since it was rolled back then. Nothing is
/// followed, and above all nothing is dropped.
fn refuse_rolled_back(
    store: &Store,
    depot: &Depot,
    state: &StoreState,
    published: &[Sequence],
) -> Result<(), FollowError> {
    let head = state.head.map_or(Sequence(0), |(sequence, _)| sequence);
    match published.last() {
        Some(newest) if *newest > head => Err(RepositoryError::RolledBack {
            store: store.name().clone(),
            seen: *newest,
            found: format!("ends with record {head}"),
            note: depot.objects().parent().unwrap_or(depot.standby()).to_owned(),
        }
        .into()),
        _ => Ok(()),
    }
}

struct Run<'a> {
    store: &'a Store,
    depot: &'a Depot,
    request: &'a FollowRequest,
    observer: &'a Observer<'a>,
    lock: &'a Lock,
    state: &'a StoreState,
}

impl Run<'_> {
    fn publish(
        &self,
        sequence: Sequence,
        record: &SnapshotRecord,
        published: &[Sequence],
        report: &mut FollowReport,
    ) -> Result<(), FollowError> {
        let Self { depot, request, lock, .. } = self;
        depot.tidy_images()?;
        let arrivals = Arrivals::begin(depot, lock)?;
        let in_doubt = depot.is_in_doubt()?;
        if in_doubt {
            report.objects_repaired = arrivals.remove_lost()?;
        }
        let index = Arc::new(Index::open(self.store, self.state)?);
        let chunks = ChunkReader::new(self.store.clone(), index);
        let manifests = ManifestReader::new(chunks.clone().cached());
        if in_doubt {
            // Any snapshot may have needed the lost objects, and an earlier run may have ended right after
            // removing them.
            for record in published.iter().filter_map(|s| self.state.snapshots.get(s)) {
                self.materialise(&manifests, &chunks, &arrivals, None, &record.manifest)?;
                arrivals.settle()?;
            }
            self.withdraw_lost(published, report)?;
        }
        // All objects of the newest snapshot here are present.
        let newest = published.last().filter(|_| !in_doubt);
        let base = newest.and_then(|s| self.state.snapshots.get(s));
        let counters = self.materialise(&manifests, &chunks, &arrivals, base, &record.manifest)?;
        (self.observer.on_step)(Step::Fetched);
        arrivals.settle()?;
        (self.observer.on_step)(Step::Synced);
        let image = self.image(&manifests, &chunks, sequence, record)?;
        depot.end_doubt(lock)?;
        (self.observer.on_step)(Step::Committed);
        let count = |n: &AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        report.published = true;
        report.objects_made = count(&counters.made);
        report.objects_seeded = count(&counters.seeded);
        report.copied_bytes = count(&counters.copied_bytes);
        report.image_bytes = image.image_bytes;
        report.attributes_left_out = image.attributes_left_out;
        report.whiteouts = image.whiteouts;
        let now = self.store.env().wall();
        report.lag_seconds = record.scan_start.age_at(now).map(seconds);
        note_told(report, tell(self.store, depot, request, sequence, now))
    }

    /// Withdraws snapshots that cannot be completed any more: published ones that the log does not have, and
    /// that lack an object.
    fn withdraw_lost(&self, published: &[Sequence], report: &mut FollowReport) -> Result<(), FollowError> {
        for sequence in published.iter().filter(|s| !self.state.snapshots.contains_key(s)) {
            let mut lacks = 0;
            published::objects(self.depot, *sequence, |_, hash| {
                lacks += u64::from(!self.depot.object(hash).exists());
                Ok(())
            })?;
            if lacks > 0 {
                self.depot.withdraw_image(self.lock, *sequence)?;
                report.snapshots_lost += 1;
            }
        }
        Ok(())
    }

    /// Makes the objects that `root` needs and `base` does not.
    fn materialise(
        &self,
        manifests: &ManifestReader,
        chunks: &ChunkReader,
        arrivals: &Arrivals,
        base: Option<&SnapshotRecord>,
        root: &ManifestRoot,
    ) -> Result<Counters, FollowError> {
        let (old, new) = match base {
            Some(base) => {
                let (old, new) = manifests.differing_leaves(&base.manifest, root)?;
                (manifests.entries_of(old), manifests.entries_of(new))
            }
            None => (EntryStream::none(), manifests.entries(root)),
        };
        let progress = self.observer.progress;
        progress.expected_entries.store(root.entries, std::sync::atomic::Ordering::Relaxed);
        let workshop = workshop(chunks.clone(), self.depot, progress, self.seed()?, false);
        let worked = work(&workshop, self.request.threads, |materialiser| {
            join(old, new, |old, new| {
                Progress::add(&progress.entries, 1);
                if progress.is_stopped() {
                    return Err(FollowError::Stopped);
                }
                match new {
                    Some(new) => materialiser.want(new, old),
                    None => Ok(()),
                }
            })
        });
        if let Err(error) = worked {
            // This disk works: arrived objects are settled, so that the next run need not check them. If that
            // fails, it checks them.
            let is_elsewhere = matches!(error, FollowError::Stopped) || error.of_repository().is_some();
            if is_elsewhere && workshop.is_clean() {
                let _ = arrivals.settle();
            }
            return Err(error);
        }
        Ok(workshop.counters)
    }

    fn seed(&self) -> Result<Option<OwnedFd>, FollowError> {
        let Some(path) = &self.request.seed else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, path, flags, Mode::empty());
        handle.map(Some).map_err(FollowError::path(path, "open the seed"))
    }

    /// Publishes the snapshot's image, whose objects are on the disk.
    fn image(
        &self,
        manifests: &ManifestReader,
        chunks: &ChunkReader,
        sequence: Sequence,
        record: &SnapshotRecord,
    ) -> Result<ImageReport, FollowError> {
        let path = self.depot.image(sequence);
        let wrong = |source: ImageError| FollowError::Image { path: path.clone(), source };
        let (image, id) = image_of(self.store, self.depot, manifests, chunks, sequence, record)?;
        self.depot.publish_image(self.lock, sequence, |file| {
            let mut out = BufWriter::with_capacity(1 << 20, &mut *file);
            let report = image.write(id, &mut out).map_err(wrong)?;
            out.flush().map_err(|error| wrong(error.into()))?;
            drop(out);
            published::compare(file, &path, manifests, chunks, record, &report)?;
            // The image's modification time is the snapshot's, so that "as of" needs no log.
            let taken = record.scan_start.system_time();
            file.set_modified(taken).map_err(|error| wrong(error.into()))?;
            Ok(report)
        })
    }

    /// Drops expired snapshots, once there are a quarter more than `keep`, and the objects that only they
    /// had.
    fn drop_old(&self, current: Sequence, report: &mut FollowReport) -> Result<(), FollowError> {
        // The lock keeps snapshots from being pinned while they are dropped.
        let pins = self.depot.lock_pins()?;
        pin::tidy(self.depot)?;
        let pinned = pin::pinned(self.depot)?;
        let published = self.depot.snapshots()?;
        // Snapshots that the log no longer has count like the others: a record alone, which any writer can
        // append, must not empty this disk.
        let mut loose: Vec<_> =
            published.iter().filter(|s| **s != current && !pinned.contains(s)).copied().collect();
        let keep = self.request.keep.max(1) - 1;
        if loose.len() <= keep + keep / 4 {
            return Ok(());
        }
        loose.truncate(loose.len() - keep);
        for sequence in &loose {
            self.depot.withdraw_image(self.lock, *sequence)?;
            report.snapshots_dropped += 1;
        }
        drop(pins);
        let mut needed = HashSet::new();
        for sequence in published.iter().filter(|s| !loose.contains(s)) {
            published::objects(self.depot, *sequence, |_, hash| {
                needed.insert(hash);
                Ok(())
            })?;
        }
        self.sweep(&needed, report)
    }

    fn sweep(&self, needed: &HashSet<ContentHash>, report: &mut FollowReport) -> Result<(), FollowError> {
        self.depot.each_object(|path, hash| {
            if hash.is_none_or(|hash| !needed.contains(&hash)) {
                std::fs::remove_file(path).map_err(FollowError::io(path, "remove it"))?;
                report.objects_dropped += 1;
            }
            Ok(())
        })
    }
}

/// The last note to the repository, with its time by this host's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    host: String,
    snapshot: Sequence,
    pinned: BTreeSet<Sequence>,
    #[serde(rename = "told_ns")]
    at: UnixNanos,
}

impl Told {
    /// Returns whether `new` need not be written. A note from the future does not count.
    fn does_for(&self, new: &Told) -> bool {
        let is_recent = self.at <= new.at && new.at.since(self.at) < TELL_AGAIN;
        is_recent && *self == Told { at: self.at, ..new.clone() }
    }
}

/// Writes a note to the repository of what is published and mounted here, unless the last one still holds.
///
/// Returns the name that this standby had before, if the last note was of another name. That note is removed,
/// since it describes the same depot.
fn tell(
    store: &Store,
    depot: &Depot,
    request: &FollowRequest,
    sequence: Sequence,
    now: UnixNanos,
) -> Result<Option<String>, FollowError> {
    let host = request.host.clone();
    let new = Told { host: host.0.clone(), snapshot: sequence, pinned: pin::pinned(depot)?, at: now };
    // A note of an older version, or one that a power cut tore, is written once more.
    let last: Option<Told> = depot.reported()?.and_then(|text| serde_json::from_slice(&text).ok());
    if last.as_ref().is_some_and(|last| last.does_for(&new)) {
        return Ok(None);
    }
    let pinned = new.pinned.iter().copied().collect();
    store.notes().report_standby(&StandbyReport {
        host,
        snapshot: sequence,
        published: now,
        pinned,
        noted: UnixNanos::EPOCH,
    })?;
    let before = last.map(|last| last.host).filter(|before| *before != new.host);
    if let Some(before) = &before {
        // If the removal is not permitted, the old note counts until it is too old.
        let _ = store.notes().forget_standby(&WriterId(before.clone()));
    }
    depot.set_reported(&serde_json::to_vec(&new).unwrap_or_default())?;
    Ok(before)
}

/// Returns a snapshot's image, to be written, and its id. Ids are unique, since an overlay with an upper
/// layer recognises its lower layer by it.
pub(crate) fn image_of(
    store: &Store,
    depot: &Depot,
    manifests: &ManifestReader,
    chunks: &ChunkReader,
    sequence: Sequence,
    record: &SnapshotRecord,
) -> Result<(Image, [u8; 16]), FollowError> {
    let mut image = Image::default();
    for entry in manifests.entries(&record.manifest) {
        let entry = entry?;
        let attributes = attributes_of(chunks, &entry)?;
        image
            .push(&entry, &attributes)
            .map_err(|source| FollowError::Image { path: depot.image(sequence), source })?;
    }
    let identity = format!("{} {sequence} {}", store.name(), record.manifest.page);
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(identity.as_bytes()).as_bytes()[..16]);
    Ok((image, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_does_for_most_of_a_day_and_never_from_the_future() {
        let at = |at| Told { host: "a".into(), snapshot: Sequence(3), pinned: BTreeSet::new(), at };
        let after = |span| at(UnixNanos::EPOCH.plus(span));
        let nanosecond = Duration::from_nanos(1);
        let told = after(TELL_AGAIN);
        assert!(told.does_for(&after(TELL_AGAIN)) && told.does_for(&after(2 * TELL_AGAIN - nanosecond)));
        assert!(!told.does_for(&after(2 * TELL_AGAIN)));
        assert!(!told.does_for(&after(TELL_AGAIN - nanosecond)), "the clock was set back");
        for other in [
            Told { host: "b".into(), ..told.clone() },
            Told { snapshot: Sequence(4), ..told.clone() },
            Told { pinned: [Sequence(1)].into(), ..told.clone() },
        ] {
            assert!(!told.does_for(&other));
        }
    }
}
