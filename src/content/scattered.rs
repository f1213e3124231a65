//! Writes a large file whose extents jump between chunks.
//!
//! It is written chunk by chunk instead of from beginning to end, so that each chunk is fetched once however
//! many extents use it. The file's hash is then computed from the written bytes. Memory holds the extents of
//! [`SPAN_BYTES`] of the file, and a few chunks for each worker.

use super::error::ContentError;
use super::write::{ContentWriter, write_all};
use crate::model::entry::Extent;
use crate::model::id::ChunkId;
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::source::content::SEGMENT_BYTES;
use crate::source::tree::ReadError;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};

/// Number of bytes of a file that are planned at a time.
pub(crate) const SPAN_BYTES: u64 = 4 << 30;
/// Maximum number of chunks that are fetched together.
const CHUNKS_MAX: usize = 8;

/// A part of a chunk, and its offset `at` in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    at: u64,
    offset_bytes: u32,
    length_bytes: u32,
}

/// A few chunks, each with all places of its parts in the file.
pub(crate) type Batch = Vec<(ChunkId, Vec<Placement>)>;

/// Returns whether fetching chunks segment by segment would fetch many of them several times.
pub(crate) fn is_scattered(parts: &[Extent]) -> bool {
    let mut all = HashSet::new();
    let mut segment = HashSet::new();
    let (mut at, mut fetches) = (0u64, 0usize);
    for part in parts {
        let next = at + part.length_bytes();
        if let Extent::Chunk { chunk, .. } = part {
            all.insert(*chunk);
            if segment.insert(*chunk) {
                fetches += 1;
            }
        }
        if next / SEGMENT_BYTES > at / SEGMENT_BYTES {
            segment.clear();
        }
        at = next;
    }
    // An extent across a segment's end is fetched for both segments.
    fetches > all.len() + all.len() / 8 + 4
}

/// Groups the extents, which begin at offset `at` of the file, by chunk, in the order of first use.
pub(crate) fn batches(mut at: u64, parts: &[Extent]) -> Vec<Batch> {
    let mut numbers: HashMap<ChunkId, usize> = HashMap::new();
    let mut by_chunk: Batch = Vec::new();
    for part in parts {
        if let Extent::Chunk { chunk, offset_bytes, length_bytes, .. } = *part {
            let number = *numbers.entry(chunk).or_insert_with(|| {
                by_chunk.push((chunk, Vec::new()));
                by_chunk.len() - 1
            });
            by_chunk[number].1.push(Placement { at, offset_bytes, length_bytes });
        }
        at += part.length_bytes();
    }
    let mut batches = Vec::with_capacity(by_chunk.len() / CHUNKS_MAX + 1);
    let mut rest = by_chunk.into_iter().peekable();
    while rest.peek().is_some() {
        batches.push(rest.by_ref().take(CHUNKS_MAX).collect());
    }
    batches
}

/// Fetches a batch's chunks and writes their parts.
pub(crate) fn write_batch(
    writer: &ContentWriter,
    handle: &OwnedFd,
    path: &TreePath,
    batch: &Batch,
) -> Result<(), ContentError> {
    let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
    let chunks = writer.chunks.read_many(&ids)?;
    for (id, placements) in batch {
        for Placement { at, offset_bytes, length_bytes } in placements {
            let start = *offset_bytes as usize;
            let bytes = chunks.get(id).and_then(|chunk| chunk.get(start..start + *length_bytes as usize));
            let bytes = bytes.ok_or_else(|| RepositoryError::Entry { path: path.to_string() })?;
            write_all(handle, bytes, *at).map_err(ContentError::file(path, "write it"))?;
            writer.count(bytes.len() as u64);
        }
    }
    Ok(())
}

/// Feeds `hasher` with the file's bytes `from..to`.
pub(crate) fn hash_written(
    handle: &OwnedFd,
    path: &TreePath,
    (from, to): (u64, u64),
    hasher: &mut blake3::Hasher,
) -> Result<(), ContentError> {
    let mut buffer = vec![0; (to - from).min(1 << 20) as usize];
    let mut at = from;
    while at < to {
        let part = &mut buffer[..(to - at).min(1 << 20) as usize];
        let read = crate::source::content::read_exact(handle.as_fd(), part, at);
        read.map_err(|error| match error {
            ReadError::EndsEarly => ContentError::file(path, "read it back")(Errno::IO),
            ReadError::System(errno) => ContentError::file(path, "read it back")(errno),
        })?;
        hasher.update(part);
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(chunk: u8, offset_bytes: u32, length_bytes: u32) -> Extent {
        Extent::Chunk { chunk: ChunkId([chunk; 32]), blocks: None, offset_bytes, length_bytes }
    }

    proptest! {
        #[test]
        fn each_chunk_is_in_one_batch_and_each_extent_in_its_place(
            chunks in prop::collection::vec((0u8..30, 0u32..1000, 1u32..1000), 1..200),
            start in 0u64..1 << 40,
        ) {
            let parts: Vec<Extent> = chunks.iter().map(|(c, o, l)| part(*c, *o, *l)).collect();
            let planned = batches(start, &parts);
            prop_assert!(planned.iter().all(|batch| !batch.is_empty() && batch.len() <= CHUNKS_MAX));
            let ids: Vec<ChunkId> = planned.iter().flatten().map(|(id, _)| *id).collect();
            prop_assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
            let mut placed: Vec<(u64, Extent)> = planned
                .iter()
                .flatten()
                .flat_map(|(id, places)| places.iter().map(|p| (p.at, part(id.0[0], p.offset_bytes, p.length_bytes))))
                .collect();
            placed.sort_by_key(|(at, _)| *at);
            let mut at = start;
            for ((found, extent), part) in placed.iter().zip(&parts) {
                prop_assert_eq!((*found, extent), (at, part));
                at += part.length_bytes();
            }
            prop_assert_eq!(placed.len(), parts.len());
        }
    }

    #[test]
    fn chunks_in_order_are_not_scattered_and_small_edits_everywhere_are() {
        let plain: Vec<_> = (0..200).map(|n| part(n, 0, 1 << 20)).collect();
        assert!(!is_scattered(&plain));
        let edited: Vec<_> = (0..200)
            .flat_map(|n| [part(n, 0, 1 << 19), part(255, 7, 100), part(n, 1 << 19, 1 << 19)])
            .collect();
        assert!(is_scattered(&edited));
    }
}
