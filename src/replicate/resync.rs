//! Resyncs one store once, from the probe to the record.
//!
//! A resync has four phases: open, scan, ship, commit. See `repository::session` for the races with other
//! writers, and for the objects that a killed run leaves.

use super::decide::Reread;
use super::error::{ResyncError, ScanEnd};
use super::large_file::Holes;
use super::ledger::ScanSummary;
use super::mounts::Mounts;
use super::own::{self, Own};
use super::read_entry::{TICK, Worker};
use super::rounds::Rounds;
use crate::api::requests::Requests;
use crate::api::resync::{Phases, ResyncReport, Warnings};
use crate::model::entry::Timestamp;
use crate::model::hold::{self, FilesystemId, Found};
use crate::model::id::{DaemonId, PackId, StoreName, WriterId};
use crate::model::plan::Plan;
use crate::model::record::{ManifestRoot, ObjectRef, SnapshotRecord, SnapshotStatistics};
use crate::model::rivals::rivals;
use crate::model::tree_path::TreePath;
use crate::repository::packer::{Packer, Shipped};
use crate::repository::session::{Committed, WriteSession};
use crate::repository::store::{Repository, Store};
use crate::source::disk::raise_handle_limit;
use crate::source::error::SourceError;
use crate::source::exclude::Excludes;
use crate::source::hints::{Hints, Watch};
use crate::source::stat::Stat;
use crate::source::tree::{Directory, Tree};
use crate::source::walk::WalkOptions;
use crate::support::clock::UnixNanos;
use crate::support::env::Stopwatch;
use crate::support::progress::{Progress, Step};
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Maximum time that a run which is asked to end waits for its last uploads.
const BREAK_OFF_LIMIT: Duration = Duration::from_secs(3);

/// The parameters of a resync.
pub struct Request {
    pub store: StoreName,
    pub path: PathBuf,
    pub plan: Plan,
    pub excludes: Vec<String>,
    pub writer: WriterId,
    /// The daemon that this run is of.
    pub daemon: Option<DaemonId>,
    /// Lets a held run through.
    pub accept: bool,
    /// Level of zstd.
    pub compression_level: i32,
    /// Maximum number of hole bytes of large files that a run hashes. A file beyond that is unreadable.
    pub holes_max_bytes: u64,
    /// Number of worker threads. With 0, the caller's thread does all the work, in order.
    pub threads: usize,
    /// Leaves out entries on other filesystems than the root's.
    pub one_filesystem: bool,
    /// Directories of this program (repository, cache, standby).
    ///
    /// They are left out of a store, and no store may lie in one.
    pub own_places: Vec<PathBuf>,
    /// Directories where snapshots are mounted. They are left out of the store.
    pub own_mounts: Vec<PathBuf>,
    /// Position of the database's history that the tree is at, where it holds a database, or that of the store's
    /// database before the scan.
    pub database_position: Option<String>,
    /// Asked once the scan has ended where the store's database is then.
    pub database_end: Option<AskPosition>,
    /// The tree's watch and its hints: only the paths they name are scanned. Without hints, everything is.
    pub watched: Option<Watched>,
}

/// Answers where a database is now; none where that cannot be said.
pub type AskPosition = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A tree's watch, and the paths to scan.
#[derive(Clone)]
pub struct Watched {
    pub watch: Arc<Watch>,
    pub hints: Option<Hints>,
}

/// The environment of a run.
pub struct ResyncContext<'a> {
    pub tree: &'a dyn Tree,
    pub progress: &'a Progress,
    pub on_step: &'a (dyn Fn(Step) + Sync),
}

