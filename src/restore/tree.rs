//! Restores entries in order: finds the directory of each, and decides about entries that cannot be made.
//!
//! One thread reads the entries and keeps open the directories from the top down to the current one. Small
//! files are handed to the pool in batches, large files in parts. A directory that the snapshot lacks is made
//! up for the entries below it. Below an entry that is no directory nothing is made.

use super::at::{name_of, open_below, open_existing};
use super::context::RestoreContext;
use super::destination::Destination;
use super::directory::{Directory, Met, make_neutral};
use super::error::{EntryError, RestoreError};
use super::file::{FileJob, create, files, from_nearby};
use super::filesystem::{Filesystem, Mount};
use super::metadata::restorer;
use super::request::{Existing, RestoreReport, RestoreRequest};
use super::shortfall::ShortfallKind;
use super::special::special;
use super::spot::Spot;
use crate::content::large::write_large;
use crate::model::entry::{Entry, File, Fingerprint, Group, Kind, Timestamp, Xattrs};
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::source::content::SEGMENT_BYTES;
use crate::source::stat::Stat;
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Maximum number of batches that run at the same time.
const JOBS_MAX: usize = 8;
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: u64 = SEGMENT_BYTES;

/// Restores entries, which are in order, to a place.
pub(crate) fn restore_entries<'env>(
    context: &'env RestoreContext<'env>,
    pool: &Pool<'env, ()>,
    request: &RestoreRequest,
    place: &Destination,
    entries: impl Iterator<Item = Result<Entry, RepositoryError>>,
) -> Result<RestoreReport, RestoreError> {
    let restorer = Restorer {
        context,
        pool,
        request,
        place,
        stack: Vec::new(),
        batch: Vec::new(),
        batch_bytes: 0,
        pending: VecDeque::new(),
        links: HashMap::new(),
        skipped: None,
        leaf: None,
        made_up: HashSet::new(),
        mounts_told: HashSet::new(),
        report: RestoreReport { resumed: place.resumed, ..Default::default() },
    };
    restorer.run(entries)
}

pub(crate) struct Level {
    pub(crate) dir: Arc<Directory>,
    /// Names found in the directory that were not met in the snapshot; empty for a fresh directory.
    pub(crate) extra: BTreeSet<CString>,
}

pub(crate) struct Restorer<'s, 'env> {
    pub(crate) context: &'env RestoreContext<'env>,
    pool: &'s Pool<'env, ()>,
    pub(crate) request: &'s RestoreRequest,
    pub(crate) place: &'s Destination,
    pub(crate) stack: Vec<Level>,
    batch: Vec<FileJob>,
    batch_bytes: u64,
    pending: VecDeque<Handle<Result<(), RestoreError>>>,
    /// The first name of every hardlink group.
    pub(crate) links: HashMap<Group, TreePath>,
    /// A directory that could not be made. Entries below it are skipped.
    skipped: Option<TreePath>,
    /// The last entry that was not a directory. No entry can be below it.
    leaf: Option<TreePath>,
    /// Directories that the snapshot lacks although it has entries below them.
    pub(crate) made_up: HashSet<TreePath>,
    /// Mounts in the destination that were reported as places where nothing is deleted.
    pub(crate) mounts_told: HashSet<Mount>,
    pub(crate) report: RestoreReport,
}

