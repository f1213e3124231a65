//! Scans in rounds: the paths that the first round leaves in doubt are scanned again, and only those.
//!
//! A round is a scan by hints, against the manifest of the previous round: entries that are not in doubt are
//! taken over page by page. A tree at rest needs one round, and so does one in which only files change. A
//! path that changes in each of [`ROUNDS_MAX`] rounds is taken as it was read last, or as the last snapshot
//! has it, and is reported.

use super::baseline::Baseline;
use super::decide::Reread;
use super::error::{ResyncError, ScanEnd};
use super::large_file::Holes;
use super::ledger::{self, Doubts, Ledger, LedgerOptions, ScanSummary};
use super::links::Links;
use super::mounts::Mounts;
use super::read_entry::Worker;
use super::relatives::SimilarFiles;
use super::scan::{Scan, UnderWay};
use crate::api::resync::WarningKind;
use crate::format::frame::Compressor;
use crate::model::diff::{Change, ChangeCounts};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::diff::join;
use crate::repository::manifest::{ManifestReader, ManifestWriter};
use crate::repository::packer::Packer;
use crate::source::hints::{Hints, Watch};
use crate::source::tree::Directory;
use crate::source::walk::{Walk, WalkOptions};
use crate::support::env::Env;
use crate::support::pool::Pool;
use crate::support::progress::Progress;
use std::collections::HashSet;
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of rounds, including the first.
const ROUNDS_MAX: u32 = 4;

/// A tree that is scanned.
pub(crate) struct Rounds<'a> {
    pub root_path: &'a Path,
    pub root: Arc<dyn Directory>,
    pub course: &'a WalkOptions<'a>,
    pub watch: Option<&'a Watch>,
    pub hints: Option<&'a Hints>,
    pub packer: &'a Packer,
    pub chunks: &'a ChunkReader,
    /// The last snapshot's manifest.
    pub base: Option<&'a ManifestRoot>,
    pub reread: Reread,
    /// Whether chunks of the last manifest may be gone.
    pub recheck: bool,
    pub progress: &'a Progress,
    pub holes: &'a Holes,
    pub env: &'a Env,
    pub compression_level: i32,
}

/// State that is carried from round to round.
struct State<'m> {
    links: Links,
    mounts: &'m mut Mounts,
    phantoms: HashSet<TreePath>,
}

