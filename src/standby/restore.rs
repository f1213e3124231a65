//! Restoring a snapshot as plain files.
//!
//! A destination that does not exist, or is an empty directory, is made beside and renamed when it is
//! complete; broken off, the next run goes on in the directory beside. Into a directory that holds
//! something, each file is made beside its name and renamed over it, and only what differs is touched.
//! Every byte is checked: chunks against their ids, files of several chunks against their hash. Nothing
//! is ever opened through a symlink, so that a tree which changes meanwhile cannot lead a write out of
//! the destination.

use super::apply::{Already, HandleKind, apply};
use super::directory::{Directory, Outcome, name_of, open_below, open_path, remove_all};
use super::error::RestoreError;
use crate::format::{attrs, extent_list};
use crate::model::entry::{Attributes, Content, Entry, Extent, File, Kind, Xattrs};
use crate::model::id::{ChunkId, ContentHash};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::ManifestReader;
use crate::source::content::{HashTree, SEGMENT_BYTES};
use crate::source::read::open_file;
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use blake3::hazmat::{ChainingValue, HasherExt};
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Batches under way.
const JOBS_MAX: usize = 8;
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: u64 = SEGMENT_BYTES;
/// Segments of one large file under way.
const SEGMENTS_MAX: usize = 6;
/// Lists of extents read at once.
const LISTS_MAX: usize = 64;

/// What to restore, and where.
pub struct RestoreRequest {
    pub destination: PathBuf,
    /// Restores this entry and what is below it, as the destination.
    pub path: TreePath,
    /// Allows a destination that holds something: what differs is replaced.
    pub overwrite: bool,
    /// Also removes what the snapshot does not have.
    pub delete: bool,
    pub threads: usize,
}

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RestoreReport {
    pub entries: u64,
    pub files_written: u64,
    /// Files whose content was there already.
    pub files_kept: u64,
    pub removed: u64,
    pub written_bytes: u64,
    /// Owners, attributes and device nodes that this process may not set.
    pub owners_denied: u64,
    pub attributes_denied: u64,
    pub devices_denied: u64,
    /// It went on where an earlier run was broken off.
    pub resumed: bool,
}

#[derive(Default)]
struct Counters {
    files_written: AtomicU64,
    files_kept: AtomicU64,
    written_bytes: AtomicU64,
}

/// What every job needs.
struct Shared<'a> {
    chunks: ChunkReader,
    counters: Counters,
    outcome: Arc<Outcome>,
    progress: &'a Progress,
    /// Effective user and group: who owns what this process creates.
    owner: (u32, u32),
    /// Bits that creation takes away.
    umask: u16,
}

/// A file to restore.
struct FileJob {
    dir: Arc<Directory>,
    name: CString,
    entry: Entry,
}

/// Restores the manifest `root` of a store, whose chunks `chunks` reads.
pub fn restore(
    chunks: ChunkReader,
    root: &ManifestRoot,
    tag: &str,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    crate::source::walk::raise_handle_limit();
    progress.expected_entries.store(root.entries, Ordering::Relaxed);
    let place = Place::choose(request, tag)?;
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let outcome = Arc::new(Outcome::default());
    let shared = Shared { chunks, counters: Counters::default(), outcome, progress, owner, umask: umask() };
    let threads = request.threads.max(1);
    let entries = ManifestReader::new(shared.chunks.clone()).entries_within(root, &request.path);
    let mut report = std::thread::scope(|scope| {
        let pool = Pool::start(scope, vec![(); threads]);
        let restorer = Restorer {
            shared: &shared,
            pool: &pool,
            request,
            stack: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            pending: VecDeque::new(),
            links: HashMap::new(),
            report: RestoreReport { resumed: place.resumed, ..Default::default() },
        };
        let report = restorer.run(entries, &place);
        drop(pool);
        report
    })?;
    if let Some(error) = shared.outcome.failed.lock().unwrap_or_else(|e| e.into_inner()).take() {
        return Err(error);
    }
    place.publish()?;
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let denied = &shared.outcome.denied;
    report.files_written = count(&shared.counters.files_written);
    report.files_kept = count(&shared.counters.files_kept);
    report.written_bytes = count(&shared.counters.written_bytes);
    report.owners_denied = count(&denied.owners);
    report.attributes_denied = count(&denied.attributes);
    report.devices_denied = count(&denied.devices);
    Ok(report)
}

