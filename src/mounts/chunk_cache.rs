//! Files' bytes straight from the repository: chunks fetched when they are read, a little ahead of readers that go
//! forwards, and kept within a limit.
//!
//! A chunk is checked against its name before anyone sees a byte of it. Two who miss the same chunk fetch it once: each chunk
//! has a guard, and guards are taken in the order of the chunks' names, so that no two wait for each other.

use crate::content::error::ContentError;
use crate::model::entry::{Entry, Extent, File};
use crate::model::id::ChunkId;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::extents::ExtentReader;
use bytes::Bytes;
use quick_cache::sync::{Cache, GuardResult};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Chunks that one reader holds at once.
const CHUNKS_MAX: usize = 8;
/// What is fetched ahead of a reader that goes forwards: so much at first, twice as much each time, at most so much.
const AHEAD_MIN_BYTES: u64 = 1 << 20;
const AHEAD_MAX_BYTES: u64 = 16 << 20;
/// Less is not enough for what several readers hold at once.
const KEPT_MIN_BYTES: u64 = 32 << 20;
/// Of what is kept, the share that was read before. The rest is for what is fetched ahead and not read yet.
const READ_SHARE: f64 = 0.3;
/// The kernel's own requests ahead may overtake each other by so much.
const SLACK_BYTES: u64 = 1 << 20;
/// Threads that fetch ahead, and how many jobs may wait for them.
const AHEAD_THREADS: usize = 2;
const AHEAD_JOBS: usize = 16;

#[derive(Clone)]
struct ByLength;

impl Weighter<ChunkId, Bytes> for ByLength {
    fn weight(&self, _: &ChunkId, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + 64
    }
}

/// Where the parts of a file are.
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

    /// The extents that meet `from..to`, with where they begin.
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

/// How far a file was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ReadAhead {
    /// Behind the last byte that was asked for.
    next: u64,
    window_bytes: u64,
    /// Behind the last byte that was fetched ahead.
    fetched: u64,
}

impl ReadAhead {
    /// The course after one more read of `from..to`, and what to fetch ahead. Pure.
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

/// The chunks of files.
pub(crate) struct ChunkCache {
    fetcher: Arc<Fetcher>,
    ahead: SyncSender<Vec<ChunkId>>,
}

struct Fetcher {
    chunks: ChunkReader,
    kept: Cache<ChunkId, Bytes, ByLength>,
}

impl ChunkCache {
    pub(crate) fn new(chunks: ChunkReader, kept_bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(1024)
            .weight_capacity(kept_bytes.max(KEPT_MIN_BYTES))
            .hot_allocation(READ_SHARE)
            // Chunks are too large to be spread over several that each have a limit.
            .shards(1)
            .build();
        // Both numbers are given.
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
            // Ends when `ahead` is dropped.
            std::thread::spawn(move || fetcher.fetch_ahead(&jobs));
        }
        Self { fetcher, ahead }
    }

    pub(crate) fn has(&self, chunk: ChunkId) -> bool {
        self.fetcher.kept.contains_key(&chunk)
    }

    /// One chunk; `beside` are fetched with it if they are at hand.
    pub(crate) fn chunk(&self, chunk: ChunkId, beside: &[ChunkId]) -> Result<Bytes, ContentError> {
        let mut wanted = vec![chunk];
        wanted.extend_from_slice(beside);
        let mut found = self.fetcher.fetch(&wanted)?;
        Ok(found.remove(&chunk).unwrap_or_default())
    }

    /// The bytes `from..to` of an entry's file, which has as many.
    pub(crate) fn read(
        &self,
        reading: &Reading,
        entry: &Entry,
        file: &File,
        (from, to): (u64, u64),
    ) -> Result<Vec<u8>, ContentError> {
        let map = self.map(reading, entry, file)?;
        let ahead = {
            let mut course = reading.course.lock().unwrap_or_else(PoisonError::into_inner);
            let (after, ahead) = course.after(from, to);
            *course = after;
            ahead
        };
        if let Some((start, end)) = ahead {
            let ids = map.chunks_within(start.min(file.size_bytes), end.min(file.size_bytes));
            for some in ids.chunks(CHUNKS_MAX) {
                // Nobody waits for it: what finds no room is fetched when it is read.
                let _ = self.ahead.try_send(some.to_vec());
            }
        }
        let mut bytes = vec![0; (to - from) as usize];
        let lost = || RepositoryError::Entry { path: entry.path.to_string() };
        let mut rest = map.within(from, to);
        while !rest.is_empty() {
            // So many extents that they need few chunks.
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

    /// Where data (or a hole) begins at or behind `offset`, which lies in the file.
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
        // Every file ends with a hole.
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
            // A copy of its own: what did not compress is a part of all that was fetched with it, and would keep that.
            if let Some(bytes) = fetched.remove(&id).map(|bytes| Bytes::copy_from_slice(&bytes)) {
                let _ = guard.insert(bytes.clone());
                found.insert(id, bytes);
            }
        }
        Ok(found)
    }

    fn fetch_ahead(&self, jobs: &Mutex<Receiver<Vec<ChunkId>>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(mut ids) = job else { return };
            ids.retain(|id| !self.kept.contains_key(id));
            // Whoever reads it is told what is wrong.
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
                    // What is not fetched ahead is being read.
                    prop_assert!(from == fetched || from == at + step);
                    fetched = to;
                }
                course = after;
                at += step;
            }
        }
    }
}