impl Rounds<'_> {
    /// Scans the tree; `workers` read. Without threads, the caller's thread does all the work, in order.
    pub(crate) fn run<'env>(
        &'env self,
        mut workers: Vec<Worker<'env>>,
        threads: usize,
        mounts: &mut Mounts,
    ) -> Result<(ManifestRoot, ScanSummary), ScanEnd> {
        std::thread::scope(|scope| {
            let alone = if threads == 0 { workers.pop() } else { None };
            let pool = alone.map_or_else(|| Pool::start(scope, workers), Pool::inline);
            let mut state = State { links: Links::default(), mounts, phantoms: HashSet::new() };
            let (mut root, mut summary) = self.round(&pool, threads, &mut state, None)?;
            let mut came_back = self.come_back(&mut summary);
            let mut round = 1;
            while !summary.doubts.is_empty() && round < ROUNDS_MAX {
                let doubts = std::mem::take(&mut summary.doubts);
                // From the third round on, wait a moment for the changes to end.
                if round > 1 {
                    self.env.sleep(Duration::from_millis(20 << round));
                }
                // The pages of the previous round are read from the repository, like any others.
                self.packer.flush()?;
                state.links.begin_round();
                let mut again = self.round(&pool, threads, &mut state, Some((&root, &doubts)))?;
                came_back = self.come_back(&mut again.1);
                summary.vanished += again.1.vanished;
                summary.warnings.forget(|path| doubts.covers(path));
                summary.warnings.append(again.1.warnings);
                (root, summary.doubts) = (again.0, again.1.doubts);
                round += 1;
            }
            let reason = "it was moved or changed its kind each time that it was read";
            let doubts = std::mem::take(&mut summary.doubts);
            for path in doubts.trees.iter().chain(&doubts.phantoms).chain(&came_back) {
                let failed = doubts.failed.get(path).map(|errno| ledger::reason(*errno));
                summary.warnings.add(
                    WarningKind::Unsettled,
                    path,
                    failed.unwrap_or_else(|| reason.to_owned()),
                );
            }
            if round > 1 {
                self.packer.flush()?;
                summary.changes = self.changes(&root)?;
            }
            Ok((root, summary))
        })
    }

    /// Returns the lost paths that exist again after all other readings, and puts their directories in doubt.
    ///
    /// A release that is moved into place has no name for a moment.
    fn come_back(&self, summary: &mut ScanSummary) -> Vec<TreePath> {
        let mut came_back = std::mem::take(&mut summary.lost);
        came_back.retain(|path| self.is_there(path));
        for path in &came_back {
            if let Some((above, _)) = path.split()
                && let Ok(above) = TreePath::parse(above)
            {
                summary.doubts.directories.insert(above);
            }
        }
        came_back
    }

    fn is_there(&self, path: &TreePath) -> bool {
        let mut names = path.components().filter_map(|name| CString::new(name).ok()).peekable();
        let mut directory = self.root.clone();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return directory.stat_at(&name).is_ok();
            }
            match directory.open_directory(&name) {
                Ok(below) => directory = below,
                Err(_) => return false,
            }
        }
        true
    }

    fn round<'env>(
        &'env self,
        pool: &Pool<'env, Worker<'env>>,
        threads: usize,
        state: &mut State,
        before: Option<(&ManifestRoot, &Doubts)>,
    ) -> Result<(ManifestRoot, ScanSummary), ScanEnd> {
        let again = before.map(|(_, doubts)| doubts.hints());
        if let Some((_, doubts)) = before {
            state.phantoms = doubts.phantoms.clone();
        }
        let hints = again.as_ref().or(self.hints);
        let walk = Walk::new(self.course).watched(self.watch, hints);
        let compared = before.map(|(root, _)| root).or(self.base);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| walk.help());
            }
            // The helpers are released whatever the result is, before the scope waits for them.
            let result = (|| {
                let compressor = Compressor::new(self.compression_level).map_err(ResyncError::Compressor)?;
                let options = LedgerOptions {
                    chunks: self.chunks,
                    base: self.base,
                    links: self.hints.is_none().then_some(&mut state.links),
                    phantoms: &state.phantoms,
                    is_first_round: before.is_none(),
                };
                let scan = Scan {
                    pool,
                    walk: &walk,
                    root_path: self.root_path,
                    chunks: self.chunks,
                    relatives: SimilarFiles::new(self.chunks, self.base),
                    ledger: Ledger::new(ManifestWriter::new(self.packer, compressor), options),
                    env: self.env,
                    progress: self.progress,
                    holes: self.holes,
                    reread: if before.is_none() { self.reread } else { Reread::default() },
                    baseline: Baseline::new(self.chunks, compared, hints.is_some())?,
                    mounts: &mut *state.mounts,
                    recheck: self.recheck && before.is_none(),
                    under_way: UnderWay::default(),
                };
                let (writer, summary) = scan.run(self.root.clone())?;
                let (root, shipped_bytes) = writer.finish()?;
                Progress::add(&self.progress.shipped_bytes, shipped_bytes);
                Ok((root, summary))
            })();
            walk.close();
            result
        })
    }

    /// Returns the changes since the last snapshot, from the result of all rounds.
    fn changes(&self, root: &ManifestRoot) -> Result<ChangeCounts, ResyncError> {
        let manifests = ManifestReader::new(self.chunks.clone());
        let mut counts = ChangeCounts::default();
        let (old, new) = match self.base {
            Some(base) => {
                let (old, new) = manifests.differing_leaves(base, root)?;
                (manifests.entries_of(old), manifests.entries_of(new))
            }
            None => {
                counts.added = root.entries;
                return Ok(counts);
            }
        };
        join(old, new, |old, new| {
            if let Some(change) = Change::between(old.as_ref(), new.as_ref()) {
                counts.count(Some(change));
            }
            Ok::<_, ResyncError>(())
        })?;
        counts.unchanged = root.entries.saturating_sub(counts.added + counts.modified + counts.metadata);
        Ok(counts)
    }
}
