//! A file's old version as a matcher sees it: extents whose blocks are known by their hashes.
//!
//! Entries are trusted only in what they say about content: a block's place comes from the extents, its size
//! from counts that were checked when the entries were decoded.

use super::piece::{MIB, crowded, push_extent};
use super::signature::{half, strong};
use super::table::Table;
use crate::format::blocks::{BlockEntries, GROUP_BYTES, Strong};
use crate::model::entry::Extent;
use crate::model::id::ChunkId;
use blake3::hazmat::ChainingValue;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Maximum dead bytes in a file's chunks, as a percentage of its size. Above it the least-used chunks are
/// rewritten.
const DEAD_PERCENT_MAX: u64 = 20;
/// Number of dead bytes that a small file may have in any case.
const DEAD_FREE_BYTES: u64 = 512 << 10;

/// One extent of the old version.
struct Placed {
    /// Offset of the extent in the old file.
    at: u64,
    extent: Extent,
    /// Number of the chunk, if its entries are known.
    chunk: Option<u32>,
}

/// A chunk with entries.
struct Known {
    id: ChunkId,
    blocks: ChunkId,
    entries: BlockEntries,
    first_block: u32,
    /// Numbers of the extents that the chunk has in the file.
    homes: Vec<u32>,
}

/// Location of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockLocation {
    /// Offset in the old file.
    File(u64),
    /// A chunk of the old file, and a block of it that the file does not use: chunk and block number.
    Chunk(u32, u32),
}

/// An old version, or a stretch of it.
pub struct Basis {
    placed: Vec<Placed>,
    known: Vec<Known>,
    table: Table,
    /// Numbers of the MiBs that are to be shipped again.
    crowded: HashSet<u64>,
    pub block_log2: u32,
}

impl Basis {
    /// Makes a basis of `extents`, which lie in the old file from `at` on; `entries` are found by their id.
    ///
    /// Returns `None` when no entries are known.
    pub fn new(mut at: u64, extents: &[Extent], entries: &HashMap<ChunkId, BlockEntries>) -> Option<Self> {
        let worn = worn_out(extents, entries);
        let crowded = crowded(extents, at);
        let mut numbers: HashMap<(ChunkId, ChunkId), u32> = HashMap::new();
        let mut known: Vec<Known> = Vec::new();
        let mut placed = Vec::with_capacity(extents.len());
        for (number, extent) in extents.iter().enumerate() {
            let mut chunk = None;
            if let Extent::Chunk { chunk: id, blocks: Some(blocks), offset_bytes, length_bytes } = extent
                && let Some(entries) = entries.get(blocks)
                && offset_bytes + length_bytes <= entries.length_bytes
                && !worn.contains(id)
            {
                let at = *numbers.entry((*id, *blocks)).or_insert_with(|| {
                    let (id, blocks, entries) = (*id, *blocks, entries.clone());
                    known.push(Known { id, blocks, entries, first_block: 0, homes: Vec::new() });
                    known.len() as u32 - 1
                });
                known[at as usize].homes.push(number as u32);
                chunk = Some(at);
            }
            placed.push(Placed { at, extent: *extent, chunk });
            at += extent.length_bytes();
        }
        let block_log2 = usual_size(&known)?;
        let blocks = known.iter().map(|k| k.entries.blocks() as usize).sum();
        let mut table = Table::new(blocks);
        let mut first = 0;
        for number in 0..known.len() {
            known[number].first_block = first;
            let Known { entries, .. } = &known[number];
            for block in 0..entries.blocks() {
                let usual = entries.length(block) == 1 << block_log2;
                match (usual, entries.weak(block), entries.strong(block)) {
                    (true, Some(weak), Some(strong)) => {
                        table.add(weak, |other| strong_of(&known, other) == Some(strong));
                    }
                    _ => table.skip(),
                }
            }
            first += entries.blocks();
        }
        Some(Self { placed, known, table, crowded, block_log2 })
    }

    pub(crate) fn block_bytes(&self) -> usize {
        1 << self.block_log2
    }

    /// Returns the number of the extent that holds `at`.
    fn find(&self, at: u64) -> Option<usize> {
        let number = self.placed.partition_point(|p| p.at <= at).checked_sub(1)?;
        let placed = &self.placed[number];
        (at < placed.at + placed.extent.length_bytes()).then_some(number)
    }

    /// Returns whether the old file has the 64 KiB with this chaining value at this place.
    ///
    /// It returns false where that is not known, and where the MiB around has too many extents and should be
    /// shipped again.
    pub(crate) fn has_group(&self, at: u64, value: &ChainingValue) -> bool {
        let Some(placed) = self.find(at).map(|number| &self.placed[number]) else { return false };
        let (Some(known), Extent::Chunk { offset_bytes, length_bytes, .. }) =
            (placed.chunk.map(|c| &self.known[c as usize]), placed.extent)
        else {
            return false;
        };
        let within = at - placed.at;
        let offset = u64::from(offset_bytes) + within;
        !self.crowded.contains(&(at / MIB))
            && within + GROUP_BYTES <= u64::from(length_bytes)
            && known.entries.origin.is_some_and(|origin| origin.checked_add(offset) == Some(at))
            && offset.is_multiple_of(GROUP_BYTES)
            && known.entries.group((offset / GROUP_BYTES) as u32) == Some(&half(value))
    }

