//! The walk: directories listed ahead by threads of their own, consumed depth-first in sorted order.
//!
//! Every directory is opened relative to its parent's handle, without following symlinks, so paths may
//! be of any length and nothing outside the root is ever reached. The consumer never waits for a
//! listing that nobody has begun: it lists that directory itself. How far the listers run ahead is
//! bounded by entries and by open handles.

use super::error::SourceError;
use super::exclude::Excludes;
use super::hints::{Hints, Watch};
use super::stat::Stat;
use crate::model::tree_path::TreePath;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Entries listed and not yet consumed.
const AHEAD_ENTRIES: usize = 32 << 10;
/// Listings not yet consumed; each holds a handle.
const AHEAD_LISTINGS: usize = 256;

/// A directory as it was listed.
pub struct Listing {
    pub path: TreePath,
    pub handle: Arc<OwnedFd>,
    /// Sorted by name.
    pub children: Vec<Child>,
}

/// An entry of a directory.
pub struct Child {
    pub name: CString,
    /// Vanished between listing and `statx`: `ENOENT`.
    pub stat: Result<Stat, Errno>,
    /// For a directory: its own listing, to come.
    pub below: Option<Arc<Slot>>,
    /// For a directory: nothing changed in it and below it since the last scan. It is listed only if it is asked for.
    pub is_clean: bool,
}

/// A directory that is to be listed.
pub struct Slot {
    path: TreePath,
    parent: Arc<OwnedFd>,
    name: CString,
    state: Mutex<SlotState>,
    done: Condvar,
}

enum SlotState {
    Waiting,
    Running,
    Done(Result<Listing, Errno>),
    Taken,
}

#[derive(Default)]
struct Queue {
    stack: Vec<Arc<Slot>>,
    ahead_entries: usize,
    ahead_listings: usize,
    closed: bool,
}

/// A walk of one tree.
pub struct Walk<'e> {
    excludes: &'e Excludes,
    watch: Option<&'e Watch>,
    hints: Option<&'e Hints>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Opens a store's root: a directory, or a symlink to one (the one symlink that is followed, since the
/// operator named it).
pub fn open_root(path: &Path) -> Result<(Arc<OwnedFd>, Stat), SourceError> {
    let wrong = |e: Errno| SourceError::Root { path: path.to_owned(), source: e.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOTDIR => SourceError::NotADirectory(path.to_owned()),
        e => wrong(e),
    })?;
    let stat = Stat::of(&handle).map_err(wrong)?;
    Ok((Arc::new(handle), stat))
}

impl<'e> Walk<'e> {
    pub fn new(excludes: &'e Excludes) -> Self {
        Self { excludes, watch: None, hints: None, queue: Mutex::default(), wake: Condvar::new() }
    }

    /// Watches every directory before it is listed; with hints, those that are clean are not listed ahead.
    pub fn watched(self, watch: Option<&'e Watch>, hints: Option<&'e Hints>) -> Self {
        Self { watch, hints, ..self }
    }

    /// Whether some directories may be clean.
    pub fn is_hinted(&self) -> bool {
        self.hints.is_some()
    }

    /// Lists the root itself.
    pub fn root(&self, handle: Arc<OwnedFd>) -> Result<Listing, Errno> {
        let listing = self.list(TreePath::root(), handle)?;
        self.announce(&listing);
        Ok(listing)
    }

    /// The listing of `slot`: as listed ahead, or listed now.
    pub fn take(&self, slot: &Slot) -> Result<Listing, Errno> {
        let mut state = lock(&slot.state);
        loop {
            match std::mem::replace(&mut *state, SlotState::Taken) {
                SlotState::Waiting => {
                    *state = SlotState::Taken;
                    drop(state);
                    let listing = self.open(slot)?;
                    self.announce(&listing);
                    return Ok(listing);
                }
                SlotState::Running => {
                    *state = SlotState::Running;
                    state = slot.done.wait(state).unwrap_or_else(|e| e.into_inner());
                }
                SlotState::Done(listing) => {
                    drop(state);
                    let mut queue = lock(&self.queue);
                    queue.ahead_listings -= 1;
                    queue.ahead_entries -= listing.as_ref().map_or(0, |l| l.children.len());
                    self.wake.notify_one();
                    return listing;
                }
                SlotState::Taken => return Err(Errno::NOENT),
            }
        }
    }

    /// Lists ahead until the walk is closed; each thread that helps calls it once.
    pub fn help(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return;
            }
            let free = queue.ahead_entries < AHEAD_ENTRIES && queue.ahead_listings < AHEAD_LISTINGS;
            let next = if free { queue.stack.pop() } else { None };
            let Some(slot) = next else {
                queue = self.wake.wait(queue).unwrap_or_else(|e| e.into_inner());
                continue;
            };
            {
                let mut state = lock(&slot.state);
                if !matches!(*state, SlotState::Waiting) {
                    continue;
                }
                *state = SlotState::Running;
            }
            queue.ahead_listings += 1;
            drop(queue);
            let listing = self.open(&slot);
            queue = lock(&self.queue);
            if let Ok(listing) = &listing {
                queue.ahead_entries += listing.children.len();
                push_below(&mut queue, listing);
            }
            *lock(&slot.state) = SlotState::Done(listing);
            slot.done.notify_all();
            self.wake.notify_one();
        }
    }

    /// Sends the helpers home.
    pub fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.stack.clear();
        self.wake.notify_all();
    }

    fn announce(&self, listing: &Listing) {
        push_below(&mut lock(&self.queue), listing);
        self.wake.notify_all();
    }

    fn open(&self, slot: &Slot) -> Result<Listing, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&slot.parent, &slot.name, flags, Mode::empty())?;
        self.list(slot.path.clone(), Arc::new(handle))
    }

    fn list(&self, path: TreePath, handle: Arc<OwnedFd>) -> Result<Listing, Errno> {
        if let Some(watch) = self.watch {
            watch.before_listing(&path);
        }
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(&handle, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            let stat = Stat::at(&handle, &name);
            let is_directory = stat.as_ref().is_ok_and(Stat::is_directory);
            let child_path = path.join(name.as_bytes());
            if self.excludes.exclude(&child_path, is_directory) {
                continue;
            }
            let is_clean = is_directory && self.hints.is_some_and(|hints| hints.is_clean(&child_path));
            let below = is_directory.then(|| {
                Arc::new(Slot {
                    path: child_path,
                    parent: handle.clone(),
                    name: name.clone(),
                    state: Mutex::new(SlotState::Waiting),
                    done: Condvar::new(),
                })
            });
            children.push(Child { name, stat, below, is_clean });
        }
        Ok(Listing { path, handle, children })
    }
}

/// The first directory comes out of the stack first.
fn push_below(queue: &mut Queue, listing: &Listing) {
    queue.stack.extend(listing.children.iter().rev().filter(|c| !c.is_clean).filter_map(|c| c.below.clone()));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Raises this process's limit on open handles as far as it may.
pub fn raise_handle_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it a very deep tree has unreadable directories, which are reported.
    let _ = setrlimit(Resource::Nofile, limit);
}
