//! A changed file's old version, brought from the repository: its extents and their block entries.
//!
//! All of it is a help only: what is missing or damaged makes a file be shipped whole.

use crate::delta::basis::Basis;
use crate::delta::signature::{SIGNED_MIN_BYTES, block_log2, strong};
use crate::format::blocks::BLOCK_LOG2_MAX;
use crate::format::{blocks, extent_list};
use crate::model::entry::{Content, Extent, File};
use crate::model::id::ChunkId;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::source::content::read_exact;
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;

/// A basis covers so many blocks at most, which bounds its memory to some 40 MiB: half of them are for what
/// lies around the part of the file that is matched against it.
const BLOCKS_MAX: u64 = 1 << 20;

/// The extents of an old version.
pub struct OldVersion {
    extents: Vec<Extent>,
    size_bytes: u64,
}

impl OldVersion {
    /// Of a file that is worth matching against; `None` for others.
    fn load(chunks: &ChunkReader, file: &File) -> Result<Option<Self>, RepositoryError> {
        if file.size_bytes < SIGNED_MIN_BYTES {
            return Ok(None);
        }
        let extents = match &file.content {
            Content::Empty => return Ok(None),
            Content::Whole { blocks } => {
                let (chunk, length_bytes) = (ChunkId(file.hash.0), file.size_bytes as u32);
                vec![Extent::Chunk { chunk, blocks: *blocks, offset_bytes: 0, length_bytes }]
            }
            Content::Extents(extents) => extents.clone(),
            Content::Lists(lists) => {
                let found = chunks.read_known(lists)?;
                let mut extents = Vec::new();
                for list in lists {
                    match found.get(list).map(|bytes| extent_list::decode_chunk(bytes)) {
                        Some(Ok(more)) => extents.extend(more),
                        // Where the others lie depends on it.
                        _ => return Ok(None),
                    }
                }
                extents
            }
        };
        let sum: u64 = extents.iter().fold(0, |sum, e| sum.saturating_add(e.length_bytes()));
        Ok((sum == file.size_bytes).then_some(Self { extents, size_bytes: file.size_bytes }))
    }

    /// The version that `handle`'s file is most likely made of: the first that begins like it, or else the
    /// first at all.
    pub fn choose(
        chunks: &ChunkReader,
        handle: &OwnedFd,
        candidates: &[File],
    ) -> Result<Option<Self>, RepositoryError> {
        let mut first = None;
        let mut bytes = vec![0; 1 << BLOCK_LOG2_MAX];
        let beginning = match candidates {
            [_, _, ..] if read_exact(handle.as_fd(), &mut bytes, 0).is_ok() => &bytes[..],
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

    /// Whether the first block is that of `bytes`.
    fn begins_like(&self, chunks: &ChunkReader, bytes: &[u8]) -> Result<bool, RepositoryError> {
        let Some(Extent::Chunk { blocks: Some(blocks), offset_bytes: 0, .. }) = self.extents.first() else {
            return Ok(false);
        };
        let found = chunks.read_known(&[*blocks])?;
        let Some(Ok(entries)) = found.get(blocks).map(blocks::decode) else { return Ok(false) };
        let block = bytes.get(..entries.length(0) as usize);
        Ok(block.is_some_and(|block| entries.strong(0) == Some(&strong(block))))
    }

    /// How much of the new file is matched against one basis.
    pub fn span_bytes(&self) -> u64 {
        let all = BLOCKS_MAX << block_log2(self.size_bytes);
        if self.size_bytes <= all { u64::MAX } else { all / 2 }
    }

    /// What the new file's bytes from `start` on, one span, are matched against: the old ones there, and
    /// half as much before and behind.
    pub fn basis(&self, chunks: &ChunkReader, start: u64) -> Result<Option<Basis>, RepositoryError> {
        let span = self.span_bytes();
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