/// The umask, as the kernel tells it: to ask by setting it would change it for other threads. Where it
/// cannot be read, one that leaves nothing, so that every mode is set.
fn umask() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u16::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

/// Where the tree is built.
struct Place {
    /// The directory that is written into.
    work: PathBuf,
    /// Renamed to this at the end.
    publish: Option<PathBuf>,
    fresh: bool,
    resumed: bool,
}

impl Place {
    fn choose(request: &RestoreRequest, tag: &str) -> Result<Self, RestoreError> {
        let destination = &request.destination;
        let shown = destination.display().to_string();
        let name = destination.file_name().ok_or_else(|| RestoreError::NotADirectory(destination.clone()))?;
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        std::fs::create_dir_all(&parent).map_err(|e| io(&shown, "create its parent", &e))?;
        let parent_device = device(&parent).map_err(|e| io(&shown, "look at its parent", &e))?;
        match std::fs::symlink_metadata(destination) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(&shown, "look at it", &e)),
            Ok(found) if !found.is_dir() => return Err(RestoreError::NotADirectory(destination.clone())),
            Ok(_) => {
                let mut listed = std::fs::read_dir(destination).map_err(|e| io(&shown, "list it", &e))?;
                let empty = listed.next().is_none();
                if !empty && !request.overwrite {
                    return Err(RestoreError::NotEmpty(destination.clone()));
                }
                // A mount point cannot be renamed over.
                let mounted = device(destination).map_err(|e| io(&shown, "look at it", &e))? != parent_device;
                if !empty || mounted {
                    return Ok(Self {
                        work: destination.clone(),
                        publish: None,
                        fresh: empty,
                        resumed: false,
                    });
                }
            }
        }
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".understudy-{tag}"));
        let work = parent.join(beside);
        let resumed = match std::fs::create_dir(&work) {
            Ok(()) => false,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => true,
            Err(e) => return Err(io(&work.display().to_string(), "create it", &e)),
        };
        Ok(Self { work, publish: Some(destination.clone()), fresh: !resumed, resumed })
    }

    /// Written to the disk first: a tree under its final name is complete, also after a power cut.
    fn publish(&self) -> Result<(), RestoreError> {
        let shown = self.work.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &self.work, flags, Mode::empty());
        handle.and_then(rustix::fs::syncfs).map_err(RestoreError::write(&shown, "write it to the disk"))?;
        match &self.publish {
            Some(destination) => std::fs::rename(&self.work, destination)
                .map_err(|e| io(&destination.display().to_string(), "rename the finished tree to it", &e)),
            None => Ok(()),
        }
    }
}

fn device(path: &Path) -> std::io::Result<u64> {
    std::fs::metadata(path).map(|m| std::os::unix::fs::MetadataExt::dev(&m))
}

fn io(path: &str, action: &'static str, error: &std::io::Error) -> RestoreError {
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    RestoreError::Write { path: path.to_owned(), action, errno }
}

struct Level {
    dir: Arc<Directory>,
    /// What was there and has not been met in the snapshot; empty for a fresh directory.
    extra: BTreeSet<CString>,
}

struct Restorer<'s, 'env> {
    shared: &'env Shared<'env>,
    pool: &'s Pool<'env, ()>,
    request: &'s RestoreRequest,
    stack: Vec<Level>,
    batch: Vec<FileJob>,
    batch_bytes: u64,
    pending: VecDeque<Handle<Result<(), RestoreError>>>,
    /// The first name of every hardlink group.
    links: HashMap<u64, TreePath>,
    report: RestoreReport,
}

