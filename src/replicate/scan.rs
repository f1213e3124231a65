//! The scan: the live tree merge-joined with the last manifest into the next one.
//!
//! One thread walks in order and decides ([`decide`], pure); workers read what has to be read; results
//! are written down in the walk's order. At most [`JOBS_MAX`] batches are under way, which bounds
//! memory whatever the tree's size. What an unreadable directory held at the last snapshot is kept.

use super::error::ResyncError;
use super::large_file::LargeFile;
use super::read_entry::{Target, Worker};
use super::relatives::Relatives;
use super::report::{WarningKind, Warnings};
use crate::format::extent_list;
use crate::format::page::Child as Leaf;
use crate::model::diff::{Change, ChangeCounts};
use crate::model::entry::{Content, Entry, Extent, File, Kind};
use crate::model::record::ManifestRoot;
use crate::model::reread;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::cursor::Cursor;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::{EntryStream, ManifestReader, ManifestWriter};
use crate::source::content::SEGMENT_BYTES;
use crate::source::read::Attempt;
use crate::source::stat::Stat;
use crate::source::walk::{Child, Listing, Walk};
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::Arc;

/// Batches under way.
const JOBS_MAX: usize = 24;
/// A batch ends at so many entries, or at so many bytes to read.
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: u64 = SEGMENT_BYTES;
/// A path of more bytes is not replicated; it is reported.
const PATH_MAX_BYTES: usize = 64 << 10;

/// When files are read again although nothing hints at a change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reread {
    pub period_ns: u64,
    pub last_scan_ns: u64,
    pub this_scan_ns: u64,
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct ScanSummary {
    pub changes: ChangeCounts,
    pub vanished: u64,
    pub warnings: Warnings,
    pub entries: u64,
}

/// What is done with an entry that the walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Size, mtime, ctime and inode are those of the last manifest: its entry stays.
    Keep,
    Read,
    /// As for `Keep`, but its turn to be read again has come.
    ReadAgain,
}

/// Decides for one entry, from its `statx` and the last manifest.
pub fn decide(stat: &Stat, old: Option<&Entry>, reread: &Reread) -> Decision {
    let Some(old) = old else { return Decision::Read };
    let same_kind = match &old.kind {
        Kind::Directory => stat.is_directory(),
        Kind::File(file) => stat.is_file() && file.size_bytes == stat.size_bytes && !file.torn,
        Kind::Symlink { .. } => stat.kind == rustix::fs::FileType::Symlink,
        Kind::Fifo => stat.kind == rustix::fs::FileType::Fifo,
        Kind::Socket => stat.kind == rustix::fs::FileType::Socket,
        Kind::CharDevice { major, minor } => {
            stat.kind == rustix::fs::FileType::CharacterDevice && stat.node == (*major, *minor)
        }
        Kind::BlockDevice { major, minor } => {
            stat.kind == rustix::fs::FileType::BlockDevice && stat.node == (*major, *minor)
        }
    };
    let same = same_kind
        && old.fingerprint == stat.fingerprint
        && old.mtime == stat.mtime
        && (old.mode, old.uid, old.gid) == (stat.mode, stat.uid, stat.gid)
        && (stat.is_directory() || old.hardlink.is_some() == (stat.links > 1));
    if !same {
        Decision::Read
    } else if stat.is_file()
        && stat.size_bytes > 0
        && reread::is_due(old.path.as_bytes(), reread.period_ns, reread.last_scan_ns, reread.this_scan_ns)
    {
        Decision::ReadAgain
    } else {
        Decision::Keep
    }
}

/// One place in the next manifest.
enum Item {
    Keep(Entry),
    Read { target: Target, old: Option<Entry>, made_of: Vec<File>, again: bool },
}

enum Outcome {
    Keep(Entry),
    Read { entry: Entry, old: Option<Entry>, again: bool },
    Vanished { path: TreePath, old: Option<Entry> },
    Unreadable { path: TreePath, old: Option<Entry>, errno: Errno },
}

