//! Restoring a snapshot as plain files.
//!
//! A destination that does not exist, or is an empty directory, is made beside and renamed when it is
//! complete; broken off, the next run goes on in the directory beside. Into a directory that holds
//! something, each file is made beside its name and renamed over it, and only what differs is touched.
//! Every byte is checked: chunks against their ids, files of several chunks against their hash. Nothing
//! is ever opened through a symlink, so that a tree which changes meanwhile cannot lead a write out of
//! the destination.

use super::depot::Depot;
use super::directory::{Directory, Outcome, name_of, open_below, open_path, remove_all};
use super::error::RestoreError;
use super::file::{
    BESIDE, Counters, FileJob, Shared, attributes_of, beside, copy_object, create, files, finish,
    keep_existing, object, put_in_place, umask,
};
use super::large::write_large;
use super::place::Place;
use super::special::special;
use crate::model::entry::{Attributes, Entry, Kind};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::ManifestReader;
use crate::source::content::SEGMENT_BYTES;
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RestoreReport {
    pub entries: u64,
    pub files_written: u64,
    /// Of those, from this host's own objects.
    pub files_local: u64,
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

/// Restores the manifest `root` of a store, whose chunks `chunks` reads.
pub fn restore(
    chunks: ChunkReader,
    root: &ManifestRoot,
    tag: &str,
    request: &RestoreRequest,
    progress: &Progress,
) -> Result<RestoreReport, RestoreError> {
    crate::source::disk::raise_handle_limit();
    progress.expected_entries.store(root.entries, Ordering::Relaxed);
    let place = Place::choose(request, tag)?;
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let outcome = Arc::new(Outcome::default());
    let shared = Shared {
        chunks,
        counters: Counters::default(),
        outcome,
        progress,
        owner,
        depot: request.depot.clone(),
        umask: umask(),
    };
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
    report.files_local = count(&shared.counters.files_local);
    report.files_kept = count(&shared.counters.files_kept);
    report.written_bytes = count(&shared.counters.written_bytes);
    report.owners_denied = count(&denied.owners);
    report.attributes_denied = count(&denied.attributes);
    report.devices_denied = count(&denied.devices);
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
        let (handle, beside) = create(shared, &dir, &name, &entry)?;
        let handle = Arc::new(handle);
        let local = match object(shared, file) {
            Some(object) => copy_object(shared, &object, &handle, &entry, file)?,
            None => false,
        };
        if !local {
            write_large(shared, self.pool, &handle, &entry, file, None)?;
            shared.counters.files_written.fetch_add(1, Ordering::Relaxed);
        }
        finish(shared, &dir, &handle, beside.as_deref(), &name, &entry, &attributes, self.request.delete)
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
