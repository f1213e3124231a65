//! Writes a large file's content: all workers write its segments, and the result is checked against its hash.
//!
//! Parts that an older version at hand also has are copied from it instead of fetched.

use super::error::ContentError;
use super::reuse::{Copy, Older};
use super::scattered::{SPAN_BYTES, batches, hash_written, is_scattered, write_batch};
use super::write::{ContentWriter, write_extents};
use crate::model::entry::{Entry, Extent, File};
use crate::repository::extents::{ExtentQueue, ExtentReader};
use crate::source::content::{HashTree, SEGMENT_BYTES};
use crate::support::pool::{Handle, Pool};
use blake3::hazmat::{ChainingValue, HasherExt};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::Arc;

/// Maximum number of segments of one file that are written at the same time.
const SEGMENTS_MAX: usize = 6;

/// Writes the whole content of `file`, which belongs to `entry`, into `handle`, which is empty.
pub(crate) fn write_large<'env, W: Send + 'env>(
    writer: &'env ContentWriter<'env>,
    pool: &Pool<'env, W>,
    handle: &Arc<OwnedFd>,
    entry: &Entry,
    file: &File,
    older: Option<&Older>,
) -> Result<(), ContentError> {
    rustix::fs::ftruncate(&**handle, file.size_bytes)
        .map_err(ContentError::file(&entry.path, "set its size"))?;
    let large = LargeFile { writer, pool, handle, entry, older };
    let mut extents = ExtentReader::new(&writer.chunks, file);
    let mut tree = HashTree::default();
    let mut at = 0;
    while at < file.size_bytes {
        let length = SPAN_BYTES.min(file.size_bytes - at);
        large.write_span(at, extents.take(length, entry)?, &mut tree)?;
        at += length;
    }
    match tree.finish() {
        Some(hash) if hash == file.hash => Ok(()),
        _ => Err(large.mismatch()),
    }
}

/// A large file that is being written.
struct LargeFile<'env, 'a, W: Send + 'env> {
    writer: &'env ContentWriter<'env>,
    pool: &'a Pool<'env, W>,
    handle: &'a Arc<OwnedFd>,
    entry: &'a Entry,
    older: Option<&'a Older>,
}

impl<'env, W: Send + 'env> LargeFile<'env, '_, W> {
    fn mismatch(&self) -> ContentError {
        ContentError::Mismatch { path: self.entry.path.to_string() }
    }

    /// Writes the extents that begin at offset `start`, and pushes the chaining values of their segments.
    fn write_span(&self, start: u64, parts: Vec<Extent>, tree: &mut HashTree) -> Result<(), ContentError> {
        let end = start + parts.iter().map(Extent::length_bytes).sum::<u64>();
        let (copies, parts) = match self.older {
            Some(older) => older.copies(start, &parts),
            None => (Vec::new(), parts),
        };
        // Parts that are written out of order cannot be hashed on the way: they are read back and hashed.
        let scattered = !copies.is_empty() || is_scattered(&parts);
        if scattered {
            self.write_scattered(start, &copies, &parts)?;
        }
        let mut rest = ExtentQueue::new(parts);
        let mut under_way: VecDeque<Handle<Result<ChainingValue, ContentError>>> = VecDeque::new();
        let mut at = start;
        while at < end || !under_way.is_empty() {
            while at < end && under_way.len() < SEGMENTS_MAX {
                let next = (at + SEGMENT_BYTES).min(end);
                let parts = if scattered { Vec::new() } else { rest.take(next - at) };
                let (writer, handle, path) = (self.writer, self.handle.clone(), self.entry.path.clone());
                under_way.push_back(self.pool.submit(move |_| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.set_input_offset(at);
                    if scattered {
                        hash_written(&handle, &path, (at, next), &mut hasher)?;
                    } else {
                        write_extents(writer, &handle, &path, at, &parts, &mut hasher)?;
                    }
                    Ok(hasher.finalize_non_root())
                }));
                at = next;
            }
            let done = under_way.pop_front().and_then(Handle::wait);
            tree.push(done.unwrap_or_else(|| Err(self.mismatch()))?);
        }
        Ok(())
    }

    /// Copies the parts that the older version has, and writes the others chunk by chunk.
    fn write_scattered(&self, start: u64, copies: &[Copy], parts: &[Extent]) -> Result<(), ContentError> {
        let mut writing: VecDeque<Handle<Result<(), ContentError>>> = VecDeque::new();
        let wait = |writing: &mut VecDeque<Handle<_>>, most: usize| {
            while writing.len() > most {
                writing.pop_front().and_then(Handle::wait).unwrap_or_else(|| Err(self.mismatch()))?;
            }
            Ok::<_, ContentError>(())
        };
        let writer = self.writer;
        if let Some(older) = self.older {
            for some in copies.chunks(Copy::BATCH) {
                wait(&mut writing, SEGMENTS_MAX - 1)?;
                let (handle, from, some) = (self.handle.clone(), older.handle(), some.to_vec());
                let path = self.entry.path.clone();
                writing.push_back(self.pool.submit(move |_| {
                    for copy in some {
                        copy.run(&from, &handle, &path)?;
                        writer.count(copy.length_bytes);
                    }
                    Ok(())
                }));
            }
        }
        for batch in batches(start, parts) {
            wait(&mut writing, SEGMENTS_MAX - 1)?;
            let (handle, path) = (self.handle.clone(), self.entry.path.clone());
            writing.push_back(self.pool.submit(move |_| write_batch(writer, &handle, &path, &batch)));
        }
        wait(&mut writing, 0)
    }
}