    /// Appends the extents of `from..to`, which the old file has.
    pub(crate) fn slice(&self, from: u64, to: u64, out: &mut Vec<Extent>) {
        let Some(mut number) = self.find(from) else { return };
        let mut at = from;
        while at < to
            && let Some(placed) = self.placed.get(number)
        {
            let mut extent = placed.extent;
            if at > placed.at {
                extent = extent.split_at(at - placed.at).1;
            }
            if extent.length_bytes() > to - at {
                extent = extent.split_at(to - at).0;
            }
            at += extent.length_bytes();
            push_extent(out, extent);
            number += 1;
        }
    }

    /// Returns false when no block has this weak checksum; else probably true.
    #[inline(always)]
    pub(crate) fn may_have(&self, weak: u32) -> bool {
        self.table.may_have(weak)
    }

    /// Returns whether a block has this weak checksum.
    pub(crate) fn has_weak(&self, weak: u32) -> bool {
        self.table.find(weak).next().is_some()
    }

    /// Returns whether a block with this hash, whole and of the usual size, lies at `at` of the old file.
    pub(crate) fn has_block(&self, at: u64, strong: &Strong) -> bool {
        self.block_at(at).is_some_and(|(known, block, length)| {
            length == self.block_bytes() as u32 && known.entries.strong(block) == Some(strong)
        })
    }

    /// Returns whether `bytes` are the block of the usual size that lies at `at` of the old file.
    pub(crate) fn is_block_at(&self, at: u64, bytes: &[u8]) -> bool {
        self.block_at(at).is_some_and(|(known, block, length)| {
            length as usize == bytes.len() && known.is_block(block, bytes)
        })
    }

    /// Returns the block that begins at `at` and lies wholly in the file: chunk, number, length.
    fn block_at(&self, at: u64) -> Option<(&Known, u32, u32)> {
        self.block_in(self.find(at)?, at)
    }

    fn block_in(&self, number: usize, at: u64) -> Option<(&Known, u32, u32)> {
        let placed = self.placed.get(number)?;
        let known = &self.known[placed.chunk? as usize];
        let Extent::Chunk { offset_bytes, length_bytes, .. } = placed.extent else { return None };
        let offset = offset_bytes + (at - placed.at) as u32;
        let block = known.entries.block_of(offset);
        let length = known.entries.length(block);
        let whole = known.entries.start(block) == offset && offset + length <= offset_bytes + length_bytes;
        whole.then_some((known, block, length))
    }

    /// Returns a block with these checksums, preferably one that lies in the file.
    pub(crate) fn lookup(&self, weak: u32, strong: &Strong) -> Option<BlockLocation> {
        let number = self.table.find(weak).find(|number| strong_of(&self.known, *number) == Some(strong))?;
        let (chunk, block) = chunk_of(&self.known, number)?;
        let known = &self.known[chunk];
        let (start, length) = (known.entries.start(block), known.entries.length(block));
        let home = known.homes.iter().find_map(|home| {
            let placed = &self.placed[*home as usize];
            let Extent::Chunk { offset_bytes, length_bytes, .. } = placed.extent else { return None };
            let inside = offset_bytes <= start && start + length <= offset_bytes + length_bytes;
            inside.then(|| placed.at + u64::from(start - offset_bytes))
        });
        Some(home.map_or(BlockLocation::Chunk(chunk as u32, block), BlockLocation::File))
    }

    /// Returns the id and length of the extent that begins at `at`, if it is a whole chunk.
    pub(crate) fn whole_chunk_at(&self, at: u64) -> Option<(ChunkId, u32)> {
        let placed = &self.placed[self.find(at)?];
        let known = &self.known[placed.chunk? as usize];
        match placed.extent {
            Extent::Chunk { offset_bytes: 0, length_bytes, .. }
                if placed.at == at && length_bytes == known.entries.length_bytes =>
            {
                Some((known.id, length_bytes))
            }
            _ => None,
        }
    }

    /// Returns the offset of the extent after the one at `at`, if that next extent is a whole chunk.
    pub(crate) fn next_whole_chunk(&self, at: u64) -> Option<u64> {
        let next = self.placed.get(self.find(at)? + 1)?.at;
        self.whole_chunk_at(next).map(|_| next)
    }

    /// Returns the number of bytes, from the first of `bytes` on, that agree block by block with the content
    /// at `place`. Appends their extents.
    pub fn follow(&self, place: BlockLocation, bytes: &[u8], out: &mut Vec<Extent>) -> usize {
        match place {
            BlockLocation::File(at) => self.follow_file(at, bytes, out),
            BlockLocation::Chunk(chunk, block) => self.follow_chunk(chunk, block, bytes, out),
        }
    }