/// Resyncs a store: afterwards its head is a snapshot of the present state of `request.path`.
///
/// # Errors
/// Nothing was committed, whatever the error; see [`ResyncError`].
pub fn resync(
    repository: &Repository,
    request: &Request,
    around: &ResyncContext,
) -> Result<ResyncReport, ResyncError> {
    let excludes = Excludes::parse(&request.excludes)?;
    let started = (repository.env().stopwatch(), repository.requests());
    repository.probe()?;
    let store = repository.store(&request.store);
    let mut watched = request.watched.clone();
    loop {
        let run = Run { store: &store, request, watched: watched.as_ref(), around, excludes: &excludes };
        match attempt(&run, &started) {
            Ok(Some(report)) => return Ok(report),
            // Another writer doomed chunks that this run relied on. Try again, knowing that.
            Ok(None) => continue,
            // A file with several names may have changed, and its other names are found only by looking at
            // everything.
            Err(ScanEnd::LinksUnseen) => {
                watched = watched.map(|watched| Watched { hints: None, ..watched });
                around.progress.begin_again();
            }
            Err(ScanEnd::Failed(error)) => return Err(error),
        }
    }
}

/// One attempt at a run.
struct Run<'a> {
    store: &'a Store,
    request: &'a Request,
    watched: Option<&'a Watched>,
    around: &'a ResyncContext<'a>,
    excludes: &'a Excludes,
}

/// A store's tree, open at its root.
struct Opened {
    root: Arc<dyn Directory>,
    stat: Stat,
    filesystem: FilesystemId,
    own: Own,
    /// Time of opening it. Later changes belong to the next run.
    scan_start: UnixNanos,
    /// Start of the last scan that looked at everything; `None` for the first.
    last_full: Option<UnixNanos>,
}

/// The result of a scan.
struct Scanned {
    manifest: ManifestRoot,
    summary: ScanSummary,
    mounts: Mounts,
    hinted: bool,
    /// Position of the store's database after it.
    database_end: Option<String>,
}

/// A tree whose content is in the repository, and that no record names yet.
struct InTransit {
    opened: Opened,
    scanned: Scanned,
    shipped: Shipped,
}

/// Resyncs once. Returns `None` if the run has to begin again.
fn attempt(
    run: &Run,
    (started, requests_before): &(Stopwatch, Requests),
) -> Result<Option<ResyncReport>, ScanEnd> {
    let Run { store, request, around, .. } = run;
    let env = store.env();
    let mut phases = Phases::default();
    let mut session = WriteSession::begin(store, &request.writer)?;
    phases.open_seconds = started.seconds();
    (around.on_step)(Step::Opened);
    let InTransit { opened, scanned, shipped } = run.ship(&session, &mut phases)?;

    let committing = env.stopwatch();
    let record = run.record(&opened, &scanned, &shipped);
    let (snapshot, rebased) = match session.commit(&record)? {
        Committed::Snapshot { sequence, rebased } => (sequence, rebased),
        Committed::BeginAgain => return Ok(None),
    };
    phases.commit_seconds = committing.seconds();
    (around.on_step)(Step::Committed);
    let requests = store.repository().requests().since(requests_before);
    let ScanSummary { changes, vanished, warnings, .. } = scanned.summary;
    Ok(Some(ResyncReport {
        store: request.store.clone(),
        snapshot,
        scan_start: record.scan_start,
        entries: record.manifest.entries,
        size_bytes: record.manifest.size_bytes,
        changes,
        read_bytes: record.statistics.read_bytes,
        new_bytes: record.statistics.new_bytes,
        shipped_bytes: requests.sent_bytes,
        vanished,
        left_out: opened.own.left_out,
        retry: warnings.to_be_retried(),
        warnings: warnings.report(),
        hook_failed: None,
        rebased,
        rivals: rivals(session.state()),
        requests,
        phases,
    }))
}

/// A former primary's tree in the repository, for a decision about it.
pub struct StrandedTree {
    pub manifest: ManifestRoot,
    pub new_packs: Vec<ObjectRef<PackId>>,
    pub warnings: Warnings,
    /// Number of entries that were gone before they could be read.
    pub vanished: u64,
}

