//! Restoring a snapshot as plain files.
//!
//! A destination that does not exist, or is an empty directory, is made beside and renamed when it is
//! complete; broken off, the next run goes on in the directory beside. Into a directory that holds
//! something, each file is made beside its name and renamed over it, and only what differs is touched.
//! Every byte is checked: chunks against their ids, files of several chunks against their hash. Nothing
//! is ever opened through a symlink, so that a tree which changes meanwhile cannot lead a write out of
//! the destination.
//!
//! An entry that cannot be made as it was is told, and the rest goes on; below a directory that cannot be made all is passed over.
//! What ends a restore is what would meet every entry: see `RestoreError::ends`. Deletion never reaches into another mount,
//! neither into one that the snapshot does not have nor into one that is mounted where the snapshot has a directory.

use super::apply::restorer;
use super::beside::{Spot, is_beside};
use super::depot::Depot;
use super::directory::{
    Directory, Met, Outcome, make_neutral, name_of, open_below, open_existing, open_path,
};
use super::error::{Failure, RestoreError, is_own};
use super::file::{Counters, FileJob, Shared, create, files, from_nearby, from_other_name, umask};
use super::filesystem::{Filesystem, Mount};
use super::large::write_large;
use super::place::{LOST_AND_FOUND, Place, is_marker, is_mount_root};
use super::remove::{left_because, remove_all};
use super::salvage::Salvage;
use super::shortfall::{ShortfallKind, Shortfalls};
use super::special::special;
use crate::model::entry::{Entry, File, Fingerprint, Kind, Timestamp, Xattrs};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::ManifestReader;
use crate::source::content::SEGMENT_BYTES;
use crate::source::stat::Stat;
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

/// Batches under way.
const JOBS_MAX: usize = 8;
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: u64 = SEGMENT_BYTES;

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
    /// What this host holds of the store as a standby: read first.
    pub depot: Option<Depot>,
}

/// What a restore did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RestoreReport {
    pub entries: u64,
    pub files_written: u64,
    /// Of those, from this host's own objects.
    pub files_local: u64,
    /// Files whose content was there already.
    pub files_kept: u64,
    pub removed: u64,
    pub written_bytes: u64,
    /// It went on where an earlier run was broken off.
    pub resumed: bool,
    /// What did not come back as it was.
    pub warnings: Shortfalls,
}

/// Restores the manifest `root` of a store, whose chunks `chunks` reads. `tag` stands for the snapshot.
pub fn restore(
    chunks: ChunkReader,
    root: &ManifestRoot,
    tag: &str,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    crate::source::walk::raise_handle_limit();
    progress.expected_entries.store(root.entries, Ordering::Relaxed);
    // What was broken off is gone on with for the same part of the same snapshot only.
    let tag = match request.path.is_root() {
        true => tag.to_owned(),
        false => format!("{tag}-{}", &blake3::hash(request.path.as_bytes()).to_hex()[..8]),
    };
    let place = Place::choose(request, &tag)?;
    let restored = restore_to(&place, chunks, root, request, progress);
    if restored.is_err() {
        place.abandon();
    }
    restored
}

