//! Checks all that a depot holds: every object is read from the disk and compared with its name, every object
//! that a published snapshot needs is looked up, and every image is made again in memory and compared. With
//! `repair`, missing or damaged objects are fetched and replaced by a rename, so that a mount reads the old
//! bytes or the right ones.
//!
//! Damaged objects that no published snapshot needs are no problem: they are counted separately, and removed
//! with `repair`.

use super::arrivals::Arrivals;
use super::depot::Depot;
use super::error::FollowError;
use super::follow::image_of;
use super::materialise::{stored_hash, work, workshop};
use super::published;
use crate::model::id::{ContentHash, Sequence};
use crate::model::record::SnapshotRecord;
use crate::repository::chunks::ChunkReader;
use crate::repository::index::Index;
use crate::repository::manifest::{EntryStream, ManifestReader};
use crate::repository::store::Store;
use crate::support::progress::Progress;
use crate::vfs::erofs::image_file;
use serde::Serialize;
use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Maximum number of problems that a report names; the rest is only counted.
const NAMED_MAX: usize = 100;

/// An object or image that is missing or damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// Path of the object or the image.
    pub path: String,
    pub reason: &'static str,
    /// A file that needs it; none when nothing needs it.
    pub needed_for: Option<String>,
}

impl CheckReport {
    /// Returns whether all that can be checked is in order now.
    pub fn is_sound(&self) -> bool {
        self.problem_count == self.repaired
    }
}

/// The report of a check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    pub snapshots: u64,
    pub objects: u64,
    pub read_bytes: u64,
    /// Number of snapshots here that the log no longer has. Their images say which objects they need, but
    /// nothing says whether names and metadata are right.
    pub unknown_snapshots: u64,
    /// Number of problems of those snapshots, which cannot be repaired.
    pub lost: u64,
    pub problems: Vec<CheckFinding>,
    pub problem_count: u64,
    /// Number of damaged objects that no published snapshot needs.
    pub damaged_unneeded: u64,
    pub unneeded_removed: u64,
    pub repaired: u64,
}

/// Checks the depot of `store`.
pub fn check(store: &Store, depot: &Depot, repair: bool, threads: usize) -> Result<CheckReport, FollowError> {
    let lock = depot.lock()?;
    let state = store.log().state()?;
    let mut report = CheckReport::default();
    let arrivals = if repair { Some(Arrivals::begin(depot, &lock)?) } else { None };
    let mut damaged = HashSet::new();
    depot.each_object(|path, hash| {
        let Some(hash) = hash else { return Ok(()) };
        report.objects += 1;
        report.read_bytes += std::fs::metadata(path).map_or(0, |meta| meta.len());
        if stored_hash(path).map_err(FollowError::path(path, "read it"))? != Some(hash) {
            damaged.insert(hash);
        }
        Ok(())
    })?;
    let mut met = HashSet::new();
    let mut previous: Option<&SnapshotRecord> = None;
    let mut unknown = Vec::new();
    for sequence in depot.snapshots()? {
        report.snapshots += 1;
        let Some(record) = state.snapshots.get(&sequence) else {
            report.unknown_snapshots += 1;
            unknown.push(sequence);
            continue;
        };
        let index = Arc::new(Index::open(store, &state)?);
        let chunks = ChunkReader::new(store.clone(), index);
        let manifests = ManifestReader::new(chunks.clone().cached());
        let entries = match previous {
            Some(before) => {
                manifests.entries_of(manifests.differing_leaves(&before.manifest, &record.manifest)?.1)
            }
            None => manifests.entries(&record.manifest),
        };
        let one = Snapshot { store, depot, sequence, record, chunks: &chunks, repair, threads };
        one.objects(entries, &damaged, &mut met, &mut report)?;
        if let Some(arrivals) = &arrivals {
            arrivals.settle()?;
        }
        let rewrite = one.image(&manifests, &mut report)?;
        if repair && let Some((image, id)) = rewrite {
            depot.publish_image(&lock, sequence, |file| {
                let wrong = |source| FollowError::Image { path: depot.image(sequence), source };
                let mut out = BufWriter::with_capacity(1 << 20, &mut *file);
                image.write(id, &mut out).map_err(wrong)?;
                out.flush().map_err(|error| wrong(error.into()))?;
                drop(out);
                let taken = record.scan_start.system_time();
                file.set_modified(taken).map_err(|error| wrong(error.into()))
            })?;
            report.repaired += 1;
        }
        previous = Some(record);
    }
    // The objects that other snapshots need are repaired by now, as far as possible.
    for sequence in unknown {
        lost_of(store, depot, sequence, &damaged, repair, &mut met, &mut report)?;
    }
    for hash in damaged.iter().filter(|hash| !met.contains(*hash)) {
        let path = depot.object(*hash);
        report.damaged_unneeded += 1;
        if repair {
            std::fs::remove_file(&path).map_err(FollowError::io(&path, "remove it"))?;
            report.unneeded_removed += 1;
        }
    }
    Ok(report)
}

