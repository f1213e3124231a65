//! Restores a snapshot as plain files.
//!
//! A tree for a destination that does not exist, or is an empty directory, is made next to it and renamed
//! when it is complete. If the run is interrupted, the next one continues in that directory. In a directory
//! that holds something, each file is made under a temporary name and renamed over its own, and only files
//! that differ are touched. Every byte is checked: chunks against their ids, files of several chunks against
//! their hash. Nothing is opened through a symlink, so a tree that changes meanwhile cannot lead a write out
//! of the destination.
//!
//! An entry that cannot be made exactly is reported, and the restore continues. All entries below a directory
//! that cannot be made are skipped. A restore ends only by an error that every entry would meet: see
//! `RestoreError::ends`. Deletion never reaches into another mount, whether or not the snapshot has a
//! directory where it is mounted.

use super::context::{Counters, RestoreContext};
use super::destination::Destination;
use super::directory::RestoreTally;
use super::error::RestoreError;
use super::file::umask;
use super::request::{RestoreReport, RestoreRequest};
use super::salvage::Salvage;
use super::tree::restore_entries;
use crate::content::write::ContentWriter;
use crate::model::entry::Entry;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::ManifestReader;
use crate::source::disk::identity;
use crate::support::lock::lock;
use crate::support::pool::Pool;
use crate::support::progress::Progress;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Restores the manifest `root` of a store, whose chunks `chunks` reads. `tag` identifies the snapshot.
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
    // An interrupted restore is continued only for the same part of the same snapshot.
    let tag = match request.path.is_root() {
        true => tag.to_owned(),
        false => format!("{tag}-{}", &blake3::hash(request.path.as_bytes()).to_hex()[..8]),
    };
    let root = root.clone();
    restore_as(&tag, chunks, request, own, progress, move |manifests, outcome| {
        Box::new(Salvage::new(manifests, &root, &request.path, outcome))
    })
}

/// Restores entries of a manifest, which are in order, each after the directories above it.
///
/// # Errors
/// Those of a restore, and those of the entries.
pub fn restore_entries_of(
    chunks: ChunkReader,
    entries: impl Iterator<Item = Result<Entry, RepositoryError>> + 'static,
    tag: &str,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    crate::source::disk::raise_handle_limit();
    let own = own_below(&request.destination, &request.own)?;
    restore_as(tag, chunks, request, own, progress, |_, _| Box::new(entries))
}

type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, RepositoryError>> + 'a>;

fn restore_as(
    tag: &str,
    chunks: ChunkReader,
    request: &RestoreRequest,
    own: Vec<TreePath>,
    progress: &Progress,
    entries: impl for<'a> FnOnce(ManifestReader, &'a RestoreTally) -> Entries<'a>,
) -> Result<RestoreReport, RestoreError> {
    let place = Destination::choose(request, tag)?;
    let restored = restore_to(&place, tag, chunks, request, own, progress, entries);
    if restored.is_err() {
        place.abandon();
    }
    restored
}

/// Returns the paths, relative to the destination, of those of `own` that lie below it.
///
/// They are compared by inode, so that no symlink hides one.
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
    place: &Destination,
    tag: &str,
    chunks: ChunkReader,
    request: &RestoreRequest,
    own: Vec<TreePath>,
    progress: &Progress,
    entries: impl for<'a> FnOnce(ManifestReader, &'a RestoreTally) -> Entries<'a>,
) -> Result<RestoreReport, RestoreError> {
    let outcome = Arc::new(RestoreTally::new(chunks.env()));
    let context = RestoreContext {
        writer: ContentWriter::new(chunks, progress),
        counters: Counters::default(),
        outcome,
        local: request.local.clone(),
        umask: umask(),
        own,
    };
    // A new tree needs no temporary names, and one that is resumed contains no files of others.
    if !place.fresh && !place.is_named_at_the_end() {
        let top = place.open().map_err(RestoreError::write(place.work.display(), "open it"))?;
        context.outcome.session.begin(&top, tag);
    }
    let threads = request.threads.max(1);
    let manifests = ManifestReader::new(context.writer.chunks.clone());
    let entries = entries(manifests, &context.outcome);
    let report = std::thread::scope(|scope| {
        let pool = Pool::start(scope, vec![(); threads]);
        let report = restore_entries(&context, &pool, request, place, entries);
        drop(pool);
        report
    });
    context.outcome.session.end();
    let mut report = report?;
    if let Some(error) = lock(&context.outcome.failed).take() {
        return Err(error);
    }
    place.publish()?;
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    report.files_written = count(&context.counters.files_written);
    report.files_local = count(&context.counters.files_local);
    report.files_kept = count(&context.counters.files_kept);
    report.written_bytes = context.writer.written_bytes();
    report.warnings = context.outcome.told.take();
    Ok(report)
}
