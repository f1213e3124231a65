//! Scans a tree: merges the live tree with the last manifest into the next manifest.
//!
//! One thread walks in order and decides ([`decide`], pure). Workers read entries, and results are recorded
//! in the walk's order (see [`ledger`](super::ledger)). At most [`JOBS_MAX`] batches are in flight, which
//! bounds memory whatever the tree's size.
//!
//! The tree changes during the scan. A directory is opened before its entry is recorded, and the entry is
//! recorded from the open handle, so that no entry is recorded without its directory. An unchanged directory
//! needs no second look: its handle shows what its path held when its parent was listed. For any other
//! directory, it is checked after all readings whether it is still in its place ([`Leave`]). Paths that this
//! leaves in doubt are walked again (see [`rounds`](super::rounds)).

use super::baseline::Baseline;
use super::decide::{Decision, Reread, decide};
use super::error::{ResyncError, ScanEnd};
use super::large_file::{Holes, LargeFile};
use super::ledger::{EntryOutcome, Leave, Ledger, ScanSummary, exhausted};
use super::links::shared_inode;
use super::mounts::Mounts;
use super::read_entry::{Attempt, Target, Worker, look_again};
use super::relatives::SimilarFiles;
use crate::format::page::Child as Leaf;
use crate::model::entry::{Entry, Extent, Extents, File, Kind, Xattrs};
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::extents::read_known_lists;
use crate::repository::manifest::ManifestWriter;
use crate::source::content::SEGMENT_BYTES;
use crate::source::error::SourceError;
use crate::source::node::Node;
use crate::source::stat::{Identity, Stat};
use crate::source::tree::{AttributesRead, Directory, is_in_motion, is_own_trouble};
use crate::source::walk::{Child, Listing, Slot, Walk};
use crate::support::env::Env;
use crate::support::pool::{Handle, Pool};
use crate::support::progress::Progress;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// Maximum number of batches in flight.
const JOBS_MAX: usize = 24;
/// Maximum number of entries in a batch, and number of bytes to read at which it is closed.
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: u64 = SEGMENT_BYTES;
/// Maximum length of a path, in bytes and in names.
///
/// Longer paths are reported and not replicated: every directory on the way to a path holds its own path.
const PATH_MAX_BYTES: usize = 16 << 10;
const DEPTH_MAX: usize = 1024;
/// Number of directories above the current one that stay open.
///
/// Of those further up, one of `LEVELS_APART` does.
const LEVELS_OPEN: usize = 32;
const LEVELS_APART: usize = 64;
/// Maximum number of times a directory is opened that is another one each time.
const OPENINGS_MAX: u32 = 3;

/// A position in the next manifest.
enum Item {
    Keep {
        entry: Entry,
        shared: Option<Identity>,
    },
    KeepBelow {
        entry: Entry,
        is_unseen: bool,
    },
    KeepMissed {
        entry: Entry,
    },
    /// A directory whose entries all precede this item.
    Leave(Leave),
    Read {
        target: Target,
        old: Option<Entry>,
        made_of: Vec<File>,
        again: bool,
    },
    /// An entry of which only the attributes have to be read.
    Attributes {
        target: Target,
        old: Entry,
    },
    Directory {
        path: TreePath,
        stat: Stat,
        attributes: AttributesRead,
        old: Option<Entry>,
    },
}

enum Pending {
    /// A leaf of the last manifest without changes, below a directory that is kept.
    Leaf(Leaf, TreePath),
    Done(Vec<EntryOutcome>),
    Job(Handle<Result<Vec<EntryOutcome>, RepositoryError>>),
}

/// A directory whose entries are walked.
struct Level {
    node: Arc<Node>,
    listed: Stat,
    children: std::vec::IntoIter<Child>,
    /// Whether an entry of it was read or missed. Then it is checked at the end whether it is in its place.
    is_changed: bool,
    has_lost: bool,
}

