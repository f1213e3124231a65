//! A file's bytes: the ranges of its holes, a segment of it read, and the hash of all segments.
//!
//! The whole file's BLAKE3 is computed from its segments' chaining values, so that segments of one file are
//! read on all cores. See "BLAKE3: one function, fast everywhere", section 2.1, for the tree.

use super::data_map::DataMap;
use super::tree::{File, ReadError};
use crate::model::id::ContentHash;
use blake3::hazmat::{ChainingValue, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

/// Size of a segment, the unit in which a file is read: a power of two, so that each is a subtree of
/// BLAKE3's.
pub(crate) const SEGMENT_BYTES: u64 = 4 << 20;

/// The hash of a whole file that is one segment, or a segment's chaining value.
#[derive(Clone, Copy)]
pub(crate) enum SegmentHash {
    Whole(ContentHash),
    Part(ChainingValue),
}

/// Reads `start..end` into `buffer`, which gets that length; holes become zeros. Returns the number of bytes
/// read.
pub(crate) fn read_range(
    file: &dyn File,
    (start, end): (u64, u64),
    map: &DataMap,
    buffer: &mut Vec<u8>,
) -> Result<u64, ReadError> {
    buffer.resize((end - start) as usize, 0);
    let mut read_bytes = 0;
    for (from, to, is_data) in map.stretches(start, end) {
        let part = &mut buffer[(from - start) as usize..(to - start) as usize];
        if is_data {
            file.read_exact(part, from)?;
            read_bytes += to - from;
        } else {
            part.fill(0);
        }
    }
    Ok(read_bytes)
}

/// Fills `buffer` with the file's bytes from `at` on.
pub(crate) fn read_exact(file: BorrowedFd, mut buffer: &mut [u8], mut at: u64) -> Result<(), ReadError> {
    while !buffer.is_empty() {
        match rustix::io::pread(file, &mut *buffer, at) {
            Ok(0) => return Err(ReadError::EndsEarly),
            Ok(count) => {
                buffer = &mut buffer[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ReadError::System(errno)),
        }
    }
    Ok(())
}

/// Joins the chaining values of a file's parts, pushed in order. All parts but the last have one size, a
/// power of two.
#[derive(Default)]
pub(crate) struct HashTree {
    stack: Vec<ChainingValue>,
    pushed: u64,
}

impl HashTree {
    pub fn push(&mut self, value: ChainingValue) {
        // The number of open subtrees is the number of ones in the count. They are merged only when another
        // part follows, since the last merge of all is the root's.
        while self.stack.len() > self.pushed.count_ones() as usize {
            if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
                self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
            }
        }
        self.stack.push(value);
        self.pushed += 1;
    }

    /// Returns the chaining value of all that was pushed, as a part of a larger file; `None` if nothing was
    /// pushed.
    pub(crate) fn finish_part(mut self) -> Option<ChainingValue> {
        let mut right = self.stack.pop()?;
        while let Some(left) = self.stack.pop() {
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        Some(right)
    }

    /// Returns the file's hash; `None` for fewer than two parts, whose hash is not made of chaining values.
    pub fn finish(mut self) -> Option<ContentHash> {
        let mut right = self.stack.pop()?;
        while let Some(left) = self.stack.pop() {
            if self.stack.is_empty() {
                return Some(ContentHash(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()));
            }
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blake3::hazmat::HasherExt;
    use proptest::prelude::*;
    use rustix::fd::AsFd;

    #[test]
    fn the_hash_of_the_segments_is_the_hash_of_the_file() {
        for segments in 2u64..10 {
            for tail in [1, 4096, SEGMENT_BYTES] {
                let size = (segments - 1) * SEGMENT_BYTES + tail;
                let bytes: Vec<u8> = (0..size).map(|i| ((i * 31) >> 7) as u8).collect();
                let mut tree = HashTree::default();
                for (number, segment) in bytes.chunks(SEGMENT_BYTES as usize).enumerate() {
                    let mut hasher = blake3::Hasher::new();
                    hasher.set_input_offset(number as u64 * SEGMENT_BYTES);
                    tree.push(hasher.update(segment).finalize_non_root());
                }
                assert_eq!(tree.finish(), Some(ContentHash::of(&bytes)), "{segments} segments, tail {tail}");
            }
        }
    }

    proptest! {
        #[test]
        fn stretches_cover_a_range_once(gaps in prop::collection::vec((0u64..3 << 20, 1u64..3 << 20), 0..6), cut in 0u64..8 << 20) {
            let mut at = 0;
            let ranges: Vec<_> = gaps.iter().map(|(hole, data)| { let from = at + hole + 1; at = from + data; (from, at) }).collect();
            let (start, end) = (cut, at.max(cut) + 5);
            let pieces = DataMap(ranges.clone()).stretches(start, end);
            prop_assert_eq!(pieces.first().unwrap().0, start);
            prop_assert_eq!(pieces.last().unwrap().1, end);
            prop_assert!(pieces.windows(2).all(|w| w[0].1 == w[1].0));
            for (from, to, is_data) in pieces {
                let inside = ranges.iter().any(|(a, b)| *a <= from && to <= *b);
                prop_assert_eq!(is_data, inside);
                prop_assert!(from < to);
            }
        }
    }

    #[test]
    fn holes_are_found() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("sparse");
        let file = std::fs::File::create_new(&path).unwrap();
        file.set_len(10 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 5 << 20).unwrap();
        let map = DataMap::of(file.as_fd(), 10 << 20).unwrap();
        assert!(map.hole_bytes(10 << 20) > 0);
        let data: u64 = map.stretches(0, 10 << 20).iter().filter(|p| p.2).map(|p| p.1 - p.0).sum();
        assert!(data < 1 << 20);
    }
}