    fn follow_file(&self, start: u64, bytes: &[u8], out: &mut Vec<Extent>) -> usize {
        let Some(mut number) = self.find(start) else { return 0 };
        let mut length = 0;
        while let Some((known, block, block_length)) = self.block_in(number, start + length as u64) {
            let end = length + block_length as usize;
            if !bytes.get(length..end).is_some_and(|bytes| known.is_block(block, bytes)) {
                break;
            }
            push_extent(out, known.extent(block, block_length));
            length = end;
            let placed = &self.placed[number];
            if start + length as u64 >= placed.at + placed.extent.length_bytes() {
                number += 1;
            }
        }
        length
    }

    fn follow_chunk(&self, chunk: u32, first: u32, bytes: &[u8], out: &mut Vec<Extent>) -> usize {
        let Some(known) = self.known.get(chunk as usize) else { return 0 };
        let mut length = 0;
        for block in first..known.entries.blocks() {
            let block_length = known.entries.length(block);
            let end = length + block_length as usize;
            if !bytes.get(length..end).is_some_and(|bytes| known.is_block(block, bytes)) {
                break;
            }
            push_extent(out, known.extent(block, block_length));
            length = end;
        }
        length
    }

    /// Returns the number of bytes at the end of `bytes` that agree block by block with the old file before
    /// `end`.
    pub(crate) fn follow_back(&self, end: u64, bytes: &[u8]) -> usize {
        let mut length = 0;
        while let Some(at) = (end - length as u64).checked_sub(1)
            && let Some(number) = self.find(at)
            && let Some(start) = self.block_start(number, at)
            && let Some((known, block, block_length)) = self.block_in(number, start)
            && start + u64::from(block_length) == at + 1
            && let Some(from) = bytes.len().checked_sub(length + block_length as usize)
            && known.is_block(block, &bytes[from..bytes.len() - length])
        {
            length += block_length as usize;
        }
        length
    }

    /// Returns the offset in the old file of the block that holds `at`.
    fn block_start(&self, number: usize, at: u64) -> Option<u64> {
        let placed = &self.placed[number];
        let known = &self.known[placed.chunk? as usize];
        let Extent::Chunk { offset_bytes, .. } = placed.extent else { return None };
        let offset = offset_bytes + (at - placed.at) as u32;
        let into_block = offset - known.entries.start(known.entries.block_of(offset));
        at.checked_sub(u64::from(into_block)).filter(|start| *start >= placed.at)
    }
}

impl Known {
    /// Returns whether `bytes`, which have the block's length, are the block.
    fn is_block(&self, block: u32, bytes: &[u8]) -> bool {
        self.entries.strong(block) == Some(&strong(bytes))
    }

    fn extent(&self, block: u32, length_bytes: u32) -> Extent {
        let offset_bytes = self.entries.start(block);
        Extent::Chunk { chunk: self.id, blocks: Some(self.blocks), offset_bytes, length_bytes }
    }
}

fn chunk_of(known: &[Known], number: u32) -> Option<(usize, u32)> {
    let chunk = known.partition_point(|k| k.first_block <= number).checked_sub(1)?;
    Some((chunk, number - known[chunk].first_block))
}

fn strong_of(known: &[Known], number: u32) -> Option<&Strong> {
    let (chunk, block) = chunk_of(known, number)?;
    known[chunk].entries.strong(block)
}

/// Returns the size of most blocks, which is the only size that is looked for anywhere.
fn usual_size(known: &[Known]) -> Option<u32> {
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    for Known { entries, .. } in known {
        *counts.entry(entries.block_log2).or_default() += u64::from(entries.blocks());
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(log2, _)| log2)
}

/// Chooses the chunks whose content is shipped again because the file uses too little of them.
///
/// A restore reads whole chunks. The least-used chunks are chosen until the others hold few dead bytes.
fn worn_out(extents: &[Extent], entries: &HashMap<ChunkId, BlockEntries>) -> HashSet<ChunkId> {
    // The length of each chunk, and the number of its bytes that the file uses.
    let mut used: HashMap<ChunkId, (u64, u64)> = HashMap::new();
    for extent in extents {
        if let Extent::Chunk { chunk, blocks: Some(blocks), length_bytes, .. } = extent
            && let Some(entries) = entries.get(blocks)
        {
            let (length, sum) = used.entry(*chunk).or_insert((u64::from(entries.length_bytes), 0));
            *sum = (*sum + u64::from(*length_bytes)).min(*length);
        }
    }
    let size: u64 = used.values().map(|(_, used)| used).sum();
    let mut dead: u64 = used.values().map(|(length, used)| length - used).sum();
    let limit = (size * DEAD_PERCENT_MAX / 100).max(DEAD_FREE_BYTES);
    let mut worn = HashSet::new();
    if dead <= limit {
        return worn;
    }
    let mut by_use: Vec<_> =
        used.into_iter().map(|(id, (length, used))| (used * 1024 / length, id, length - used)).collect();
    by_use.sort_unstable();
    for (_, id, dead_bytes) in by_use {
        // Down to half the limit, so that this is seldom necessary.
        if dead <= limit / 2 {
            break;
        }
        dead -= dead_bytes;
        worn.insert(id);
    }
    worn
}
