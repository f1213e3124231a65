//! Repairs a repository that lost data.
//!
//! Readable chunks of damaged packs are copied, and the others are shipped again by a host that still has
//! them. A record dooms the damaged objects; nothing is overwritten.
//!
//! A chunk that is made again is checked against its id before it is shipped, since data of a source or
//! standby is never trusted. A chunk that no host has is given up, and the record says so: the next resync
//! checks everything that it takes over.

use super::damage::{Examined, VerifyReport};
use super::verify::{self, VerifyOptions};
use super::walker;
use crate::format::frame::{self, ChunkType, Compressor, PackFrame};
use crate::format::index::{self as index_format, FrameLocation, PackEntry, SegmentEntry};
use crate::model::entry::{CHUNK_MAX_BYTES, Content, Entry, Extent};
use crate::model::id::{ChunkId, IndexId, PackId, Sequence, WriterId};
use crate::model::record::{Event, ObjectRef, PruneRecord, StoreState};
use crate::repository::append::Appended;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::extents::read_known_lists;
use crate::repository::index::Index;
use crate::repository::object_key;
use crate::repository::packer::Packer;
use crate::repository::session::until_won;
use crate::repository::store::Store;
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Maximum number of races that a repair loses in a row before it gives up.
const RACES_MAX: u32 = 20;
/// Maximum number of chunks that are assembled at the same time.
const PIECES_MAX: usize = 64;

/// A function that may have a file's bytes.
///
/// It takes an entry, an offset and a length, and returns the bytes there if its file still has the entry's
/// size.
pub(crate) type Provider<'a> = &'a dyn Fn(&Entry, u64, usize) -> Option<Vec<u8>>;

/// The work that a repair did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RepairReport {
    pub before: VerifyReport,
    pub after: VerifyReport,
    pub packs_doomed: u64,
    pub segments_made_anew: u64,
    /// Numbers of chunks copied out of damaged packs, taken from this host's cache, and made again from
    /// files.
    pub chunks_copied: u64,
    pub chunks_cached: u64,
    pub chunks_made: u64,
    pub record: Option<Sequence>,
    /// Whether some data is lost for good.
    ///
    /// A resync gives the next snapshot everything that the source still has.
    pub lost: bool,
}

/// Verifies a whole store, and repairs damaged objects.
pub fn repair(store: &Store, writer: &WriterId, provider: Provider) -> Result<RepairReport, RepositoryError> {
    until_won(store, RACES_MAX, || attempt(store, writer, provider))
}

/// Repairs once. Returns `None` if another record came first, so that everything must be examined again.
fn attempt(
    store: &Store,
    writer: &WriterId,
    provider: Provider,
) -> Result<Option<RepairReport>, RepositoryError> {
    let mut state = store.log().state()?;
    store.keyrings().begin_writing(false)?;
    let examined = verify::examine(store, VerifyOptions::whole())?;
    let mut report = RepairReport::default();
    if examined.broken.packs.is_empty() && examined.broken.segments.is_empty() {
        report.before = walker::walk_all(store, examined, &mut |_| Ok(()))?;
        report.after = report.before.clone();
        return Ok(Some(report));
    }
    let record = make_again(store, &state, examined, provider, &mut report)?;
    match store.log().append(&mut state, writer, Event::Pruned(Box::new(record)))? {
        Appended::Committed(sequence) => {
            report.record = Some(sequence);
            report.after = verify::verify(store, VerifyOptions::default())?;
            Ok(Some(report))
        }
        Appended::Lost => Ok(None),
    }
}

