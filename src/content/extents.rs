//! A file's extents, handed out by length: what a segment, or a whole small file, is made of.

use crate::delta::piece::split;
use crate::format::extent_list;
use crate::model::entry::{Content, Entry, Extent, File};
use crate::model::id::ChunkId;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::standby::error::RestoreError;
use std::collections::VecDeque;

/// Lists of extents read at once.
const LISTS_MAX: usize = 16;

/// A file's extents in order, its lists read a few at a time.
pub(crate) struct Extents<'a> {
    chunks: &'a ChunkReader,
    lists: VecDeque<ChunkId>,
    ready: Parts,
}

impl<'a> Extents<'a> {
    pub(crate) fn new(chunks: &'a ChunkReader, file: &File) -> Self {
        let (lists, ready) = match &file.content {
            Content::Empty => (VecDeque::new(), VecDeque::new()),
            Content::Whole { blocks } => {
                let (chunk, length_bytes) = (ChunkId(file.hash.0), file.size_bytes as u32);
                let extent = Extent::Chunk { chunk, blocks: *blocks, offset_bytes: 0, length_bytes };
                (VecDeque::new(), VecDeque::from([extent]))
            }
            Content::Extents(extents) => (VecDeque::new(), extents.iter().copied().collect()),
            Content::Lists(lists) => (lists.iter().copied().collect(), VecDeque::new()),
        };
        Self { chunks, lists, ready: Parts(ready) }
    }

    /// The extents of the next `length` bytes; the last is cut where it reaches further.
    pub(crate) fn take(&mut self, length: u64, entry: &Entry) -> Result<Vec<Extent>, RestoreError> {
        let mut taken = Vec::new();
        let mut missing = length;
        while missing > 0 {
            if self.ready.0.is_empty() && !self.lists.is_empty() {
                let ids: Vec<_> = self.lists.drain(..self.lists.len().min(LISTS_MAX)).collect();
                let found = self.chunks.read_many(&ids)?;
                for id in ids {
                    let bytes = found.get(&id).ok_or(RepositoryError::UnknownChunk { chunk: id })?;
                    let list =
                        extent_list::decode_chunk(bytes).map_err(RepositoryError::format(&entry.path))?;
                    self.ready.0.extend(list);
                }
            }
            let Some(part) = self.ready.next(missing) else {
                return Err(RestoreError::Manifest { path: entry.path.to_string() });
            };
            missing -= part.length_bytes();
            taken.push(part);
            if extent_list::is_too_dense(taken.len(), length) {
                return Err(RestoreError::Manifest { path: entry.path.to_string() });
            }
        }
        Ok(taken)
    }
}

/// Extents in order, of which some were handed out.
pub(crate) struct Parts(VecDeque<Extent>);

impl Parts {
    pub(crate) fn of(parts: Vec<Extent>) -> Self {
        Self(parts.into())
    }

    /// The next extent, cut to `most` bytes.
    fn next(&mut self, most: u64) -> Option<Extent> {
        let next = self.0.pop_front()?;
        if next.length_bytes() <= most {
            return Some(next);
        }
        let (head, rest) = split(next, most);
        self.0.push_front(rest);
        Some(head)
    }

    /// The extents of the next `length` bytes, or of all that is left.
    pub(crate) fn take(&mut self, mut length: u64) -> Vec<Extent> {
        let mut taken = Vec::new();
        while length > 0
            && let Some(part) = self.next(length)
        {
            length -= part.length_bytes();
            taken.push(part);
        }
        taken
    }
}
