//! The walk: directories listed ahead by separate threads, consumed depth-first in sorted order.
//!
//! Every directory is opened relative to its parent's handle, without following symlinks, so paths may be of
//! any length and nothing outside the root is ever reached. The consumer never waits for a listing that no
//! thread has begun: it lists that directory itself. The listers run ahead up to a bound of entries and of
//! open handles.

use super::exclude::Excludes;
use super::hints::{Hints, Watch};
use super::node::Node;
use super::stat::{Identity, Stat};
use super::tree::Directory;
use crate::model::entry::Timestamp;
use crate::model::tree_path::TreePath;
use crate::support::lock::lock;
use rustix::io::Errno;
use std::ffi::CString;
use std::sync::{Arc, Condvar, Mutex};

/// Maximum number of entries listed and not yet consumed.
const AHEAD_ENTRIES: usize = 32 << 10;
/// Maximum number of listings not yet consumed; each holds a handle.
const AHEAD_LISTINGS: usize = 256;
/// Maximum number of times that a directory is read while its names change.
const READINGS_MAX: u32 = 4;

/// A directory as it was listed.
pub struct Listing {
    pub node: Arc<Node>,
    /// Metadata of the directory itself, after its listing.
    pub stat: Stat,
    /// The entries, sorted by name.
    pub children: Vec<Child>,
}

/// An entry of a directory.
pub struct Child {
    pub name: CString,
    pub path: TreePath,
    /// Metadata; `NOENT` if the entry was removed between listing and `statx`.
    pub stat: Result<Stat, Errno>,
    /// The later listing of a directory that is walked.
    pub below: Option<Arc<Slot>>,
    /// Whether this is a directory in and below which nothing changed since the last scan. It is listed only
    /// on request.
    pub is_clean: bool,
    /// Whether another filesystem or another mount begins at this directory.
    pub is_boundary: bool,
}

/// A directory that is to be listed.
pub struct Slot {
    parent: Arc<Node>,
    name: CString,
    /// Metadata when its parent was listed.
    stat: Stat,
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

/// Rules of a walk.
pub struct WalkOptions<'e> {
    pub excludes: &'e Excludes,
    /// Directories of this program, which are left out wherever they are met.
    pub own: &'e [Identity],
    /// The only filesystem that is walked.
    pub only_device: Option<(u32, u32)>,
    /// A directory with a change at or after this time may have changed again unseen.
    pub since: Timestamp,
    /// Maximum number of directories listed ahead; each holds a handle.
    pub listings_max: usize,
}

