//! Restores regular files: creates, fills and checks them, and gives them their metadata and their place.
//!
//! In a directory that was empty, a file is made under its own name. In any other it is made under a
//! temporary name and renamed, so that a reader sees either the old file or the new one. A file whose content
//! is incomplete is reported and left out, and the restore continues.

use super::context::RestoreContext;
use super::directory::Directory;
use super::error::{EntryError, RestoreError, is_own};
use super::metadata::{CreatedWith, Handle, apply, restorer};
use super::spot::{Spot, Unplaced};
use crate::content::write::{copy_checked, hash_of, write_all, write_extents};
use crate::model::entry::{Content, Entry, Extent, File, Kind, Xattrs};
use crate::model::id::{ChunkId, ContentHash};
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::repository::extents::ExtentReader;
use crate::source::read::open_file;
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A file to restore.
pub(crate) struct FileJob {
    pub(crate) spot: Spot,
    pub(crate) entry: Entry,
}

/// Returns the umask as the kernel reports it in `/proc`.
///
/// Asking by setting it would change it for other threads.
///
/// If it cannot be read, this returns a mask of all bits, so that every mode is set explicitly.
pub(crate) fn umask() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u16::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

/// Restores a batch of small files, whose chunks are fetched together.
pub(crate) fn files(context: &RestoreContext, batch: Vec<FileJob>) -> Result<(), RestoreError> {
    let mut wanted = Vec::with_capacity(batch.len());
    let mut jobs = Vec::with_capacity(batch.len());
    for job in batch {
        let Kind::File(file) = &job.entry.kind else { continue };
        let attributes = context.attributes(&job.entry)?;
        let nearby = from_nearby(context, &job.spot, &job.entry, file, &attributes);
        if context.settle(&job.spot.dir, &job.entry, nearby)? != Some(false) {
            continue;
        }
        let parts = ExtentReader::new(&context.writer.chunks, file).take(file.size_bytes, &job.entry);
        let Some(parts) = context.settle(&job.spot.dir, &job.entry, parts.map_err(EntryError::filling))?
        else {
            continue;
        };
        // Files of several chunks are read a few chunks at a time, since parts may be small and chunks large.
        if let (Content::Whole { .. }, Some(Extent::Chunk { chunk, .. })) = (&file.content, parts.first()) {
            wanted.push(*chunk);
        }
        jobs.push((job, parts, attributes));
    }
    let fetched = match context.writer.chunks.read_many(&wanted) {
        // Some of them: which files those belong to shows when each is read by itself.
        Err(error) if error.kind() == FailureKind::Damaged => context.writer.chunks.read_known(&wanted)?,
        other => other?,
    };
    for (job, parts, attributes) in jobs {
        let Kind::File(file) = &job.entry.kind else { continue };
        let made = create(context, &job.spot, &job.entry).map_err(EntryError::from).and_then(|making| {
            fill(context, &making.handle, &job.entry.path, file, &parts, &fetched)
                .map_err(EntryError::filling)?;
            context.counters.files_written.fetch_add(1, Ordering::Relaxed);
            making.finish(context, &job.entry, &attributes).map_err(EntryError::from)
        });
        context.settle(&job.spot.dir, &job.entry, made)?;
    }
    Ok(())
}

/// Writes and checks a small file's content.
fn fill(
    context: &RestoreContext,
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
                return Err(RepositoryError::Entry { path: path.to_string() }.into());
            }
            write_all(handle, bytes, 0).map_err(RestoreError::write(path, "write it"))?;
            context.writer.count(bytes.len() as u64);
        }
        _ => {
            rustix::fs::ftruncate(handle, file.size_bytes)
                .map_err(RestoreError::write(path, "set its size"))?;
            let mut hasher = blake3::Hasher::new();
            write_extents(&context.writer, handle, path, 0, parts, &mut hasher)?;
            if ContentHash(*hasher.finalize().as_bytes()) != file.hash {
                return Err(RestoreError::Content { path: path.to_string() });
            }
        }
    }
    Ok(())
}

