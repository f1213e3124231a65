//! Block entries: what a data chunk is recognised by when its bytes are not at hand.
//!
//! They belong to the stored chunk, not to a version of a file, and are named by those who refer to the
//! chunk; so they are as trustworthy as the manifest that names them. What is decoded here has counts
//! that fit its lengths: no reader can be led outside of it.

use super::wire::{FormatError, Reader, Writer};
use crate::model::entry::CHUNK_MAX_BYTES;
use bytes::Bytes;

/// The unit of comparison in place: a subtree of a file's BLAKE3.
pub const GROUP_BYTES: u64 = 64 << 10;
/// Blocks are at least 2 KiB, and at most as large as a group.
pub const BLOCK_LOG2_MIN: u32 = 11;
pub const BLOCK_LOG2_MAX: u32 = 16;
const WEAK_BYTES: usize = 4;
const STRONG_BYTES: usize = 16;

/// The first half of a block's BLAKE3, or of a group's chaining value.
pub type Strong = [u8; STRONG_BYTES];

/// The block entries of one data chunk of `length_bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockEntries {
    pub length_bytes: u32,
    pub block_log2: u32,
    /// Where in a file the chunk was first stored, a multiple of 64 KiB; `None` where that was none.
    pub origin: Option<u64>,
    groups: Bytes,
    weak: Bytes,
    strong: Bytes,
}

impl BlockEntries {
    pub fn block_bytes(&self) -> u32 {
        1 << self.block_log2
    }

    /// All blocks; the last is shorter than the others when the chunk's length asks for it.
    pub fn blocks(&self) -> u32 {
        self.length_bytes.div_ceil(self.block_bytes())
    }

    /// Blocks of full length: those that have a weak checksum.
    pub fn full_blocks(&self) -> u32 {
        self.length_bytes >> self.block_log2
    }

    pub fn weak(&self, block: u32) -> Option<u32> {
        self.weak.as_chunks::<WEAK_BYTES>().0.get(block as usize).map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub fn strong(&self, block: u32) -> Option<&Strong> {
        self.strong.as_chunks::<STRONG_BYTES>().0.get(block as usize)
    }

    /// Of the chaining value of the chunk's 64 KiB from `group * 64 KiB` on, at `origin`.
    pub fn group(&self, group: u32) -> Option<&Strong> {
        self.groups.as_chunks::<STRONG_BYTES>().0.get(group as usize)
    }
}

fn group_count(length_bytes: u32, origin: Option<u64>) -> usize {
    if origin.is_some() { length_bytes as usize / GROUP_BYTES as usize } else { 0 }
}

/// The bytes of the entries of a chunk. `groups` has one value for each whole 64 KiB of the chunk if
/// there is an `origin`, `weak` one for each full block, `strong` one for each block.
pub fn encode(
    (length_bytes, block_log2, origin): (u32, u32, Option<u64>),
    groups: &[Strong],
    weak: &[u32],
    strong: &[Strong],
) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(u64::from(length_bytes));
    out.u8(block_log2 as u8);
    out.number(origin.map_or(0, |at| at / GROUP_BYTES + 1));
    groups.iter().for_each(|value| out.raw(value));
    weak.iter().for_each(|value| out.raw(&value.to_le_bytes()));
    strong.iter().for_each(|value| out.raw(value));
    out.0
}

/// The entries in a chunk.
pub fn decode(bytes: &Bytes) -> Result<BlockEntries, FormatError> {
    let mut reader = Reader(bytes);
    let length_bytes: u32 = reader.fitting("chunk's length")?;
    if length_bytes == 0 || length_bytes as usize > CHUNK_MAX_BYTES {
        return Err(FormatError::Range("chunk's length"));
    }
    let block_log2 = u32::from(reader.u8("block size")?);
    if !(BLOCK_LOG2_MIN..=BLOCK_LOG2_MAX).contains(&block_log2) {
        return Err(FormatError::Range("block size"));
    }
    let origin = match reader.number("origin")? {
        0 => None,
        n => Some((n - 1).checked_mul(GROUP_BYTES).ok_or(FormatError::Range("origin"))?),
    };
    let groups = reader.take(group_count(length_bytes, origin) * STRONG_BYTES, "groups")?;
    let weak = reader.take((length_bytes >> block_log2) as usize * WEAK_BYTES, "weak checksums")?;
    let strong = reader.take(length_bytes.div_ceil(1 << block_log2) as usize * STRONG_BYTES, "blocks")?;
    reader.end()?;
    let slice = |part: &[u8]| bytes.slice_ref(part);
    let (groups, weak, strong) = (slice(groups), slice(weak), slice(strong));
    Ok(BlockEntries { length_bytes, block_log2, origin, groups, weak, strong })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_come_back(length in 1u32..=1 << 20, log2 in BLOCK_LOG2_MIN..=BLOCK_LOG2_MAX, at in prop::option::of(0u64..1 << 40)) {
            let origin = at.map(|at| at * GROUP_BYTES);
            let groups: Vec<Strong> = (0..group_count(length, origin)).map(|n| [n as u8; 16]).collect();
            let weak: Vec<u32> = (0..length >> log2).map(|n| n * 7).collect();
            let strong: Vec<Strong> = (0..length.div_ceil(1 << log2)).map(|n| [!n as u8; 16]).collect();
            let bytes = Bytes::from(encode((length, log2, origin), &groups, &weak, &strong));
            let back = decode(&bytes).unwrap();
            prop_assert_eq!((back.length_bytes, back.block_log2, back.origin), (length, log2, origin));
            prop_assert_eq!(back.blocks() as usize, strong.len());
            prop_assert!((0..back.full_blocks()).all(|n| back.weak(n) == Some(weak[n as usize])));
            prop_assert!((0..back.blocks()).all(|n| back.strong(n) == Some(&strong[n as usize])));
            prop_assert!(groups.iter().enumerate().all(|(n, g)| back.group(n as u32) == Some(g)));
            prop_assert_eq!(back.weak(back.full_blocks()), None);
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
        for (length, log2) in
            [(0, 11), (4096, 0), (4096, 10), (4096, 17), (4096, 255), ((1 << 20) + 1, 11), (u32::MAX, 11)]
        {
            let bytes = encode((length, log2, None), &[], &[0; 2], &[[0; 16]; 2]);
            assert!(decode(&bytes.into()).is_err(), "{length} {log2}");
        }
    }
}
