//! Restoring regular files: created, filled, checked, given their metadata and their place.
//!
//! In a directory that was empty a file is made in its place; in any other, beside it and renamed over it,
//! so that a reader sees the old file or the new one. A file that cannot be had whole is told and left out, and the rest goes on.

use super::directory::{Directory, Outcome};
use super::metadata::{Already, Handle, apply, restorer};
use super::spot::{Spot, Unplaced};
use crate::content::extents::Extents;
use crate::content::reuse::copy_range;
use crate::format::attrs;
use crate::model::entry::{Attributes, Content, Entry, Extent, File, Kind, Xattrs};
use crate::model::id::{ChunkId, ContentHash};
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::{RepositoryError, RepositoryErrorKind};
use crate::source::content::DataMap;
use crate::source::read::open_file;
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::standby::depot::Depot;
use crate::standby::error::{Failure, RestoreError, is_own};
use crate::support::progress::Progress;
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) files_written: AtomicU64,
    pub(crate) files_kept: AtomicU64,
    /// Of those written, how many came from a standby's objects.
    pub(crate) files_local: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
}

/// What every job needs.
pub(crate) struct Shared<'a> {
    pub(crate) chunks: ChunkReader,
    pub(crate) counters: Counters,
    pub(crate) outcome: Arc<Outcome>,
    pub(crate) progress: &'a Progress,
    /// Where this host has a standby's objects of the store: what is there is not fetched.
    pub(crate) depot: Option<Depot>,
    /// Bits that creation takes away.
    pub(crate) umask: u16,
    /// Where in the destination this program keeps something.
    pub(crate) own: Vec<TreePath>,
}

/// A file to restore.
pub(crate) struct FileJob {
    pub(crate) spot: Spot,
    pub(crate) entry: Entry,
}

/// The umask, as the kernel tells it: to ask by setting it would change it for other threads. Where it
/// cannot be read, one that leaves nothing, so that every mode is set.
pub(crate) fn umask() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u16::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

/// Restores a batch of small files: their chunks are fetched together.
pub(crate) fn files(shared: &Shared, batch: Vec<FileJob>) -> Result<(), RestoreError> {
    let mut wanted = Vec::with_capacity(batch.len());
    let mut jobs = Vec::with_capacity(batch.len());
    for job in batch {
        let Kind::File(file) = &job.entry.kind else { continue };
        let attributes = shared.attributes(&job.entry)?;
        let nearby = from_nearby(shared, &job.spot, &job.entry, file, &attributes);
        if shared.settle(&job.spot.dir, &job.entry, nearby)? != Some(false) {
            continue;
        }
        let parts = Extents::new(&shared.chunks, file).take(file.size_bytes, &job.entry);
        let Some(parts) = shared.settle(&job.spot.dir, &job.entry, parts.map_err(Failure::filling))? else {
            continue;
        };
        // Files of several chunks are read a few chunks at a time, since parts may be small and chunks large.
        if let (Content::Whole { .. }, Some(Extent::Chunk { chunk, .. })) = (&file.content, parts.first()) {
            wanted.push(*chunk);
        }
        jobs.push((job, parts, attributes));
    }
    let fetched = match shared.chunks.read_many(&wanted) {
        // Some of them: which files those belong to shows when each is read by itself.
        Err(error) if error.kind() == RepositoryErrorKind::Damaged => shared.chunks.read_known(&wanted)?,
        other => other?,
    };
    for (job, parts, attributes) in jobs {
        let Kind::File(file) = &job.entry.kind else { continue };
        let made = create(shared, &job.spot, &job.entry).map_err(Failure::from).and_then(|making| {
            fill(shared, &making.handle, &job.entry.path, file, &parts, &fetched)
                .map_err(Failure::filling)?;
            shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
            making.finish(shared, &job.entry, &attributes).map_err(Failure::from)
        });
        shared.settle(&job.spot.dir, &job.entry, made)?;
    }
    Ok(())
}

