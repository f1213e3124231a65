//! Reading chunks: located, fetched in coalesced ranges, decoded, verified. Nothing unverified leaves here.

use super::error::{RepositoryError, RepositoryErrorKind};
use super::index::Index;
use super::key;
use super::store::Store;
use crate::format::frame::Decompressor;
use crate::format::index::Location;
use crate::model::id::ChunkId;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Two chunks of a pack that lie no further apart are fetched by one request.
const GAP_MAX_BYTES: u32 = 128 << 10;
/// One request asks for no more, unless for one chunk.
const RANGE_MAX_BYTES: u32 = 8 << 20;
/// Requests under way at once, for each caller.
const CONCURRENCY: usize = 8;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
}

/// Reads a store's chunks. Cheap to clone.
#[derive(Clone)]
pub struct ChunkReader {
    store: Store,
    index: Arc<Index>,
    cached: bool,
}

/// Chunks of one pack that are fetched together.
struct Range {
    first: Location,
    end_bytes: u32,
    chunks: Vec<(ChunkId, Location)>,
}

impl ChunkReader {
    pub fn new(store: Store, index: Arc<Index>) -> Self {
        Self { store, index, cached: false }
    }

    /// A reader that looks into the local cache first, and keeps there what it fetches: for pages, lists and
    /// block entries.
    pub fn cached(self) -> Self {
        Self { cached: true, ..self }
    }

    /// The raw bytes of one chunk.
    pub fn read(&self, id: ChunkId) -> Result<Bytes, RepositoryError> {
        let mut found = self.read_many(&[id])?;
        found.remove(&id).ok_or(RepositoryError::UnknownChunk { chunk: id })
    }

    /// Whether a chunk can be referred to: it is there, and not doomed.
    pub fn knows(&self, id: ChunkId) -> Result<bool, RepositoryError> {
        Ok(self.index.lookup(id)?.is_some())
    }

    /// As `read_many`, without those that are not known, or are damaged.
    pub fn read_known(&self, ids: &[ChunkId]) -> Result<HashMap<ChunkId, Bytes>, RepositoryError> {
        let mut known = Vec::with_capacity(ids.len());
        for id in ids {
            if self.index.lookup(*id)?.is_some() {
                known.push(*id);
            }
        }
        match self.read_many(&known) {
            Err(error) if error.kind() == RepositoryErrorKind::Unavailable => Err(error),
            Ok(found) => Ok(found),
            // One of them: each by itself, to find out which.
            Err(_) => {
                let mut found = HashMap::new();
                for id in known {
                    match self.read(id) {
                        Ok(bytes) => found.insert(id, bytes),
                        Err(error) if error.kind() == RepositoryErrorKind::Unavailable => return Err(error),
                        Err(_) => None,
                    };
                }
                Ok(found)
            }
        }
    }

    /// The raw bytes of all these chunks, held in memory together: the caller bounds their number.
    pub fn read_many(&self, ids: &[ChunkId]) -> Result<HashMap<ChunkId, Bytes>, RepositoryError> {
        let mut wanted = Vec::with_capacity(ids.len());
        for id in ids {
            let location = self.index.lookup(*id)?.ok_or(RepositoryError::UnknownChunk { chunk: *id })?;
            wanted.push((*id, location));
        }
        let mut chunks = HashMap::with_capacity(ids.len());
        if self.cached {
            wanted = self.take_cached(wanted, &mut chunks);
        }
        let ranges = coalesce(wanted);
        let fetched: Vec<Bytes> = self.store.repository.wait(
            futures::stream::iter(&ranges)
                .map(|range| async move {
                    let at = key::pack(&self.store.name, range.first.pack);
                    let bytes = u64::from(range.first.offset_bytes)..u64::from(range.end_bytes);
                    self.store.objects().get_range(&at, bytes).await
                })
                .buffered(CONCURRENCY)
                .try_collect(),
        )?;
        for (range, bytes) in ranges.iter().zip(fetched) {
            for (id, location) in &range.chunks {
                let frame = range.frame(&bytes, location);
                let raw = match decode(&frame, *id) {
                    Ok(raw) => raw,
                    Err(_) => self.read_again(*id, *location)?,
                };
                chunks.insert(*id, raw);
            }
            if self.cached {
                let frames = range.chunks.iter().map(|(_, l)| (l.offset_bytes, range.frame(&bytes, l)));
                self.store.cache_frames(range.first.pack, frames);
            }
        }
        Ok(chunks)
    }

    /// Takes what the local cache has; returns the rest.
    fn take_cached(
        &self,
        wanted: Vec<(ChunkId, Location)>,
        chunks: &mut HashMap<ChunkId, Bytes>,
    ) -> Vec<(ChunkId, Location)> {
        let mut missing = Vec::new();
        for range in coalesce(wanted) {
            let length = (range.end_bytes - range.first.offset_bytes) as usize;
            let bytes = self.store.cached_range(range.first.pack, range.first.offset_bytes, length);
            for (id, location) in &range.chunks {
                let raw = bytes.as_ref().and_then(|bytes| decode(&range.frame(bytes, location), *id).ok());
                match raw {
                    Some(raw) => drop(chunks.insert(*id, raw)),
                    None => missing.push((*id, *location)),
                }
            }
        }
        missing
    }

    /// The transfer, not the pack, may have been at fault: asks once more, for this chunk alone.
    fn read_again(&self, id: ChunkId, location: Location) -> Result<Bytes, RepositoryError> {
        let at = key::pack(&self.store.name, location.pack);
        let start = u64::from(location.offset_bytes);
        let range = start..start + u64::from(location.length_bytes);
        let frame = self.store.repository.wait(self.store.objects().get_range(&at, range))?;
        decode(&frame, id).map_err(RepositoryError::format(&at))
    }
}

impl Range {
    fn frame(&self, bytes: &Bytes, location: &Location) -> Bytes {
        let start = (location.offset_bytes - self.first.offset_bytes) as usize;
        bytes.slice(start..start + location.length_bytes as usize)
    }
}

fn decode(frame: &Bytes, id: ChunkId) -> Result<Bytes, crate::format::wire::FormatError> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            let new =
                Decompressor::new().map_err(|e| crate::format::wire::FormatError::Text(e.to_string()))?;
            *slot = Some(new);
        }
        slot.as_mut().map_or(Err(crate::format::wire::FormatError::Hash), |d| d.decode(frame, id))
    })
}

/// Groups chunks into ranges worth one request each. Pure.
fn coalesce(mut wanted: Vec<(ChunkId, Location)>) -> Vec<Range> {
    wanted.sort_unstable_by_key(|(_, location)| *location);
    wanted.dedup_by_key(|(id, _)| *id);
    let mut ranges: Vec<Range> = Vec::new();
    for (id, location) in wanted {
        let end = location.offset_bytes + location.length_bytes;
        match ranges.last_mut() {
            Some(range)
                if range.first.pack == location.pack
                    && location.offset_bytes <= range.end_bytes.saturating_add(GAP_MAX_BYTES)
                    && end - range.first.offset_bytes <= RANGE_MAX_BYTES =>
            {
                range.end_bytes = range.end_bytes.max(end);
                range.chunks.push((id, location));
            }
            _ => ranges.push(Range { first: location, end_bytes: end, chunks: vec![(id, location)] }),
        }
    }
    ranges
}
