//! Restoring a snapshot as plain files.
//!
//! A destination that does not exist, or is an empty directory, is made beside and renamed when it is
//! complete; broken off, the next run goes on in the directory beside. Into a directory that holds
//! something, each file is made beside its name and renamed over it, and only what differs is touched.
//! Every byte is checked: chunks against their ids, files of several chunks against their hash. Nothing
//! is ever opened through a symlink, so that a tree which changes meanwhile cannot lead a write out of
//! the destination.
//!
//! An entry that cannot be made as it was is told, and the rest goes on; below a directory that cannot be made all is passed over.
//! What ends a restore is what would meet every entry: see `RestoreError::ends`. Deletion never reaches into another mount,
//! neither into one that the snapshot does not have nor into one that is mounted where the snapshot has a directory.

use super::destination::Place;
use super::directory::Outcome;
use super::file::{Counters, Shared, umask};
use super::salvage::Salvage;
use super::shortfall::Shortfalls;
use super::tree::restore_entries;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::manifest::ManifestReader;
use crate::source::disk::identity;
use crate::standby::depot::Depot;
use crate::standby::error::RestoreError;
use crate::support::pool::Pool;
use crate::support::progress::Progress;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

/// What to restore, and where.
pub struct RestoreRequest {
    pub destination: PathBuf,
    /// Restores this entry and what is below it, as the destination.
    pub path: TreePath,
    /// Allows a destination that holds something: what differs is replaced.
    pub overwrite: bool,
    /// Also removes what the snapshot does not have.
    pub delete: bool,
    pub threads: usize,
    /// What this host holds of the store as a standby: read first.
    pub depot: Option<Depot>,
    /// What this program keeps on this host (repository, cache, standby, key): never removed, whatever the snapshot has.
    pub own: Vec<PathBuf>,
}

/// What a restore did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RestoreReport {
    pub entries: u64,
    pub files_written: u64,
    /// Of those, from this host's own objects.
    pub files_local: u64,
    /// Files whose content was there already.
    pub files_kept: u64,
    pub removed: u64,
    pub written_bytes: u64,
    /// It went on where an earlier run was broken off.
    pub resumed: bool,
    /// What did not come back as it was.
    pub warnings: Shortfalls,
}

/// Restores the manifest `root` of a store, whose chunks `chunks` reads. `tag` stands for the snapshot.
pub fn restore(
    chunks: ChunkReader,
    root: &ManifestRoot,
    tag: &str,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    crate::source::disk::raise_handle_limit();
    let own = own_below(&request.destination, &request.own)?;
    progress.expected_entries.store(root.entries, Ordering::Relaxed);
    // What was broken off is gone on with for the same part of the same snapshot only.
    let tag = match request.path.is_root() {
        true => tag.to_owned(),
        false => format!("{tag}-{}", &blake3::hash(request.path.as_bytes()).to_hex()[..8]),
    };
    let place = Place::choose(request, &tag)?;
    let restored = restore_to(&place, &tag, chunks, root, request, own, progress);
    if restored.is_err() {
        place.abandon();
    }
    restored
}

/// Which of these lie below a destination, by their paths in it: told by inode, so that no symlink hides one.
///
/// # Errors
/// The destination is one of them, or lies in one.
fn own_below(destination: &Path, own: &[PathBuf]) -> Result<Vec<TreePath>, RestoreError> {
    let Some(top) = identity(destination) else { return Ok(Vec::new()) };
    let above = std::fs::canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
    let mut found = Vec::new();
    for place in own {
        let (Ok(real), Some(inode)) = (std::fs::canonicalize(place), identity(place)) else { continue };
        if above.ancestors().any(|at| identity(at) == Some(inode)) {
            return Err(RestoreError::Own { path: destination.to_owned(), place: place.clone() });
        }
        let within = real.ancestors().find(|at| identity(at) == Some(top));
        let path = within.and_then(|at| real.strip_prefix(at).ok());
        found.extend(path.and_then(|path| TreePath::parse(path.as_os_str().as_bytes()).ok()));
    }
    Ok(found)
}

fn restore_to(
    place: &Place,
    tag: &str,
    chunks: ChunkReader,
    root: &ManifestRoot,
    request: &RestoreRequest,
    own: Vec<TreePath>,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    let outcome = Arc::new(Outcome::default());
    let shared = Shared {
        chunks,
        counters: Counters::default(),
        outcome,
        progress,
        depot: request.depot.clone(),
        umask: umask(),
        own,
    };
    // In a directory that is new nothing is made beside anything, and one that is resumed has nothing of anybody's.
    if !place.fresh && !place.is_named_at_the_end() {
        let top = place.open().map_err(RestoreError::write(place.work.display(), "open it"))?;
        shared.outcome.session.begin(&top, tag);
    }
    let threads = request.threads.max(1);
    let manifests = ManifestReader::new(shared.chunks.clone());
    let entries = Salvage::new(manifests, root, &request.path, &shared.outcome);
    let report = std::thread::scope(|scope| {
        let pool = Pool::start(scope, vec![(); threads]);
        let report = restore_entries(&shared, &pool, request, place, entries);
        drop(pool);
        report
    });
    shared.outcome.session.end();
    let mut report = report?;
    if let Some(error) = shared.outcome.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    place.publish()?;
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    report.files_written = count(&shared.counters.files_written);
    report.files_local = count(&shared.counters.files_local);
    report.files_kept = count(&shared.counters.files_kept);
    report.written_bytes = count(&shared.counters.written_bytes);
    report.warnings = shared.outcome.told.take();
    Ok(report)
}