/// Ships damaged objects again where possible. Returns the record that adds them and dooms the damaged ones.
fn make_again(
    store: &Store,
    state: &StoreState,
    examined: Examined,
    provider: Provider,
    report: &mut RepairReport,
) -> Result<PruneRecord, RepositoryError> {
    let damaged: BTreeSet<PackId> = examined.broken.packs.keys().copied().collect();
    let doomed: BTreeSet<PackId> = state.doomed_packs.keys().copied().collect();
    let broken_segments = examined.broken.segments.clone();
    // Writing uses a copy of the index that finds nothing in damaged packs.
    let index = Arc::new(examined.index.fork());
    let sound = index.segments();
    index.doom(damaged.iter().copied());
    let packer = Packer::new(store.clone(), index.clone());
    let repairing = Repairing { store, index: &index, packer: &packer, provider };
    let mut segments = Vec::new();
    if !broken_segments.is_empty() {
        segments.extend(repairing.index_anew(&damaged, &doomed)?);
        report.segments_made_anew = segments.len() as u64;
    }
    repairing.salvage(&examined, &damaged, report)?;
    // The saved pages are walked, since they name the files whose chunks are to be made again.
    packer.close()?;
    report.before = walker::walk_all(store, examined, &mut |_| Ok(()))?;
    let mut pieces = Pieces::default();
    let mut compressor = Compressor::new(1).map_err(RepositoryError::local("zstd"))?;
    walker::walk_missing(store, &state.trees(), index.clone(), &mut |entry| {
        repairing.make_again(entry, &mut pieces, &mut compressor, &mut report.chunks_made)
    })?;
    let shipped = packer.close()?;
    segments.extend(shipped.segments);
    let (live, replaced) = store.segments().rewrite(&sound, &damaged, &segments)?;
    // A walk with the new index finds what is still missing.
    let rest = Index::of(store, &live, damaged.union(&doomed).copied().collect())?;
    report.lost = walker::walk_missing(store, &state.trees(), Arc::new(rest), &mut |_| Ok(()))? > 0;
    report.packs_doomed = damaged.len() as u64;
    Ok(PruneRecord {
        at: store.env().wall(),
        doomed_packs: damaged.into_iter().collect(),
        doomed_index: broken_segments.into_iter().chain(replaced).collect(),
        new_packs: shipped.packs,
        index: Some(live),
        lost: report.lost,
        ..Default::default()
    })
}

/// Chunks of which parts are known.
#[derive(Default)]
struct Pieces(HashMap<ChunkId, Piece>);

struct Piece {
    bytes: Vec<u8>,
    /// The ranges that are known, sorted and disjoint.
    there: Vec<(usize, usize)>,
}

impl Piece {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        self.there.push((at, end));
        self.there.sort_unstable();
        let mut joined: Vec<(usize, usize)> = Vec::new();
        for (from, to) in self.there.drain(..) {
            match joined.last_mut() {
                Some((_, end)) if *end >= from => *end = (*end).max(to),
                _ => joined.push((from, to)),
            }
        }
        self.there = joined;
    }

    /// Returns the bytes that are known from the start on.
    fn start(&self) -> &[u8] {
        match self.there.first() {
            Some((0, end)) => &self.bytes[..*end],
            _ => &[],
        }
    }
}

struct Repairing<'a> {
    store: &'a Store,
    index: &'a Index,
    packer: &'a Packer,
    provider: Provider<'a>,
}

