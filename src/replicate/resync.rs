//! One resync of one store, from the probe to the record.
//!
//! Order: packs, index, check that all is there, record. Killed anywhere before the record, the head is
//! the old snapshot; what was shipped is adopted by the next run through its index segments.

use super::commit::Commit;
use super::decide::Reread;
use super::error::ResyncError;
use super::large_file::Holes;
use super::ledger::ScanSummary;
use super::mounts::Mounts;
use super::own;
use super::read_entry::{TICK_NS, Worker};
use super::report::{Phases, Report};
use super::rounds::Rounds;
use crate::model::entry::Timestamp;
use crate::model::hold::{self, Found, Hold};
use crate::model::id::{StoreName, WriterId};
use crate::model::plan::Plan;
use crate::model::record::{SnapshotRecord, SnapshotStatistics, StoreState};
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryErrorKind;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use crate::repository::objects::Requests;
use crate::repository::packer::{Packer, Shipped};
use crate::repository::store::{Repository, Store};
use crate::source::disk::raise_handle_limit;
use crate::source::error::SourceError;
use crate::source::exclude::Excludes;
use crate::source::hints::{Hints, Watch};
use crate::source::tree::Tree;
use crate::source::walk::Course;
use crate::support::env::Stopwatch;
use crate::support::progress::{Progress, Step};
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a run that is asked to end waits for what it has under way.
const BREAK_OFF_LIMIT: Duration = Duration::from_secs(3);

/// What to resync.
pub struct Request {
    pub store: StoreName,
    pub path: PathBuf,
    pub plan: Plan,
    pub excludes: Vec<String>,
    pub writer: WriterId,
    /// Lets a held run through.
    pub accept: bool,
    /// As zstd counts it.
    pub compression_level: i32,
    /// Of holes in large files, so many bytes are hashed in a run; a file beyond that is unreadable.
    pub holes_max_bytes: u64,
    /// None: all is done by the caller's, in order.
    pub threads: usize,
    /// What is on other filesystems than the root is no part of the store.
    pub one_filesystem: bool,
    /// Directories of this program's own (repository, cache, standby): no part of a store, and no place for one.
    pub own_places: Vec<PathBuf>,
    /// Where snapshots are mounted: no part of a store.
    pub own_mounts: Vec<PathBuf>,
    /// The tree's watch, and what it told: then only that is looked at. A watch without hints: everything is.
    pub watched: Option<Watched>,
}

/// A tree's watch, and where to look.
#[derive(Clone)]
pub struct Watched {
    pub watch: Arc<Watch>,
    pub hints: Option<Hints>,
}

/// What a run takes from outside.
pub struct Surroundings<'a> {
    pub tree: &'a dyn Tree,
    pub progress: &'a Progress,
    pub on_step: &'a (dyn Fn(Step) + Sync),
}

/// Resyncs a store: afterwards its head is a snapshot of what `request.path` holds now.
///
/// # Errors
/// Nothing was committed, whatever the error; see [`ResyncError`].
pub fn resync(
    repository: &Repository,
    request: &Request,
    around: &Surroundings,
) -> Result<Report, ResyncError> {
    let excludes = Excludes::parse(&request.excludes)?;
    let started = (repository.env().stopwatch(), repository.requests());
    repository.probe()?;
    let store = repository.store(&request.store);
    let mut watched = request.watched.clone();
    loop {
        match attempt(&store, request, watched.as_ref(), around, &excludes, &started) {
            Ok(Some(report)) => return Ok(report),
            // Chunks that this run relied on were doomed meanwhile: once more, with that known.
            Ok(None) => continue,
            // Of a file that changed under one of its names the others tell nothing.
            Err(ResyncError::Hardlink) if watched.as_ref().is_some_and(|watched| watched.hints.is_some()) => {
                watched = watched.map(|watched| Watched { hints: None, ..watched });
                around.progress.begin_again();
            }
            Err(error) => return Err(error),
        }
    }
}