impl<'env> Restorer<'_, 'env> {
    fn run(
        mut self,
        entries: impl Iterator<Item = Result<Entry, RepositoryError>>,
    ) -> Result<RestoreReport, RestoreError> {
        for entry in entries {
            let entry = entry?;
            self.report.entries += 1;
            Progress::add(&self.context.writer.progress.entries, 1);
            if self.skipped.as_ref().is_some_and(|skipped| entry.path.is_within(skipped)) {
                self.context.outcome.told.count(ShortfallKind::Missing, 1);
                continue;
            }
            self.skipped = None;
            if self.stack.is_empty() {
                self.begin(entry)?;
            } else {
                self.entry(entry)?;
            }
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

    /// Restores the first entry: a directory becomes the destination itself, any other entry is put into it.
    fn begin(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let shown = self.place.work.display().to_string();
        let wrong = |action| RestoreError::write(&shown, action);
        let handle = self.place.open().map_err(wrong("open it"))?;
        let filesystem = Filesystem::of(&handle).map_err(wrong("stat it"))?;
        let (fresh, deletes) = (self.place.fresh, (self.request.existing == Existing::Mirror));
        let adds = matches!(self.request.existing, Existing::Add { .. });
        let outcome = self.context.outcome.clone();
        let missing = entry.path != self.request.path;
        let directory = match missing {
            // The snapshot lacks the directory's own entry, but has entries below it.
            true => self.make_up(self.request.path.clone(), entry.mtime),
            false => entry.clone(),
        };
        if directory.kind != Kind::Directory {
            if self.place.is_named_at_the_end() {
                let mode = Mode::from_raw_mode((0o777 & !self.context.umask).into());
                rustix::fs::fchmod(&handle, mode).map_err(wrong("set its mode"))?;
            }
            let above = entry.path.split().map_or(&b""[..], |(above, _)| above);
            let path = TreePath::parse(above).unwrap_or_default();
            let met = Met { handle, filesystem, fresh, neutral: false, deletes, adds, elsewhere: false };
            self.enter(Directory::new(met, path, None, outcome, None)).map_err(|failure| failure.error)?;
            return self.put(entry);
        }
        let attributes = self.context.attributes(&directory)?;
        let neutral = fresh && make_neutral(&handle, filesystem);
        let met = Met { handle, filesystem, fresh, neutral, deletes, adds, elsewhere: false };
        let path = directory.path.clone();
        let finish = (!adds).then_some((directory, attributes));
        let dir = Directory::new(met, path, finish, outcome, None);
        self.enter(dir).map_err(|failure| failure.error)?;
        if missing { self.entry(entry) } else { Ok(()) }
    }

    /// Restores an entry below the first.
    ///
    /// Leaves the directories that do not contain it, and puts it into its own.
    fn entry(&mut self, entry: Entry) -> Result<(), RestoreError> {
        while let [_, .., level] = &self.stack[..]
            && !entry.path.is_within(&level.dir.path)
        {
            self.leave()?;
        }
        let context = self.context;
        let told = &context.outcome.told;
        let Some(dir) = self.stack.last().map(|level| level.dir.clone()) else { return Ok(()) };
        let parent = entry.path.split().map(|(parent, _)| parent);
        let astray = self.leaf.as_ref().is_some_and(|leaf| entry.path.is_within(leaf));
        if astray || !entry.path.is_within(&dir.path) || entry.path == dir.path {
            told.tell(ShortfallKind::Missing, &entry.path, "its parent is not a directory");
            self.skipped = Some(entry.path);
            return Ok(());
        }
        if parent == Some(dir.path.as_bytes()) {
            return self.put(entry);
        }
        // Make up directories between it and the current one that the snapshot lacks.
        let below = dir.path.components().count();
        let depth = entry.path.components().count();
        for at in below + 1..depth {
            let components: Vec<_> = entry.path.components().take(at).collect();
            let path = components.iter().fold(TreePath::root(), |path, name| path.join(name));
            let directory = self.make_up(path.clone(), entry.mtime);
            self.put(directory)?;
            if self.stack.last().is_none_or(|level| level.dir.path != path) {
                told.count(ShortfallKind::Missing, 1);
                return Ok(());
            }
        }
        self.put(entry)
    }

    /// Returns an entry for a directory that the snapshot lacks. Only its owner can read its content.
    fn make_up(&mut self, path: TreePath, mtime: Timestamp) -> Entry {
        let reason = "the snapshot lacks this directory; it was created with mode 700";
        self.context.outcome.told.tell(ShortfallKind::Orphaned, &path, reason);
        self.made_up.insert(path.clone());
        let above = self.stack.last().and_then(|level| level.dir.entry());
        let (uid, gid) = above.map_or(restorer(), |above| (above.uid, above.gid));
        Entry {
            path,
            kind: Kind::Directory,
            mode: 0o700,
            uid,
            gid,
            mtime,
            xattrs: Xattrs::None,
            hardlink: None,
            fingerprint: Fingerprint::default(),
        }
    }

    fn enter(&mut self, dir: Directory) -> Result<(), EntryError> {
        let extra = if dir.fresh {
            BTreeSet::new()
        } else {
            dir.names().map_err(RestoreError::write(&dir.path, "list it"))?
        };
        self.stack.push(Level { dir: Arc::new(dir), extra });
        Ok(())
    }

    /// Puts one entry into the directory on top of the stack.
    fn put(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let manifest = || RepositoryError::Entry { path: entry.path.to_string() };
        let level = self.stack.last_mut().ok_or_else(manifest)?;
        let (_, name) = entry.path.split().ok_or_else(manifest)?;
        let name = name_of(name);
        let listed = level.extra.remove(&name);
        let spot = Spot { dir: level.dir.clone(), name, listed };
        if entry.kind != Kind::Directory {
            self.leaf = Some(entry.path.clone());
        }
        if let Existing::Add { beside } = self.request.existing {
            return self.add(spot, entry, beside);
        }
        if let Some(group) = entry.group()
            && let Some(first) = self.links.get(&group)
        {
            let first = first.clone();
            return self.link(spot, entry, group, &first);
        }
        self.make(spot, entry)
    }

    /// Leaves out all below an entry that has no place.
    pub(crate) fn skip(&mut self, entry: Entry) {
        self.skipped = (entry.kind == Kind::Directory).then_some(entry.path);
    }

    /// Makes a new inode for an entry. In a hardlink group it is the first name.
    pub(crate) fn make(&mut self, spot: Spot, entry: Entry) -> Result<(), RestoreError> {
        if let Some(group) = entry.group() {
            self.links.insert(group, entry.path.clone());
        }
        match &entry.kind {
            Kind::Directory => {
                let dir = self.open(&spot, &entry).and_then(|dir| self.enter(dir));
                if self.context.settle(&spot.dir, &entry, dir)?.is_none() {
                    self.skipped = Some(entry.path);
                }
                Ok(())
            }
            Kind::File(file) if file.size_bytes > SEGMENT_BYTES => {
                let made = self.large(&spot, &entry, file);
                self.context.settle(&spot.dir, &entry, made).map(drop)
            }
            Kind::File(file) => {
                self.batch_bytes += file.size_bytes;
                self.batch.push(FileJob { spot, entry });
                let full = self.batch.len() >= BATCH_ENTRIES || self.batch_bytes >= BATCH_BYTES;
                if full { self.flush() } else { Ok(()) }
            }
            _ => {
                let attributes = self.context.attributes(&entry)?;
                let made = special(self.context, &spot, &entry, &attributes).map_err(EntryError::from);
                self.context.settle(&spot.dir, &entry, made).map(drop)
            }
        }
    }

    /// Makes a directory, or opens the existing one.
    fn open(&self, spot: &Spot, entry: &Entry) -> Result<Directory, EntryError> {
        let wrong = |action| RestoreError::write(&entry.path, action);
        let (parent, name) = (&spot.dir, &*spot.name);
        let make = || rustix::fs::mkdirat(&parent.handle, name, Mode::RWXU);
        let mut fresh = true;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) if !spot.listed && !parent.lists(name) => {
                return Err(parent.taken(name, &entry.path).into());
            }
            Err(Errno::EXIST) => {
                if Stat::at(&parent.handle, name).is_ok_and(|stat| stat.is_directory()) {
                    fresh = false;
                } else if parent.adds {
                    return Err(parent.taken(name, &entry.path).into());
                } else {
                    rustix::fs::unlinkat(&parent.handle, name, AtFlags::empty())
                        .map_err(wrong("replace it"))?;
                    make().map_err(wrong("create it"))?;
                }
            }
            Err(errno) => return Err(wrong("create it")(errno).into()),
        }
        // A directory that is only added to keeps its mode.
        let handle = match fresh || parent.adds {
            true => open_below(&parent.handle, name),
            false => open_existing(&parent.handle, name),
        };
        let handle = handle.map_err(wrong("open it"))?;
        let mut filesystem = parent.filesystem;
        if !fresh && Mount::of(&handle).map_err(wrong("stat it"))? != filesystem.mount {
            filesystem = Filesystem::of(&handle).map_err(wrong("stat it"))?;
        }
        // The directory is opened by its name, so check that no other process has put another one there.
        if fresh && filesystem.exact {
            let found = Stat::of(&handle).map_err(wrong("stat it"))?;
            if found.uid != restorer().0 {
                return Err(wrong("keep it while it is created")(Errno::STALE).into());
            }
        }
        // A new directory in a neutral one is neutral. (The umask may clear even the owner's rights.)
        let neutral = match parent.neutral && self.context.umask & 0o700 == 0 {
            true => fresh,
            false => fresh && make_neutral(&handle, filesystem),
        };
        let attributes = self.context.attributes(entry)?;
        let elsewhere = self.stack.first().is_some_and(|top| top.dir.filesystem.mount != filesystem.mount);
        let deletes = (self.request.existing == Existing::Mirror) && !elsewhere;
        parent.note_name(name);
        let adds = parent.adds;
        let finish = (fresh || !adds).then(|| (entry.clone(), attributes));
        // In a tree in use, a file in a new directory gets its name only when it is complete, too.
        let fresh = fresh && !adds;
        let met = Met { handle, filesystem, fresh, neutral, deletes, adds, elsewhere };
        let path = entry.path.clone();
        Ok(Directory::new(met, path, finish, self.context.outcome.clone(), Some(parent.clone())))
    }

    fn flush(&mut self) -> Result<(), RestoreError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let context = self.context;
        self.pending.push_back(self.pool.submit(move |()| files(context, batch)));
        while self.pending.len() > JOBS_MAX {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), RestoreError> {
        // A worker that panicked has no result; the scope passes its panic on.
        self.pending.pop_front().and_then(Handle::wait).unwrap_or(Ok(()))
    }

    pub(crate) fn drain(&mut self) -> Result<(), RestoreError> {
        self.flush()?;
        while !self.pending.is_empty() {
            self.settle()?;
        }
        Ok(())
    }

    /// Restores a large file, whose segments all workers write.
    fn large(&self, spot: &Spot, entry: &Entry, file: &File) -> Result<(), EntryError> {
        let context = self.context;
        let attributes = context.attributes(entry)?;
        if from_nearby(context, spot, entry, file, &attributes)? {
            return Ok(());
        }
        let making = create(context, spot, entry)?;
        write_large(&context.writer, self.pool, &making.handle, entry, file, None)
            .map_err(EntryError::filling)?;
        context.counters.files_written.fetch_add(1, Ordering::Relaxed);
        Ok(making.finish(context, entry, &attributes)?)
    }
}
