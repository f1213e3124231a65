//! Signs a chunk: makes its block entries.

use crate::format::blocks::{self, GROUP_BYTES, Shape, Strong};
use blake3::hazmat::{ChainingValue, HasherExt};

/// Minimum size of a file whose chunks get entries; a smaller one is shipped whole when it changes.
pub(crate) const SIGNED_MIN_BYTES: u64 = 256 << 10;

/// Returns the size of a file's blocks, as a power of two: 2 KiB up to 2 GiB, growing with the file up to 32
/// KiB, so that a file of 32 GiB has no more than a million blocks.
pub(crate) fn block_log2(size_bytes: u64) -> u32 {
    let doublings = size_bytes.div_ceil(2 << 30).max(1).next_power_of_two().trailing_zeros();
    blocks::BLOCK_LOG2_MIN + doublings.min(4)
}

/// Returns the hash that confirms a block.
pub(crate) fn strong(block: &[u8]) -> Strong {
    half(blake3::hash(block).as_bytes())
}

/// Returns the first half of a hash: 128 bits.
pub fn half(hash: &[u8; 32]) -> Strong {
    let (half, _) = hash.split_at(16);
    half.try_into().unwrap_or_default()
}

/// Returns the chaining value of `group`, 64 KiB that lie at `at` (a multiple of 64 KiB) in a larger file.
pub(crate) fn group_value(group: &[u8], at: u64) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(at);
    hasher.update(group).finalize_non_root()
}

/// Returns the block entries of a chunk that consists of runs of these lengths.
///
/// `origin` is the chunk's offset in its file, if that is a multiple of 64 KiB, with the chaining values of
/// its whole groups there.
pub fn sign(chunk: &[u8], runs: &[u32], block_log2: u32, origin: Option<(u64, &[Strong])>) -> Vec<u8> {
    let (origin, groups) = match origin {
        Some((at, groups)) => (Some(at), groups),
        None => (None, &[][..]),
    };
    debug_assert!(origin.is_none() || groups.len() == chunk.len() / GROUP_BYTES as usize);
    let mut weak = Vec::with_capacity(chunk.len() >> block_log2);
    let mut confirming = Vec::with_capacity(chunk.len() >> block_log2);
    for (start, length) in blocks::cut(runs, block_log2) {
        let block = &chunk[start as usize..(start + length) as usize];
        weak.push(super::weak::weak(block));
        confirming.push(strong(block));
    }
    blocks::encode(Shape { runs, block_log2, origin }, groups, &weak, &confirming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_with_the_file_and_stay_few() {
        assert_eq!(block_log2(0), 11);
        assert_eq!(block_log2(2 << 30), 11);
        assert_eq!(block_log2((2 << 30) + 1), 12);
        assert_eq!(block_log2(8 << 30), 13);
        assert_eq!(block_log2(u64::MAX), 15);
        for gib in 1..=32u64 {
            assert!((gib << 30) >> block_log2(gib << 30) <= 1 << 20, "{gib}");
        }
    }

    #[test]
    fn a_signature_is_of_its_chunk() {
        let chunk: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let groups: Vec<Strong> = chunk
            .chunks_exact(65536)
            .enumerate()
            .map(|(n, g)| half(&group_value(g, n as u64 * 65536)))
            .collect();
        let entries =
            blocks::decode(&sign(&chunk, &[150_000, 50_000], 12, Some((0, &groups))).into()).unwrap();
        assert_eq!(entries.blocks(), 37 + 13);
        for block in 0..entries.blocks() {
            let start = entries.start(block) as usize;
            let bytes = &chunk[start..start + entries.length(block) as usize];
            assert_eq!(entries.strong(block), Some(&strong(bytes)));
            assert_eq!(entries.weak(block), Some(super::super::weak::weak(bytes)));
        }
        assert_eq!(entries.group(2), Some(&groups[2]));
        assert_eq!(entries.group(3), None);
    }
}
