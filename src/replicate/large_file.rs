//! Reads a large file with all workers: its segments are matched in parallel, and joined in order.

use super::error::ResyncError;
use super::lease::open_patiently;
use super::old_version::OldVersion;
use super::read_entry::{Attempt, Reading, Target, Worker, look_again};
use super::read_file::{ATTEMPTS, FileError, Matched, Segment, data_map};
use crate::delta::assembly::{Assembly, Misfit, Shipped};
use crate::delta::basis::Basis;
use crate::delta::signature::{block_log2, sign};
use crate::model::entry::{Extent, File, Kind};
use crate::model::id::{ChunkId, ContentHash};
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::source::content::{HashTree, SEGMENT_BYTES, SegmentHash};
use crate::source::data_map::DataMap;
use crate::source::stat::Stat;
use crate::source::tree;
use crate::support::env::Env;
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of segments of one file that are read at the same time.
const SEGMENTS_MAX: usize = 6;

/// The number of hole bytes that a run may still hash.
///
/// A hole costs nothing to create, but each of its bytes is hashed.
pub(crate) struct Holes(AtomicU64);

impl Holes {
    pub fn new(max_bytes: u64) -> Self {
        Self(AtomicU64::new(max_bytes))
    }

    /// Takes `bytes` from the rest. Returns whether they were allowed.
    fn take(&self, bytes: u64) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// A reader of large files.
pub(crate) struct LargeFile<'s, 'env> {
    pub pool: &'s Pool<'env, Worker<'env>>,
    /// Reads old versions.
    pub chunks: &'s ChunkReader,
    pub env: &'s Env,
    pub progress: &'s Progress,
    pub holes: &'s Holes,
}

/// A large file that is open.
struct Opened {
    handle: Arc<dyn tree::File>,
    stat: Stat,
    map: Arc<DataMap>,
}

/// The joined result of a file's segments.
enum Joined {
    /// Its extents, and its hash; `None` if its size was not that of its segments.
    File(Vec<Extent>, Option<ContentHash>),
    /// The file ended early, or changed between two readings of the same bytes.
    ReadAgain,
    Failed(Errno),
}

type SegmentUnderWay = Handle<Result<Matched, FileError>>;

impl LargeFile<'_, '_> {
    /// Reads a file that was larger than a segment, and waits for the result.
    ///
    /// `made_of` are the files of the last manifest that it may be made of.
    pub(crate) fn read(&self, target: &Arc<Target>, made_of: &[File]) -> Result<Attempt, ResyncError> {
        for attempt in 1..=ATTEMPTS * 3 {
            match self.attempt(target, made_of, attempt)? {
                Some(Reading::Done(done)) => return Ok(done),
                Some(Reading::Other) => return self.read_other(target, made_of),
                None => self.env.sleep(std::time::Duration::from_millis(1 << attempt.min(6))),
            }
        }
        Ok(Attempt::Unreadable(Errno::AGAIN))
    }

    /// Reads a path that now holds a small file or another kind of entry.
    fn read_other(&self, target: &Arc<Target>, made_of: &[File]) -> Result<Attempt, ResyncError> {
        let stat = match look_again(target) {
            Ok(stat) => stat,
            Err(attempt) => return Ok(attempt),
        };
        let target =
            Target { stat, dir: target.dir.clone(), name: target.name.clone(), path: target.path.clone() };
        let made_of = made_of.to_vec();
        let job = self.pool.submit(move |worker| worker.read(&target, &made_of));
        Ok(job.wait().unwrap_or(Ok(Attempt::Unsettled))?)
    }

    /// Reads the file once. Returns `None` if it has to be read again.
    fn attempt(
        &self,
        target: &Arc<Target>,
        made_of: &[File],
        attempt: u32,
    ) -> Result<Option<Reading>, ResyncError> {
        let opened = match self.open(target) {
            Ok(opened) => opened,
            Err(reading) => return Ok(Some(reading)),
        };
        let version = OldVersion::choose(self.chunks, &*opened.handle, made_of)?;
        let (extents, hash) = match self.read_segments(&opened, version.as_ref())? {
            Joined::File(extents, hash) => (extents, hash),
            Joined::ReadAgain => return Ok(None),
            Joined::Failed(errno) => return Ok(Some(Reading::failed(errno))),
        };
        let Opened { handle, stat, .. } = opened;
        let attributes = handle.attributes();
        let torn = !handle.stat().is_ok_and(|after| after.same_moment(&stat));
        if torn && attempt < ATTEMPTS {
            return Ok(None);
        }
        let Some(hash) = hash else { return Ok(None) };
        let (path, size_bytes) = (target.path.clone(), stat.size_bytes);
        let job = self.pool.submit(move |worker| {
            let content = worker.content(extents, hash, size_bytes)?;
            let kind = Kind::File(File { size_bytes, hash, content, torn });
            worker.entry(&path, stat, kind, attributes)
        });
        let Some(read) = job.wait() else { return Ok(None) };
        Ok(Some(Reading::Done(Attempt::Read(Box::new(read?)))))
    }

