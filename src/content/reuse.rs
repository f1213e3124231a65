//! Finds the parts of a new version of a file that an older version at hand also has, by their chunks.
//!
//! The older version is not trusted: the copied bytes are hashed with all others before the new version is
//! shown.

use super::error::ContentError;
use crate::model::entry::{Entry, Extent, File};
use crate::model::id::ChunkId;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::extents::ExtentReader;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum size of an older version that is indexed. The index takes 48 bytes for each extent.
const OLDER_MAX_BYTES: u64 = 64 << 30;

/// A part of a chunk, at offset `at` of the old file.
#[derive(Clone, Copy)]
struct Piece {
    offset_bytes: u32,
    length_bytes: u32,
    at: u64,
}

/// An older version of a file, with the parts of chunks that it has.
///
/// The parts of a chunk are sorted by offset.
pub(crate) struct Older {
    handle: Arc<OwnedFd>,
    pieces: HashMap<ChunkId, Vec<Piece>>,
    copied_bytes: AtomicU64,
}

/// A range of bytes that both versions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) length_bytes: u64,
}

impl Older {
    /// Indexes the version `file` of `entry`, whose bytes are in `handle`. Returns `None` if it is too large.
    pub fn new(
        chunks: &ChunkReader,
        handle: OwnedFd,
        entry: &Entry,
        file: &File,
    ) -> Result<Option<Self>, ContentError> {
        if file.size_bytes > OLDER_MAX_BYTES {
            return Ok(None);
        }
        let extents = ExtentReader::new(chunks, file).take(file.size_bytes, entry)?;
        Ok(Some(Self { handle: Arc::new(handle), pieces: pieces(&extents), copied_bytes: AtomicU64::new(0) }))
    }

    pub(crate) fn handle(&self) -> Arc<OwnedFd> {
        self.handle.clone()
    }

    /// Splits `parts`, which begin at offset `at`, into copies and the rest.
    ///
    /// The rest has holes in place of the copies.
    pub(crate) fn copies(&self, at: u64, parts: &[Extent]) -> (Vec<Copy>, Vec<Extent>) {
        let (copies, rest) = split(&self.pieces, at, parts);
        let copied = copies.iter().map(|copy| copy.length_bytes).sum();
        self.copied_bytes.fetch_add(copied, Ordering::Relaxed);
        (copies, rest)
    }

    /// Returns the number of bytes that were planned to be copied so far.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.copied_bytes.load(Ordering::Relaxed)
    }
}

fn pieces(extents: &[Extent]) -> HashMap<ChunkId, Vec<Piece>> {
    let mut pieces: HashMap<ChunkId, Vec<Piece>> = HashMap::new();
    let mut at = 0;
    for extent in extents {
        if let Extent::Chunk { chunk, offset_bytes, length_bytes, .. } = *extent {
            pieces.entry(chunk).or_default().push(Piece { offset_bytes, length_bytes, at });
        }
        at += extent.length_bytes();
    }
    for of_chunk in pieces.values_mut() {
        of_chunk.sort_by_key(|piece| piece.offset_bytes);
    }
    pieces
}

fn split(pieces: &HashMap<ChunkId, Vec<Piece>>, mut at: u64, parts: &[Extent]) -> (Vec<Copy>, Vec<Extent>) {
    let (mut copies, mut rest) = (Vec::new(), Vec::with_capacity(parts.len()));
    for part in parts {
        match *part {
            Extent::Chunk { chunk, blocks, offset_bytes, length_bytes } => {
                let known = pieces.get(&chunk).map_or(&[][..], |known| known);
                let (mut offset, end) = (offset_bytes, offset_bytes + length_bytes);
                while offset < end {
                    let behind = known.partition_point(|piece| piece.offset_bytes <= offset);
                    let covering =
                        known[..behind].last().filter(|p| p.offset_bytes + p.length_bytes > offset);
                    let length = match covering {
                        Some(piece) => (piece.offset_bytes + piece.length_bytes).min(end) - offset,
                        None => known.get(behind).map_or(end, |next| next.offset_bytes.min(end)) - offset,
                    };
                    match covering {
                        Some(piece) => {
                            let from = piece.at + u64::from(offset - piece.offset_bytes);
                            push(&mut copies, Copy { from, to: at, length_bytes: length.into() });
                            rest.push(Extent::Hole { length_bytes: length.into() });
                        }
                        None => {
                            rest.push(Extent::Chunk {
                                chunk,
                                blocks,
                                offset_bytes: offset,
                                length_bytes: length,
                            });
                        }
                    }
                    offset += length;
                    at += u64::from(length);
                }
            }
            hole => {
                rest.push(hole);
                at += hole.length_bytes();
            }
        }
    }
    (copies, rest)
}

/// Adds a copy, joined to the last one if both files continue there.
fn push(copies: &mut Vec<Copy>, copy: Copy) {
    match copies.last_mut() {
        Some(last)
            if last.from + last.length_bytes == copy.from && last.to + last.length_bytes == copy.to =>
        {
            last.length_bytes += copy.length_bytes;
        }
        _ => copies.push(copy),
    }
}

impl Copy {
    /// Maximum number of copies in one job.
    pub(crate) const BATCH: usize = 64;

    /// Copies the range, by reference where the filesystem can.
    pub(crate) fn run(&self, from: &OwnedFd, to: &OwnedFd, path: &TreePath) -> Result<(), ContentError> {
        copy_range(from, self.from, to, self.to, self.length_bytes)
            .map_err(ContentError::file(path, "copy from its previous version"))
    }
}

/// Copies bytes between files. A source that ends early is an error.
pub(crate) fn copy_range(
    from: impl AsFd,
    mut from_at: u64,
    to: impl AsFd,
    mut to_at: u64,
    mut length_bytes: u64,
) -> Result<(), Errno> {
    while length_bytes > 0 {
        let most = length_bytes.min(1 << 30) as usize;
        match rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), most) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => length_bytes -= count as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        let part = (0u8..6, 0u32..900, 1u32..100).prop_map(|(id, offset_bytes, length_bytes)| {
            Extent::Chunk { chunk: ChunkId([id; 32]), blocks: None, offset_bytes, length_bytes }
        });
        let hole = (1u64..50).prop_map(|length_bytes| Extent::Hole { length_bytes });
        prop::collection::vec(prop_oneof![6 => part, 1 => hole], 0..40)
    }

    /// Returns for each byte of a file its chunk and its offset there; `None` for a byte of a hole.
    fn bytes(extents: &[Extent]) -> Vec<Option<(ChunkId, u32)>> {
        let of = |extent: &Extent| -> Vec<_> {
            match *extent {
                Extent::Hole { length_bytes } => vec![None; length_bytes as usize],
                Extent::Chunk { chunk, offset_bytes, length_bytes, .. } => {
                    (offset_bytes..offset_bytes + length_bytes).map(|o| Some((chunk, o))).collect()
                }
            }
        };
        extents.iter().flat_map(of).collect()
    }

    proptest! {
        #[test]
        fn copies_and_the_rest_make_the_new_version(old in extents(), new in extents()) {
            let start = 1000;
            let (copies, rest) = split(&pieces(&old), start, &new);
            let (before, wanted) = (bytes(&old), bytes(&new));
            let mut made = bytes(&rest);
            prop_assert_eq!(made.len(), wanted.len());
            for copy in copies {
                for n in 0..copy.length_bytes {
                    let place = &mut made[(copy.to - start + n) as usize];
                    prop_assert!(place.is_none());
                    *place = before[(copy.from + n) as usize];
                }
            }
            prop_assert_eq!(made, wanted);
        }
    }
}
