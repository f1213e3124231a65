//! Block entries: identify a data chunk's content without its bytes.
//!
//! They belong to the stored chunk, not to a version of a file. Each extent that refers to the chunk names
//! them, so they are as trustworthy as the manifest that names them. The counts of decoded entries fit their
//! lengths, so no reader can be led outside them.

use super::wire::{FormatError, Reader, Writer};
use crate::model::entry::CHUNK_MAX_BYTES;
use bytes::Bytes;

/// Size of a group, the unit of comparison in place: a subtree of a file's BLAKE3.
pub(crate) const GROUP_BYTES: u64 = 64 << 10;
/// Logarithms of the smallest and largest size of a block: 2 KiB, and 64 KiB, which is a whole group.
pub(crate) const BLOCK_LOG2_MIN: u32 = 11;
pub(crate) const BLOCK_LOG2_MAX: u32 = 16;
const WEAK_BYTES: usize = 4;
const STRONG_BYTES: usize = 16;

/// The first half of a block's BLAKE3, or of a group's chaining value.
pub(crate) type Strong = [u8; STRONG_BYTES];

/// The block entries of one data chunk.
///
/// A chunk is one run of a file's bytes, or several that were gathered. Each run is cut into blocks on its
/// own; its last block may be shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockEntries {
    pub length_bytes: u32,
    pub block_log2: u32,
    /// Offset in a file at which the chunk was first stored, a multiple of 64 KiB; `None` if there was none.
    pub origin: Option<u64>,
    /// Offset of each block in the chunk; empty if there is one run, whose blocks need no list.
    starts: Vec<u32>,
    groups: Bytes,
    weak: Bytes,
    strong: Bytes,
}

impl BlockEntries {
    /// Returns the number of blocks.
    pub(crate) fn blocks(&self) -> u32 {
        (self.strong.len() / STRONG_BYTES) as u32
    }

    /// Returns the offset of a block in the chunk.
    pub(crate) fn start(&self, block: u32) -> u32 {
        match self.starts.get(block as usize) {
            Some(start) => *start,
            None if self.starts.is_empty() => block << self.block_log2,
            None => self.length_bytes,
        }
    }

    /// Returns a block's length.
    pub(crate) fn length(&self, block: u32) -> u32 {
        self.start(block + 1).min(self.length_bytes) - self.start(block)
    }

    /// Returns the block that holds the chunk's byte at `offset`.
    pub(crate) fn block_of(&self, offset: u32) -> u32 {
        if self.starts.is_empty() {
            offset >> self.block_log2
        } else {
            (self.starts.partition_point(|start| *start <= offset) as u32).saturating_sub(1)
        }
    }

    /// Returns a block's weak checksum.
    pub(crate) fn weak(&self, block: u32) -> Option<u32> {
        self.weak.as_chunks::<WEAK_BYTES>().0.get(block as usize).map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Returns the first half of a block's BLAKE3.
    pub(crate) fn strong(&self, block: u32) -> Option<&Strong> {
        self.strong.as_chunks::<STRONG_BYTES>().0.get(block as usize)
    }

    /// Returns the first half of the chaining value of the chunk's 64 KiB at `group * 64 KiB`, computed for
    /// `origin`.
    pub(crate) fn group(&self, group: u32) -> Option<&Strong> {
        self.groups.as_chunks::<STRONG_BYTES>().0.get(group as usize)
    }
}

/// Cuts runs of these lengths into blocks, and returns the offset and length of each.
pub(crate) fn cut(runs: &[u32], block_log2: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut end = 0;
    runs.iter().flat_map(move |run| {
        let start = end;
        end += run;
        (start..end).step_by(1 << block_log2).map(move |at| (at, (end - at).min(1 << block_log2)))
    })
}

/// Shape of a chunk's block entries.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    /// Lengths of the chunk's runs.
    pub runs: &'a [u32],
    pub block_log2: u32,
    pub origin: Option<u64>,
}

/// Encodes a chunk's block entries.
///
/// `groups` has one value for each whole 64 KiB of the chunk if there is an origin; `weak` and `strong` have
/// one for each block.
pub fn encode(shape: Shape, groups: &[Strong], weak: &[u32], strong: &[Strong]) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(shape.runs.len() as u64);
    shape.runs.iter().for_each(|run| out.number(u64::from(*run)));
    out.u8(shape.block_log2 as u8);
    out.number(shape.origin.map_or(0, |at| at / GROUP_BYTES + 1));
    groups.iter().for_each(|value| out.raw(value));
    weak.iter().for_each(|value| out.raw(&value.to_le_bytes()));
    strong.iter().for_each(|value| out.raw(value));
    out.0
}