/// A walk of one tree.
pub struct Walk<'e> {
    course: &'e WalkOptions<'e>,
    watch: Option<&'e Watch>,
    hints: Option<&'e Hints>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl<'e> Walk<'e> {
    pub fn new(course: &'e WalkOptions<'e>) -> Self {
        Self { course, watch: None, hints: None, queue: Mutex::default(), wake: Condvar::new() }
    }

    /// Watches every directory before it is listed; with hints, clean directories are not listed ahead.
    pub(crate) fn watched(self, watch: Option<&'e Watch>, hints: Option<&'e Hints>) -> Self {
        Self { watch, hints, ..self }
    }

    /// Returns the number of directories that a caller may hold at once, in addition to those that are listed
    /// ahead.
    pub(crate) fn handles_to_spare(&self) -> usize {
        (self.course.listings_max / 64).clamp(1, 16)
    }

    /// Lists the root itself.
    pub fn root(&self, handle: Arc<dyn Directory>) -> Result<Listing, Errno> {
        let stat = handle.stat()?;
        let listing = self.list(Node::root(handle, &stat), stat)?;
        self.announce(&listing);
        Ok(listing)
    }

    /// Returns the listing of `slot`: the one made ahead, or one made now.
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

    /// Lists ahead until the walk is closed; each helping thread calls it once.
    pub fn help(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return;
            }
            let free = queue.ahead_entries < AHEAD_ENTRIES
                && queue.ahead_listings < self.course.listings_max.min(AHEAD_LISTINGS);
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

    /// Ends the helping threads.
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
        self.open_as(slot, slot.stat)
    }

    /// Lists a slot's directory again, also one that was taken; `stat` is the metadata that its name has now.
    pub(crate) fn open_as(&self, slot: &Slot, stat: Stat) -> Result<Listing, Errno> {
        let handle = slot.parent.handle()?.open_directory(&slot.name)?;
        let path = slot.parent.path.join(slot.name.as_bytes());
        let node = Node::below(&slot.parent, slot.name.clone(), path, handle, &stat);
        self.list(node, stat)
    }

    /// Reads a directory once; it had metadata `stat` just before.
    ///
    /// One reading is enough if the directory was the same at the last scan, and all its entries of that scan
    /// are found. In any other directory a name may be missing; see [`Walk::at_rest`].
    fn list(&self, node: Arc<Node>, stat: Stat) -> Result<Listing, Errno> {
        if let Some(watch) = self.watch {
            watch.before_listing(&node.path);
        }
        let handle = node.handle()?;
        let mut names = handle.names()?;
        names.sort_unstable();
        let children = self.children(&node, &*handle, names, &stat);
        Ok(Listing { node, stat, children })
    }

    /// Returns the listing of a directory that changed, or is new, after a reading during which it did not
    /// change.
    pub(crate) fn at_rest(&self, listing: Listing) -> Result<Listing, Errno> {
        let handle = listing.node.handle()?;
        let now = handle.stat()?;
        if now.same_moment(&listing.stat) && now.fingerprint.ctime < self.course.since {
            return Ok(listing);
        }
        let (mut names, stat) = names_at_rest(&*handle, now, self.course.since)?;
        names.extend(listing.children.iter().map(|child| child.name.clone()));
        names.sort_unstable();
        names.dedup();
        self.withdraw(&listing);
        let node = listing.node.opened_as(handle.clone(), &stat);
        let children = self.children(&node, &*handle, names, &stat);
        let listing = Listing { node, stat, children };
        self.announce(&listing);
        Ok(listing)
    }

    fn children(
        &self,
        node: &Arc<Node>,
        handle: &dyn Directory,
        names: Vec<CString>,
        stat: &Stat,
    ) -> Vec<Child> {
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            let path = node.path.join(name.as_bytes());
            if self.course.excludes.exclude_unseen(&path) {
                continue;
            }
            let found = handle.stat_at(&name);
            let is_directory = found.as_ref().is_ok_and(Stat::is_directory);
            // An entry that cannot be looked at may be a directory, so patterns of directories match it.
            if self.course.excludes.exclude(&path, is_directory || found.is_err()) {
                continue;
            }
            let mut child =
                Child { name, path, stat: found, below: None, is_clean: false, is_boundary: false };
            if let (Ok(found), true) = (found, is_directory) {
                if self.course.own.contains(&found.identity()) {
                    continue;
                }
                child.is_boundary = found.is_mount_root || found.device != stat.device;
                child.is_clean = self.hints.is_some_and(|hints| hints.is_clean(&child.path));
                if self.course.only_device.is_none_or(|device| device == found.device) {
                    child.below = Some(Arc::new(Slot {
                        parent: node.clone(),
                        name: child.name.clone(),
                        stat: found,
                        state: Mutex::new(SlotState::Waiting),
                        done: Condvar::new(),
                    }));
                }
            }
            children.push(child);
        }
        children
    }

    /// Withdraws the pending listings below a listing that is dropped.
    fn withdraw(&self, listing: &Listing) {
        for slot in listing.children.iter().filter_map(|child| child.below.as_ref()) {
            let is_idle = match &mut *lock(&slot.state) {
                state @ SlotState::Waiting => {
                    *state = SlotState::Taken;
                    true
                }
                _ => false,
            };
            if !is_idle {
                // Frees its place among the listings ahead.
                let _ = self.take(slot);
            }
        }
    }
}

/// Reads a directory's names, sorted, and its metadata after that reading.
///
/// A name that is moved during a reading may be returned twice or not at all. So the directory is read again
/// until its metadata did not change during a reading. The result has the names of all readings; the caller
/// looks at each name. A directory with a change at or after `since` may have changed again within one tick
/// of the kernel's clock, so it is read twice.
pub(crate) fn names_at_rest(
    handle: &dyn Directory,
    mut before: Stat,
    since: Timestamp,
) -> Result<(Vec<CString>, Stat), Errno> {
    let mut names = handle.names()?;
    let mut stat = handle.stat()?;
    let mut readings = 1;
    while !(stat.same_moment(&before) && (readings > 1 || stat.fingerprint.ctime < since))
        && readings < READINGS_MAX
    {
        before = stat;
        names.append(&mut handle.names()?);
        stat = handle.stat()?;
        readings += 1;
    }
    names.sort_unstable();
    names.dedup();
    Ok((names, stat))
}

/// Pushes in reverse, so that the first directory comes out of the stack first.
fn push_below(queue: &mut Queue, listing: &Listing) {
    queue.stack.extend(listing.children.iter().rev().filter(|c| !c.is_clean).filter_map(|c| c.below.clone()));
}
