//! A file's extents, handed out by length: what a segment, or a whole small file, is made of.

use super::error::RestoreError;
use crate::delta::piece::split;
use crate::format::extent_list;
use crate::model::entry::{Content, Entry, Extent, File};
use crate::model::id::ChunkId;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use std::collections::VecDeque;

/// Lists of extents read at once.
const LISTS_MAX: usize = 64;

/// A file's extents in order, its lists read a few at a time.
pub(super) struct Extents<'a> {
    chunks: &'a ChunkReader,
    lists: VecDeque<ChunkId>,
    ready: VecDeque<Extent>,
}

impl<'a> Extents<'a> {
    pub(super) fn new(chunks: &'a ChunkReader, file: &File) -> Self {
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
        Self { chunks, lists, ready }
    }

    /// The extents of the next `length` bytes; the last is cut where it reaches further.
    pub(super) fn take(&mut self, length: u64, entry: &Entry) -> Result<Vec<Extent>, RestoreError> {
        let mut taken = Vec::new();
        let mut missing = length;
        while missing > 0 {
            if self.ready.is_empty() && !self.lists.is_empty() {
                let ids: Vec<_> = self.lists.drain(..self.lists.len().min(LISTS_MAX)).collect();
                let found = self.chunks.read_many(&ids)?;
                for id in ids {
                    let bytes = found.get(&id).ok_or(RepositoryError::UnknownChunk { chunk: id })?;
                    let list =
                        extent_list::decode_chunk(bytes).map_err(RepositoryError::format(&entry.path))?;
                    self.ready.extend(list);
                }
            }
            let Some(next) = self.ready.pop_front() else {
                return Err(RestoreError::Manifest { path: entry.path.to_string() });
            };
            let mut head = next;
            if next.length_bytes() > missing {
                let (first, rest) = split(next, missing);
                head = first;
                self.ready.push_front(rest);
            }
            missing -= head.length_bytes();
            taken.push(head);
        }
        Ok(taken)
    }
}
