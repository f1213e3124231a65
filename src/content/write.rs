//! Writes a file's content into a file of this host, from chunks of the repository or from another file.
//!
//! This module neither names nor places files. Only the caller may have the handle until the content was
//! checked against its hash, because the source of a copy may change during the copy.

use super::error::ContentError;
use super::reuse::copy_range;
use crate::model::entry::{Extent, File};
use crate::model::id::{ChunkId, ContentHash};
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::source::data_map::DataMap;
use crate::support::progress::Progress;
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The source of content, with a count of the bytes written.
pub(crate) struct ContentWriter<'a> {
    pub(crate) chunks: ChunkReader,
    pub(crate) progress: &'a Progress,
    written_bytes: AtomicU64,
}

impl<'a> ContentWriter<'a> {
    pub fn new(chunks: ChunkReader, progress: &'a Progress) -> Self {
        Self { chunks, progress, written_bytes: AtomicU64::new(0) }
    }

    /// Counts bytes that were written.
    pub(crate) fn count(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        Progress::add(&self.progress.read_bytes, bytes);
    }

    /// Returns the number of bytes written so far.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }
}

/// Writes extents from offset `at` on, and hashes the bytes that they read as. Holes stay holes.
pub(crate) fn write_extents(
    writer: &ContentWriter,
    handle: &OwnedFd,
    path: &TreePath,
    mut at: u64,
    parts: &[Extent],
    hasher: &mut blake3::Hasher,
) -> Result<(), ContentError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut held = Held::default();
    let mut rest = parts;
    while !rest.is_empty() {
        let window;
        (window, rest) = held.fetch(&writer.chunks, rest)?;
        for part in window {
            match part {
                Extent::Hole { length_bytes } => {
                    let mut left = *length_bytes;
                    while left > 0 {
                        let count = left.min(ZEROS.len() as u64);
                        hasher.update(&ZEROS[..count as usize]);
                        left -= count;
                    }
                }
                Extent::Chunk { chunk, offset_bytes, length_bytes, .. } => {
                    let start = *offset_bytes as usize;
                    let bytes =
                        held.chunks.get(chunk).and_then(|b| b.get(start..start + *length_bytes as usize));
                    let bytes = bytes.ok_or_else(|| RepositoryError::Entry { path: path.to_string() })?;
                    hasher.update(bytes);
                    write_all(handle, bytes, at).map_err(ContentError::file(path, "write it"))?;
                    writer.count(bytes.len() as u64);
                }
            }
            at += part.length_bytes();
        }
    }
    Ok(())
}

/// Fetched chunks that later extents may need again.
#[derive(Default)]
struct Held {
    chunks: HashMap<ChunkId, Bytes>,
    bytes: usize,
}

impl Held {
    /// Maximum number of chunks that are fetched at a time.
    const FETCHED_MAX: usize = 8;
    /// Number of held bytes above which all chunks are dropped. A segment's extents need less.
    const BYTES_MAX: usize = 12 << 20;

    /// Fetches the chunks of the next extents; returns those extents and the remaining ones.
    fn fetch<'a>(
        &mut self,
        reader: &ChunkReader,
        parts: &'a [Extent],
    ) -> Result<(&'a [Extent], &'a [Extent]), RepositoryError> {
        if self.bytes > Self::BYTES_MAX {
            *self = Self::default();
        }
        let mut missing = Vec::new();
        let mut end = 0;
        for part in parts {
            if let Extent::Chunk { chunk, .. } = part
                && !self.chunks.contains_key(chunk)
                && !missing.contains(chunk)
            {
                if missing.len() == Self::FETCHED_MAX {
                    break;
                }
                missing.push(*chunk);
            }
            end += 1;
        }
        for (id, bytes) in reader.read_many(&missing)? {
            self.bytes += bytes.len();
            self.chunks.insert(id, bytes);
        }
        Ok(parts.split_at(end))
    }
}

pub(crate) fn write_all(handle: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(handle, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Copies all of `from` and returns whether the copy has the content of `file`.
///
/// It is copied by reference where the filesystem can, and holes stay holes. The copy is read back for the
/// hash, because `from` may change during the copy.
pub(crate) fn copy_checked(from: &OwnedFd, to: &OwnedFd, file: &File) -> Result<bool, Errno> {
    if rustix::fs::ioctl_ficlone(to, from).is_err() {
        rustix::fs::ftruncate(to, file.size_bytes)?;
        let data = DataMap::of(from.as_fd(), file.size_bytes)?;
        for (start, end, is_data) in data.stretches(0, file.size_bytes) {
            if is_data && copy_range(from, start, to, start, end - start).is_err() {
                copy_by_reading(from, to, start, end)?;
            }
        }
    }
    Ok(hash_of(to)? == file.hash)
}

/// Copies between filesystems for which the kernel does not.
///
/// A source that ends early leaves zeros, which the hash finds.
fn copy_by_reading(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = start;
    while at < end {
        let most = (end - at).min(buffer.len() as u64) as usize;
        match rustix::io::pread(from, &mut buffer[..most], at) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                write_all(to, &buffer[..count], at)?;
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Returns the hash of all bytes of a file.
pub(crate) fn hash_of(handle: &OwnedFd) -> Result<ContentHash, Errno> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        match rustix::io::pread(handle, &mut buffer, at) {
            Ok(0) => return Ok(ContentHash(*hasher.finalize().as_bytes())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