/// The last manifest's entries, as they are read.
enum Old {
    /// All of them, read ahead.
    Stream(Box<std::iter::Peekable<EntryStream>>),
    /// With hints: whole leaves are passed over.
    Cursor(Box<Cursor>),
}

impl Old {
    fn next(&mut self) -> Result<Option<Entry>, RepositoryError> {
        match self {
            Old::Stream(stream) => stream.next().transpose(),
            Old::Cursor(cursor) => cursor.advance(),
        }
    }

    /// What `next` would return: asked for its path, or for its error.
    fn peek_path(&mut self) -> Result<Option<&TreePath>, RepositoryError> {
        match self {
            Old::Stream(stream) => {
                if let Some(Err(_)) = stream.peek() {
                    return stream.next().transpose().map(|_| None);
                }
                Ok(stream.peek().and_then(|entry| entry.as_ref().ok()).map(|entry| &entry.path))
            }
            Old::Cursor(cursor) => Ok(cursor.peek()?.map(|entry| &entry.path)),
        }
    }
}

enum Pending {
    /// A leaf of the last manifest on which nothing changed.
    Leaf(Leaf),
    Done(Vec<Outcome>),
    Job(Handle<Result<Vec<Outcome>, RepositoryError>>),
}

/// The state of a scan.
pub struct Scan<'s, 'env> {
    pub pool: &'s Pool<'env, Worker<'env>>,
    pub walk: &'s Walk<'s>,
    /// What old versions are read with.
    pub chunks: &'s ChunkReader,
    relatives: Relatives<'s>,
    pub manifest: ManifestWriter<'env>,
    pub progress: &'s Progress,
    pub reread: Reread,
    old: Old,
    batch: Vec<Item>,
    batch_reads: bool,
    batch_bytes: u64,
    pending: VecDeque<Pending>,
    summary: ScanSummary,
    root_device: (u32, u32),
    recheck: bool,
    /// The last path that has no entry.
    absent: Option<TreePath>,
}

impl<'s, 'env> Scan<'s, 'env> {
    pub fn new(
        pool: &'s Pool<'env, Worker<'env>>,
        walk: &'s Walk<'s>,
        chunks: &'s ChunkReader,
        base: Option<&'s ManifestRoot>,
        manifest: ManifestWriter<'env>,
        progress: &'s Progress,
        reread: Reread,
    ) -> Result<Self, RepositoryError> {
        let old = match base {
            Some(root) if walk.is_hinted() => {
                Old::Cursor(Box::new(Cursor::new(ManifestReader::new(chunks.clone()), root)?))
            }
            Some(root) => Old::Stream(Box::new(ManifestReader::new(chunks.clone()).entries(root).peekable())),
            None => Old::Stream(Box::new(EntryStream::none().peekable())),
        };
        Ok(Self {
            pool,
            walk,
            chunks,
            relatives: Relatives::new(chunks, base),
            manifest,
            progress,
            reread,
            old,
            batch: Vec::new(),
            batch_reads: false,
            batch_bytes: 0,
            pending: VecDeque::new(),
            summary: ScanSummary::default(),
            root_device: (0, 0),
            recheck: false,
            absent: None,
        })
    }

    /// Takes over no entry without seeing that its chunks are there.
    pub fn rechecking(self, recheck: bool) -> Self {
        Self { recheck, ..self }
    }