/// Checks the objects of a snapshot that the log no longer has, by its image. Missing or damaged ones cannot
/// be fetched again.
fn lost_of(
    store: &Store,
    depot: &Depot,
    sequence: Sequence,
    damaged: &HashSet<ContentHash>,
    repair: bool,
    met: &mut HashSet<ContentHash>,
    report: &mut CheckReport,
) -> Result<(), FollowError> {
    let at = format!("{}@{sequence}", store.name());
    let walked = published::objects(depot, sequence, |path, hash| {
        let object = depot.object(hash);
        let is_new = met.insert(hash);
        let reason = match (damaged.contains(&hash), object.exists()) {
            // A snapshot of the log needs it as well, so it was counted there, and replaced with `repair`.
            (true, _) if !is_new => return Ok(()),
            (true, _) => "damaged",
            (false, true) => return Ok(()),
            (false, false) if !is_new && repair => return Ok(()),
            (false, false) => "missing",
        };
        if is_new {
            report.lost += 1;
            note(report, &object, reason, Some(format!("{at}: {}", image_file::shown(path))));
        }
        Ok(())
    });
    match walked {
        Err(FollowError::Image { path, .. }) => {
            report.lost += 1;
            note(report, &path, "damaged", Some(at));
            Ok(())
        }
        walked => walked,
    }
}

fn note(report: &mut CheckReport, path: &Path, reason: &'static str, needed_for: Option<String>) {
    report.problem_count += 1;
    if report.problems.len() < NAMED_MAX {
        report.problems.push(CheckFinding { path: path.display().to_string(), reason, needed_for });
    }
}

/// The check of one snapshot.
struct Snapshot<'a> {
    store: &'a Store,
    depot: &'a Depot,
    sequence: Sequence,
    record: &'a SnapshotRecord,
    chunks: &'a ChunkReader,
    /// Whether missing and damaged objects are made again.
    repair: bool,
    threads: usize,
}

impl Snapshot<'_> {
    /// Checks the objects that `entries` need; reports missing or damaged ones, and makes them again in a
    /// repair.
    fn objects(
        &self,
        entries: EntryStream,
        damaged: &HashSet<ContentHash>,
        met: &mut HashSet<ContentHash>,
        report: &mut CheckReport,
    ) -> Result<(), FollowError> {
        let progress = Progress::default();
        let workshop = workshop(self.chunks.clone(), self.depot, &progress, None, true);
        work(&workshop, self.threads, |materialiser| {
            for entry in entries {
                let entry = entry?;
                let Some(file) = entry.file() else { continue };
                if file.size_bytes == 0 || !met.insert(file.hash) {
                    continue;
                }
                let path = self.depot.object(file.hash);
                let reason = match damaged.contains(&file.hash) {
                    true => "damaged",
                    false if path.exists() => continue,
                    false => "missing",
                };
                let file = format!("{}@{}: {}", self.store.name(), self.sequence, entry.path);
                note(report, &path, reason, Some(file));
                if self.repair {
                    materialiser.want(entry, None)?;
                }
            }
            Ok(())
        })?;
        report.repaired += workshop.made();
        Ok(())
    }

    /// Returns the image that should be there, if another is.
    fn image(
        &self,
        manifests: &ManifestReader,
        report: &mut CheckReport,
    ) -> Result<Option<(crate::vfs::erofs::image::Image, [u8; 16])>, FollowError> {
        let path = self.depot.image(self.sequence);
        let wrong = |source| FollowError::Image { path: path.clone(), source };
        let make = || image_of(self.store, self.depot, manifests, self.chunks, self.sequence, self.record);
        let (image, id) = make()?;
        let mut hasher = blake3::Hasher::new();
        image.write(id, &mut hasher).map_err(wrong)?;
        let found = stored_hash(&path).map_err(FollowError::path(&path, "read it"))?;
        if found == Some(ContentHash(*hasher.finalize().as_bytes())) {
            return Ok(None);
        }
        note(report, &path, "damaged", Some(format!("{}@{}", self.store.name(), self.sequence)));
        make().map(Some)
    }
}
