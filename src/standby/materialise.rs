//! Makes the objects that a snapshot needs: from a seed tree, from an older version on this host, and the
//! rest from the repository, in coalesced ranges by all workers.
//!
//! Every object is checked against its BLAKE3 before it counts as arrived, from whichever source its bytes
//! came. Memory: a batch of small files for each worker, and a few segments of a large one.

use super::depot::Depot;
use super::error::FollowError;
use crate::content::error::ContentError;
use crate::content::large::write_large;
use crate::content::reuse::Older;
use crate::content::scattered::{batches, hash_written, write_batch};
use crate::content::write::{ContentWriter, copy_checked, hash_of, write_all, write_extents};
use crate::model::entry::{Content, Entry, Extent, File};
use crate::model::id::ContentHash;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::extents::ExtentReader;
use crate::restore::at::{name_of, open_path};
use crate::source::content::SEGMENT_BYTES;
use crate::source::read::open_file;
use crate::source::stat::Stat;
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Maximum number of batches under way.
const JOBS_MAX: usize = 8;
const BATCH_FILES: usize = 256;
/// Minimum size of a file that is made from an older version; smaller files are fetched as a whole.
const OLDER_MIN_BYTES: u64 = 256 << 10;

/// Counts of what was done.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) made: AtomicU64,
    pub(crate) seeded: AtomicU64,
    pub(crate) copied_bytes: AtomicU64,
}

/// A file whose content becomes an object.
struct Job {
    entry: Entry,
    /// The file that its path held before, whose object is present.
    older: Option<Entry>,
}

impl Job {
    /// Returns the entry's file. Entries that are no files never become jobs.
    fn file(&self) -> Result<&File, RepositoryError> {
        self.entry.file().ok_or_else(|| RepositoryError::Entry { path: self.entry.path.to_string() })
    }
}

/// The sources and the destination of objects.
pub(crate) struct MaterialiseContext<'a> {
    pub(crate) writer: ContentWriter<'a>,
    pub(crate) depot: &'a Depot,
    /// A tree that may hold files of the store under their paths.
    pub(crate) seed: Option<OwnedFd>,
    /// Whether objects are made even if they are present, because they are damaged.
    pub(crate) replace: bool,
    pub(crate) counters: Counters,
    /// Whether an incomplete object could not be removed.
    tainted: AtomicBool,
}

pub(crate) fn workshop<'a>(
    chunks: ChunkReader,
    depot: &'a Depot,
    progress: &'a Progress,
    seed: Option<OwnedFd>,
    replace: bool,
) -> MaterialiseContext<'a> {
    let writer = ContentWriter::new(chunks, progress);
    MaterialiseContext {
        writer,
        depot,
        seed,
        replace,
        counters: Counters::default(),
        tainted: AtomicBool::new(false),
    }
}

