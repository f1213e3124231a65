//! Reads the extents of a file in order: from its entry, or from the chunks that list them.
//!
//! The lists come from the repository and are not trusted. If there are more extents than a file of its size
//! can have, or their lengths do not add up to it, this is an error with the file's path.

use super::chunks::ChunkReader;
use super::error::RepositoryError;
use crate::format::extent_list;
use crate::model::entry::{Entry, Extent, Extents, File};
use crate::model::id::ChunkId;
use std::collections::VecDeque;

/// Maximum number of lists that are read together.
const LISTS_MAX: usize = 16;

/// Reads lists of extents. Each must exist and be well formed.
pub(crate) fn read_lists(
    chunks: &ChunkReader,
    lists: &[ChunkId],
) -> Result<Vec<Vec<Extent>>, RepositoryError> {
    let found = chunks.read_many(lists)?;
    let decode = |id: &ChunkId| {
        let bytes = found.get(id).ok_or(RepositoryError::UnknownChunk { chunk: *id })?;
        extent_list::decode_chunk(bytes).map_err(RepositoryError::format(format!("list {id}")))
    };
    lists.iter().map(decode).collect()
}

/// Reads lists of extents. Returns `None` in place of one that is lost or damaged.
///
/// Each is decoded when it is asked for, so that a caller can stop at a limit.
pub(crate) fn read_known_lists(
    chunks: &ChunkReader,
    lists: &[ChunkId],
) -> Result<impl Iterator<Item = Option<Vec<Extent>>>, RepositoryError> {
    let found = chunks.read_known(lists)?;
    Ok(lists.iter().map(move |id| extent_list::decode_chunk(found.get(id)?).ok()))
}

/// Reads a file's extents in order, a few lists at a time.
pub(crate) struct ExtentReader<'a> {
    chunks: &'a ChunkReader,
    lists: VecDeque<ChunkId>,
    ready: ExtentQueue,
}

impl<'a> ExtentReader<'a> {
    pub fn new(chunks: &'a ChunkReader, file: &File) -> Self {
        let (lists, ready) = match file.extents() {
            Extents::Known(extents) => (VecDeque::new(), extents.into_owned()),
            Extents::Listed(lists) => (lists.iter().copied().collect(), Vec::new()),
        };
        Self { chunks, lists, ready: ExtentQueue::new(ready) }
    }

    /// Returns the extents of the next `length` bytes. The last one is cut if it is longer.
    ///
    /// # Errors
    /// The extents of `entry` end before, or are too many for its size.
    pub(crate) fn take(&mut self, length: u64, entry: &Entry) -> Result<Vec<Extent>, RepositoryError> {
        let mut taken = Vec::new();
        let mut missing = length;
        while missing > 0 {
            if self.ready.0.is_empty() && !self.lists.is_empty() {
                let ids: Vec<_> = self.lists.drain(..self.lists.len().min(LISTS_MAX)).collect();
                self.ready.0.extend(read_lists(self.chunks, &ids)?.into_iter().flatten());
            }
            let Some(part) = self.ready.next(missing) else {
                return Err(RepositoryError::Entry { path: entry.path.to_string() });
            };
            missing -= part.length_bytes();
            taken.push(part);
            if extent_list::is_too_dense(taken.len(), length) {
                return Err(RepositoryError::Entry { path: entry.path.to_string() });
            }
        }
        Ok(taken)
    }
}

/// Extents in order, taken from the front by length.
pub(crate) struct ExtentQueue(VecDeque<Extent>);

impl ExtentQueue {
    pub fn new(extents: Vec<Extent>) -> Self {
        Self(extents.into())
    }

    /// Returns the next extent, cut to at most `most` bytes.
    fn next(&mut self, most: u64) -> Option<Extent> {
        let next = self.0.pop_front()?;
        if next.length_bytes() <= most {
            return Some(next);
        }
        let (head, rest) = next.split_at(most);
        self.0.push_front(rest);
        Some(head)
    }

    /// Returns the extents of the next `length` bytes, or all that remain.
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
