//! Restoring regular files: created, filled, checked, given their metadata and their place.
//!
//! In a directory that was empty a file is made in its place; in any other, beside it and renamed over it,
//! so that a reader sees the old file or the new one.

use super::apply::{Already, HandleKind, apply};
use super::depot::Depot;
use super::directory::{Directory, Outcome, name_of, remove_all};
use super::error::RestoreError;
use super::extents::Extents;
use super::older::copy_range;
use crate::format::attrs;
use crate::model::entry::{Attributes, Content, Entry, Extent, File, Kind, Xattrs};
use crate::model::id::{ChunkId, ContentHash};
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::source::content::DataMap;
use crate::source::read::open_file;
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::support::progress::Progress;
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Counters {
    pub(super) files_written: AtomicU64,
    pub(super) files_kept: AtomicU64,
    /// Of those written, how many came from a standby's objects.
    pub(super) files_local: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

/// What every job needs.
pub(super) struct Shared<'a> {
    pub(super) chunks: ChunkReader,
    pub(super) counters: Counters,
    pub(super) outcome: Arc<Outcome>,
    pub(super) progress: &'a Progress,
    /// Effective user and group: who owns what this process creates.
    pub(super) owner: (u32, u32),
    /// Where this host has a standby's objects of the store: what is there is not fetched.
    pub(super) depot: Option<Depot>,
    /// Bits that creation takes away.
    pub(super) umask: u16,
}

/// A file to restore.
pub(super) struct FileJob {
    pub(super) dir: Arc<Directory>,
    pub(super) name: CString,
    pub(super) entry: Entry,
}

/// The umask, as the kernel tells it: to ask by setting it would change it for other threads. Where it
/// cannot be read, one that leaves nothing, so that every mode is set.
pub(super) fn umask() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u16::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

/// Restores a batch of small files: their chunks are fetched together.
pub(super) fn files(shared: &Shared, batch: Vec<FileJob>, delete: bool) -> Result<(), RestoreError> {
    let mut wanted = Vec::with_capacity(batch.len());
    let mut jobs = Vec::with_capacity(batch.len());
    for job in batch {
        let Kind::File(file) = &job.entry.kind else { continue };
        let attributes = attributes_of(&shared.chunks, &job.entry)?;
        if !job.dir.fresh && keep_existing(shared, &job.dir, &job.name, &job.entry, file, &attributes)? {
            continue;
        }
        if let Some(object) = object(shared, file) {
            let (handle, beside) = create(shared, &job.dir, &job.name, &job.entry)?;
            if copy_object(shared, &object, &handle, &job.entry, file)? {
                finish(
                    shared,
                    &job.dir,
                    &handle,
                    beside.as_deref(),
                    &job.name,
                    &job.entry,
                    &attributes,
                    delete,
                )?;
                continue;
            }
            // It is damaged, and this is the name that the fetched bytes are written under.
            let name = beside.as_deref().unwrap_or(&job.name);
            rustix::fs::unlinkat(&job.dir.handle, name, AtFlags::empty())
                .map_err(RestoreError::write(&job.entry.path, "remove a damaged copy"))?;
        }
        let parts = Extents::new(&shared.chunks, file).take(file.size_bytes, &job.entry)?;
        // Files of several chunks are read a few chunks at a time, since parts may be small and chunks large.
        if let (Content::Whole { .. }, Some(Extent::Chunk { chunk, .. })) = (&file.content, parts.first()) {
            wanted.push(*chunk);
        }
        jobs.push((job, parts, attributes));
    }
    let fetched = shared.chunks.read_many(&wanted)?;
    for (job, parts, attributes) in jobs {
        let Kind::File(file) = &job.entry.kind else { continue };
        let (handle, beside) = create(shared, &job.dir, &job.name, &job.entry)?;
        match (&file.content, parts.first()) {
            (Content::Empty, _) => {}
            (Content::Whole { .. }, Some(Extent::Chunk { chunk, .. })) if fetched.contains_key(chunk) => {
                let bytes = &fetched[chunk];
                if bytes.len() as u64 != file.size_bytes {
                    return Err(RestoreError::Manifest { path: job.entry.path.to_string() });
                }
                write_all(&handle, bytes, 0).map_err(RestoreError::write(&job.entry.path, "write it"))?;
                count_bytes(shared, bytes.len() as u64);
            }
            _ => {
                rustix::fs::ftruncate(&handle, file.size_bytes)
                    .map_err(RestoreError::write(&job.entry.path, "set its size"))?;
                let mut hasher = blake3::Hasher::new();
                write_extents(shared, &handle, &job.entry.path, 0, &parts, &mut hasher)?;
                if ContentHash(*hasher.finalize().as_bytes()) != file.hash {
                    return Err(RestoreError::Content { path: job.entry.path.to_string() });
                }
            }
        }
        shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
        finish(shared, &job.dir, &handle, beside.as_deref(), &job.name, &job.entry, &attributes, delete)?;
    }
    Ok(())
}