impl MaterialiseContext<'_> {
    /// Returns the number of objects made so far.
    pub(crate) fn made(&self) -> u64 {
        self.counters.made.load(Ordering::Relaxed)
    }

    /// Returns whether all arrived objects are complete. Must not be called while workers are running.
    pub fn is_clean(&self) -> bool {
        !self.tainted.load(Ordering::Relaxed)
    }

    fn discard(&self, hash: ContentHash) {
        if self.depot.discard_object(hash).is_err() {
            self.tainted.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs `feed` with a materialiser, and waits until all objects that it wants are present.
pub(crate) fn work(
    workshop: &MaterialiseContext,
    threads: usize,
    feed: impl FnOnce(&mut Materialiser) -> Result<(), FollowError>,
) -> Result<(), FollowError> {
    std::thread::scope(|scope| {
        let pool = Pool::start(scope, vec![(); threads.max(1)]);
        let mut materialiser = Materialiser::new(workshop, &pool);
        feed(&mut materialiser)?;
        materialiser.finish()
    })
}

/// Takes entries, and makes the objects of theirs that are missing.
pub(crate) struct Materialiser<'s, 'env> {
    workshop: &'env MaterialiseContext<'env>,
    pool: &'s Pool<'env, ()>,
    seen: HashSet<ContentHash>,
    batch: Vec<Job>,
    batch_bytes: u64,
    pending: VecDeque<Handle<Result<(), FollowError>>>,
}

impl<'s, 'env> Materialiser<'s, 'env> {
    fn new(workshop: &'env MaterialiseContext<'env>, pool: &'s Pool<'env, ()>) -> Self {
        let (batch, pending) = (Vec::new(), VecDeque::new());
        Self { workshop, pool, seen: HashSet::new(), batch, batch_bytes: 0, pending }
    }

    /// Ensures that an entry's content is present before `finish` returns.
    pub(crate) fn want(&mut self, entry: Entry, older: Option<Entry>) -> Result<(), FollowError> {
        let Some(file) = entry.file() else { return Ok(()) };
        let (hash, size_bytes) = (file.hash, file.size_bytes);
        if size_bytes == 0 || !self.seen.insert(hash) {
            return Ok(());
        }
        let path = self.workshop.depot.object(hash);
        match rustix::fs::stat(&path) {
            Ok(stat) if !self.workshop.replace && stat.st_size as u64 == size_bytes => return Ok(()),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(FollowError::path(&path, "stat it")(errno)),
        }
        let job = Job { entry, older };
        if size_bytes > SEGMENT_BYTES {
            return large(self.workshop, self.pool, &job);
        }
        self.batch.push(job);
        self.batch_bytes += size_bytes;
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= SEGMENT_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), FollowError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let workshop = self.workshop;
        self.pending.push_back(self.pool.submit(move |()| small(workshop, batch)));
        while self.pending.len() > JOBS_MAX {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), FollowError> {
        self.pending.pop_front().and_then(Handle::wait).unwrap_or(Ok(()))
    }

    /// Waits until all wanted objects are present.
    fn finish(mut self) -> Result<(), FollowError> {
        self.flush()?;
        while !self.pending.is_empty() {
            self.settle()?;
        }
        Ok(())
    }
}

/// Makes the objects of small files; the chunks of files that are one chunk are fetched together.
fn small(workshop: &MaterialiseContext, batch: Vec<Job>) -> Result<(), FollowError> {
    let writer = &workshop.writer;
    let mut jobs = Vec::with_capacity(batch.len());
    let mut wanted = Vec::with_capacity(batch.len());
    for job in batch {
        if from_seed(workshop, &job)? {
            continue;
        }
        let file = job.file()?;
        let parts = ExtentReader::new(&writer.chunks, file).take(file.size_bytes, &job.entry)?;
        if let (Content::Whole { .. }, Some(Extent::Chunk { chunk, .. })) = (&file.content, parts.first()) {
            wanted.push(*chunk);
        }
        jobs.push((job, parts));
    }
    let fetched = writer.chunks.read_many(&wanted)?;
    for (job, parts) in jobs {
        let (file, path) = (job.file()?, &job.entry.path);
        let older = if let Content::Whole { .. } = file.content { None } else { older(workshop, &job)? };
        make(workshop, file, |handle| match (&file.content, parts.first()) {
            (Content::Whole { .. }, Some(Extent::Chunk { chunk, .. })) if fetched.contains_key(chunk) => {
                let bytes = &fetched[chunk];
                if bytes.len() as u64 != file.size_bytes || chunk.0 != file.hash.0 {
                    return Err(RepositoryError::Entry { path: path.to_string() }.into());
                }
                write_all(handle, bytes, 0).map_err(ContentError::file(path, "write its object"))?;
                writer.count(bytes.len() as u64);
                Ok(())
            }
            _ => {
                let wrong = |action| ContentError::file(path, action);
                rustix::fs::ftruncate(handle, file.size_bytes).map_err(wrong("set its object's size"))?;
                let mut hasher = blake3::Hasher::new();
                if let Some(older) = &older {
                    let (copies, rest) = older.copies(0, &parts);
                    for copy in copies {
                        copy.run(&older.handle(), handle, path)?;
                    }
                    for batch in batches(0, &rest) {
                        write_batch(writer, handle, path, &batch)?;
                    }
                    hash_written(handle, path, (0, file.size_bytes), &mut hasher)?;
                } else {
                    write_extents(writer, handle, path, 0, &parts, &mut hasher)?;
                }
                if ContentHash(*hasher.finalize().as_bytes()) != file.hash {
                    return Err(ContentError::Mismatch { path: path.to_string() });
                }
                Ok(())
            }
        })?;
        count_copied(workshop, older.as_ref());
    }
    Ok(())
}

/// Makes the object of a large file, using all workers.
fn large<'env>(
    workshop: &'env MaterialiseContext<'env>,
    pool: &Pool<'env, ()>,
    job: &Job,
) -> Result<(), FollowError> {
    let file = job.file()?;
    if from_seed(workshop, job)? {
        return Ok(());
    }
    let older = older(workshop, job)?;
    make(workshop, file, |handle| {
        // This call owns the object: the workers have finished with it when it returns.
        let shared = Arc::new(
            rustix::io::dup(handle).map_err(ContentError::file(&job.entry.path, "open its object"))?,
        );
        write_large(&workshop.writer, pool, &shared, &job.entry, file, older.as_ref())
    })?;
    count_copied(workshop, older.as_ref());
    Ok(())
}

fn count_copied(workshop: &MaterialiseContext, older: Option<&Older>) {
    workshop.counters.copied_bytes.fetch_add(older.map_or(0, Older::copied_bytes), Ordering::Relaxed);
}

/// Creates an object, and has it written and checked.
fn make(
    workshop: &MaterialiseContext,
    file: &File,
    write: impl FnOnce(&OwnedFd) -> Result<(), ContentError>,
) -> Result<(), FollowError> {
    let depot = workshop.depot;
    let path = depot.object(file.hash);
    let wrong = |action| FollowError::path(&path, action);
    let handle = depot.create_object(file.hash).map_err(wrong("create it"))?;
    let made = write(&handle).map_err(FollowError::from);
    if made.is_err() {
        workshop.discard(file.hash);
    } else {
        workshop.counters.made.fetch_add(1, Ordering::Relaxed);
    }
    made
}

/// Returns the hash of a file's bytes as the disk has them; `None` when the file does not exist, or the disk
/// cannot read it.
///
/// Pages in memory that are also on the disk are dropped first. Pages that were not written yet stay, and are
/// hashed.
pub(crate) fn stored_hash(path: &Path) -> Result<Option<ContentHash>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Filesystems use different errors for data that they cannot read.
    let unreadable =
        |errno| matches!(errno, Errno::NOENT | Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::ILSEQ);
    let handle = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(handle) => handle,
        Err(errno) if unreadable(errno) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let _ = rustix::fs::fadvise(&handle, 0, None, rustix::fs::Advice::DontNeed);
    match hash_of(&handle) {
        Ok(hash) => Ok(Some(hash)),
        Err(errno) if unreadable(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns the version that the entry's path had before, if its object can be read.
fn older(workshop: &MaterialiseContext, job: &Job) -> Result<Option<Older>, FollowError> {
    let Some((entry, file)) = job.older.as_ref().and_then(|entry| Some((entry, entry.file()?))) else {
        return Ok(None);
    };
    if file.size_bytes < OLDER_MIN_BYTES {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let object = workshop.depot.object(file.hash);
    let Ok(handle) = rustix::fs::openat(CWD, &object, flags, Mode::empty()) else { return Ok(None) };
    // Its lists may be deleted from the repository, which is no reason to fail.
    Ok(Older::new(&workshop.writer.chunks, handle, entry, file).unwrap_or(None))
}

/// Copies the content from the seed tree, if the same path there has it.
fn from_seed(workshop: &MaterialiseContext, job: &Job) -> Result<bool, FollowError> {
    let (Some(seed), Some((parent, name))) = (&workshop.seed, job.entry.path.split()) else {
        return Ok(false);
    };
    let file = job.file()?;
    let Ok(dir) = open_path(seed, parent) else { return Ok(false) };
    let Ok(source) = open_file(&dir, &name_of(name)) else { return Ok(false) };
    if !Stat::of(&source).is_ok_and(|stat| stat.is_file() && stat.size_bytes == file.size_bytes) {
        return Ok(false);
    }
    let path = &job.entry.path;
    let object = workshop.depot.object(file.hash);
    let wrong = |action| FollowError::path(&object, action);
    let handle = workshop.depot.create_object(file.hash).map_err(wrong("create it"))?;
    let copied =
        copy_checked(&source, &handle, file).map_err(ContentError::file(path, "copy it from the seed"));
    match copied {
        Ok(true) => {
            workshop.counters.seeded.fetch_add(1, Ordering::Relaxed);
            Ok(true)
        }
        other => {
            workshop.discard(file.hash);
            Ok(other?)
        }
    }
}
