//! An index segment: where chunks lie. Entries of one size, sorted by id, so that a lookup reads a
//! few of them from a file and no segment is ever held in memory.

use super::wire::{FormatError, Reader};
use crate::model::id::{ChunkId, PackId};
use crate::model::record::ObjectRef;

const MAGIC: [u8; 8] = *b"USINDEX\x01";
pub const ENTRY_BYTES: usize = 44;
const PACK_BYTES: usize = 40;
const HEADER_BYTES: usize = 16;
const TRAILER_BYTES: usize = 32;
/// A pack is never larger, so that offsets fit 32 bits.
pub const PACK_MAX_BYTES: u64 = 1 << 30;

/// Where a chunk's frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub pack: PackId,
    pub offset_bytes: u32,
    /// Of the frame, its header included.
    pub length_bytes: u32,
}

/// The start of a segment: its packs, and how many entries follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub packs: Vec<ObjectRef<PackId>>,
    pub entries: u32,
    /// Where the first entry lies in the segment.
    pub entries_offset: u64,
}

/// One entry: the chunk, the number of its pack in the header, offset and length.
pub type SegmentEntry = (ChunkId, u32, u32, u32);

/// The bytes of a segment. Sorts `entries` and drops duplicates of one chunk.
pub fn encode(packs: &[ObjectRef<PackId>], entries: &mut Vec<SegmentEntry>) -> Vec<u8> {
    entries.sort_unstable();
    entries.dedup_by_key(|e| e.0);
    let mut out = Vec::with_capacity(
        HEADER_BYTES + packs.len() * PACK_BYTES + entries.len() * ENTRY_BYTES + TRAILER_BYTES,
    );
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for pack in packs {
        out.extend_from_slice(&pack.id.0);
        out.extend_from_slice(&pack.size_bytes.to_le_bytes());
    }
    for (id, pack, offset, length) in entries.iter() {
        out.extend_from_slice(&id.0);
        out.extend_from_slice(&pack.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
    }
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}

/// Checks a whole segment: hash, order, and that every entry lies inside its pack.
pub fn check(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
    let body = bytes.len().checked_sub(TRAILER_BYTES).ok_or(FormatError::Truncated("index"))?;
    let mut reader = Reader(&bytes[..body]);
    let magic: [u8; 8] = reader.array("index magic")?;
    if magic[..7] != MAGIC[..7] {
        return Err(FormatError::Magic("an index"));
    }
    if magic[7] != MAGIC[7] {
        return Err(FormatError::Version { found: magic[7], known: MAGIC[7] });
    }
    if blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
        return Err(FormatError::Hash);
    }
    let pack_count = reader.u32_le("packs")? as usize;
    let entries = reader.u32_le("entries")?;
    if pack_count > reader.0.len() / PACK_BYTES {
        return Err(FormatError::Truncated("packs"));
    }
    let mut packs = Vec::with_capacity(pack_count);
    for _ in 0..pack_count {
        let id = PackId(reader.array("pack")?);
        let size_bytes = u64::from_le_bytes(reader.array("pack")?);
        if size_bytes > PACK_MAX_BYTES {
            return Err(FormatError::Range("pack size"));
        }
        packs.push(ObjectRef { id, size_bytes });
    }
    let entries_offset = (HEADER_BYTES + pack_count * PACK_BYTES) as u64;
    let mut last = None;
    for _ in 0..entries {
        let (id, pack, offset, length) = decode_entry(&reader.array("entry")?);
        let inside =
            packs.get(pack as usize).is_some_and(|p| u64::from(offset) + u64::from(length) <= p.size_bytes);
        if !inside {
            return Err(FormatError::Range("entry"));
        }
        if last.is_some_and(|last| last >= id) {
            return Err(FormatError::Order("chunks"));
        }
        last = Some(id);
    }
    reader.end()?;
    Ok(SegmentHeader { packs, entries, entries_offset })
}

/// One entry of a checked segment.
pub fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> SegmentEntry {
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[..32]);
    (ChunkId(id), number(32), number(36), number(40))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let packs = [ObjectRef { id: PackId([1; 32]), size_bytes: 100 }];
        let mut entries =
            vec![(ChunkId([9; 32]), 0, 8, 20), (ChunkId([3; 32]), 0, 28, 72), (ChunkId([9; 32]), 0, 8, 20)];
        encode(&packs, &mut entries)
    }

    #[test]
    fn a_segment_comes_back_sorted() {
        let bytes = sample();
        let header = check(&bytes).unwrap();
        assert_eq!((header.entries, header.packs.len()), (2, 1));
        let at = header.entries_offset as usize;
        let first = decode_entry(bytes[at..at + ENTRY_BYTES].try_into().unwrap());
        assert_eq!(first, (ChunkId([3; 32]), 0, 28, 72));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let good = sample();
        for at in 0..good.len() {
            assert!(check(&good[..at]).is_err());
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(check(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_entry_outside_its_pack_is_refused() {
        let packs = [ObjectRef { id: PackId([1; 32]), size_bytes: 100 }];
        for entry in [
            (ChunkId([1; 32]), 0, 90, 20),
            (ChunkId([1; 32]), 1, 8, 20),
            (ChunkId([1; 32]), 0, u32::MAX, u32::MAX),
        ] {
            assert_eq!(check(&encode(&packs, &mut vec![entry])), Err(FormatError::Range("entry")));
        }
    }
}
