//! A part of a file's list of extents, as bytes: in a page, or in a chunk of its own for a large file.

use super::wire::{FormatError, Reader, Writer};
use crate::model::entry::{CHUNK_MAX_BYTES, Extent};
use crate::model::id::ChunkId;

const HOLE: u64 = 0;
/// A part of a chunk: offset and length follow.
const PART: u64 = 1;
/// A chunk from its start: the length follows.
const HEAD: u64 = 2;
/// A chunk of exactly 1 MiB.
const FULL: u64 = 3;
/// At most so many extents in one list.
const LIST_MAX: usize = 4096;
/// No list ends before so many.
const LIST_MIN: usize = 64;

/// Cuts a large file's extents into lists at places that its content chooses, so that a change leaves
/// most lists as they were.
pub fn cut(extents: &[Extent]) -> Vec<&[Extent]> {
    let mut lists = Vec::new();
    let mut start = 0;
    for (at, extent) in extents.iter().enumerate() {
        let count = at + 1 - start;
        let boundary = matches!(extent, Extent::Chunk { chunk, .. } if chunk.0[0] == 0);
        if count == LIST_MAX || (count >= LIST_MIN && boundary) {
            lists.push(&extents[start..=at]);
            start = at + 1;
        }
    }
    if start < extents.len() {
        lists.push(&extents[start..]);
    }
    lists
}

/// Appends the count and the extents.
pub fn encode(extents: &[Extent], out: &mut Writer) {
    out.number(extents.len() as u64);
    for extent in extents {
        match extent {
            Extent::Hole { length_bytes } => {
                out.number(length_bytes << 2 | HOLE);
            }
            Extent::Chunk { chunk, offset_bytes, length_bytes } => {
                let length = u64::from(*length_bytes);
                match (*offset_bytes, *length_bytes as usize) {
                    (0, CHUNK_MAX_BYTES) => out.number(FULL),
                    (0, _) => out.number(length << 2 | HEAD),
                    (offset, _) => {
                        out.number(length << 2 | PART);
                        out.number(u64::from(offset));
                    }
                }
                out.raw(&chunk.0);
            }
        }
    }
}

/// The extents that `reader` stands at; every length is positive and within a chunk.
pub fn decode(reader: &mut Reader) -> Result<Vec<Extent>, FormatError> {
    let count = reader.count(1, "extents")?;
    let mut extents = Vec::with_capacity(count.min(LIST_MAX));
    for _ in 0..count {
        let head = reader.number("extent")?;
        let length = head >> 2;
        let (offset, length) = match head & 3 {
            HOLE => {
                if length == 0 {
                    return Err(FormatError::Range("hole"));
                }
                extents.push(Extent::Hole { length_bytes: length });
                continue;
            }
            PART => (reader.number("extent")?, length),
            HEAD => (0, length),
            _ if length == 0 => (0, CHUNK_MAX_BYTES as u64),
            _ => return Err(FormatError::Range("extent")),
        };
        let chunk = ChunkId(reader.array("extent")?);
        if length == 0 || length.checked_add(offset).is_none_or(|end| end > CHUNK_MAX_BYTES as u64) {
            return Err(FormatError::Range("extent"));
        }
        extents.push(Extent::Chunk { chunk, offset_bytes: offset as u32, length_bytes: length as u32 });
    }
    Ok(extents)
}

/// A list as a chunk of its own.
pub fn encode_chunk(extents: &[Extent]) -> Vec<u8> {
    let mut out = Writer::default();
    encode(extents, &mut out);
    out.0
}

/// The list in a chunk.
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
        let chunk = (any::<[u8; 32]>(), 0u32..1 << 20, 1u32..=1 << 20).prop_map(|(id, offset, length)| {
            Extent::Chunk {
                chunk: ChunkId(id),
                offset_bytes: offset,
                length_bytes: length.min((1 << 20) - offset),
            }
        });
        prop::collection::vec(prop_oneof![1 => hole, 8 => chunk], 0..300)
    }

    proptest! {
        #[test]
        fn extents_come_back(extents in extents()) {
            prop_assert_eq!(decode_chunk(&encode_chunk(&extents)), Ok(extents));
        }

        #[test]
        fn cut_lists_join_to_the_whole(extents in extents()) {
            prop_assert_eq!(cut(&extents).concat(), extents);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(extents) = decode_chunk(&bytes) {
                prop_assert!(extents.iter().all(|e| e.length_bytes() > 0));
            }
        }
    }
}
