//! Encoding of a part of a file's list of extents: in a page, or in a chunk of its own for a large file.

use super::wire::{FormatError, Reader, Writer};
use crate::model::entry::{CHUNK_MAX_BYTES, Extent};
use crate::model::id::ChunkId;
use std::collections::{HashMap, HashSet};

const HOLE: u64 = 0;
/// Tag of a part of a chunk: the chunk's number in the table and the part's offset follow.
const PART: u64 = 1;
/// Tag of the table's next chunk, from its start.
const HEAD: u64 = 2;
/// Tag of the table's next chunk, all of its 1 MiB.
const FULL: u64 = 3;
/// Maximum number of extents in one list.
const LIST_EXTENTS_MAX: usize = 16 << 10;
/// Minimum number of chunks before content may end a list. The maximum in any list makes it fit a chunk.
const LIST_CHUNKS_MIN: usize = 48;
const LIST_CHUNKS_MAX: usize = 4096;

/// Returns whether `count` extents are too many for the bytes that they make up.
///
/// A writer ships a MiB again that has fallen into more than 256 pieces, and no filesystem has holes smaller
/// than 512 bytes.
pub(crate) fn is_too_dense(count: usize, length_bytes: u64) -> bool {
    count as u64 > 512 + length_bytes / 256
}

/// Cuts a large file's extents into lists at places that its content chooses, so that a change leaves most
/// lists as they were.
///
/// A list ends by its number of chunks, not of extents: every list names its chunks again, and a file of many
/// small changes should not name them often.
pub(crate) fn cut(extents: &[Extent], size_bytes: u64) -> Vec<&[Extent]> {
    let mask = boundary_mask(size_bytes);
    let mut lists = Vec::new();
    let mut start = 0;
    let mut seen = HashSet::new();
    for (at, extent) in extents.iter().enumerate() {
        let mut boundary = false;
        if let Extent::Chunk { chunk, .. } = extent {
            let new = seen.insert(*chunk);
            boundary = new
                && seen.len() >= LIST_CHUNKS_MIN
                && u16::from_be_bytes([chunk.0[0], chunk.0[1]]) & mask == 0;
        }
        if boundary || seen.len() == LIST_CHUNKS_MAX || at + 1 - start == LIST_EXTENTS_MAX {
            lists.push(&extents[start..=at]);
            start = at + 1;
            seen.clear();
        }
    }
    if start < extents.len() {
        lists.push(&extents[start..]);
    }
    lists
}

/// Returns the mask that ends lists. Larger files get longer lists, since each list takes 32 bytes in the
/// manifest.
fn boundary_mask(size_bytes: u64) -> u16 {
    match size_bytes >> 30 {
        0..64 => 31,
        64..1024 => 511,
        _ => 4095,
    }
}

/// Appends the table of chunks, in the order of their first use, and the extents.
pub fn encode(extents: &[Extent], out: &mut Writer) {
    // The number of each chunk, and the end of its last extent.
    let mut known: HashMap<(ChunkId, Option<ChunkId>), (u64, i64)> = HashMap::new();
    let mut table = Vec::new();
    for extent in extents {
        if let Extent::Chunk { chunk, blocks, .. } = extent {
            known.entry((*chunk, *blocks)).or_insert_with(|| {
                table.push((chunk, blocks));
                (table.len() as u64 - 1, 0)
            });
        }
    }
    out.number(table.len() as u64);
    for (chunk, blocks) in &table {
        out.raw(&[u8::from(blocks.is_some())]);
        out.raw(&chunk.0);
        if let Some(blocks) = blocks {
            out.raw(&blocks.0);
        }
    }
    let mut used = 0;
    out.number(extents.len() as u64);
    for extent in extents {
        match extent {
            Extent::Hole { length_bytes } => out.number(length_bytes << 2 | HOLE),
            Extent::Chunk { chunk, blocks, offset_bytes, length_bytes } => {
                let (length, offset) = (u64::from(*length_bytes), i64::from(*offset_bytes));
                let Some((number, end)) = known.get_mut(&(*chunk, *blocks)) else { continue };
                let new = *number == used;
                used += u64::from(new);
                if !new || offset != 0 {
                    out.number(length << 2 | PART);
                    out.number(*number);
                    out.signed(offset - *end);
                } else if *length_bytes as usize == CHUNK_MAX_BYTES {
                    out.number(FULL);
                } else {
                    out.number(length << 2 | HEAD);
                }
                *end = offset + length as i64;
            }
        }
    }
}

