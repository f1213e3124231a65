//! Fetches a changed file's old version from the repository: its extents and their block entries.
//!
//! It only helps to ship less: if parts are missing or damaged, the file is shipped whole.

use crate::delta::basis::Basis;
use crate::delta::signature::{SIGNED_MIN_BYTES, strong};
use crate::format::blocks::{BLOCK_LOG2_MAX, BLOCK_LOG2_MIN};
use crate::format::{blocks, extent_list};
use crate::model::entry::{Extent, Extents, File};
use crate::model::id::ChunkId;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::extents::read_known_lists;
use crate::source::tree;
use std::collections::HashMap;

/// Maximum number of blocks in a basis, which bounds its memory to about 40 MiB.
///
/// Half of them are for the surroundings of the part of the file that is matched against it.
const BLOCKS_MAX: u64 = 1 << 20;
/// Maximum size of a file that never has more blocks than that.
const ONE_BASIS_BYTES: u64 = BLOCKS_MAX << BLOCK_LOG2_MIN;

/// The extents of an old version.
pub(crate) struct OldVersion {
    extents: Vec<Extent>,
    size_bytes: u64,
}

impl OldVersion {
    /// Loads a file that is worth matching against; returns `None` for others.
    fn load(chunks: &ChunkReader, file: &File) -> Result<Option<Self>, RepositoryError> {
        if file.size_bytes < SIGNED_MIN_BYTES {
            return Ok(None);
        }
        let extents = match file.extents() {
            Extents::Known(extents) => extents.into_owned(),
            Extents::Listed(lists) => {
                let mut extents = Vec::new();
                for list in read_known_lists(chunks, lists)? {
                    // The offsets of all extents after a lost list depend on it.
                    let Some(list) = list else { return Ok(None) };
                    if extent_list::is_too_dense(extents.len(), file.size_bytes) {
                        return Ok(None);
                    }
                    extents.extend(list);
                }
                extents
            }
        };
        let sum: u64 = extents.iter().fold(0, |sum, e| sum.saturating_add(e.length_bytes()));
        Ok((sum == file.size_bytes).then_some(Self { extents, size_bytes: file.size_bytes }))
    }

    /// Chooses the version that `handle`'s file is most likely made of.
    ///
    /// That is the first candidate that begins with the same block, or else the first one.
    pub fn choose(
        chunks: &ChunkReader,
        handle: &dyn tree::File,
        candidates: &[File],
    ) -> Result<Option<Self>, RepositoryError> {
        let mut first = None;
        let mut bytes = vec![0; 1 << BLOCK_LOG2_MAX];
        let beginning = match candidates {
            [_, _, ..] if handle.read_exact(&mut bytes, 0).is_ok() => &bytes[..],
            _ => &[],
        };
        for file in candidates {
            let Some(version) = Self::load(chunks, file)? else { continue };
            if version.begins_like(chunks, beginning)? {
                return Ok(Some(version));
            }
            first.get_or_insert(version);
        }
        Ok(first)
    }

    /// Returns whether the first block of this version is that of `bytes`.
    fn begins_like(&self, chunks: &ChunkReader, bytes: &[u8]) -> Result<bool, RepositoryError> {
        let Some(Extent::Chunk { blocks: Some(blocks), offset_bytes: 0, .. }) = self.extents.first() else {
            return Ok(false);
        };
        let found = chunks.read_known(&[*blocks])?;
        let Some(Ok(entries)) = found.get(blocks).map(blocks::decode) else { return Ok(false) };
        let block = bytes.get(..entries.length(0) as usize);
        Ok(block.is_some_and(|block| entries.strong(0) == Some(&strong(block))))
    }

    /// Returns the number of bytes of the new file that are matched against one basis.
    ///
    /// That is the whole file, unless it has too many blocks. A file that grew keeps its first block size, so
    /// its size does not determine the number of blocks.
    pub(crate) fn span_bytes(&self, chunks: &ChunkReader) -> Result<u64, RepositoryError> {
        if self.size_bytes <= ONE_BASIS_BYTES {
            return Ok(u64::MAX);
        }
        let named = |extent: &Extent| match extent {
            Extent::Chunk { blocks, .. } => *blocks,
            Extent::Hole { .. } => None,
        };
        let (first, last) = (self.extents.iter().find_map(named), self.extents.iter().rev().find_map(named));
        let found = chunks.read_known(&[first, last].into_iter().flatten().collect::<Vec<_>>())?;
        let sizes = found.values().filter_map(|bytes| blocks::decode(bytes).ok()).map(|e| e.block_log2);
        Ok(span_bytes(self.size_bytes, sizes.min().unwrap_or(BLOCK_LOG2_MIN)))
    }

    /// Returns the basis for the `span` bytes of the new file from `start` on.
    ///
    /// It has the old version's blocks at the same place, and half as many before and after them.
    pub(crate) fn basis(
        &self,
        chunks: &ChunkReader,
        start: u64,
        span: u64,
    ) -> Result<Option<Basis>, RepositoryError> {
        let (from, to) =
            (start.saturating_sub(span / 2), start.saturating_add(span).saturating_add(span / 2));
        let mut at = 0u64;
        let mut first = None;
        let mut extents = Vec::new();
        for extent in &self.extents {
            let end = at + extent.length_bytes();
            if end > from && at < to {
                first.get_or_insert(at);
                extents.push(*extent);
            }
            at = end;
        }
        let mut ids: Vec<ChunkId> = extents
            .iter()
            .filter_map(|extent| match extent {
                Extent::Chunk { blocks, .. } => *blocks,
                Extent::Hole { .. } => None,
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let mut entries = HashMap::with_capacity(ids.len());
        for (id, bytes) in chunks.read_known(&ids)? {
            if let Ok(decoded) = blocks::decode(&bytes) {
                entries.insert(id, decoded);
            }
        }
        Ok(Basis::new(first.unwrap_or(0), &extents, &entries))
    }
}

/// Returns the whole size of a file whose blocks fit a basis, otherwise half of what fits.
fn span_bytes(size_bytes: u64, block_log2: u32) -> u64 {
    let all = BLOCKS_MAX << block_log2;
    if size_bytes <= all { u64::MAX } else { all / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::content::SEGMENT_BYTES;

    #[test]
    fn a_span_is_all_or_whole_segments_and_fits_with_what_lies_around_it() {
        for log2 in BLOCK_LOG2_MIN..=BLOCK_LOG2_MAX {
            let all = BLOCKS_MAX << log2;
            assert_eq!(span_bytes(all, log2), u64::MAX);
            let span = span_bytes(all + 1, log2);
            assert!(span.is_multiple_of(SEGMENT_BYTES));
            assert!((span + span) >> log2 <= BLOCKS_MAX);
        }
    }
}
