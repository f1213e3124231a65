//! Reads chunks: locates them, fetches coalesced ranges, decodes and verifies.
//!
//! It returns only verified bytes.

use super::error::RepositoryError;
use super::index::Index;
use super::object_key;
use super::parts::Packs;
use super::store::Store;
use crate::format::frame::Decompressor;
use crate::format::index::FrameLocation;
use crate::format::seal::{self, SealContext, Sealer, Sealing};
use crate::format::wire::FormatError;
use crate::model::id::{ChunkId, PackId};
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Maximum gap between two chunks of a pack that are fetched by one request.
const GAP_MAX_BYTES: u32 = 128 << 10;
/// Maximum length of a request's range, except for a single chunk.
const RANGE_MAX_BYTES: u32 = 8 << 20;
/// Maximum number of requests in flight for each caller.
const CONCURRENCY: usize = 8;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
}

/// A reader of a store's chunks. Cheap to clone.
#[derive(Clone)]
pub struct ChunkReader {
    store: Store,
    index: Arc<Index>,
    cached: bool,
}

/// A range of a pack, with the chunks that are fetched together.
struct Range {
    first: FrameLocation,
    end_bytes: u32,
    chunks: Vec<(ChunkId, FrameLocation)>,
}

impl ChunkReader {
    pub fn new(store: Store, index: Arc<Index>) -> Self {
        Self { store, index, cached: false }
    }

    /// Returns a reader that uses the local cache, and stores there what it fetches.
    ///
    /// It is used for pages, lists and block entries.
    pub(crate) fn cached(self) -> Self {
        Self { cached: true, ..self }
    }

    pub fn env(&self) -> &Env {
        self.store.env()
    }

    /// Reads the raw bytes of one chunk.
    pub fn read(&self, id: ChunkId) -> Result<Bytes, RepositoryError> {
        let mut found = self.read_many(&[id])?;
        found.remove(&id).ok_or(RepositoryError::UnknownChunk { chunk: id })
    }

    /// Returns whether a chunk can be referred to: it exists and is not doomed.
    pub(crate) fn knows(&self, id: ChunkId) -> Result<bool, RepositoryError> {
        Ok(self.index.lookup(id)?.is_some())
    }

    /// Reads chunks as `read_many` does, leaving out those that are unknown or damaged.
    pub(crate) fn read_known(&self, ids: &[ChunkId]) -> Result<HashMap<ChunkId, Bytes>, RepositoryError> {
        let mut known = Vec::with_capacity(ids.len());
        for id in ids {
            if self.index.lookup(*id)?.is_some() {
                known.push(*id);
            }
        }
        match self.read_many(&known) {
            Err(error) if error.kind() == FailureKind::Unavailable => Err(error),
            Ok(found) => Ok(found),
            // One of them is damaged. Read each by itself to find out which.
            Err(_) => {
                let mut found = HashMap::new();
                for id in known {
                    match self.read(id) {
                        Ok(bytes) => found.insert(id, bytes),
                        Err(error) if error.kind() == FailureKind::Unavailable => return Err(error),
                        Err(_) => None,
                    };
                }
                Ok(found)
            }
        }
    }

    /// Reads the raw bytes of all these chunks.
    ///
    /// They are held in memory together: the caller bounds their number.
    ///
    /// A chunk that a pruning moved to another pack since the index was opened is looked up once more, in the
    /// current index.
    pub(crate) fn read_many(&self, ids: &[ChunkId]) -> Result<HashMap<ChunkId, Bytes>, RepositoryError> {
        match self.read_located(ids) {
            Err(error) if error.kind() == FailureKind::Damaged && self.index.renew(&self.store)? => {
                self.read_located(ids)
            }
            other => other,
        }
    }

