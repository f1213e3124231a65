//! The content of files straight from the repository: chunks are fetched when they are read, a little ahead
//! of sequential readers, and kept within a limit.
//!
//! A chunk is checked against its hash before a reader sees any byte of it. Two readers that miss the same
//! chunk fetch it once: each chunk has a guard, and guards are taken in the order of the chunks' ids, so that
//! no two readers wait for each other.

use crate::content::error::ContentError;
use crate::model::entry::{Entry, Extent, File};
use crate::model::id::ChunkId;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::extents::ExtentReader;
use crate::support::lock::lock;
use bytes::Bytes;
use quick_cache::sync::{Cache, GuardResult};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

/// Maximum number of chunks that one reader holds at once.
const CHUNKS_MAX: usize = 8;
/// Read-ahead window: starts at the minimum, doubles on each sequential read, and stops at the maximum.
const AHEAD_MIN_BYTES: u64 = 1 << 20;
const AHEAD_MAX_BYTES: u64 = 16 << 20;
/// Minimum size of the cache, which several readers need for the chunks that they hold at once.
const KEPT_MIN_BYTES: u64 = 32 << 20;
/// Share of the cache for chunks that were read before. The rest is for chunks that were fetched ahead and
/// not read yet.
const READ_SHARE: f64 = 0.3;
/// Maximum distance by which the kernel's own read-ahead requests may overtake each other.
const SLACK_BYTES: u64 = 1 << 20;
/// Number of threads that fetch ahead, and maximum number of jobs that wait for them.
const AHEAD_THREADS: usize = 2;
const AHEAD_JOBS: usize = 16;

#[derive(Clone)]
struct ByLength;

impl Weighter<ChunkId, Bytes> for ByLength {
    fn weight(&self, _: &ChunkId, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + 64
    }
}

/// The extents of a file with their offsets in it.
struct Map(Vec<(u64, Extent)>);

impl Map {
    fn new(chunks: &ChunkReader, entry: &Entry, file: &File) -> Result<Self, ContentError> {
        let mut at = 0;
        let extents = ExtentReader::new(chunks, file).take(file.size_bytes, entry)?;
        let placed = extents.into_iter().map(|extent| {
            let start = at;
            at += extent.length_bytes();
            (start, extent)
        });
        Ok(Self(placed.collect()))
    }

    /// Returns the extents that overlap `from..to`, with their offsets.
    fn within(&self, from: u64, to: u64) -> &[(u64, Extent)] {
        let first = self.0.partition_point(|(start, extent)| start + extent.length_bytes() <= from);
        let count = self.0[first..].partition_point(|(start, _)| *start < to);
        &self.0[first..first + count]
    }

    fn chunks_within(&self, from: u64, to: u64) -> Vec<ChunkId> {
        let mut ids: Vec<ChunkId> = Vec::new();
        for (_, extent) in self.within(from, to) {
            if let Extent::Chunk { chunk, .. } = extent
                && ids.last() != Some(chunk)
            {
                ids.push(*chunk);
            }
        }
        ids
    }
}

/// The state of a file's sequential reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ReadAhead {
    /// End of the last read.
    next: u64,
    window_bytes: u64,
    /// End of the bytes that were fetched ahead.
    fetched: u64,
}

impl ReadAhead {
    /// Returns the state after a read of `from..to`, and the range to fetch ahead. Pure.
    fn after(self, from: u64, to: u64) -> (Self, Option<(u64, u64)>) {
        let forwards = from <= self.next + SLACK_BYTES && from + SLACK_BYTES >= self.next;
        if !forwards {
            return (Self { next: to, window_bytes: 0, fetched: to }, None);
        }
        let next = self.next.max(to);
        let fetched = self.fetched.max(next);
        if fetched > next + self.window_bytes / 2 {
            return (Self { next, fetched, ..self }, None);
        }
        let window_bytes = (self.window_bytes * 2).clamp(AHEAD_MIN_BYTES, AHEAD_MAX_BYTES);
        let end = next + window_bytes;
        (Self { next, window_bytes, fetched: end }, Some((fetched, end)))
    }
}