/// Reads the extents that come next; every length is positive and within a chunk.
pub fn decode(reader: &mut Reader) -> Result<Vec<Extent>, FormatError> {
    let count = reader.count(33, "chunks")?;
    let mut table = Vec::with_capacity(count);
    for _ in 0..count {
        let flag = reader.u8("chunks")?;
        let chunk = ChunkId(reader.array("chunks")?);
        let blocks = match flag {
            0 => None,
            1 => Some(ChunkId(reader.array("chunks")?)),
            _ => return Err(FormatError::Range("chunks")),
        };
        // The chunk, and the end of its last extent.
        table.push((chunk, blocks, 0i64));
    }
    let count = reader.count(1, "extents")?;
    if count > LIST_EXTENTS_MAX {
        return Err(FormatError::Range("extents"));
    }
    let mut extents = Vec::with_capacity(count);
    let mut used = 0;
    for _ in 0..count {
        let head = reader.number("extent")?;
        let length = head >> 2;
        let (number, delta, length) = match head & 3 {
            HOLE => {
                if length == 0 {
                    return Err(FormatError::Range("hole"));
                }
                extents.push(Extent::Hole { length_bytes: length });
                continue;
            }
            PART => (reader.number("extent")?, reader.signed("extent")?, length),
            HEAD => (used, 0, length),
            _ if length == 0 => (used, 0, CHUNK_MAX_BYTES as u64),
            _ => return Err(FormatError::Range("extent")),
        };
        // Chunks are numbered by their first use.
        if number > used {
            return Err(FormatError::Range("chunk's number"));
        }
        used = used.max(number + 1);
        let slot = usize::try_from(number).ok().and_then(|number| table.get_mut(number));
        let (chunk, blocks, end) = slot.ok_or(FormatError::Range("chunk's number"))?;
        let offset = end.checked_add(delta).and_then(|o| u64::try_from(o).ok());
        let offset = offset.ok_or(FormatError::Range("extent"))?;
        if length == 0 || length.checked_add(offset).is_none_or(|end| end > CHUNK_MAX_BYTES as u64) {
            return Err(FormatError::Range("extent"));
        }
        *end = (offset + length) as i64;
        extents.push(Extent::Chunk {
            chunk: *chunk,
            blocks: *blocks,
            offset_bytes: offset as u32,
            length_bytes: length as u32,
        });
    }
    if used != table.len() as u64 {
        return Err(FormatError::Range("chunks"));
    }
    let length_bytes = extents.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.length_bytes()));
    if is_too_dense(extents.len(), length_bytes) {
        return Err(FormatError::Range("extents"));
    }
    Ok(extents)
}

/// Encodes a list as a chunk of its own.
pub fn encode_chunk(extents: &[Extent]) -> Vec<u8> {
    let mut out = Writer::default();
    encode(extents, &mut out);
    out.0
}

/// Decodes the list in a chunk of its own.
pub fn decode_chunk(bytes: &[u8]) -> Result<Vec<Extent>, FormatError> {
    let mut reader = Reader(bytes);
    let extents = decode(&mut reader)?;
    reader.end()?;
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        let hole = (1u64..1 << 40).prop_map(|length_bytes| Extent::Hole { length_bytes });
        let chunk = (0u8..40, any::<bool>(), 0u32..1 << 20, 1u32..=1 << 20).prop_map(
            |(id, blocks, offset, length)| {
                let offset = if length % 3 == 0 { 0 } else { offset };
                Extent::Chunk {
                    chunk: ChunkId([id; 32]),
                    blocks: blocks.then_some(ChunkId([id ^ 255; 32])),
                    offset_bytes: offset,
                    length_bytes: length.min((1 << 20) - offset),
                }
            },
        );
        prop::collection::vec(prop_oneof![1 => hole, 8 => chunk], 0..300)
    }

    proptest! {
        #[test]
        fn extents_come_back(extents in extents()) {
            prop_assert_eq!(decode_chunk(&encode_chunk(&extents)), Ok(extents));
        }

        #[test]
        fn cut_lists_join_to_the_whole(extents in extents()) {
            prop_assert_eq!(cut(&extents, 0).concat(), extents);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(extents) = decode_chunk(&bytes) {
                prop_assert!(extents.iter().all(|e| e.length_bytes() > 0));
            }
        }
    }
}