    fn read_located(&self, ids: &[ChunkId]) -> Result<HashMap<ChunkId, Bytes>, RepositoryError> {
        let mut wanted = Vec::with_capacity(ids.len());
        for id in ids {
            let location = self.index.lookup(*id)?.ok_or(RepositoryError::UnknownChunk { chunk: *id })?;
            wanted.push((*id, location));
        }
        let mut chunks = HashMap::with_capacity(ids.len());
        if self.cached {
            wanted = self.take_cached(wanted, &mut chunks)?;
        }
        let ranges = coalesce(wanted);
        let fetched: Vec<Bytes> = self.store.wait(
            futures::stream::iter(&ranges)
                .map(|range| async move {
                    let at = object_key::pack(self.store.name(), range.first.pack);
                    let bytes = u64::from(range.first.offset_bytes)..u64::from(range.end_bytes);
                    self.store.objects().get_range(&at, bytes).await
                })
                .buffered(CONCURRENCY)
                .try_collect(),
        )?;
        for (range, bytes) in ranges.iter().zip(fetched) {
            let sealer = self.sealer(&range.first)?;
            for (id, location) in &range.chunks {
                let frame = range.frame(&bytes, location);
                let raw = match decode(&frame, *id, location, sealer.as_ref()) {
                    Ok(raw) => raw,
                    Err(_) => self.read_again(*id, *location)?,
                };
                chunks.insert(*id, raw);
            }
            if self.cached {
                let frames = range.chunks.iter().map(|(_, l)| (l.offset_bytes, range.frame(&bytes, l)));
                self.store.cache().put_frames(range.first.pack, frames);
            }
        }
        Ok(chunks)
    }

    /// Takes chunks from the local cache; returns the others.
    fn take_cached(
        &self,
        wanted: Vec<(ChunkId, FrameLocation)>,
        chunks: &mut HashMap<ChunkId, Bytes>,
    ) -> Result<Vec<(ChunkId, FrameLocation)>, RepositoryError> {
        let mut missing = Vec::new();
        for range in coalesce(wanted) {
            let length = (range.end_bytes - range.first.offset_bytes) as usize;
            let bytes = self.store.cache().range(range.first.pack, range.first.offset_bytes, length);
            let sealer = self.sealer(&range.first)?;
            for (id, location) in &range.chunks {
                let decode =
                    |bytes| decode(&range.frame(bytes, location), *id, location, sealer.as_ref()).ok();
                match bytes.as_ref().and_then(decode) {
                    Some(raw) => drop(chunks.insert(*id, raw)),
                    None => missing.push((*id, *location)),
                }
            }
        }
        Ok(missing)
    }

    /// Returns the sealer that opens the frames of a chunk's pack.
    fn sealer(&self, location: &FrameLocation) -> Result<Option<Sealer>, RepositoryError> {
        self.store.packs().sealer(&location.sealing)
    }

    /// Fetches one chunk again, since the transfer may have damaged it and not the pack.
    fn read_again(&self, id: ChunkId, location: FrameLocation) -> Result<Bytes, RepositoryError> {
        let at = object_key::pack(self.store.name(), location.pack);
        let frame = self.store.packs().frame(&location)?;
        decode(&frame, id, &location, self.sealer(&location)?.as_ref()).map_err(RepositoryError::format(&at))
    }
}

impl Packs<'_> {
    /// Returns the size of a pack; `None` if there is none.
    pub(crate) fn size(&self, id: PackId) -> Result<Option<u64>, RepositoryError> {
        self.store.wait(self.store.objects().head(&object_key::pack(self.store.name(), id)))
    }

    pub(crate) fn sealer(&self, sealing: &Sealing) -> Result<Option<Sealer>, RepositoryError> {
        let keys = self.store.keyrings().keys_for(sealing.generation)?;
        seal::sealer(sealing, SealContext::Pack, keys.as_deref())
            .map_err(RepositoryError::format(object_key::pack_prefix(self.store.name())))
    }

    /// Fetches a frame as it is stored in its pack.
    pub(crate) fn frame(&self, location: &FrameLocation) -> Result<Bytes, RepositoryError> {
        let at = object_key::pack(self.store.name(), location.pack);
        let start = u64::from(location.offset_bytes);
        let range = start..start + u64::from(location.length_bytes);
        self.store.wait(self.store.objects().get_range(&at, range))
    }
}

impl Range {
    fn frame(&self, bytes: &Bytes, location: &FrameLocation) -> Bytes {
        let start = (location.offset_bytes - self.first.offset_bytes) as usize;
        bytes.slice(start..start + location.length_bytes as usize)
    }
}

/// Decodes and verifies the chunk `id`, whose frame is at `location`.
pub fn decode(
    frame: &Bytes,
    id: ChunkId,
    location: &FrameLocation,
    sealer: Option<&Sealer>,
) -> Result<Bytes, FormatError> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Decompressor::new().map_err(|e| FormatError::Text(e.to_string()))?);
        }
        slot.as_mut().map_or(Err(FormatError::Hash), |d| d.decode(frame, id, location.offset_bytes, sealer))
    })
}

/// Groups chunks into ranges worth one request each. Pure.
fn coalesce(mut wanted: Vec<(ChunkId, FrameLocation)>) -> Vec<Range> {
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