/// The standby's object of a file's content, where there is one.
pub(super) fn object(shared: &Shared, file: &File) -> Option<OwnedFd> {
    let path = shared.depot.as_ref().filter(|_| file.size_bytes > 0)?.object(file.hash);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    Stat::of(&handle).is_ok_and(|stat| stat.size_bytes == file.size_bytes).then_some(handle)
}

/// Fills an empty file from an object; false when the object turns out to be damaged, and the file is empty.
pub(super) fn copy_object(
    shared: &Shared,
    object: &OwnedFd,
    handle: &OwnedFd,
    entry: &Entry,
    file: &File,
) -> Result<bool, RestoreError> {
    let copied = copy_checked(object, handle, file)
        .map_err(RestoreError::write(&entry.path, "copy it from the standby's objects"))?;
    if copied {
        shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
        shared.counters.files_local.fetch_add(1, Ordering::Relaxed);
        count_bytes(shared, file.size_bytes);
    } else {
        rustix::fs::ftruncate(handle, 0).map_err(RestoreError::write(&entry.path, "empty it again"))?;
    }
    Ok(copied)
}

/// Copies all of `from`, by reference where the filesystem can, holes as holes; then reads back what is
/// there, since `from` may change meanwhile. Whether it is the content of `file`.
pub(super) fn copy_checked(from: &OwnedFd, to: &OwnedFd, file: &File) -> Result<bool, Errno> {
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

pub(super) fn count_bytes(shared: &Shared, bytes: u64) {
    shared.counters.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    Progress::add(&shared.progress.read_bytes, bytes);
}

/// Writes extents from `at` on, and hashes what they read as. Holes stay holes.
pub(super) fn write_extents(
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

pub(super) fn write_all(handle: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
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

pub(super) fn attributes_of(chunks: &ChunkReader, entry: &Entry) -> Result<Attributes, RestoreError> {
    match &entry.xattrs {
        Xattrs::None => Ok(Attributes::new()),
        Xattrs::Inline(list) => Ok(list.clone()),
        Xattrs::Chunk(id) => {
            let bytes = chunks.read(*id)?;
            Ok(attrs::decode_chunk(&bytes).map_err(RepositoryError::format(&entry.path))?)
        }
    }
}

/// What names made beside their place begin with.
pub(super) const BESIDE: &str = ".understudy-new-";

/// The name that `name` is made under; never longer than a name may be.
pub(super) fn beside(dir: &Directory, name: &CStr) -> CString {
    if dir.fresh {
        return name.to_owned();
    }
    let tag = blake3::hash(name.to_bytes()).to_hex();
    name_of(format!("{BESIDE}{}", &tag[..16]).as_bytes())
}

/// Creates a file for an entry: in its place in a fresh directory, else beside.
pub(super) fn create(
    shared: &Shared,
    dir: &Directory,
    name: &CStr,
    entry: &Entry,
) -> Result<(OwnedFd, Option<CString>), RestoreError> {
    let wrong = |action| RestoreError::write(&entry.path, action);
    let at = beside(dir, name);
    // Nobody else reads a file before it has its owner.
    let same_owner = (entry.uid, entry.gid) == shared.owner;
    let mode = if same_owner { entry.mode & 0o777 } else { 0o600 };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(&dir.handle, &at, flags, Mode::from_raw_mode(mode.into()));
    let handle = match open() {
        // Left by a restore that was broken off.
        Err(Errno::EXIST) if !dir.fresh => {
            remove_all(&dir.handle, &at).map_err(wrong("remove what is beside it"))?;
            open()
        }
        other => other,
    }
    .map_err(wrong("create it"))?;
    Ok((handle, (!dir.fresh).then_some(at)))
}

/// Gives a written file its metadata, and its place.
#[allow(clippy::too_many_arguments)]
pub(super) fn finish(
    shared: &Shared,
    dir: &Directory,
    handle: &OwnedFd,
    beside: Option<&CStr>,
    name: &CStr,
    entry: &Entry,
    attributes: &[(Vec<u8>, Vec<u8>)],
    delete: bool,
) -> Result<(), RestoreError> {
    let same_owner = (entry.uid, entry.gid) == shared.owner;
    let mode = if same_owner { entry.mode & 0o777 & !shared.umask } else { 0o600 & !shared.umask };
    let already = Already {
        // Into a directory that was there, a default ACL may have been inherited.
        new: dir.fresh,
        mode: dir.fresh.then_some(mode),
        owner: dir.fresh.then_some(shared.owner),
    };
    apply(handle, HandleKind::Open, entry, attributes, already, &shared.outcome.denied)?;
    match beside {
        Some(beside) => put_in_place(dir, beside, name, entry, delete),
        None => Ok(()),
    }
}

/// Renames what was made beside over what is there. A directory in the way goes only if deletion is allowed.
pub(super) fn put_in_place(
    dir: &Directory,
    beside: &CStr,
    name: &CStr,
    entry: &Entry,
    delete: bool,
) -> Result<(), RestoreError> {
    let wrong = |action| RestoreError::write(&entry.path, action);
    if beside == name {
        return Ok(());
    }
    let rename = || rustix::fs::renameat(&dir.handle, beside, &dir.handle, name);
    match rename() {
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) if delete => {
            remove_all(&dir.handle, name).map_err(wrong("remove the directory in its place"))?;
            rename().map_err(wrong("rename it"))
        }
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
            let _ = rustix::fs::unlinkat(&dir.handle, beside, AtFlags::empty());
            Err(RestoreError::InTheWay(entry.path.to_string()))
        }
        other => other.map_err(wrong("rename it")),
    }?;
    // Two names of one inode: the rename did nothing, and what was beside is still there.
    match rustix::fs::unlinkat(&dir.handle, beside, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(wrong("remove what is beside it")(errno)),
    }
}

/// Whether the file that is there has the content already; then only differing metadata is set.
pub(super) fn keep_existing(
    shared: &Shared,
    dir: &Directory,
    name: &CStr,
    entry: &Entry,
    file: &File,
    attributes: &[(Vec<u8>, Vec<u8>)],
) -> Result<bool, RestoreError> {
    let wrong = |action| RestoreError::write(&entry.path, action);
    let Ok(handle) = open_file(&dir.handle, name) else { return Ok(false) };
    let stat = Stat::of(&handle).map_err(wrong("look at it"))?;
    let candidate = stat.is_file()
        && stat.size_bytes == file.size_bytes
        && stat.links == 1
        && entry.hardlink.is_none()
        && !stat.may_have_holes();
    if !candidate || hash_of(&handle).map_err(wrong("read it"))? != file.hash {
        return Ok(false);
    }
    let same_stat =
        (stat.mode, stat.uid, stat.gid, stat.mtime) == (entry.mode, entry.uid, entry.gid, entry.mtime);
    if !same_stat || xattr::read(&handle).map_err(wrong("read its attributes"))? != attributes {
        apply(&handle, HandleKind::Open, entry, attributes, Already::default(), &shared.outcome.denied)?;
    }
    shared.counters.files_kept.fetch_add(1, Ordering::Relaxed);
    Ok(true)
}

/// The hash of all bytes from the first on.
pub(super) fn hash_of(handle: &OwnedFd) -> Result<ContentHash, Errno> {
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