fn restore_to(
    place: &Place,
    chunks: ChunkReader,
    root: &ManifestRoot,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    let outcome = Arc::new(Outcome::default());
    let shared = Shared {
        chunks,
        counters: Counters::default(),
        outcome,
        progress,
        depot: request.depot.clone(),
        umask: umask(),
    };
    let threads = request.threads.max(1);
    let manifests = ManifestReader::new(shared.chunks.clone());
    let entries = Salvage::new(manifests, root, &request.path, &shared.outcome);
    let mut report = std::thread::scope(|scope| {
        let pool = Pool::start(scope, vec![(); threads]);
        let restorer = Restorer {
            shared: &shared,
            pool: &pool,
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
        let report = restorer.run(entries);
        drop(pool);
        report
    })?;
    if let Some(error) = shared.outcome.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    place.publish()?;
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    report.files_written = count(&shared.counters.files_written);
    report.files_local = count(&shared.counters.files_local);
    report.files_kept = count(&shared.counters.files_kept);
    report.written_bytes = count(&shared.counters.written_bytes);
    report.warnings = shared.outcome.told.take();
    Ok(report)
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
    place: &'s Place,
    stack: Vec<Level>,
    batch: Vec<FileJob>,
    batch_bytes: u64,
    pending: VecDeque<Handle<Result<(), RestoreError>>>,
    /// The first name of every hardlink group.
    links: HashMap<u64, TreePath>,
    /// A directory that could not be made: what is below it is passed over.
    skipped: Option<TreePath>,
    /// The last entry that was not a directory: nothing can be below it.
    leaf: Option<TreePath>,
    /// Directories that the snapshot lacks, although it has something below them.
    made_up: HashSet<TreePath>,
    /// Mounts in the destination of which was told that nothing is deleted there.
    mounts_told: HashSet<Mount>,
    report: RestoreReport,
}

impl<'env> Restorer<'_, 'env> {
    fn run(
        mut self,
        entries: impl Iterator<Item = Result<Entry, RepositoryError>>,
    ) -> Result<RestoreReport, RestoreError> {
        for entry in entries {
            let entry = entry?;
            self.report.entries += 1;
            Progress::add(&self.shared.progress.entries, 1);
            if self.skipped.as_ref().is_some_and(|skipped| entry.path.is_within(skipped)) {
                self.shared.outcome.told.count(ShortfallKind::Missing, 1);
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

    /// The first entry: a directory becomes the destination itself, anything else is put into it.
    fn begin(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let shown = self.place.work.display().to_string();
        let wrong = |action| RestoreError::write(&shown, action);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle =
            rustix::fs::openat(CWD, &self.place.work, flags, Mode::empty()).map_err(wrong("open it"))?;
        let filesystem = Filesystem::of(&handle).map_err(wrong("look at it"))?;
        let (fresh, deletes) = (self.place.fresh, self.request.delete);
        let outcome = self.shared.outcome.clone();
        let missing = entry.path != self.request.path;
        let directory = match missing {
            // Its own entry is not in the snapshot, but what is below it is.
            true => self.make_up(self.request.path.clone(), entry.mtime),
            false => entry.clone(),
        };
        if directory.kind != Kind::Directory {
            if self.place.is_new() {
                let mode = Mode::from_raw_mode((0o777 & !self.shared.umask).into());
                rustix::fs::fchmod(&handle, mode).map_err(wrong("set its mode"))?;
            }
            let above = entry.path.split().map_or(&b""[..], |(above, _)| above);
            let path = TreePath::parse(above).unwrap_or_default();
            let met = Met { handle, filesystem, fresh, neutral: false, deletes, elsewhere: false };
            self.enter(Directory::new(met, path, None, outcome, None)).map_err(|failure| failure.error)?;
            return self.put(entry);
        }
        let attributes = self.shared.attributes(&directory)?;
        let neutral = fresh && make_neutral(&handle, filesystem);
        let met = Met { handle, filesystem, fresh, neutral, deletes, elsewhere: false };
        let path = directory.path.clone();
        let dir = Directory::new(met, path, Some((directory, attributes)), outcome, None);
        self.enter(dir).map_err(|failure| failure.error)?;
        if missing { self.entry(entry) } else { Ok(()) }
    }

    /// An entry below the first: leaves the directories that it is not in, and puts it into its own.
    fn entry(&mut self, entry: Entry) -> Result<(), RestoreError> {
        while let [_, .., level] = &self.stack[..]
            && !entry.path.is_within(&level.dir.path)
        {
            self.leave()?;
        }
        let shared = self.shared;
        let told = &shared.outcome.told;
        let Some(dir) = self.stack.last().map(|level| level.dir.clone()) else { return Ok(()) };
        let parent = entry.path.split().map(|(parent, _)| parent);
        let astray = self.leaf.as_ref().is_some_and(|leaf| entry.path.is_within(leaf));
        if astray || !entry.path.is_within(&dir.path) || entry.path == dir.path {
            told.tell(ShortfallKind::Missing, &entry.path, "it lies below what is not a directory");
            self.skipped = Some(entry.path);
            return Ok(());
        }
        if parent == Some(dir.path.as_bytes()) {
            return self.put(entry);
        }
        // Directories between it and where it is put that the snapshot does not have.
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

    /// An entry for a directory that the snapshot lacks. Nobody but its owner sees what is in it.
    fn make_up(&mut self, path: TreePath, mtime: Timestamp) -> Entry {
        let reason = "the snapshot lacks this directory; it was made with mode 700";
        self.shared.outcome.told.tell(ShortfallKind::Orphaned, &path, reason);
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

    fn enter(&mut self, dir: Directory) -> Result<(), Failure> {
        let extra = if dir.fresh {
            BTreeSet::new()
        } else {
            dir.names().map_err(RestoreError::write(&dir.path, "list it"))?
        };
        self.stack.push(Level { dir: Arc::new(dir), extra });
        Ok(())
    }

    /// All of a directory's entries were met: what is left over does not belong.
    fn leave(&mut self) -> Result<(), RestoreError> {
        let Some(Level { dir, mut extra }) = self.stack.pop() else { return Ok(()) };
        let shared = self.shared;
        let told = &shared.outcome.told;
        if self.stack.is_empty() {
            if is_mount_root(&dir.handle) {
                extra.remove(LOST_AND_FOUND);
            }
            // The one of this run goes when all is done.
            extra.retain(|name| !self.place.is_marker(name));
        }
        // What a killed restore left beside a file is ours to remove.
        let top = self.stack.is_empty();
        let (ours, extra): (Vec<_>, Vec<_>) =
            extra.into_iter().partition(|name| is_beside(name) || (top && is_marker(name)));
        for name in ours {
            match rustix::fs::unlinkat(&dir.handle, &name, AtFlags::empty()) {
                Ok(()) => self.report.removed += 1,
                Err(errno) => {
                    told.tell(ShortfallKind::Left, &dir.path.join(name.as_bytes()), left_because(errno));
                }
            }
        }
        // A file restored alone does not speak for the directory it is put into.
        let speaks = dir.entry().is_some();
        if extra.is_empty() || !speaks || !(self.request.delete || self.place.is_own()) {
            return Ok(());
        }
        if dir.elsewhere {
            if self.mounts_told.insert(dir.filesystem.mount) {
                let first =
                    self.stack.iter().find(|level| level.dir.filesystem.mount == dir.filesystem.mount);
                let path = first.map_or(&dir.path, |level| &level.dir.path);
                let reason =
                    "another filesystem is mounted here; what the snapshot does not have was left in it";
                told.tell(ShortfallKind::Left, path, reason);
            }
            return Ok(());
        }
        if shared.outcome.page_lost.load(Ordering::Relaxed) || self.made_up.contains(&dir.path) {
            let reason =
                "part of the manifest is lost, so what does not belong in it is not known, and was left";
            told.tell(ShortfallKind::Left, &dir.path, reason);
            return Ok(());
        }
        for name in &extra {
            let path = dir.path.join(name.as_bytes());
            let mut left = |at: &TreePath, errno| told.tell(ShortfallKind::Left, at, left_because(errno));
            let gone = remove_all(&dir.handle, dir.filesystem.mount, name, &path, &mut left)
                .map_err(RestoreError::write(&path, "remove it"))?;
            self.report.removed += u64::from(gone);
        }
        Ok(())
    }

    /// Puts one entry into the directory on top of the stack.
    fn put(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let manifest = || RestoreError::Manifest { path: entry.path.to_string() };
        let level = self.stack.last_mut().ok_or_else(manifest)?;
        let (_, name) = entry.path.split().ok_or_else(manifest)?;
        let name = name_of(name);
        let listed = level.extra.remove(&name);
        let spot = Spot { dir: level.dir.clone(), name, listed };
        if entry.kind != Kind::Directory {
            self.leaf = Some(entry.path.clone());
        }
        if let Some(group) = entry.hardlink
            && let Some(first) = self.links.get(&group)
        {
            let first = first.clone();
            return self.link(spot, entry, group, &first);
        }
        self.make(spot, entry)
    }

    /// Makes an entry anew; of a hardlink group it is the first name.
    fn make(&mut self, spot: Spot, entry: Entry) -> Result<(), RestoreError> {
        if let Some(group) = entry.hardlink {
            self.links.insert(group, entry.path.clone());
        }
        match &entry.kind {
            Kind::Directory => {
                let dir = self.open(&spot, &entry).and_then(|dir| self.enter(dir));
                if self.shared.settle(&spot.dir, &entry, dir)?.is_none() {
                    self.skipped = Some(entry.path);
                }
                Ok(())
            }
            Kind::File(file) if file.size_bytes > SEGMENT_BYTES => {
                let made = self.large(&spot, &entry, file);
                self.shared.settle(&spot.dir, &entry, made).map(drop)
            }
            Kind::File(file) => {
                self.batch_bytes += file.size_bytes;
                self.batch.push(FileJob { spot, entry });
                let full = self.batch.len() >= BATCH_ENTRIES || self.batch_bytes >= BATCH_BYTES;
                if full { self.flush() } else { Ok(()) }
            }
            _ => {
                let attributes = self.shared.attributes(&entry)?;
                let made = special(self.shared, &spot, &entry, &attributes).map_err(Failure::from);
                self.shared.settle(&spot.dir, &entry, made).map(drop)
            }
        }
    }

    /// Makes a directory, or opens the one that is there.
    fn open(&self, spot: &Spot, entry: &Entry) -> Result<Directory, Failure> {
        let wrong = |action| RestoreError::write(&entry.path, action);
        let (parent, name) = (&spot.dir, &*spot.name);
        let make = || rustix::fs::mkdirat(&parent.handle, name, Mode::RWXU);
        let mut fresh = true;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) if !spot.listed && !parent.lists(name) => {
                return Err(RestoreError::SameName(entry.path.to_string()).into());
            }
            Err(Errno::EXIST) => {
                if Stat::at(&parent.handle, name).is_ok_and(|stat| stat.is_directory()) {
                    fresh = false;
                } else {
                    rustix::fs::unlinkat(&parent.handle, name, AtFlags::empty())
                        .map_err(wrong("replace it"))?;
                    make().map_err(wrong("create it"))?;
                }
            }
            Err(errno) => return Err(wrong("create it")(errno).into()),
        }
        let handle = match fresh {
            true => open_below(&parent.handle, name),
            false => open_existing(&parent.handle, name),
        };
        let handle = handle.map_err(wrong("open it"))?;
        let mut filesystem = parent.filesystem;
        if !fresh && Mount::of(&handle).map_err(wrong("look at it"))? != filesystem.mount {
            filesystem = Filesystem::of(&handle).map_err(wrong("look at it"))?;
        }
        // What is new in a neutral directory is neutral. (The umask may take even the owner's rights.)
        let neutral = match parent.neutral && self.shared.umask & 0o700 == 0 {
            true => fresh,
            false => fresh && make_neutral(&handle, filesystem),
        };
        let attributes = self.shared.attributes(entry)?;
        let elsewhere = self.stack.first().is_some_and(|top| top.dir.filesystem.mount != filesystem.mount);
        let deletes = self.request.delete && !elsewhere;
        parent.note_name(name);
        let met = Met { handle, filesystem, fresh, neutral, deletes, elsewhere };
        let (path, finish) = (entry.path.clone(), Some((entry.clone(), attributes)));
        Ok(Directory::new(met, path, finish, self.shared.outcome.clone(), Some(parent.clone())))
    }

    /// Another name of a file that was restored under its first. Where that cannot be, it is a file of its own.
    fn link(&mut self, spot: Spot, entry: Entry, group: u64, first: &TreePath) -> Result<(), RestoreError> {
        self.drain()?;
        if self.shared.outcome.lost_names.lock().unwrap_or_else(PoisonError::into_inner).contains(first) {
            // The first could not be made: this is the first, then.
            return self.make(spot, entry);
        }
        let linked = self.first_of(first).map(|(from, first_name)| {
            let made = spot.make(&entry.path, "link it", |at| {
                rustix::fs::linkat(&from, &first_name, &spot.dir.handle, at, AtFlags::empty())
            });
            match made {
                Ok(((), mut unplaced)) => {
                    unplaced.linked = true;
                    Ok(unplaced.place(&entry.path).map_err(Failure::from))
                }
                Err(RestoreError::Write { errno, .. }) => Err((errno, from, first_name)),
                Err(error) => Ok(Err(error.into())),
            }
        });
        let (errno, other) = match linked {
            Ok(Ok(placed)) => return self.shared.settle(&spot.dir, &entry, placed).map(drop),
            Ok(Err((errno, from, name))) => (errno, crate::source::read::open_file(&from, &name).ok()),
            Err(errno) => (errno, None),
        };
        if is_own(errno) {
            return Err(RestoreError::write(&entry.path, "link it")(errno));
        }
        let reason = format!("it is a file of its own here: link it: {}", std::io::Error::from(errno));
        self.shared.outcome.told.tell(ShortfallKind::Separate, &entry.path, reason);
        if let (Some(other), Some(file)) = (other, entry.file()) {
            let made = from_other_name(self.shared, &other, &spot, &entry, file);
            match self.shared.settle(&spot.dir, &entry, made)? {
                Some(true) => {
                    // Later names are names of this one: of the first there can be no more, or not on this filesystem.
                    self.links.insert(group, entry.path);
                    return Ok(());
                }
                Some(false) => {}
                None => return Ok(()),
            }
        }
        self.make(spot, entry)
    }

    /// Where the first name of a group is.
    fn first_of(&self, first: &TreePath) -> Result<(rustix::fd::OwnedFd, CString), Errno> {
        let top = self.stack.first().map(|level| level.dir.clone());
        let (Some(top), Some((dir, name))) = (top, first.split()) else { return Err(Errno::NOENT) };
        let below = dir.get(top.path.as_bytes().len()..).unwrap_or_default();
        Ok((open_path(&top.handle, below)?, name_of(name)))
    }

    fn flush(&mut self) -> Result<(), RestoreError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let shared = self.shared;
        self.pending.push_back(self.pool.submit(move |()| files(shared, batch)));
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
    fn large(&self, spot: &Spot, entry: &Entry, file: &File) -> Result<(), Failure> {
        let shared = self.shared;
        let attributes = shared.attributes(entry)?;
        if from_nearby(shared, spot, entry, file, &attributes)? {
            return Ok(());
        }
        let making = create(shared, spot, entry)?;
        write_large(shared, self.pool, &making.handle, entry, file, None).map_err(Failure::filling)?;
        shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
        Ok(making.finish(shared, entry, &attributes)?)
    }
}
