//! An index segment: records where chunks lie in packs.
//!
//! Entries have one size and are sorted by id, so that a lookup reads a few of them from a file and no
//! segment is ever held in memory.

use super::seal::{self, Keys, SealContext, Sealing};
use super::wire::{FormatError, Reader};
use crate::model::id::{ChunkId, PackId};

/// Magic of the object: a table inside a seal.
const MAGIC: [u8; 8] = *b"USINDEX\x02";
/// Magic of the table inside. In the first version of the format the table was the object.
const TABLE_MAGIC: [u8; 8] = *b"USTABLE\x02";
const TABLE_MAGIC_1: [u8; 8] = *b"USINDEX\x01";
pub const ENTRY_BYTES: usize = 44;
/// Size of a pack's id, size, generation and salt.
const PACK_BYTES: usize = 32 + 8 + 4 + 16;
const PACK_BYTES_1: usize = 40;
const HEADER_BYTES: usize = 16;
const TRAILER_BYTES: usize = 32;
/// Maximum size of a pack, so that offsets fit 32 bits.
pub(crate) const PACK_MAX_BYTES: u64 = 1 << 30;

/// Location of a chunk's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameLocation {
    pub pack: PackId,
    pub offset_bytes: u32,
    /// Length of the frame, including its header.
    pub length_bytes: u32,
    pub sealing: Sealing,
}

/// A pack that a segment names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    pub id: PackId,
    pub size_bytes: u64,
    pub sealing: Sealing,
}

/// The start of a segment: its packs, and the number of entries that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub packs: Vec<PackEntry>,
    pub entries: u32,
    /// Offset of the first entry in the segment.
    pub entries_offset: u64,
}

/// One entry of a segment: where a chunk's frame lies. Entries are ordered by chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentEntry {
    pub chunk: ChunkId,
    /// Number of the pack in the segment's header.
    pub pack: u32,
    pub offset_bytes: u32,
    /// Length of the frame, including its header.
    pub length_bytes: u32,
}

/// Writes a segment's table in small parts. Entries are strictly ascending by id, and as many as announced.
pub(crate) struct TableWriter<W: FnMut(&[u8]) -> std::io::Result<()>> {
    hasher: blake3::Hasher,
    write: W,
}

impl<W: FnMut(&[u8]) -> std::io::Result<()>> TableWriter<W> {
    pub fn new(packs: &[PackEntry], entries: u32, write: W) -> std::io::Result<Self> {
        let mut writer = Self { hasher: blake3::Hasher::new(), write };
        writer.put(&TABLE_MAGIC)?;
        writer.put(&(packs.len() as u32).to_le_bytes())?;
        writer.put(&entries.to_le_bytes())?;
        for pack in packs {
            writer.put(&pack.id.0)?;
            writer.put(&pack.size_bytes.to_le_bytes())?;
            writer.put(&pack.sealing.generation.to_le_bytes())?;
            writer.put(&pack.sealing.salt)?;
        }
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hasher.update(bytes);
        (self.write)(bytes)
    }

    pub fn push(&mut self, entry: SegmentEntry) -> std::io::Result<()> {
        let SegmentEntry { chunk, pack, offset_bytes, length_bytes } = entry;
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..32].copy_from_slice(&chunk.0);
        bytes[32..36].copy_from_slice(&pack.to_le_bytes());
        bytes[36..40].copy_from_slice(&offset_bytes.to_le_bytes());
        bytes[40..].copy_from_slice(&length_bytes.to_le_bytes());
        self.put(&bytes)
    }

    pub fn finish(mut self) -> std::io::Result<()> {
        let hash = self.hasher.finalize();
        (self.write)(hash.as_bytes())
    }
}

/// Encodes the table of a segment. Sorts `entries` and drops duplicates of one chunk.
pub fn encode(packs: &[PackEntry], entries: &mut Vec<SegmentEntry>) -> Vec<u8> {
    entries.sort_unstable();
    entries.dedup_by_key(|entry| entry.chunk);
    let mut out = Vec::with_capacity(
        HEADER_BYTES + packs.len() * PACK_BYTES + entries.len() * ENTRY_BYTES + TRAILER_BYTES,
    );
    let write = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok(())
    };
    let table = || {
        let mut table = TableWriter::new(packs, entries.len() as u32, write)?;
        entries.iter().try_for_each(|entry| table.push(*entry))?;
        table.finish()
    };
    table().unwrap_or_else(|error: std::io::Error| panic!("memory does not fail to be written: {error}"));
    out
}

/// Returns the generation of the data key that opens the object; 0 for none.
pub(crate) fn generation(bytes: &[u8]) -> u32 {
    seal::generation_of(&MAGIC, bytes)
}