/// Decodes the block entries in a chunk.
pub fn decode(bytes: &Bytes) -> Result<BlockEntries, FormatError> {
    let mut reader = Reader(bytes);
    let count = reader.count(1, "runs")?;
    let mut runs = Vec::new();
    let mut length_bytes = 0u32;
    for _ in 0..count {
        let run: u32 = reader.fitting("run")?;
        length_bytes = length_bytes.saturating_add(run);
        if run == 0 || length_bytes as usize > CHUNK_MAX_BYTES {
            return Err(FormatError::Range("chunk's length"));
        }
        runs.push(run);
    }
    let block_log2 = u32::from(reader.u8("block size")?);
    if runs.is_empty() || !(BLOCK_LOG2_MIN..=BLOCK_LOG2_MAX).contains(&block_log2) {
        return Err(FormatError::Range("block size"));
    }
    let origin = match reader.number("origin")? {
        0 => None,
        n => Some((n - 1).checked_mul(GROUP_BYTES).ok_or(FormatError::Range("origin"))?),
    };
    let blocks: usize = runs.iter().map(|run| run.div_ceil(1 << block_log2) as usize).sum();
    let group_count = if origin.is_some() { length_bytes as usize / GROUP_BYTES as usize } else { 0 };
    let groups = reader.take(group_count * STRONG_BYTES, "groups")?;
    let weak = reader.take(blocks * WEAK_BYTES, "weak checksums")?;
    let strong = reader.take(blocks * STRONG_BYTES, "blocks")?;
    reader.end()?;
    let slice = |part: &[u8]| bytes.slice_ref(part);
    let (groups, weak, strong) = (slice(groups), slice(weak), slice(strong));
    let starts =
        if runs.len() > 1 { cut(&runs, block_log2).map(|(start, _)| start).collect() } else { Vec::new() };
    Ok(BlockEntries { length_bytes, block_log2, origin, starts, groups, weak, strong })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_come_back(runs in prop::collection::vec(1u32..100_000, 1..10), log2 in BLOCK_LOG2_MIN..=BLOCK_LOG2_MAX, at in prop::option::of(0u64..1 << 40)) {
            let length: u32 = runs.iter().sum();
            let origin = at.map(|at| at * GROUP_BYTES);
            let groups: Vec<Strong> = match origin {
                Some(_) => (0..length / GROUP_BYTES as u32).map(|n| [n as u8; 16]).collect(),
                None => Vec::new(),
            };
            let blocks: Vec<_> = cut(&runs, log2).collect();
            let weak: Vec<u32> = (0..blocks.len() as u32).map(|n| n * 7).collect();
            let strong: Vec<Strong> = (0..blocks.len()).map(|n| [!n as u8; 16]).collect();
            let shape = Shape { runs: &runs, block_log2: log2, origin };
            let bytes = Bytes::from(encode(shape, &groups, &weak, &strong));
            let back = decode(&bytes).unwrap();
            prop_assert_eq!((back.length_bytes, back.block_log2, back.origin), (length, log2, origin));
            prop_assert_eq!(back.blocks() as usize, blocks.len());
            let mut end = 0;
            for (n, (start, length)) in blocks.iter().enumerate() {
                prop_assert_eq!(*start, end);
                end += length;
                let n = n as u32;
                prop_assert_eq!((back.start(n), back.length(n)), (*start, *length));
                prop_assert_eq!((back.block_of(*start), back.block_of(end - 1)), (n, n));
                prop_assert_eq!((back.weak(n), back.strong(n)), (Some(n * 7), Some(&[!n as u8; 16])));
            }
            prop_assert_eq!(end, length);
            prop_assert!(groups.iter().enumerate().all(|(n, g)| back.group(n as u32) == Some(g)));
            prop_assert_eq!(back.strong(back.blocks()), None);
            prop_assert!(decode(&bytes.slice(..bytes.len() - 1)).is_err());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes.into());
        }
    }

    #[test]
    fn sizes_that_would_lead_astray_are_refused() {
        for (runs, block_log2) in [
            (&[][..], 11),
            (&[0], 11),
            (&[4096], 0),
            (&[4096], 10),
            (&[4096], 17),
            (&[4096], 255),
            (&[(1 << 20) + 1], 11),
            (&[1 << 20, 1], 11),
            (&[u32::MAX, 2], 11),
        ] {
            let shape = Shape { runs, block_log2, origin: None };
            let bytes = encode(shape, &[], &[0; 2], &[[0; 16]; 2]);
            assert!(decode(&bytes.into()).is_err(), "{runs:?} {block_log2}");
        }
    }
}