fn attempt(
    store: &Store,
    request: &Request,
    watched: Option<&Watched>,
    around: &Surroundings,
    excludes: &Excludes,
    (started, requests_before): &(Stopwatch, Requests),
) -> Result<Option<Report>, ResyncError> {
    let env = store.env();
    let mut phases = Phases::default();
    let mut state = store.state()?;
    admit(request, &state)?;
    store.begin_writing(state.head.is_none())?;
    let (base_sequence, mut base) = match state.latest() {
        Some((sequence, record)) => (Some(sequence), Some(record.clone())),
        None => (None, None),
    };
    let before = state.index.clone();
    let index = Arc::new(Index::open(store, &state)?);
    index.adopt_orphans(store, &state)?;
    let chunks = ChunkReader::new(store.clone(), index.clone()).cached();
    // Something that snapshots refer to was given up: nothing is taken over unseen.
    let recheck = state.lost > base_sequence && base.is_some();
    if recheck && let Some(found) = &base {
        match ManifestReader::new(chunks.clone()).entries(&found.manifest).try_for_each(|e| e.map(|_| ())) {
            Err(error) if error.kind() == RepositoryErrorKind::Damaged => base = None,
            other => other?,
        }
    }
    phases.open_seconds = started.seconds();
    (around.on_step)(Step::Opened);

    let scanning = env.stopwatch();
    let scan_start_ns = env.wall_ns();
    let root = around.tree.open_root(&request.path)?;
    let unusable = |errno: Errno| SourceError::Root { path: request.path.clone(), source: errno.into() };
    let root_stat = root.stat().map_err(unusable)?;
    let mut filesystem = root.filesystem(&root_stat);
    let own = own::find(&request.path, &request.own_places, &request.own_mounts)?;
    if let Some(base) = &base {
        around.progress.expected_entries.store(base.manifest.entries, std::sync::atomic::Ordering::Relaxed);
    }
    let packer = Packer::new(store.clone(), index.clone()).stopped_by(around.progress.stop.clone());
    // Without a manifest before there is nothing that could be taken from it.
    let mounts_before = base.as_ref().and_then(|base| base.filesystem.mounts.clone());
    // Parts of a manifest are taken over unseen only where its writer saw to it that it is closed: those note mounts, too.
    let is_usable = mounts_before.is_some() && !recheck;
    let hints = watched.and_then(|watched| watched.hints.as_ref()).filter(|_| is_usable);
    let hinted = hints.is_some();
    let last_full_ns = base.as_ref().map(|b| b.full_scan_start_ns.unwrap_or(b.scan_start_ns));
    let reread = Reread {
        // A scan by hints looks at few files: their turn is the next full scan's.
        period_ns: if hinted { 0 } else { request.plan.reread_period_ns() },
        last_scan_ns: last_full_ns.unwrap_or(scan_start_ns),
        this_scan_ns: scan_start_ns,
    };
    let old = base.as_ref().map(|base| &base.manifest);
    let since = scan_start_ns.saturating_sub(TICK_NS);
    let course = Course {
        excludes,
        own: &own.identities,
        only_device: request.one_filesystem.then_some(root_stat.device),
        since: Timestamp { seconds: (since / 1_000_000_000) as i64, nanos: (since % 1_000_000_000) as u32 },
        listings_max: (raise_handle_limit() / 4).clamp(8, 1 << 20) as usize,
    };
    let holes = Holes::new(request.holes_max_bytes);
    let rounds = Rounds {
        root_path: &request.path,
        root,
        course: &course,
        watch: watched.map(|watched| &*watched.watch),
        hints,
        packer: &packer,
        chunks: &chunks,
        base: old,
        reread,
        recheck,
        progress: around.progress,
        holes: &holes,
        env,
        compression_level: request.compression_level,
    };
    let level = request.compression_level;
    let workers = (0..request.threads.max(1))
        .map(|_| Worker::new(&packer, chunks.clone(), around.progress, env, level))
        .collect::<Result<_, _>>()?;
    let mut mounts = Mounts::new(mounts_before.as_deref().unwrap_or_default());
    mounts.note(&TreePath::root(), root_stat.is_mount_root);
    let scanned = rounds.run(workers, request.threads, &mut mounts);
    // Whatever a worker said of it: it was asked to.
    let is_stopped = scanned.is_err() && around.progress.is_stopped();
    let scanned = if is_stopped { Err(ResyncError::Stopped) } else { scanned };
    if is_stopped {
        // What has arrived, and what does in a moment, gets an index that names it: the next run finds it.
        packer.break_off(BREAK_OFF_LIMIT)?;
    }
    let (manifest, summary) = scanned?;
    phases.scan_seconds = scanning.seconds();
    (around.on_step)(Step::Scanned);

    let entries_before = base.as_ref().map_or(0, |b| b.manifest.entries.saturating_sub(1));
    let entries_now = manifest.entries.saturating_sub(1);
    // Of places at which something was mounted, what is gone is looked up: when anything is.
    let losses = match summary.changes.removed {
        0 => Vec::new(),
        _ => mounts.losses(&chunks, old, || {
            packer.flush()?;
            Ok(&manifest)
        })?,
    };
    let found = Found {
        entries_before,
        entries_now,
        deleted: summary.changes.removed,
        before: base.as_ref().map(|base| &base.filesystem),
        now: &filesystem,
        losses: &losses,
    };
    refuse(request, hold::after_scan(&request.plan, &found))?;
    filesystem.mounts = Some(mounts.now());

    let shipping = env.stopwatch();
    let shipped = packer.close()?;
    phases.ship_seconds = shipping.seconds();
    (around.on_step)(Step::Shipped);

    let committing = env.stopwatch();
    let record = SnapshotRecord {
        manifest,
        scan_start_ns,
        scan_end_ns: env.wall_ns(),
        source_path: request.path.display().to_string(),
        filesystem,
        statistics: statistics(around.progress, &summary, &shipped),
        new_packs: shipped.packs.clone(),
        new_index: Vec::new(),
        index: Vec::new(),
        merged_index: Vec::new(),
        database_position: None,
        full_scan_start_ns: last_full_ns.filter(|_| hinted),
    };
    let commit = Commit { store, index: &index, before: &before, writer: &request.writer };
    let Some((sequence, rebased)) = commit.run(&mut state, &record, |state| admit(request, state))? else {
        return Ok(None);
    };
    phases.commit_seconds = committing.seconds();
    store.trim_cache(&state, &index);
    (around.on_step)(Step::Committed);
    let requests = store.repository().requests().since(requests_before);
    Ok(Some(Report {
        store: request.store.clone(),
        snapshot: sequence,
        scan_start_ns,
        entries: record.manifest.entries,
        size_bytes: record.manifest.size_bytes,
        changes: summary.changes,
        read_bytes: record.statistics.read_bytes,
        new_bytes: record.statistics.new_bytes,
        shipped_bytes: requests.sent_bytes,
        vanished: summary.vanished,
        left_out: own.left_out,
        warnings: summary.warnings,
        hook_failed: None,
        rebased,
        requests,
        phases,
    }))
}

fn admit(request: &Request, state: &StoreState) -> Result<(), ResyncError> {
    if state.admits(&request.writer, state.epoch) {
        return Ok(());
    }
    let primary = state.primary.as_ref().map_or_else(String::new, |p| p.0.clone());
    Err(ResyncError::Fenced { store: request.store.clone(), primary, writer: request.writer.clone() })
}

fn refuse(request: &Request, hold: Option<Hold>) -> Result<(), ResyncError> {
    match hold {
        Some(hold) if !request.accept => Err(ResyncError::Held { store: request.store.clone(), hold }),
        _ => Ok(()),
    }
}

fn statistics(progress: &Progress, summary: &ScanSummary, shipped: &Shipped) -> SnapshotStatistics {
    SnapshotStatistics {
        changes: summary.changes,
        read_bytes: Progress::get(&progress.read_bytes),
        new_bytes: Progress::get(&progress.new_bytes),
        shipped_bytes: shipped.bytes,
        torn_files: summary.warnings.torn,
        unreadable: summary.warnings.unreadable,
        attributes_unreadable: summary.warnings.attributes,
        unsettled: summary.warnings.unsettled,
        vanished: summary.vanished,
    }
}