impl<'env> Restorer<'_, 'env> {
    fn run(
        mut self,
        entries: impl Iterator<Item = Result<Entry, RepositoryError>>,
        place: &Place,
    ) -> Result<RestoreReport, RestoreError> {
        for entry in entries {
            let entry = entry?;
            self.report.entries += 1;
            Progress::add(&self.shared.progress.entries, 1);
            if self.stack.is_empty() {
                self.begin(entry, place)?;
                continue;
            }
            let parent = entry.path.split().map_or(&b""[..], |(parent, _)| parent).to_vec();
            while self.stack.last().is_some_and(|level| level.dir.path.as_bytes() != parent) {
                self.leave()?;
            }
            self.place(entry)?;
        }
        if self.report.entries == 0 {
            return Err(RestoreError::NoSuchPath(self.request.path.to_string()));
        }
        self.drain()?;
        while !self.stack.is_empty() {
            self.leave()?;
        }
        Ok(self.report)
    }

    /// The first entry: a directory becomes the destination itself, anything else is put into it.
    fn begin(&mut self, entry: Entry, place: &Place) -> Result<(), RestoreError> {
        let shown = place.work.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &place.work, flags, Mode::empty())
            .map_err(RestoreError::write(&shown, "open it"))?;
        let outcome = self.shared.outcome.clone();
        if entry.kind == Kind::Directory {
            let attributes = self.attributes(&entry)?;
            if place.fresh {
                forget_attributes(&handle);
            }
            let dir = Directory::new(handle, entry, attributes, place.fresh, outcome, None);
            return self.enter(Arc::new(dir));
        }
        self.enter(Arc::new(Directory::plain(handle, place.fresh, outcome)))?;
        self.place(entry)
    }

    fn enter(&mut self, dir: Arc<Directory>) -> Result<(), RestoreError> {
        let extra = if dir.fresh {
            BTreeSet::new()
        } else {
            dir.names().map_err(RestoreError::write(&dir.path, "list it"))?
        };
        self.stack.push(Level { dir, extra });
        Ok(())
    }

    /// All of a directory's entries were met: what is left over does not belong.
    fn leave(&mut self) -> Result<(), RestoreError> {
        let Some(level) = self.stack.pop() else { return Ok(()) };
        // A file restored alone does not speak for the directory it is put into.
        let partial = !self.request.path.is_root() && level.dir.path.is_root();
        for name in &level.extra {
            // What a killed restore left beside a file is ours to remove.
            let ours = name.as_bytes().starts_with(BESIDE.as_bytes());
            if ours || (self.request.delete && !partial) || self.report.resumed {
                let path = level.dir.path.join(name.as_bytes());
                remove_all(&level.dir.handle, name).map_err(RestoreError::write(&path, "remove it"))?;
                self.report.removed += 1;
            }
        }
        Ok(())
    }

    fn attributes(&self, entry: &Entry) -> Result<Attributes, RestoreError> {
        attributes_of(&self.shared.chunks, entry)
    }

    /// Puts one entry into the directory on top of the stack.
    fn place(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let manifest = || RestoreError::Manifest { path: entry.path.to_string() };
        let level = self.stack.last_mut().ok_or_else(manifest)?;
        let (_, name) = entry.path.split().ok_or_else(manifest)?;
        let name = name_of(name);
        level.extra.remove(&name);
        let dir = level.dir.clone();
        if let Some(group) = entry.hardlink
            && let Some(first) = self.links.get(&group)
        {
            let first = first.clone();
            return self.link(&dir, &name, &entry, &first);
        }
        if let Some(group) = entry.hardlink {
            self.links.insert(group, entry.path.clone());
        }
        match &entry.kind {
            Kind::Directory => self.directory(dir, &name, entry),
            Kind::File(file) if file.size_bytes > SEGMENT_BYTES => self.large(dir, name, entry),
            Kind::File(file) => {
                self.batch_bytes += file.size_bytes;
                self.batch.push(FileJob { dir, name, entry });
                let full = self.batch.len() >= BATCH_ENTRIES || self.batch_bytes >= BATCH_BYTES;
                if full { self.flush() } else { Ok(()) }
            }
            _ => {
                let attributes = self.attributes(&entry)?;
                special(self.shared, &dir, &name, &entry, &attributes, self.request.delete)
            }
        }
    }

    fn directory(&mut self, parent: Arc<Directory>, name: &CStr, entry: Entry) -> Result<(), RestoreError> {
        let wrong = |action| RestoreError::write(&entry.path, action);
        let mut fresh = true;
        match rustix::fs::mkdirat(&parent.handle, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                if Stat::at(&parent.handle, name).is_ok_and(|s| s.is_directory()) {
                    fresh = false;
                } else {
                    rustix::fs::unlinkat(&parent.handle, name, AtFlags::empty())
                        .map_err(wrong("replace it"))?;
                    rustix::fs::mkdirat(&parent.handle, name, Mode::RWXU).map_err(wrong("create it"))?;
                }
            }
            Err(errno) => return Err(wrong("create it")(errno)),
        }
        let handle = open_below(&parent.handle, name).map_err(wrong("open it"))?;
        if fresh && !parent.fresh {
            // It may have inherited a default ACL, which what is created in it must not inherit in turn.
            forget_attributes(&handle);
        }
        let attributes = self.attributes(&entry)?;
        let outcome = self.shared.outcome.clone();
        let dir = Directory::new(handle, entry, attributes, fresh, outcome, Some(parent));
        self.enter(Arc::new(dir))
    }

    /// Another name of a file that was restored under its first.
    fn link(
        &mut self,
        dir: &Directory,
        name: &CStr,
        entry: &Entry,
        first: &TreePath,
    ) -> Result<(), RestoreError> {
        let wrong = |action| RestoreError::write(&entry.path, action);
        self.drain()?;
        let top = self.stack.first().map(|level| level.dir.clone());
        let (Some(top), Some((first_dir, first_name))) = (top, first.split()) else {
            return Err(RestoreError::Manifest { path: entry.path.to_string() });
        };
        let below = first_dir.get(top.path.as_bytes().len()..).unwrap_or_default();
        let from = open_path(&top.handle, below).map_err(wrong("open its other name's directory"))?;
        let first_name = name_of(first_name);
        let beside = beside(dir, name);
        rustix::fs::linkat(&from, &first_name, &dir.handle, &beside, AtFlags::empty())
            .map_err(wrong("link it"))?;
        put_in_place(dir, &beside, name, entry, self.request.delete)
    }

    fn flush(&mut self) -> Result<(), RestoreError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let shared = self.shared;
        let delete = self.request.delete;
        self.pending.push_back(self.pool.submit(move |()| files(shared, batch, delete)));
        while self.pending.len() > JOBS_MAX {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), RestoreError> {
        // A worker that panicked has no result; the scope passes its panic on.
        self.pending.pop_front().and_then(Handle::wait).unwrap_or(Ok(()))
    }

    fn drain(&mut self) -> Result<(), RestoreError> {
        self.flush()?;
        while !self.pending.is_empty() {
            self.settle()?;
        }
        Ok(())
    }

    /// A large file, its segments written by all workers.
    fn large(&mut self, dir: Arc<Directory>, name: CString, entry: Entry) -> Result<(), RestoreError> {
        let Kind::File(file) = &entry.kind else { return Ok(()) };
        let shared = self.shared;
        let attributes = self.attributes(&entry)?;
        if !dir.fresh && keep_existing(shared, &dir, &name, &entry, file, &attributes)? {
            return Ok(());
        }
        let wrong = |action| RestoreError::write(&entry.path, action);
        let (handle, beside) = create(shared, &dir, &name, &entry)?;
        let handle = Arc::new(handle);
        rustix::fs::ftruncate(&*handle, file.size_bytes).map_err(wrong("set its size"))?;
        let mut extents = Extents::new(shared, file);
        let mut tree = HashTree::default();
        let mut under_way: VecDeque<Handle<Result<ChainingValue, RestoreError>>> = VecDeque::new();
        let mut at = 0;
        while at < file.size_bytes || !under_way.is_empty() {
            while at < file.size_bytes && under_way.len() < SEGMENTS_MAX {
                let length = SEGMENT_BYTES.min(file.size_bytes - at);
                let parts = extents.take(length, &entry)?;
                let (handle, path) = (handle.clone(), entry.path.clone());
                under_way.push_back(self.pool.submit(move |()| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.set_input_offset(at);
                    write_extents(shared, &handle, &path, at, &parts, &mut hasher)?;
                    Ok(hasher.finalize_non_root())
                }));
                at += length;
            }
            let done = under_way.pop_front().and_then(Handle::wait);
            tree.push(done.unwrap_or_else(|| Err(RestoreError::Content { path: entry.path.to_string() }))?);
        }
        if tree.finish() != Some(file.hash) {
            return Err(RestoreError::Content { path: entry.path.to_string() });
        }
        shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
        finish(shared, &dir, &handle, beside.as_deref(), &name, &entry, &attributes, self.request.delete)
    }
}