    /// Opens the file, if it still is a large one.
    fn open(&self, target: &Target) -> Result<Opened, Reading> {
        let opened = open_patiently(&target.dir, &target.name, self.env, self.progress)
            .and_then(|handle| Ok((handle.stat()?, handle)));
        let (stat, handle) = opened.map_err(Reading::failed)?;
        if !stat.is_file() || stat.size_bytes <= SEGMENT_BYTES {
            return Err(Reading::Other);
        }
        let map = data_map(&*handle, &stat, stat.size_bytes).map_err(Reading::failed)?;
        match self.holes.take(map.hole_bytes(stat.size_bytes)) {
            true => Ok(Opened { handle, stat, map: Arc::new(map) }),
            false => Err(Reading::failed(Errno::FBIG)),
        }
    }

    /// Reads all segments, matches them with `version`, and joins them in order.
    fn read_segments(&self, opened: &Opened, version: Option<&OldVersion>) -> Result<Joined, ResyncError> {
        let size_bytes = opened.stat.size_bytes;
        let span_bytes = version.map_or(Ok(u64::MAX), |version| version.span_bytes(self.chunks))?;
        let mut basis = None;
        let mut signed_log2 = block_log2(size_bytes);
        let (mut tree, mut assembly) = (HashTree::default(), Assembly::default());
        let (mut under_way, mut shipping) = (VecDeque::new(), VecDeque::new());
        let mut next = 0;
        while next < size_bytes || !under_way.is_empty() {
            if self.progress.is_stopped() {
                return Err(ResyncError::Stopped);
            }
            while next < size_bytes && under_way.len() < SEGMENTS_MAX {
                if let Some(version) = version
                    && next % span_bytes == 0
                {
                    basis = version.basis(self.chunks, next, span_bytes)?.map(Arc::new);
                    signed_log2 = basis.as_ref().map_or(signed_log2, |basis| basis.block_log2);
                }
                under_way.push_back(self.read_segment(opened, next, basis.clone()));
                next = (next + SEGMENT_BYTES).min(size_bytes);
            }
            let matched = under_way.pop_front().and_then(Handle::wait);
            let matched = match matched.unwrap_or(Err(FileError::Changed)) {
                Ok(matched) => matched,
                Err(FileError::Changed) => return Ok(Joined::ReadAgain),
                Err(FileError::System(errno)) => return Ok(Joined::Failed(errno)),
                Err(FileError::Repository(error)) => return Err(error.into()),
            };
            if let SegmentHash::Part(value) = matched.hash {
                tree.push(value);
            }
            let ship = |raw: &[u8], runs: &[u32]| self.ship_gathered(raw, runs, signed_log2, &mut shipping);
            match assembly.push(matched.stretch, ship) {
                Ok(()) => {}
                Err(Misfit::Changed) => return Ok(Joined::ReadAgain),
                Err(Misfit::Ship(error)) => return Err(error.into()),
            }
        }
        let ship = |raw: &[u8], runs: &[u32]| self.ship_gathered(raw, runs, signed_log2, &mut shipping);
        let extents = match assembly.finish(ship) {
            Ok(extents) => extents,
            Err(Misfit::Changed) => return Ok(Joined::ReadAgain),
            Err(Misfit::Ship(error)) => return Err(error.into()),
        };
        for shipped in shipping {
            shipped.wait().unwrap_or(Ok(()))?;
        }
        Ok(Joined::File(extents, tree.finish()))
    }

    /// Hands the segment that begins at `start` to a worker.
    fn read_segment(&self, opened: &Opened, start: u64, basis: Option<Arc<Basis>>) -> SegmentUnderWay {
        let size_bytes = opened.stat.size_bytes;
        let (handle, map) = (opened.handle.clone(), opened.map.clone());
        self.pool.submit(move |worker| {
            let end = (start + SEGMENT_BYTES).min(size_bytes);
            let segment = Segment { start, end, size_bytes, map: &map, basis: basis.as_deref() };
            worker.segment(&*handle, &segment)
        })
    }

    /// Hands a chunk of gathered literals to a worker. Its ids are known at once.
    fn ship_gathered(
        &self,
        raw: &[u8],
        runs: &[u32],
        block_log2: u32,
        shipping: &mut VecDeque<Handle<Result<(), RepositoryError>>>,
    ) -> Result<Shipped, RepositoryError> {
        let (raw, runs) = (raw.to_vec(), runs.to_vec());
        let names = (ChunkId::of(&raw), Some(ChunkId::of(&sign(&raw, &runs, block_log2, None))));
        shipping.push_back(self.pool.submit(move |worker| {
            worker.ship_chunk((&raw, &runs), Some(names.0), Some(block_log2), None).map(|_| ())
        }));
        if shipping.len() > SEGMENTS_MAX
            && let Some(oldest) = shipping.pop_front()
        {
            oldest.wait().unwrap_or(Ok(()))?;
        }
        Ok(names)
    }
}