/// Returns the object that holds a table.
pub fn close(table: &[u8], sealing: &Sealing, keys: Option<&Keys>) -> Result<Vec<u8>, FormatError> {
    seal::close(&MAGIC, sealing, SealContext::Index, keys, table)
}

/// Returns the table in an object, of any version; it is not checked.
pub fn open(object: &[u8], keys: Option<&Keys>) -> Result<Vec<u8>, FormatError> {
    if object.starts_with(&TABLE_MAGIC_1) {
        return Ok(object.to_vec());
    }
    seal::open(&MAGIC, "an index", SealContext::Index, keys, object)
}

/// Checks a whole table: hash, order, and that every entry lies inside its pack.
pub fn check(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
    let body = bytes.len().checked_sub(TRAILER_BYTES).ok_or(FormatError::Truncated("index"))?;
    let mut reader = Reader(&bytes[..body]);
    let magic: [u8; 8] = reader.array("index magic")?;
    let pack_bytes = match magic {
        TABLE_MAGIC => PACK_BYTES,
        TABLE_MAGIC_1 => PACK_BYTES_1,
        other if other[..7] == TABLE_MAGIC[..7] => {
            return Err(FormatError::Version { found: other[7], known: TABLE_MAGIC[7] });
        }
        _ => return Err(FormatError::Magic("an index")),
    };
    if blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
        return Err(FormatError::Hash);
    }
    let pack_count = reader.u32_le("packs")? as usize;
    let entries = reader.u32_le("entries")?;
    if pack_count > reader.0.len() / pack_bytes {
        return Err(FormatError::Truncated("packs"));
    }
    let mut packs = Vec::with_capacity(pack_count);
    for _ in 0..pack_count {
        let id = PackId(reader.array("pack")?);
        let size_bytes = u64::from_le_bytes(reader.array("pack")?);
        if size_bytes > PACK_MAX_BYTES {
            return Err(FormatError::Range("pack size"));
        }
        let sealing = match pack_bytes {
            PACK_BYTES => Sealing { generation: reader.u32_le("pack")?, salt: reader.array("pack")? },
            _ => Sealing::default(),
        };
        packs.push(PackEntry { id, size_bytes, sealing });
    }
    let entries_offset = (HEADER_BYTES + pack_count * pack_bytes) as u64;
    let mut last = None;
    for _ in 0..entries {
        let entry = decode_entry(&reader.array("entry")?);
        let end = u64::from(entry.offset_bytes) + u64::from(entry.length_bytes);
        let inside = packs.get(entry.pack as usize).is_some_and(|pack| end <= pack.size_bytes);
        if !inside {
            return Err(FormatError::Range("entry"));
        }
        if last.is_some_and(|last| last >= entry.chunk) {
            return Err(FormatError::Order("chunks"));
        }
        last = Some(entry.chunk);
    }
    reader.end()?;
    Ok(SegmentHeader { packs, entries, entries_offset })
}

/// Decodes one entry of a checked segment.
pub fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> SegmentEntry {
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[..32]);
    SegmentEntry { chunk: ChunkId(id), pack: number(32), offset_bytes: number(36), length_bytes: number(40) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(chunk: u8, pack: u32, offset_bytes: u32, length_bytes: u32) -> SegmentEntry {
        SegmentEntry { chunk: ChunkId([chunk; 32]), pack, offset_bytes, length_bytes }
    }

    fn sample() -> Vec<u8> {
        let packs = [PackEntry { id: PackId([1; 32]), size_bytes: 100, sealing: Sealing::default() }];
        let mut entries = vec![entry(9, 0, 8, 20), entry(3, 0, 28, 72), entry(9, 0, 8, 20)];
        encode(&packs, &mut entries)
    }

    #[test]
    fn a_segment_comes_back_sorted() {
        let bytes = sample();
        let header = check(&bytes).unwrap();
        assert_eq!((header.entries, header.packs.len()), (2, 1));
        let at = header.entries_offset as usize;
        let first = decode_entry(bytes[at..at + ENTRY_BYTES].try_into().unwrap());
        assert_eq!(first, entry(3, 0, 28, 72));
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
        let packs = [PackEntry { id: PackId([1; 32]), size_bytes: 100, sealing: Sealing::default() }];
        for entry in [entry(1, 0, 90, 20), entry(1, 1, 8, 20), entry(1, 0, u32::MAX, u32::MAX)] {
            assert_eq!(check(&encode(&packs, &mut vec![entry])), Err(FormatError::Range("entry")));
        }
    }
}