/// A file's extents in order, its lists read a few at a time.
struct Extents<'a> {
    shared: &'a Shared<'a>,
    lists: VecDeque<ChunkId>,
    ready: VecDeque<Extent>,
}

impl<'a> Extents<'a> {
    fn new(shared: &'a Shared<'a>, file: &File) -> Self {
        let (lists, ready) = match &file.content {
            Content::Empty => (VecDeque::new(), VecDeque::new()),
            Content::Whole => {
                let length_bytes = file.size_bytes as u32;
                let extent = Extent::Chunk { chunk: ChunkId(file.hash.0), offset_bytes: 0, length_bytes };
                (VecDeque::new(), VecDeque::from([extent]))
            }
            Content::Extents(extents) => (VecDeque::new(), extents.iter().copied().collect()),
            Content::Lists(lists) => (lists.iter().copied().collect(), VecDeque::new()),
        };
        Self { shared, lists, ready }
    }

    /// The extents of the next `length` bytes; the last is cut where it reaches further.
    fn take(&mut self, length: u64, entry: &Entry) -> Result<Vec<Extent>, RestoreError> {
        let mut taken = Vec::new();
        let mut missing = length;
        while missing > 0 {
            if self.ready.is_empty() && !self.lists.is_empty() {
                let ids: Vec<_> = self.lists.drain(..self.lists.len().min(LISTS_MAX)).collect();
                let found = self.shared.chunks.read_many(&ids)?;
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
            let (head, tail) = split(next, missing);
            missing -= head.length_bytes();
            taken.push(head);
            if let Some(tail) = tail {
                self.ready.push_front(tail);
            }
        }
        Ok(taken)
    }
}

/// The first `at` bytes of an extent, and the rest.
fn split(extent: Extent, at: u64) -> (Extent, Option<Extent>) {
    if extent.length_bytes() <= at {
        return (extent, None);
    }
    match extent {
        Extent::Hole { length_bytes } => {
            (Extent::Hole { length_bytes: at }, Some(Extent::Hole { length_bytes: length_bytes - at }))
        }
        Extent::Chunk { chunk, offset_bytes, length_bytes } => {
            let at = at as u32;
            let tail =
                Extent::Chunk { chunk, offset_bytes: offset_bytes + at, length_bytes: length_bytes - at };
            (Extent::Chunk { chunk, offset_bytes, length_bytes: at }, Some(tail))
        }
    }
}

/// Restores a batch of small files: their chunks are fetched together.
fn files(shared: &Shared, batch: Vec<FileJob>, delete: bool) -> Result<(), RestoreError> {
    let mut wanted = Vec::with_capacity(batch.len());
    let mut jobs = Vec::with_capacity(batch.len());
    for job in batch {
        let Kind::File(file) = &job.entry.kind else { continue };
        let attributes = attributes_of(&shared.chunks, &job.entry)?;
        if !job.dir.fresh && keep_existing(shared, &job.dir, &job.name, &job.entry, file, &attributes)? {
            continue;
        }
        let parts = Extents::new(shared, file).take(file.size_bytes, &job.entry)?;
        // Files of several chunks are read a few chunks at a time, since parts may be small and chunks large.
        if let (Content::Whole, Some(Extent::Chunk { chunk, .. })) = (&file.content, parts.first()) {
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
            (Content::Whole, Some(Extent::Chunk { chunk, .. })) if fetched.contains_key(chunk) => {
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

fn count_bytes(shared: &Shared, bytes: u64) {
    shared.counters.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    Progress::add(&shared.progress.read_bytes, bytes);
}

/// Writes extents from `at` on, and hashes what they read as. Holes stay holes.
fn write_extents(
    shared: &Shared,
    handle: &OwnedFd,
    path: &TreePath,
    mut at: u64,
    parts: &[Extent],
    hasher: &mut blake3::Hasher,
) -> Result<(), RestoreError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    // At most 8 chunks of 1 MiB at a time, however small the parts of them are.
    for window in parts.chunks(8) {
        let ids: Vec<_> = window
            .iter()
            .filter_map(|part| match part {
                Extent::Chunk { chunk, .. } => Some(*chunk),
                Extent::Hole { .. } => None,
            })
            .collect();
        let chunks = shared.chunks.read_many(&ids)?;
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
                Extent::Chunk { chunk, offset_bytes, length_bytes } => {
                    let start = *offset_bytes as usize;
                    let bytes: Option<&[u8]> =
                        chunks.get(chunk).and_then(|b: &Bytes| b.get(start..start + *length_bytes as usize));
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

fn write_all(handle: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
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

fn attributes_of(chunks: &ChunkReader, entry: &Entry) -> Result<Attributes, RestoreError> {
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
const BESIDE: &str = ".understudy-new-";

/// The name that `name` is made under; never longer than a name may be.
fn beside(dir: &Directory, name: &CStr) -> CString {
    if dir.fresh {
        return name.to_owned();
    }
    let tag = blake3::hash(name.to_bytes()).to_hex();
    name_of(format!("{BESIDE}{}", &tag[..16]).as_bytes())
}

/// Creates a file for an entry: in its place in a fresh directory, else beside.
fn create(
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
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
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
fn finish(
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
fn put_in_place(
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
fn keep_existing(
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

fn hash_of(handle: &OwnedFd) -> Result<ContentHash, Errno> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match rustix::io::read(handle, &mut buffer) {
            Ok(0) => return Ok(ContentHash(*hasher.finalize().as_bytes())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A symlink, fifo, socket or device node.
fn special(
    shared: &Shared,
    dir: &Directory,
    name: &CStr,
    entry: &Entry,
    attributes: &[(Vec<u8>, Vec<u8>)],
    delete: bool,
) -> Result<(), RestoreError> {
    let wrong = |action| RestoreError::write(&entry.path, action);
    if !dir.fresh && same_special(dir, name, entry, attributes) {
        return Ok(());
    }
    let at = beside(dir, name);
    if !dir.fresh {
        remove_all(&dir.handle, &at).map_err(wrong("remove what is beside it"))?;
    }
    let mode = Mode::from_raw_mode(0o600);
    let made = match &entry.kind {
        Kind::Symlink { target } => rustix::fs::symlinkat(name_of(target), &dir.handle, &at),
        Kind::Fifo => rustix::fs::mknodat(&dir.handle, &at, FileType::Fifo, mode, 0),
        Kind::Socket => rustix::fs::mknodat(&dir.handle, &at, FileType::Socket, mode, 0),
        Kind::CharDevice { major, minor } => {
            rustix::fs::mknodat(&dir.handle, &at, FileType::CharacterDevice, mode, makedev(*major, *minor))
        }
        Kind::BlockDevice { major, minor } => {
            rustix::fs::mknodat(&dir.handle, &at, FileType::BlockDevice, mode, makedev(*major, *minor))
        }
        Kind::Directory | Kind::File(_) => Ok(()),
    };
    match made {
        Ok(()) => {}
        Err(Errno::PERM) if !matches!(entry.kind, Kind::Symlink { .. }) => {
            shared.outcome.denied.devices.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        Err(errno) => return Err(wrong("create it")(errno)),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(&dir.handle, &at, flags, Mode::empty()).map_err(wrong("open it"))?;
    let already = Already { new: dir.fresh, ..Already::default() };
    apply(&handle, HandleKind::Path, entry, attributes, already, &shared.outcome.denied)?;
    put_in_place(dir, &at, name, entry, delete)
}

fn same_special(dir: &Directory, name: &CStr, entry: &Entry, attributes: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let Ok(stat) = Stat::at(&dir.handle, name) else { return false };
    let kind = match &entry.kind {
        Kind::Symlink { .. } => stat.kind == FileType::Symlink,
        Kind::Fifo => stat.kind == FileType::Fifo,
        Kind::Socket => stat.kind == FileType::Socket,
        Kind::CharDevice { major, minor } => {
            stat.kind == FileType::CharacterDevice && stat.node == (*major, *minor)
        }
        Kind::BlockDevice { major, minor } => {
            stat.kind == FileType::BlockDevice && stat.node == (*major, *minor)
        }
        Kind::Directory | Kind::File(_) => false,
    };
    let is_symlink = stat.kind == FileType::Symlink;
    let same = kind
        && stat.links == 1
        && entry.hardlink.is_none()
        && (is_symlink || stat.mode == entry.mode)
        && (stat.uid, stat.gid, stat.mtime) == (entry.uid, entry.gid, entry.mtime);
    same && match crate::source::read::read_special(&dir.handle, name, &stat) {
        Ok(Some(special)) => {
            special.attributes == attributes
                && matches!(&entry.kind, Kind::Symlink { target } if *target == special.target) == is_symlink
        }
        _ => false,
    }
}

/// Removes what a new directory inherited, as far as that is allowed.
fn forget_attributes(handle: impl AsFd) {
    let handle = handle.as_fd();
    for (name, _) in xattr::read(handle).unwrap_or_default() {
        // A label that the system insists on stays.
        let _ = rustix::fs::fremovexattr(handle, name.as_slice());
    }
}