/// Writes and checks a small file's content.
fn fill(
    shared: &Shared,
    handle: &OwnedFd,
    path: &TreePath,
    file: &File,
    parts: &[Extent],
    fetched: &HashMap<ChunkId, Bytes>,
) -> Result<(), RestoreError> {
    match (&file.content, parts.first()) {
        (Content::Empty, _) => {}
        (Content::Whole { .. }, Some(Extent::Chunk { chunk, .. })) if fetched.contains_key(chunk) => {
            let bytes = &fetched[chunk];
            if bytes.len() as u64 != file.size_bytes {
                return Err(RestoreError::Manifest { path: path.to_string() });
            }
            write_all(handle, bytes, 0).map_err(RestoreError::write(path, "write it"))?;
            count_bytes(shared, bytes.len() as u64);
        }
        _ => {
            rustix::fs::ftruncate(handle, file.size_bytes)
                .map_err(RestoreError::write(path, "set its size"))?;
            let mut hasher = blake3::Hasher::new();
            write_extents(shared, handle, path, 0, parts, &mut hasher)?;
            if ContentHash(*hasher.finalize().as_bytes()) != file.hash {
                return Err(RestoreError::Content { path: path.to_string() });
            }
        }
    }
    Ok(())
}

/// Restores a file without the repository, where that can be: what is there has the content, or a standby's object.
pub(crate) fn from_nearby(
    shared: &Shared,
    spot: &Spot,
    entry: &Entry,
    file: &File,
    attributes: &[(Vec<u8>, Vec<u8>)],
) -> Result<bool, Failure> {
    if spot.listed && keep_existing(shared, spot, entry, file, attributes)? {
        return Ok(true);
    }
    let Some(object) = object(shared, file) else { return Ok(false) };
    let making = create(shared, spot, entry)?;
    if !copied(&object, &making, entry, file)? {
        // It is damaged. What was made goes, and the repository's bytes are taken.
        return Ok(false);
    }
    shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
    shared.counters.files_local.fetch_add(1, Ordering::Relaxed);
    count_bytes(shared, file.size_bytes);
    making.finish(shared, entry, attributes)?;
    Ok(true)
}

/// Restores a file from another name of it, which was restored a moment ago; whether that has its content.
pub(crate) fn from_other_name(
    shared: &Shared,
    other: &OwnedFd,
    spot: &Spot,
    entry: &Entry,
    file: &File,
) -> Result<bool, Failure> {
    if !Stat::of(other).is_ok_and(|stat| stat.is_file() && stat.size_bytes == file.size_bytes) {
        return Ok(false);
    }
    let making = create(shared, spot, entry)?;
    if !copied(other, &making, entry, file)? {
        return Ok(false);
    }
    shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
    count_bytes(shared, file.size_bytes);
    making.finish(shared, entry, &shared.attributes(entry)?)?;
    Ok(true)
}

/// Whether a file has all of its content by a copy. A source that cannot be read is as good as one that has something else; should
/// it be the destination that fails, it fails again with the repository's bytes.
fn copied(from: &OwnedFd, making: &Making, entry: &Entry, file: &File) -> Result<bool, Failure> {
    match copy_checked(from, &making.handle, file) {
        Err(Errno::IO) => Ok(false),
        other => {
            other.map_err(RestoreError::write(&entry.path, "copy its content")).map_err(Failure::filling)
        }
    }
}

/// The standby's object of a file's content, where there is one.
pub(crate) fn object(shared: &Shared, file: &File) -> Option<OwnedFd> {
    let path = shared.depot.as_ref().filter(|_| file.size_bytes > 0)?.object(file.hash);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    Stat::of(&handle).is_ok_and(|stat| stat.size_bytes == file.size_bytes).then_some(handle)
}

/// Copies all of `from`, by reference where the filesystem can, holes as holes; then reads back what is
/// there, since `from` may change meanwhile. Whether it is the content of `file`.
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

/// For filesystems between which the kernel does not copy. A source that ends early leaves zeros, and a wrong hash.
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

pub(crate) fn count_bytes(shared: &Shared, bytes: u64) {
    shared.counters.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    Progress::add(&shared.progress.read_bytes, bytes);
}

/// Writes extents from `at` on, and hashes what they read as. Holes stay holes.
pub(crate) fn write_extents(
    shared: &Shared,
    handle: &OwnedFd,
    path: &TreePath,
    mut at: u64,
    parts: &[Extent],
    hasher: &mut blake3::Hasher,
) -> Result<(), RestoreError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut held = Held::default();
    let mut rest = parts;
    while !rest.is_empty() {
        let window;
        (window, rest) = held.fetch(&shared.chunks, rest)?;
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
                    let bytes = bytes.ok_or_else(|| RestoreError::Manifest { path: path.to_string() })?;
                    hasher.update(bytes);
                    write_all(handle, bytes, at).map_err(RestoreError::write(path, "write it"))?;
                    count_bytes(shared, bytes.len() as u64);
                }
            }
            at += part.length_bytes();
        }
    }
    Ok(())
}