/// A file that is being read.
#[derive(Default)]
pub(crate) struct Reading {
    map: OnceLock<Map>,
    course: Mutex<ReadAhead>,
}

/// The cache of chunks.
pub(crate) struct ChunkCache {
    fetcher: Arc<Fetcher>,
    ahead: SyncSender<Vec<ChunkId>>,
}

struct Fetcher {
    chunks: ChunkReader,
    kept: Cache<ChunkId, Bytes, ByLength>,
}

impl ChunkCache {
    pub fn new(chunks: ChunkReader, kept_bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(1024)
            .weight_capacity(kept_bytes.max(KEPT_MIN_BYTES))
            .hot_allocation(READ_SHARE)
            // Chunks are too large for several shards, each of which would have a limit of its own.
            .shards(1)
            .build();
        // The builder only fails without these two numbers.
        let kept = match options {
            Ok(options) => {
                Cache::with_options(options, ByLength, DefaultHashBuilder::default(), Default::default())
            }
            Err(_) => Cache::with_weighter(1024, kept_bytes, ByLength),
        };
        let fetcher = Arc::new(Fetcher { chunks, kept });
        let (ahead, jobs) = sync_channel::<Vec<ChunkId>>(AHEAD_JOBS);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..AHEAD_THREADS {
            let (fetcher, jobs) = (fetcher.clone(), jobs.clone());
            // The thread ends when `ahead` is dropped.
            std::thread::spawn(move || fetcher.fetch_ahead(&jobs));
        }
        Self { fetcher, ahead }
    }

    pub(crate) fn has(&self, chunk: ChunkId) -> bool {
        self.fetcher.kept.contains_key(&chunk)
    }

    /// Returns one chunk. The chunks `beside` that are not kept are fetched by the same request.
    pub(crate) fn chunk(&self, chunk: ChunkId, beside: &[ChunkId]) -> Result<Bytes, ContentError> {
        let mut wanted = vec![chunk];
        wanted.extend_from_slice(beside);
        let mut found = self.fetcher.fetch(&wanted)?;
        Ok(found.remove(&chunk).unwrap_or_default())
    }

    /// Reads the bytes `from..to` of an entry's file, which is at least that long.
    pub(crate) fn read(
        &self,
        reading: &Reading,
        entry: &Entry,
        file: &File,
        (from, to): (u64, u64),
    ) -> Result<Vec<u8>, ContentError> {
        let map = self.map(reading, entry, file)?;
        let ahead = {
            let mut course = lock(&reading.course);
            let (after, ahead) = course.after(from, to);
            *course = after;
            ahead
        };
        if let Some((start, end)) = ahead {
            let ids = map.chunks_within(start.min(file.size_bytes), end.min(file.size_bytes));
            for some in ids.chunks(CHUNKS_MAX) {
                // Nothing waits for these chunks: a job that finds the queue full is dropped, and its chunks
                // are fetched when they are read.
                let _ = self.ahead.try_send(some.to_vec());
            }
        }
        let mut bytes = vec![0; (to - from) as usize];
        let lost = || RepositoryError::Entry { path: entry.path.to_string() };
        let mut rest = map.within(from, to);
        while !rest.is_empty() {
            // Takes as many extents as a limited number of chunks can fill.
            let mut ids: Vec<ChunkId> = Vec::new();
            let mut count = 0;
            for (_, extent) in rest {
                if let Extent::Chunk { chunk, .. } = extent
                    && !ids.contains(chunk)
                {
                    if ids.len() == CHUNKS_MAX {
                        break;
                    }
                    ids.push(*chunk);
                }
                count += 1;
            }
            let found = self.fetcher.fetch(&ids)?;
            for (start, extent) in &rest[..count] {
                let Extent::Chunk { chunk, offset_bytes, .. } = extent else { continue };
                let (first, end) = (from.max(*start), to.min(start + extent.length_bytes()));
                let at = (u64::from(*offset_bytes) + first - start) as usize;
                let part = found.get(chunk).and_then(|bytes| bytes.get(at..at + (end - first) as usize));
                bytes[(first - from) as usize..(end - from) as usize].copy_from_slice(part.ok_or_else(lost)?);
            }
            rest = &rest[count..];
        }
        Ok(bytes)
    }