/// Scans a tree against the base of `session`, and ships what the store lacks. No record names it: that is
/// the caller's part. If that never comes, the next run adopts what was shipped.
///
/// # Errors
/// Those of a resync.
pub fn ship_tree(
    store: &Store,
    session: &WriteSession,
    request: &Request,
    around: &ResyncContext,
) -> Result<StrandedTree, ResyncError> {
    let excludes = Excludes::parse(&request.excludes)?;
    let run = Run { store, request, watched: None, around, excludes: &excludes };
    match run.ship(session, &mut Phases::default()) {
        Ok(InTransit { scanned: Scanned { manifest, summary, .. }, shipped, .. }) => Ok(StrandedTree {
            manifest,
            new_packs: shipped.packs,
            warnings: summary.warnings.report(),
            vanished: summary.vanished,
        }),
        Err(ScanEnd::Failed(error)) => Err(error),
        Err(ScanEnd::LinksUnseen) => unreachable!("a scan without hints looks at every name"),
    }
}

impl Run<'_> {
    /// Scans the tree, and ships what the store lacks.
    fn ship(&self, session: &WriteSession, phases: &mut Phases) -> Result<InTransit, ScanEnd> {
        let Self { store, around, .. } = self;
        let env = store.env();
        let scanning = env.stopwatch();
        let opened = self.open(session)?;
        let packer = session.packer().stopped_by(around.progress.stop.clone());
        let scanned = self.scan(session, &opened, &packer)?;
        phases.scan_seconds = scanning.seconds();
        (around.on_step)(Step::Scanned);
        self.hold(session, &opened, &scanned, &packer)?;

        let shipping = env.stopwatch();
        let shipped = packer.close()?;
        phases.ship_seconds = shipping.seconds();
        (around.on_step)(Step::Shipped);
        Ok(InTransit { opened, scanned, shipped })
    }

    fn open(&self, session: &WriteSession) -> Result<Opened, ResyncError> {
        let Self { request, around, .. } = self;
        let scan_start = self.store.env().wall();
        let root = around.tree.open_root(&request.path)?;
        let unusable = |errno: Errno| SourceError::Root { path: request.path.clone(), source: errno.into() };
        let stat = root.stat().map_err(unusable)?;
        let filesystem = root.filesystem(&stat);
        let own = own::find(&request.path, &request.own_places, &request.own_mounts)?;
        let base = session.base();
        if let Some(base) = base {
            around.progress.expected_entries.store(base.manifest.entries, Ordering::Relaxed);
        }
        let last_full = base.map(|base| base.full_scan_start.unwrap_or(base.scan_start));
        Ok(Opened { root, stat, filesystem, own, scan_start, last_full })
    }

    /// Scans the tree; new chunks are given to `packer`.
    fn scan(&self, session: &WriteSession, opened: &Opened, packer: &Packer) -> Result<Scanned, ScanEnd> {
        let Self { request, around, .. } = self;
        let (env, progress, chunks) = (self.store.env(), around.progress, session.chunks());
        let base = session.base();
        // Without an earlier manifest there is nothing to take over.
        let mounts_before = base.and_then(|base| base.filesystem.mounts.as_deref());
        // Parts of a manifest may be taken over unread only if its writer ensured that every entry has its
        // directory. Such manifests record mounts, too.
        let is_usable = mounts_before.is_some() && !session.must_recheck();
        let hints = self.watched.and_then(|watched| watched.hints.as_ref()).filter(|_| is_usable);
        let reread = Reread {
            // A scan by hints looks at few files. The others have their turn in the next full scan.
            period: if hints.is_some() { Duration::ZERO } else { request.plan.reread_period() },
            last_scan: opened.last_full.unwrap_or(opened.scan_start),
            this_scan: opened.scan_start,
        };
        let course = self.course(opened);
        let holes = Holes::new(request.holes_max_bytes);
        let level = request.compression_level;
        let rounds = Rounds {
            root_path: &request.path,
            root: opened.root.clone(),
            course: &course,
            watch: self.watched.map(|watched| &*watched.watch),
            hints,
            packer,
            chunks,
            base: base.map(|base| &base.manifest),
            reread,
            recheck: session.must_recheck(),
            progress,
            holes: &holes,
            env,
            compression_level: level,
        };
        let workers = (0..request.threads.max(1))
            .map(|_| Worker::new(packer, chunks.clone(), progress, env, level))
            .collect::<Result<_, _>>()?;
        let mut mounts = Mounts::new(mounts_before.unwrap_or_default());
        mounts.note(&TreePath::root(), opened.stat.is_mount_root);
        let scanned = rounds.run(workers, request.threads, &mut mounts);
        if scanned.is_err() && progress.is_stopped() {
            // Uploads that have arrived, or arrive in a moment, get an index, so that the next run finds
            // them.
            packer.break_off(BREAK_OFF_LIMIT)?;
            // Whatever a worker said of it: it was asked to.
            return Err(ResyncError::Stopped.into());
        }
        let (manifest, summary) = scanned?;
        // No file is read after this.
        let database_end = request.database_end.as_ref().and_then(|ask| ask());
        Ok(Scanned { manifest, summary, mounts, hinted: hints.is_some(), database_end })
    }

    fn course<'s>(&'s self, opened: &'s Opened) -> WalkOptions<'s> {
        let since = opened.scan_start.minus(TICK).0;
        WalkOptions {
            excludes: self.excludes,
            own: &opened.own.identities,
            only_device: self.request.one_filesystem.then_some(opened.stat.device),
            since: Timestamp {
                seconds: (since / 1_000_000_000) as i64,
                nanos: (since % 1_000_000_000) as u32,
            },
            listings_max: (raise_handle_limit() / 4).clamp(8, 1 << 20) as usize,
        }
    }

    /// Refuses to commit a run that looks like a mishap of the source, unless it was accepted.
    fn hold(
        &self,
        session: &WriteSession,
        opened: &Opened,
        scanned: &Scanned,
        packer: &Packer,
    ) -> Result<(), ResyncError> {
        let (base, request) = (session.base(), self.request);
        let deleted = scanned.summary.changes.removed;
        // The losses below places with a mount are looked up only if anything was deleted.
        let losses = match deleted {
            0 => Vec::new(),
            _ => scanned.mounts.losses(session.chunks(), base.map(|base| &base.manifest), || {
                packer.flush()?;
                Ok(&scanned.manifest)
            })?,
        };
        let found = Found {
            entries_before: base.map_or(0, |base| base.manifest.entries.saturating_sub(1)),
            entries_now: scanned.manifest.entries.saturating_sub(1),
            deleted,
            before: base.map(|base| &base.filesystem),
            now: &opened.filesystem,
            losses: &losses,
        };
        match hold::after_scan(&request.plan, &found) {
            Some(hold) if !request.accept => Err(ResyncError::Held { store: request.store.clone(), hold }),
            _ => Ok(()),
        }
    }

    fn record(&self, opened: &Opened, scanned: &Scanned, shipped: &Shipped) -> SnapshotRecord {
        let filesystem = FilesystemId { mounts: Some(scanned.mounts.now()), ..opened.filesystem.clone() };
        SnapshotRecord {
            manifest: scanned.manifest.clone(),
            scan_start: opened.scan_start,
            scan_end: self.store.env().wall(),
            source_path: self.request.path.display().to_string(),
            filesystem,
            statistics: statistics(self.request, self.around.progress, scanned, shipped),
            new_packs: shipped.packs.clone(),
            new_index: Vec::new(),
            index: Vec::new(),
            merged_index: Vec::new(),
            database_position: self.request.database_position.clone(),
            full_scan_start: opened.last_full.filter(|_| scanned.hinted),
        }
    }
}

fn statistics(
    request: &Request,
    progress: &Progress,
    Scanned { summary, database_end, .. }: &Scanned,
    shipped: &Shipped,
) -> SnapshotStatistics {
    let warnings = summary.warnings.counts();
    SnapshotStatistics {
        changes: summary.changes,
        read_bytes: Progress::get(&progress.read_bytes),
        new_bytes: Progress::get(&progress.new_bytes),
        shipped_bytes: shipped.bytes,
        torn_files: warnings.torn,
        unreadable: warnings.unreadable,
        attributes_unreadable: warnings.attributes,
        unsettled: warnings.unsettled,
        vanished: summary.vanished,
        daemon: request.daemon.clone(),
        database_end: database_end.clone(),
    }
}