/// Chunks that later extents may ask for again.
#[derive(Default)]
struct Held {
    chunks: HashMap<ChunkId, Bytes>,
    bytes: usize,
}

impl Held {
    /// At most so many chunks are fetched at once,
    const FETCHED_MAX: usize = 8;
    /// and all are dropped once there are so many bytes of them: more than a segment's extents come to.
    const BYTES_MAX: usize = 12 << 20;

    /// Fetches what the next extents need; returns those, and the rest.
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

pub(crate) fn attributes_of(chunks: &ChunkReader, entry: &Entry) -> Result<Attributes, RestoreError> {
    match &entry.xattrs {
        Xattrs::None => Ok(Attributes::new()),
        Xattrs::Inline(list) => Ok(list.clone()),
        Xattrs::Chunk(id) => {
            let bytes = chunks.read(*id)?;
            Ok(attrs::decode_chunk(&bytes).map_err(RepositoryError::format(&entry.path))?)
        }
    }
}

/// A file that is being made.
pub(crate) struct Making<'a> {
    pub(crate) handle: Arc<OwnedFd>,
    unplaced: Unplaced<'a>,
    dir: &'a Directory,
    /// As it was created, less the umask.
    mode: u16,
}

/// Creates a file for an entry: in its place in a fresh directory, else beside. It is gone again unless it is finished.
pub(crate) fn create<'a>(shared: &Shared, spot: &'a Spot, entry: &Entry) -> Result<Making<'a>, RestoreError> {
    // Nobody else reads a file before it has its owner and its access list.
    let known = spot.dir.neutral && (entry.uid, entry.gid) == restorer() && entry.xattrs == Xattrs::None;
    let mode = if known { entry.mode & 0o777 } else { 0o600 };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (handle, unplaced) = spot.make(&entry.path, "create it", |at| {
        rustix::fs::openat(&spot.dir.handle, at, flags, Mode::from_raw_mode(mode.into()))
    })?;
    Ok(Making { handle: Arc::new(handle), unplaced, dir: &spot.dir, mode: mode & !shared.umask })
}

impl Making<'_> {
    /// Gives a written file its metadata, and its place.
    pub(crate) fn finish(
        self,
        shared: &Shared,
        entry: &Entry,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), RestoreError> {
        let neutral = self.dir.neutral;
        let already = if neutral { Already::neutral(self.mode) } else { Already::default() };
        let handle = Handle::Open(self.handle.as_fd());
        apply(handle, entry, attributes, already, self.dir.filesystem.exact, &shared.outcome.told)?;
        self.unplaced.place(&entry.path)
    }
}

/// Whether the file that is there has the content already; then only differing metadata is set. What cannot be read is
/// replaced.
fn keep_existing(
    shared: &Shared,
    spot: &Spot,
    entry: &Entry,
    file: &File,
    attributes: &[(Vec<u8>, Vec<u8>)],
) -> Result<bool, RestoreError> {
    let unless_own = |errno| match is_own(errno) {
        true => Err(RestoreError::write(&entry.path, "read it")(errno)),
        false => Ok(false),
    };
    let handle = match open_file(&spot.dir.handle, &spot.name) {
        Ok(handle) => handle,
        Err(errno) => return unless_own(errno),
    };
    let Ok(stat) = Stat::of(&handle) else { return Ok(false) };
    let candidate = stat.is_file()
        && stat.size_bytes == file.size_bytes
        && stat.links == 1
        && entry.hardlink.is_none()
        && !stat.may_have_holes();
    if !candidate {
        return Ok(false);
    }
    match hash_of(&handle) {
        Ok(hash) if hash == file.hash => {}
        Ok(_) => return Ok(false),
        Err(errno) => return unless_own(errno),
    }
    let same_stat =
        (stat.mode, stat.uid, stat.gid, stat.mtime) == (entry.mode, entry.uid, entry.gid, entry.mtime);
    if !same_stat || xattr::read(&handle).as_deref() != Ok(attributes) {
        let (exact, told) = (spot.dir.filesystem.exact, &shared.outcome.told);
        apply(Handle::Open(handle.as_fd()), entry, attributes, Already::default(), exact, told)?;
    }
    shared.counters.files_kept.fetch_add(1, Ordering::Relaxed);
    Ok(true)
}

/// The hash of all bytes from the first on.
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