impl Repairing<'_> {
    /// Makes segments for packs that no sound segment names, by scanning the packs.
    fn index_anew(
        &self,
        damaged: &BTreeSet<PackId>,
        doomed: &BTreeSet<PackId>,
    ) -> Result<Vec<ObjectRef<IndexId>>, RepositoryError> {
        let named: BTreeSet<PackId> = self
            .index
            .segments()
            .iter()
            .flat_map(|s| s.header.packs.iter().map(|p| p.id).collect::<Vec<_>>())
            .collect();
        let prefix = object_key::pack_prefix(self.store.name());
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), None))?;
        let mut made = Vec::new();
        let (mut packs, mut entries) = (Vec::new(), Vec::new());
        for object in listed {
            let Some(id) = object_key::parse_pack(&object.location) else { continue };
            if named.contains(&id) || damaged.contains(&id) || doomed.contains(&id) {
                continue;
            }
            let get = self.store.objects().get(&object.location, index_format::PACK_MAX_BYTES);
            let bytes = self.store.wait(get)?.unwrap_or_default();
            let Ok((sealing, _)) = frame::pack_head(&bytes) else { continue };
            let keys = self.store.keyrings().keys_for(sealing.generation)?;
            let (frames, _) = frame::scan_pack(&bytes, keys.as_deref());
            packs.push(PackEntry { id, size_bytes: object.size, sealing });
            let number = packs.len() as u32 - 1;
            entries.extend(frames.iter().map(|frame| {
                let PackFrame { chunk, offset_bytes, length_bytes, .. } = *frame;
                SegmentEntry { chunk, pack: number, offset_bytes, length_bytes }
            }));
            if entries.len() >= crate::repository::compact::ENTRIES_MAX {
                made.push(self.segment(std::mem::take(&mut packs), std::mem::take(&mut entries))?);
            }
        }
        if !entries.is_empty() {
            made.push(self.segment(packs, entries)?);
        }
        Ok(made)
    }

    fn segment(
        &self,
        packs: Vec<PackEntry>,
        mut entries: Vec<SegmentEntry>,
    ) -> Result<ObjectRef<IndexId>, RepositoryError> {
        let table = index_format::encode(&packs, &mut entries);
        let reference = self.store.segments().put(&table)?;
        self.index.add(self.store, &reference, &table)?;
        Ok(reference)
    }

    /// Copies readable chunks out of the damaged packs, or from this host's cache.
    fn salvage(
        &self,
        examined: &Examined,
        damaged: &BTreeSet<PackId>,
        report: &mut RepairReport,
    ) -> Result<(), RepositoryError> {
        for segment in examined.index.segments() {
            if !segment.header.packs.iter().any(|p| damaged.contains(&p.id)) {
                continue;
            }
            for entry in segment.entries() {
                let (id, location) = entry?;
                if !damaged.contains(&location.pack) || self.index.lookup(id)?.is_some() {
                    continue;
                }
                let cached = self.store.cache().range(
                    location.pack,
                    location.offset_bytes,
                    location.length_bytes as usize,
                );
                if let Some(frame) = cached.and_then(|bytes| self.whole(id, &location, bytes)) {
                    self.packer.add_frame(id, &frame)?;
                    report.chunks_cached += 1;
                    continue;
                }
                match self.store.packs().frame(&location) {
                    Ok(bytes) => {
                        if let Some(frame) = self.whole(id, &location, bytes) {
                            self.packer.add_frame(id, &frame)?;
                            report.chunks_copied += 1;
                        }
                    }
                    Err(error) if error.kind() == FailureKind::Damaged => {}
                    // A pack that is cut short answers as one that does not.
                    Err(_) if !examined.broken.chunks.is_empty() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Returns a frame without its seal, if it still has the chunk's content.
    fn whole(&self, id: ChunkId, location: &FrameLocation, bytes: Bytes) -> Option<Bytes> {
        let sealer = self.store.packs().sealer(&location.sealing).ok()?;
        crate::repository::chunks::decode(&bytes, id, location, sealer.as_ref()).ok()?;
        match sealer {
            Some(sealer) => frame::open_frame(&sealer, &bytes, location.offset_bytes).ok(),
            None => Some(bytes),
        }
    }

    /// Makes the missing chunks of an entry again.
    fn make_again(
        &self,
        entry: &Entry,
        pieces: &mut Pieces,
        compressor: &mut Compressor,
        made: &mut u64,
    ) -> Result<(), RepositoryError> {
        let Some(file) = entry.file() else { return Ok(()) };
        let mut ship = |id: ChunkId, raw: &[u8]| {
            let added = self.packer.add(id, ChunkType::Data, raw, compressor, &mut Vec::new())?;
            *made += u64::from(added.shipped_bytes > 0);
            Ok::<_, RepositoryError>(())
        };
        let extents = match &file.content {
            Content::Empty => return Ok(()),
            Content::Whole { .. } => {
                let id = ChunkId(file.hash.0);
                if self.index.lookup(id)?.is_none()
                    && let Some(raw) = (self.provider)(entry, 0, file.size_bytes as usize)
                    && ChunkId::of(&raw) == id
                {
                    ship(id, &raw)?;
                }
                return Ok(());
            }
            Content::Extents(extents) => extents.clone(),
            Content::Lists(lists) => {
                let reader = ChunkReader::new(self.store.clone(), Arc::new(self.index.fork()));
                // The offset of a list that follows a lost one is unknown.
                read_known_lists(&reader, lists)?.map_while(|list| list).flatten().collect()
            }
        };
        let mut at = 0u64;
        for extent in extents {
            if let Extent::Chunk { chunk, offset_bytes, length_bytes, .. } = extent
                && offset_bytes as usize + length_bytes as usize <= CHUNK_MAX_BYTES
                && self.index.lookup(chunk)?.is_none()
                && let Some(bytes) = (self.provider)(entry, at, length_bytes as usize)
            {
                if pieces.0.len() >= PIECES_MAX && !pieces.0.contains_key(&chunk) {
                    pieces.0.clear();
                }
                let piece = pieces.0.entry(chunk).or_insert(Piece { bytes: Vec::new(), there: Vec::new() });
                piece.put(offset_bytes as usize, &bytes);
                if ChunkId::of(piece.start()) == chunk {
                    ship(chunk, piece.start())?;
                    pieces.0.remove(&chunk);
                }
            }
            at = at.saturating_add(extent.length_bytes());
        }
        Ok(())
    }
}