/// The state of a scan.
pub(crate) struct Scan<'s, 'env> {
    pub pool: &'s Pool<'env, Worker<'env>>,
    pub walk: &'s Walk<'s>,
    pub root_path: &'s Path,
    /// Reads old versions.
    pub chunks: &'s ChunkReader,
    pub relatives: SimilarFiles<'s>,
    pub ledger: Ledger<'s, 'env>,
    pub env: &'s Env,
    pub progress: &'s Progress,
    pub holes: &'s Holes,
    pub reread: Reread,
    pub baseline: Baseline,
    pub mounts: &'s mut Mounts,
    /// Takes over no entry without checking that its chunks exist.
    pub recheck: bool,
    pub under_way: UnderWay,
}

/// Findings that are not yet recorded.
#[derive(Default)]
pub(crate) struct UnderWay {
    batch: Vec<Item>,
    batch_reads: bool,
    batch_bytes: u64,
    batch_leaves: usize,
    pending: VecDeque<Pending>,
    stack: Vec<Level>,
}

/// Drops the levels one by one from the last: a tree may be deeper than the thread's stack.
impl Drop for UnderWay {
    fn drop(&mut self) {
        while self.stack.pop().is_some() {}
    }
}

impl<'env> Scan<'_, 'env> {
    /// Walks from the root on; returns the manifest's writer and what was found.
    pub(crate) fn run(
        mut self,
        root: Arc<dyn Directory>,
    ) -> Result<(ManifestWriter<'env>, ScanSummary), ScanEnd> {
        let path = TreePath::root();
        let old = self.old_at(&path)?;
        // If the root cannot be read, nothing is known about the store.
        let listing = self.walk.root(root).map_err(|errno| match is_own_trouble(errno) {
            true => exhausted(&path, errno),
            false => self.no_root(errno),
        })?;
        self.enter(listing, old)?;
        while let Some(level) = self.under_way.stack.last_mut() {
            match level.children.next() {
                Some(child) => self.child(child)?,
                None => self.leave()?,
            }
        }
        // The remaining entries of the old manifest are gone.
        while let Some(old) = self.baseline.advance()? {
            self.gone(&old)?;
        }
        self.flush()?;
        while let Some(pending) = self.under_way.pending.pop_front() {
            self.settle(pending)?;
        }
        Ok(self.ledger.close())
    }

    fn no_root(&self, errno: Errno) -> ResyncError {
        SourceError::Root { path: self.root_path.to_owned(), source: errno.into() }.into()
    }

    fn child(&mut self, child: Child) -> Result<(), ScanEnd> {
        let old = self.old_at(&child.path)?;
        let Some(dir) = self.under_way.stack.last().map(|level| level.node.clone()) else { return Ok(()) };
        match child.stat {
            Ok(_)
                if child.path.as_bytes().len() > PATH_MAX_BYTES || self.under_way.stack.len() > DEPTH_MAX =>
            {
                self.unlisted(child.path, old, Errno::NAMETOOLONG)
            }
            Ok(stat) if stat.is_directory() => self.directory(dir, child, stat, old),
            Ok(stat) => {
                self.mounts.forget(&child.path);
                self.entry(Target { dir, name: child.name, path: child.path, stat }, old)
            }
            Err(errno) if is_own_trouble(errno) => Err(exhausted(&child.path, errno).into()),
            Err(errno) if is_in_motion(errno) => self.in_motion(dir, child, old),
            Err(errno) => self.unlisted(child.path, old, errno),
        }
    }

    /// Looks once more at an entry that was not there as it had been listed.
    fn in_motion(&mut self, dir: Arc<Node>, child: Child, old: Option<Entry>) -> Result<(), ScanEnd> {
        let Child { name, path, below, .. } = child;
        let stat = match child.stat {
            Ok(stat) => stat,
            Err(_) => match dir.handle().and_then(|handle| handle.stat_at(&name)) {
                // It was never walked, since it was no directory when it was listed.
                Ok(stat) if stat.is_directory() => return self.unsettled(path, old),
                Ok(stat) => return self.entry(Target { dir, name, path, stat }, old),
                Err(Errno::NOENT) => return self.absent(path, old),
                Err(errno) if is_own_trouble(errno) => return Err(exhausted(&path, errno).into()),
                Err(errno) if is_in_motion(errno) => return self.unsettled(path, old),
                Err(errno) => return self.unlisted(path, old, errno),
            },
        };
        let target = Target { dir, name, path, stat };
        for _ in 0..OPENINGS_MAX {
            let stat = match target.dir.handle().and_then(|handle| handle.stat_at(&target.name)) {
                Ok(stat) if stat.is_directory() => stat,
                Ok(stat) => return self.entry(Target { stat, ..target }, old),
                Err(Errno::NOENT) => return self.absent(target.path, old),
                Err(errno) if is_own_trouble(errno) => return Err(exhausted(&target.path, errno).into()),
                Err(errno) if is_in_motion(errno) => break,
                Err(errno) => return self.unlisted(target.path, old, errno),
            };
            let Some(slot) = &below else { break };
            match self.walk.open_as(slot, stat) {
                Ok(listing) => return self.enter(listing, old),
                Err(errno) if is_own_trouble(errno) => return Err(exhausted(&target.path, errno).into()),
                Err(errno) if is_in_motion(errno) => {}
                Err(errno) => return self.unlistable(Target { stat, ..target }, old, errno),
            }
        }
        self.unsettled(target.path, old)
    }

    fn directory(
        &mut self,
        dir: Arc<Node>,
        child: Child,
        stat: Stat,
        old: Option<Entry>,
    ) -> Result<(), ScanEnd> {
        let Some(slot) = child.below.clone() else {
            // It is on another filesystem, which is not walked: only the directory itself is recorded.
            self.mounts.note(&child.path, child.is_boundary);
            let target = Target { dir, name: child.name, path: child.path, stat };
            return self.directory_alone(target, old).map(|_| ());
        };
        // If the name belongs to another directory now, nothing is known about its entries.
        let is_clean = child.is_clean
            && old.as_ref().is_some_and(|old| {
                old.kind == Kind::Directory && old.fingerprint.inode == stat.fingerprint.inode
            });
        if is_clean {
            let path = child.path.clone();
            self.mounts.note(&path, child.is_boundary);
            let old = self.visit(old)?;
            let decision = decide(&stat, old.as_ref(), &self.reread);
            if let (Decision::Keep, Some(entry)) = (decision, &old) {
                self.push(Item::Keep { entry: entry.clone(), shared: None }, 0)?;
                return self.keep_below(&path, false);
            }
            let target = Target { dir: dir.clone(), name: child.name.clone(), path: path.clone(), stat };
            // Only its own metadata differ.
            return match self.directory_alone(target, old)? {
                None => self.keep_below(&path, false),
                Some(old) => self.listed(dir, child, &slot, old),
            };
        }
        self.listed(dir, child, &slot, old)
    }

    /// Records a directory, and then its entries.
    fn listed(
        &mut self,
        dir: Arc<Node>,
        child: Child,
        slot: &Arc<Slot>,
        old: Option<Entry>,
    ) -> Result<(), ScanEnd> {
        match (self.walk.take(slot), child.stat) {
            (Ok(listing), _) => self.enter(listing, old),
            (Err(errno), _) if is_own_trouble(errno) => Err(exhausted(&child.path, errno).into()),
            (Err(errno), _) if is_in_motion(errno) => self.in_motion(dir, child, old),
            (Err(errno), Ok(stat)) => {
                self.unlistable(Target { dir, name: child.name, path: child.path, stat }, old, errno)
            }
            (Err(errno), Err(_)) => self.unlisted(child.path, old, errno),
        }
    }

    fn enter(&mut self, mut listing: Listing, old: Option<Entry>) -> Result<(), ScanEnd> {
        if decide(&listing.stat, old.as_ref(), &self.reread) != Decision::Keep {
            let path = listing.node.path.clone();
            listing = match self.walk.at_rest(listing) {
                Ok(listing) => listing,
                Err(errno) if is_own_trouble(errno) => return Err(exhausted(&path, errno).into()),
                Err(errno) if path.is_root() => return Err(self.no_root(errno).into()),
                Err(errno) if is_in_motion(errno) => return self.unsettled(path, old),
                Err(errno) => return self.unlisted(path, old, errno),
            };
        }
        let Listing { node, stat, children } = listing;
        // Compare the opened directory, not the listed one: a volume may be unmounted between the two.
        if let Some(above) = self.under_way.stack.last() {
            let is_boundary = stat.is_mount_root || stat.device != above.listed.device;
            self.mounts.note(&node.path, is_boundary);
        }
        let is_changed = self.visit_directory(&node, stat, old)?;
        let stack = &mut self.under_way.stack;
        if let Some(at) = stack.len().checked_sub(LEVELS_OPEN)
            && at % LEVELS_APART != 0
        {
            stack[at].node.close();
        }
        stack.push(Level { node, listed: stat, children: children.into_iter(), is_changed, has_lost: false });
        Ok(())
    }

    /// A directory's own entry, as `stat` and its handle say. Returns whether it is another than it was.
    fn visit_directory(&mut self, node: &Node, stat: Stat, old: Option<Entry>) -> Result<bool, ScanEnd> {
        let old = self.visit(old)?;
        match (decide(&stat, old.as_ref(), &self.reread), old) {
            (Decision::Keep, Some(entry)) => {
                self.push(Item::Keep { entry, shared: None }, 0)?;
                Ok(false)
            }
            (_, old) => {
                let attributes = match node.handle() {
                    Ok(handle) => handle.attributes(),
                    Err(errno) => AttributesRead { failed: Some(errno), ..Default::default() },
                };
                self.under_way.batch_reads = true;
                self.push(Item::Directory { path: node.path.clone(), stat, attributes, old }, 0)?;
                Ok(true)
            }
        }
    }

    /// Records the own entry of a directory that is not walked. Returns `old` if it is no directory any more.
    fn directory_alone(
        &mut self,
        target: Target,
        old: Option<Entry>,
    ) -> Result<Option<Option<Entry>>, ScanEnd> {
        let special = target.dir.handle().and_then(|handle| handle.special(&target.name));
        let (stat, attributes) = match special {
            Ok(special) if special.stat.is_directory() => (special.stat, special.attributes),
            Err(errno) if is_own_trouble(errno) => return Err(exhausted(&target.path, errno).into()),
            _ => return Ok(Some(old)),
        };
        self.mark_changed();
        let old = self.visit(old)?;
        self.under_way.batch_reads = true;
        self.push(Item::Directory { path: target.path, stat, attributes, old }, 0)?;
        Ok(None)
    }

    /// A directory that is there, and whose entries cannot be read: they are kept.
    fn unlistable(&mut self, target: Target, old: Option<Entry>, errno: Errno) -> Result<(), ScanEnd> {
        let path = target.path.clone();
        match self.directory_alone(target, old)? {
            None => {
                self.done(EntryOutcome::Unlisted { path: path.clone(), old: None, errno })?;
                self.keep_below(&path, true)
            }
            Some(old) => self.unlisted(path, old, errno),
        }
    }

    /// Keeps an entry of which nothing is known, with everything below it.
    fn unlisted(&mut self, path: TreePath, old: Option<Entry>, errno: Errno) -> Result<(), ScanEnd> {
        self.mark_changed();
        if old.as_ref().is_some_and(|old| old.kind == Kind::Directory) {
            self.done(EntryOutcome::Unlisted { path: path.clone(), old, errno })?;
            return self.keep_below(&path, true);
        }
        self.done(EntryOutcome::Unreadable { path, old, errno })
    }

    fn absent(&mut self, path: TreePath, old: Option<Entry>) -> Result<(), ScanEnd> {
        self.mark_changed();
        self.mounts.forget(&path);
        self.done(EntryOutcome::Absent { path, old })
    }

    fn unsettled(&mut self, path: TreePath, old: Option<Entry>) -> Result<(), ScanEnd> {
        self.mark_changed();
        match old {
            Some(old) if old.kind == Kind::Directory => {
                self.done(EntryOutcome::UnsettledTree { old })?;
                self.keep_below(&path, true)
            }
            old => self.done(EntryOutcome::Unsettled { path, old }),
        }
    }

    fn mark_changed(&mut self) {
        if let Some(level) = self.under_way.stack.last_mut() {
            level.is_changed = true;
        }
    }

    /// Finishes the last directory, all of whose entries were visited.
    fn leave(&mut self) -> Result<(), ScanEnd> {
        let Some(path) = self.under_way.stack.last().map(|level| level.node.path.clone()) else {
            return Ok(());
        };
        while let Some(old) = self.baseline.next_if(|next| next.is_within(&path))? {
            self.gone(&old)?;
        }
        let Some(Level { node, listed, is_changed, has_lost, .. }) = self.under_way.stack.pop() else {
            return Ok(());
        };
        if is_changed {
            self.mark_changed();
            // Each item holds a handle, so a batch may hold no more of them than there are to spare.
            self.under_way.batch_leaves += 1;
            let is_full = self.under_way.batch_leaves >= self.walk.handles_to_spare();
            self.push(Item::Leave(Leave { node, listed, has_lost }), 0)?;
            if is_full {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Takes what the last manifest has below a directory as it was.
    fn keep_below(&mut self, directory: &TreePath, is_unseen: bool) -> Result<(), ScanEnd> {
        let mut last = is_unseen.then(|| self.ledger.last_below(directory).peekable());
        // Returns the entries of the last snapshot, up to a path, that the previous round lacked.
        let mut missed_before = |path: Option<&TreePath>| -> Result<Vec<Entry>, RepositoryError> {
            let Some(last) = &mut last else { return Ok(Vec::new()) };
            let is_before = |entry: &Entry| path.is_none_or(|path| entry.path <= *path);
            let mut missed = Vec::new();
            while let Some(entry) = last.next_if(|entry| entry.as_ref().ok().is_none_or(is_before)) {
                let entry = entry?;
                if path != Some(&entry.path) && entry.path != *directory {
                    missed.push(entry);
                }
            }
            Ok(missed)
        };
        loop {
            // Unseen entries may need other numbers, and the previous round may have missed some of them.
            if !is_unseen && let Some(leaf) = self.baseline.pass_leaf_within(directory) {
                Progress::add(&self.progress.entries, leaf.entries);
                self.flush()?;
                self.under_way.pending.push_back(Pending::Leaf(leaf, directory.clone()));
                continue;
            }
            match self.baseline.next_if(|next| next.is_within(directory))? {
                Some(entry) => {
                    for entry in missed_before(Some(&entry.path))? {
                        self.push(Item::KeepMissed { entry }, 0)?;
                    }
                    self.push(Item::KeepBelow { entry, is_unseen }, 0)?;
                }
                None => {
                    for entry in missed_before(None)? {
                        self.push(Item::KeepMissed { entry }, 0)?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Returns the old entry of this path, after recording those before it as gone.
    fn old_at(&mut self, path: &TreePath) -> Result<Option<Entry>, ScanEnd> {
        while let Some(old) = self.baseline.next_if(|next| next <= path)? {
            if old.path == *path {
                return Ok(Some(old));
            }
            self.gone(&old)?;
        }
        Ok(None)
    }

    /// Returns whether everything that an entry refers to exists.
    fn is_whole(&self, entry: &Entry) -> Result<bool, RepositoryError> {
        let mut ids = entry.chunks();
        if let Some(Extents::Listed(lists)) = entry.file().map(File::extents) {
            for list in read_known_lists(self.chunks, lists)? {
                let Some(extents) = list else { return Ok(false) };
                ids.extend(extents.iter().flat_map(Extent::chunks));
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
    fn gone(&mut self, old: &Entry) -> Result<(), ScanEnd> {
        if old.hardlink.is_some() && !self.ledger.tells_links() {
            return Err(ScanEnd::LinksUnseen);
        }
        self.mounts.forget(&old.path);
        let mut is_top = false;
        if let (Some(level), Some((above, _))) = (self.under_way.stack.last_mut(), old.path.split()) {
            level.is_changed = true;
            is_top = level.node.path.as_bytes() == above;
            level.has_lost |= is_top;
        }
        self.ledger.gone(old, is_top);
        Ok(())
    }

    /// An entry's old self, as far as it can be relied on.
    fn visit(&mut self, old: Option<Entry>) -> Result<Option<Entry>, ScanEnd> {
        Progress::add(&self.progress.entries, 1);
        if self.progress.is_stopped() {
            return Err(ResyncError::Stopped.into());
        }
        match old {
            Some(entry) if self.recheck && !self.is_whole(&entry)? => Ok(None),
            old => Ok(old),
        }
    }

    /// Scans an entry that is not a directory.
    fn entry(&mut self, target: Target, old: Option<Entry>) -> Result<(), ScanEnd> {
        let old = self.visit(old)?;
        let shared = shared_inode(&target.stat);
        match (decide(&target.stat, old.as_ref(), &self.reread), old) {
            (Decision::Keep, Some(entry)) => self.push(Item::Keep { entry, shared }, 0),
            // It has other names, or the entry that it replaced had.
            (_, old)
                if !self.ledger.tells_links()
                    && (shared.is_some() || old.as_ref().is_some_and(|old| old.hardlink.is_some())) =>
            {
                Err(ScanEnd::LinksUnseen)
            }
            (Decision::ReadAttributes, Some(old)) => {
                self.mark_changed();
                self.under_way.batch_reads = true;
                self.push(Item::Attributes { target, old }, 0)
            }
            (decision, old) => {
                self.mark_changed();
                let size_bytes = if target.stat.is_file() { target.stat.size_bytes } else { 0 };
                let again = decision == Decision::ReadAgain;
                let made_of = self.relatives.made_of(&target, old.as_ref())?;
                if size_bytes > SEGMENT_BYTES {
                    self.flush()?;
                    let target = Arc::new(target);
                    let file = LargeFile {
                        pool: self.pool,
                        chunks: self.chunks,
                        env: self.env,
                        progress: self.progress,
                        holes: self.holes,
                    };
                    let read = file.read(&target, &made_of)?;
                    let outcome = outcome(read, target.path.clone(), old, again);
                    self.under_way.pending.push_back(Pending::Done(vec![outcome]));
                    return Ok(());
                }
                self.under_way.batch_reads = true;
                self.push(Item::Read { target, old, made_of, again }, size_bytes)
            }
        }
    }

    fn push(&mut self, item: Item, bytes: u64) -> Result<(), ScanEnd> {
        let under_way = &mut self.under_way;
        under_way.batch.push(item);
        under_way.batch_bytes += bytes;
        if under_way.batch.len() >= BATCH_ENTRIES || under_way.batch_bytes >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// An outcome that needs no worker, in its place in the order.
    fn done(&mut self, outcome: EntryOutcome) -> Result<(), ScanEnd> {
        self.flush()?;
        self.under_way.pending.push_back(Pending::Done(vec![outcome]));
        Ok(())
    }

    /// Hands the batch to the workers, and settles the oldest when too many are under way.
    fn flush(&mut self) -> Result<(), ScanEnd> {
        let under_way = &mut self.under_way;
        let batch = std::mem::take(&mut under_way.batch);
        under_way.batch_bytes = 0;
        under_way.batch_leaves = 0;
        if std::mem::take(&mut under_way.batch_reads) {
            let job = self
                .pool
                .submit(move |worker| batch.into_iter().map(|item| read_item(worker, item)).collect());
            under_way.pending.push_back(Pending::Job(job));
        } else if !batch.is_empty() {
            under_way.pending.push_back(Pending::Done(batch.into_iter().filter_map(Item::kept).collect()));
        }
        while self.under_way.pending.len() > JOBS_MAX
            || !matches!(self.under_way.pending.front(), None | Some(Pending::Job(_)))
        {
            if let Some(oldest) = self.under_way.pending.pop_front() {
                self.settle(oldest)?;
            }
        }
        Ok(())
    }

    /// Writes results down.
    fn settle(&mut self, pending: Pending) -> Result<(), ScanEnd> {
        let outcomes = match pending {
            Pending::Leaf(leaf, top) => return Ok(self.ledger.take_leaf(leaf, &top)?),
            Pending::Done(outcomes) => outcomes,
            // A worker that panicked has no result; the scope passes its panic on.
            Pending::Job(job) => job.wait().unwrap_or_else(|| Ok(Vec::new()))?,
        };
        Ok(outcomes.into_iter().try_for_each(|outcome| self.ledger.take(outcome))?)
    }
}

impl Item {
    /// Returns the outcome of an item that is not read.
    fn kept(self) -> Option<EntryOutcome> {
        match self {
            Item::Keep { entry, shared } => Some(EntryOutcome::Keep { entry, shared }),
            Item::KeepBelow { entry, is_unseen } => Some(EntryOutcome::KeepBelow { entry, is_unseen }),
            Item::KeepMissed { entry } => Some(EntryOutcome::KeepMissed { entry }),
            Item::Leave(leave) => Some(EntryOutcome::Leave(leave)),
            _ => None,
        }
    }
}

fn read_item(worker: &mut Worker, item: Item) -> Result<EntryOutcome, RepositoryError> {
    match item {
        Item::Keep { entry, shared } => Ok(EntryOutcome::Keep { entry, shared }),
        Item::KeepBelow { entry, is_unseen } => Ok(EntryOutcome::KeepBelow { entry, is_unseen }),
        Item::KeepMissed { entry } => Ok(EntryOutcome::KeepMissed { entry }),
        Item::Leave(leave) => Ok(EntryOutcome::Leave(leave)),
        Item::Read { target, old, made_of, again } => {
            Ok(outcome(worker.read(&target, &made_of)?, target.path, old, again))
        }
        Item::Attributes { target, old } => {
            let attempt = match worker.read_attributes(&target, &old)? {
                Some(attempt) => attempt,
                // It has changed again.
                None => match look_again(&target) {
                    Ok(stat) => worker.read(&Target { stat, ..target }, &[])?,
                    Err(attempt) => attempt,
                },
            };
            let path = old.path.clone();
            Ok(outcome(attempt, path, Some(old), false))
        }
        Item::Directory { path, stat, attributes, old } => {
            let read = worker.entry(&path, stat, Kind::Directory, attributes)?;
            Ok(outcome(Attempt::Read(Box::new(read)), path, old, false))
        }
    }
}

fn outcome(attempt: Attempt, path: TreePath, old: Option<Entry>, again: bool) -> EntryOutcome {
    match attempt {
        Attempt::Read(read) => {
            let mut entry = read.entry;
            let failed = read.attributes_failed;
            // If the attributes of a path cannot be listed, its old ones are the best that is known.
            if failed.is_some()
                && entry.xattrs == Xattrs::None
                && let Some(old) = &old
            {
                entry.xattrs = old.xattrs.clone();
            }
            EntryOutcome::Read {
                entry,
                shared: shared_inode(&read.stat),
                old: old.map(Box::new),
                again,
                failed,
            }
        }
        Attempt::Absent => EntryOutcome::Absent { path, old },
        Attempt::Unsettled => EntryOutcome::Unsettled { path, old },
        Attempt::Unreadable(errno) => EntryOutcome::Unreadable { path, old, errno },
    }
}