    /// Walks from `root` on; returns the finished manifest's writer and what was found.
    pub fn run(
        mut self,
        root: Arc<OwnedFd>,
        root_stat: Stat,
    ) -> Result<(ManifestWriter<'env>, ScanSummary), ResyncError> {
        self.root_device = root_stat.device;
        let old = self.old_at(&TreePath::root())?;
        let target = Target {
            dir: root.clone(),
            name: c".".into(),
            path: TreePath::root(),
            stat: root_stat,
            hardlink: None,
        };
        self.visit(target, old)?;
        let mut stack: Vec<(Arc<OwnedFd>, TreePath, std::vec::IntoIter<Child>)> = Vec::new();
        let opened = self.walk.root(root);
        self.enter(&mut stack, &TreePath::root(), opened)?;
        while let Some((dir, path, children)) = stack.last_mut() {
            let Some(child) = children.next() else {
                stack.pop();
                continue;
            };
            let child_path = path.join(child.name.as_bytes());
            let dir = dir.clone();
            let old = self.old_at(&child_path)?;
            let stat = match Attempt::from_result(child.stat) {
                Attempt::Read(stat) if child_path.as_bytes().len() <= PATH_MAX_BYTES => stat,
                Attempt::Read(_) => {
                    self.done(Outcome::Unreadable { path: child_path, old, errno: Errno::NAMETOOLONG })?;
                    continue;
                }
                Attempt::Vanished => {
                    self.done(Outcome::Vanished { path: child_path, old })?;
                    continue;
                }
                Attempt::Unreadable(errno) => {
                    self.done(Outcome::Unreadable { path: child_path, old, errno })?;
                    continue;
                }
            };
            // What was a directory and is none (or the other way round) has no old self to keep.
            let old = old.filter(|old| (old.kind == Kind::Directory) == stat.is_directory());
            let hardlink = (stat.links > 1 && !stat.is_directory()).then(|| self.hardlink_group(&stat));
            // Of another directory that has its name nothing is known.
            let is_clean = child.is_clean
                && old.as_ref().is_some_and(|old| old.fingerprint.inode == stat.fingerprint.inode);
            let target = Target { dir, name: child.name, path: child_path.clone(), stat, hardlink };
            self.visit(target, old)?;
            if is_clean {
                self.keep_below(&child_path)?;
            } else if let Some(slot) = child.below {
                let opened = self.walk.take(&slot);
                self.enter(&mut stack, &child_path, opened)?;
            }
        }
        // What the old manifest still has is gone.
        while let Some(old) = self.next_old()? {
            self.gone(&old)?;
        }
        self.flush()?;
        while let Some(pending) = self.pending.pop_front() {
            self.settle(pending)?;
        }
        Ok((self.manifest, self.summary))
    }

    /// Two filesystems below one root may use the same inode numbers.
    fn hardlink_group(&self, stat: &Stat) -> u64 {
        if stat.device == self.root_device {
            return stat.fingerprint.inode;
        }
        let (major, minor) = stat.device;
        let mut bytes = Vec::from(stat.fingerprint.inode.to_le_bytes());
        bytes.extend_from_slice(&major.to_le_bytes());
        bytes.extend_from_slice(&minor.to_le_bytes());
        reread::fnv1a(&bytes)
    }

    fn enter(
        &mut self,
        stack: &mut Vec<(Arc<OwnedFd>, TreePath, std::vec::IntoIter<Child>)>,
        path: &TreePath,
        opened: Result<Listing, Errno>,
    ) -> Result<(), ResyncError> {
        match Attempt::from_result(opened) {
            Attempt::Read(Listing { path, handle, children }) => {
                stack.push((handle, path, children.into_iter()));
            }
            Attempt::Vanished => self.summary.vanished += 1,
            Attempt::Unreadable(errno) => {
                self.summary.warnings.add(WarningKind::Unreadable, path.to_string(), reason(errno));
                // Not being able to look is no reason to delete: what was there stays.
                self.keep_below(path)?;
            }
        }
        Ok(())
    }

    /// Takes what the last manifest has below a directory as it was.
    fn keep_below(&mut self, directory: &TreePath) -> Result<(), ResyncError> {
        loop {
            if let Old::Cursor(cursor) = &mut self.old
                && let Some(leaf) = cursor.pass_leaf_within(directory)
            {
                Progress::add(&self.progress.entries, leaf.entries);
                self.flush()?;
                self.pending.push_back(Pending::Leaf(leaf));
                continue;
            }
            if !self.old.peek_path()?.is_some_and(|path| path.is_within(directory)) {
                return Ok(());
            }
            if let Some(entry) = self.next_old()? {
                self.push(Item::Keep(entry), 0)?;
            }
        }
    }

    fn next_old(&mut self) -> Result<Option<Entry>, RepositoryError> {
        self.old.next()
    }