/// Restores a file without the repository, if the existing file or a standby's object has its content.
pub(crate) fn from_nearby(
    context: &RestoreContext,
    spot: &Spot,
    entry: &Entry,
    file: &File,
    attributes: &[(Vec<u8>, Vec<u8>)],
) -> Result<bool, EntryError> {
    if spot.listed && keep_existing(context, spot, entry, file, attributes)? {
        return Ok(true);
    }
    let Some(object) = context.local.as_ref().and_then(|local| local.open(file)) else { return Ok(false) };
    let making = create(context, spot, entry)?;
    if !copied(&object, &making, entry, file)? {
        // The object is damaged. The new file is removed, and the repository's bytes are used.
        return Ok(false);
    }
    context.counters.files_written.fetch_add(1, Ordering::Relaxed);
    context.counters.files_local.fetch_add(1, Ordering::Relaxed);
    context.writer.count(file.size_bytes);
    making.finish(context, entry, attributes)?;
    Ok(true)
}

/// Restores a file from another of its names, which was restored just before.
///
/// Returns whether that had its content.
pub(crate) fn from_other_name(
    context: &RestoreContext,
    other: &OwnedFd,
    spot: &Spot,
    entry: &Entry,
    file: &File,
) -> Result<bool, EntryError> {
    if !Stat::of(other).is_ok_and(|stat| stat.is_file() && stat.size_bytes == file.size_bytes) {
        return Ok(false);
    }
    let making = create(context, spot, entry)?;
    if !copied(other, &making, entry, file)? {
        return Ok(false);
    }
    context.counters.files_written.fetch_add(1, Ordering::Relaxed);
    context.writer.count(file.size_bytes);
    making.finish(context, entry, &context.attributes(entry)?)?;
    Ok(true)
}

/// Copies a file and returns whether the copy has all of the content.
///
/// A source that cannot be read counts as one with other content. If the destination is at fault, writing the
/// repository's bytes fails as well and reports it.
fn copied(from: &OwnedFd, making: &Making, entry: &Entry, file: &File) -> Result<bool, EntryError> {
    match copy_checked(from, &making.handle, file) {
        Err(Errno::IO) => Ok(false),
        other => {
            other.map_err(RestoreError::write(&entry.path, "copy its content")).map_err(EntryError::filling)
        }
    }
}

/// A file that is being made.
pub(crate) struct Making<'a> {
    pub(crate) handle: Arc<OwnedFd>,
    unplaced: Unplaced<'a>,
    dir: &'a Directory,
    /// The mode that it was created with, less the umask.
    mode: u16,
}

/// Creates a file for an entry: under its own name in a fresh directory, otherwise under a temporary name.
///
/// It is removed unless it is finished.
pub(crate) fn create<'a>(
    context: &RestoreContext,
    spot: &'a Spot,
    entry: &Entry,
) -> Result<Making<'a>, RestoreError> {
    // No other user can read a file before it has its owner and its access list.
    let known = spot.dir.neutral && (entry.uid, entry.gid) == restorer() && entry.xattrs == Xattrs::None;
    let mode = if known { entry.mode & 0o777 } else { 0o600 };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (handle, unplaced) = spot.make(&entry.path, "create it", |at| {
        rustix::fs::openat(&spot.dir.handle, at, flags, Mode::from_raw_mode(mode.into()))
    })?;
    Ok(Making { handle: Arc::new(handle), unplaced, dir: &spot.dir, mode: mode & !context.umask })
}

impl Making<'_> {
    /// Gives a written file its metadata, and its place.
    pub fn finish(
        self,
        context: &RestoreContext,
        entry: &Entry,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), RestoreError> {
        let neutral = self.dir.neutral;
        let already = if neutral { CreatedWith::neutral(self.mode) } else { CreatedWith::default() };
        let handle = Handle::Open(self.handle.as_fd());
        apply(handle, entry, attributes, already, self.dir.filesystem.exact, &context.outcome.told)?;
        self.unplaced.place(&entry.path)
    }
}

/// Keeps the existing file if it has the entry's content, setting only metadata that differs.
///
/// Returns whether it did.
///
/// A file that cannot be read is replaced.
fn keep_existing(
    context: &RestoreContext,
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
        let (exact, told) = (spot.dir.filesystem.exact, &context.outcome.told);
        apply(Handle::Open(handle.as_fd()), entry, attributes, CreatedWith::default(), exact, told)?;
    }
    context.counters.files_kept.fetch_add(1, Ordering::Relaxed);
    Ok(true)
}