    /// Returns where data (or a hole) begins at or after `offset`, which lies in the file.
    pub(crate) fn seek(
        &self,
        reading: &Reading,
        entry: &Entry,
        file: &File,
        offset: u64,
        hole: bool,
    ) -> Result<Option<u64>, ContentError> {
        let extents = self.map(reading, entry, file)?.within(offset, u64::MAX);
        let found = extents.iter().find(|(_, extent)| matches!(extent, Extent::Hole { .. }) == hole);
        // The end of a file counts as a hole.
        Ok(found.map(|(start, _)| offset.max(*start)).or(hole.then_some(file.size_bytes)))
    }

    fn map<'a>(&self, reading: &'a Reading, entry: &Entry, file: &File) -> Result<&'a Map, ContentError> {
        if let Some(map) = reading.map.get() {
            return Ok(map);
        }
        let map = Map::new(&self.fetcher.chunks.clone().cached(), entry, file)?;
        Ok(reading.map.get_or_init(|| map))
    }
}

impl Fetcher {
    fn fetch(&self, wanted: &[ChunkId]) -> Result<HashMap<ChunkId, Bytes>, ContentError> {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = HashMap::with_capacity(wanted.len());
        let mut guards = Vec::new();
        for id in wanted {
            match self.kept.get_value_or_guard(&id, None) {
                GuardResult::Value(bytes) => drop(found.insert(id, bytes)),
                GuardResult::Guard(guard) => guards.push((id, guard)),
                GuardResult::Timeout => {}
            }
        }
        if guards.is_empty() {
            return Ok(found);
        }
        let missing: Vec<ChunkId> = guards.iter().map(|(id, _)| *id).collect();
        let mut fetched = self.chunks.read_many(&missing)?;
        for (id, guard) in guards {
            // The bytes are copied: an uncompressed chunk is a slice of the buffer that was fetched for many
            // chunks, and would keep all of it in memory.
            if let Some(bytes) = fetched.remove(&id).map(|bytes| Bytes::copy_from_slice(&bytes)) {
                let _ = guard.insert(bytes.clone());
                found.insert(id, bytes);
            }
        }
        Ok(found)
    }

    fn fetch_ahead(&self, jobs: &Mutex<Receiver<Vec<ChunkId>>>) {
        loop {
            let job = lock(jobs).recv();
            let Ok(mut ids) = job else { return };
            ids.retain(|id| !self.kept.contains_key(id));
            // An error is reported when the chunk is read.
            let _ = self.fetch(&ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_that_jumps_has_nothing_fetched_ahead() {
        let mut course = ReadAhead::default();
        for at in [900, 50, 7000, 3, 400] {
            let (after, ahead) = course.after(at << 20, (at << 20) + 4096);
            assert_eq!(ahead, None, "{at}");
            course = after;
        }
    }

    proptest! {
        #[test]
        fn a_reader_that_goes_forwards_finds_all_of_it_fetched_once(steps in prop::collection::vec(1u64..300_000, 1..400)) {
            let mut course = ReadAhead::default();
            let (mut at, mut fetched) = (0, 0);
            for step in steps {
                let (after, ahead) = course.after(at, at + step);
                if let Some((from, to)) = ahead {
                    prop_assert!(from >= fetched.max(at) && to > from);
                    prop_assert!(to - (at + step) <= AHEAD_MAX_BYTES);
                    // Bytes that were not fetched ahead are in the range being read.
                    prop_assert!(from == fetched || from == at + step);
                    fetched = to;
                }
                course = after;
                at += step;
            }
        }
    }
}