    /// The old entry of this path; those before it are gone.
    fn old_at(&mut self, path: &TreePath) -> Result<Option<Entry>, ResyncError> {
        loop {
            let order = match self.old.peek_path()? {
                Some(old) => old.cmp(path),
                None => return Ok(None),
            };
            match order {
                std::cmp::Ordering::Less => {
                    if let Some(old) = self.next_old()? {
                        self.gone(&old)?;
                    }
                }
                std::cmp::Ordering::Equal => return Ok(self.next_old()?),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
    }

    /// Whether all that an entry refers to is there.
    fn is_whole(&self, entry: &Entry) -> Result<bool, RepositoryError> {
        let mut ids = entry.chunks();
        if let Some(Content::Lists(lists)) = entry.file().map(|file| &file.content) {
            let found = self.chunks.read_known(lists)?;
            for list in lists {
                match found.get(list).map(|bytes| extent_list::decode_chunk(bytes)) {
                    Some(Ok(extents)) => ids.extend(extents.iter().flat_map(Extent::chunks)),
                    _ => return Ok(false),
                }
            }
        }
        for id in ids {
            if !self.chunks.knows(id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The last manifest has it, and the tree has not.
    fn gone(&mut self, old: &Entry) -> Result<(), ResyncError> {
        if old.hardlink.is_some() && self.walk.is_hinted() {
            return Err(ResyncError::Hardlink);
        }
        self.summary.changes.count(Some(Change::Removed));
        Ok(())
    }

    fn visit(&mut self, target: Target, old: Option<Entry>) -> Result<(), ResyncError> {
        Progress::add(&self.progress.entries, 1);
        if self.progress.is_stopped() {
            return Err(ResyncError::Stopped);
        }
        let old = match old {
            Some(entry) if self.recheck && !self.is_whole(&entry)? => None,
            old => old,
        };
        match (decide(&target.stat, old.as_ref(), &self.reread), old) {
            (Decision::Keep, Some(entry)) => self.push(Item::Keep(entry), 0),
            // It has other names, or the one that it took the place of had.
            (_, old)
                if self.walk.is_hinted()
                    && (target.hardlink.is_some()
                        || old.as_ref().is_some_and(|old| old.hardlink.is_some())) =>
            {
                Err(ResyncError::Hardlink)
            }
            (decision, old) => {
                let size_bytes = if target.stat.is_file() { target.stat.size_bytes } else { 0 };
                let again = decision == Decision::ReadAgain;
                let made_of = self.relatives.made_of(&target, old.as_ref())?;
                if size_bytes > SEGMENT_BYTES {
                    self.flush()?;
                    let target = Arc::new(target);
                    let file = LargeFile { pool: self.pool, chunks: self.chunks, progress: self.progress };
                    let read = file.read(&target, &made_of)?;
                    let outcome = outcome(read, target.path.clone(), old, again);
                    self.pending.push_back(Pending::Done(vec![outcome]));
                    return Ok(());
                }
                self.batch_reads = true;
                self.push(Item::Read { target, old, made_of, again }, size_bytes)
            }
        }
    }

    fn push(&mut self, item: Item, bytes: u64) -> Result<(), ResyncError> {
        self.batch.push(item);
        self.batch_bytes += bytes;
        if self.batch.len() >= BATCH_ENTRIES || self.batch_bytes >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// An outcome that needs no worker, in its place in the order.
    fn done(&mut self, outcome: Outcome) -> Result<(), ResyncError> {
        self.flush()?;
        self.pending.push_back(Pending::Done(vec![outcome]));
        Ok(())
    }

    /// Hands the batch to the workers, and settles the oldest when too many are under way.
    fn flush(&mut self) -> Result<(), ResyncError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if std::mem::take(&mut self.batch_reads) {
            let job = self
                .pool
                .submit(move |worker| batch.into_iter().map(|item| read_item(worker, item)).collect());
            self.pending.push_back(Pending::Job(job));
        } else if !batch.is_empty() {
            let kept = batch.into_iter().filter_map(|item| match item {
                Item::Keep(entry) => Some(Outcome::Keep(entry)),
                Item::Read { .. } => None,
            });
            self.pending.push_back(Pending::Done(kept.collect()));
        }
        while self.pending.len() > JOBS_MAX
            || matches!(self.pending.front(), Some(Pending::Done(_) | Pending::Leaf(_)))
        {
            if let Some(oldest) = self.pending.pop_front() {
                self.settle(oldest)?;
            }
        }
        Ok(())
    }

    /// Writes results down.
    fn settle(&mut self, pending: Pending) -> Result<(), ResyncError> {
        let outcomes = match pending {
            Pending::Leaf(leaf) => return self.write_leaf(leaf),
            Pending::Done(outcomes) => outcomes,
            // A worker that panicked has no result; the scope passes its panic on.
            Pending::Job(job) => job.wait().unwrap_or_else(|| Ok(Vec::new()))?,
        };
        for outcome in outcomes {
            match outcome {
                Outcome::Keep(entry) => {
                    self.summary.changes.count(None);
                    self.write(&entry)?;
                }
                Outcome::Read { entry, old, again } => {
                    let change = Change::between(old.as_ref(), Some(&entry));
                    self.summary.changes.count(change);
                    let warnings = &mut self.summary.warnings;
                    if entry.file().is_some_and(|f| f.torn) {
                        warnings.add(WarningKind::Torn, entry.path.to_string(), String::new());
                    } else if again && change == Some(Change::Modified) {
                        warnings.add(WarningKind::ChangedSilently, entry.path.to_string(), String::new());
                    }
                    self.write(&entry)?;
                }
                Outcome::Vanished { path, old } => {
                    self.summary.vanished += 1;
                    self.absent = Some(path);
                    if old.is_some() {
                        self.summary.changes.count(Some(Change::Removed));
                    }
                }
                Outcome::Unreadable { path, old, errno } => {
                    self.summary.warnings.add(WarningKind::Unreadable, path.to_string(), reason(errno));
                    match old {
                        Some(entry) => {
                            self.summary.changes.count(None);
                            self.write(&entry)?;
                        }
                        None => self.absent = Some(path),
                    }
                }
            }
        }
        Ok(())
    }

    /// A leaf as it was; entry by entry where it does not begin a page any more, until the pages fall together again.
    fn write_leaf(&mut self, leaf: Leaf) -> Result<(), ResyncError> {
        let is_whole = self.manifest.is_between_pages()
            && self.absent.as_ref().is_none_or(|gone| !leaf.first.is_within(gone))
            && self.chunks.knows(leaf.page)?;
        if is_whole {
            self.summary.entries += leaf.entries;
            self.summary.changes.unchanged += leaf.entries;
            return Ok(self.manifest.push_leaf(leaf)?);
        }
        let entries = ManifestReader::new(self.chunks.clone()).read_leaves(&[leaf.page])?.pop();
        for entry in entries.unwrap_or_default() {
            self.summary.changes.count(None);
            self.write(&entry)?;
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<(), RepositoryError> {
        // A directory that went between its listing and its reading takes along what it held.
        if self.absent.as_ref().is_some_and(|gone| entry.path.is_within(gone)) {
            self.summary.vanished += 1;
            return Ok(());
        }
        self.summary.entries += 1;
        self.manifest.push(entry)
    }
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::AGAIN => "it shrank under every reading".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    }
}

fn read_item(worker: &mut Worker, item: Item) -> Result<Outcome, RepositoryError> {
    match item {
        Item::Keep(entry) => Ok(Outcome::Keep(entry)),
        Item::Read { target, old, made_of, again } => {
            Ok(outcome(worker.read(&target, &made_of)?, target.path, old, again))
        }
    }
}

fn outcome(attempt: Attempt<Entry>, path: TreePath, old: Option<Entry>, again: bool) -> Outcome {
    match attempt {
        Attempt::Read(entry) => Outcome::Read { entry, old, again },
        Attempt::Vanished => Outcome::Vanished { path, old },
        Attempt::Unreadable(errno) => Outcome::Unreadable { path, old, errno },
    }
}
