//! A manifest as a tree to walk in: its leaves are read when they are needed, and kept within a limit.
//!
//! An entry's index combines the number of its leaf and its position in that leaf. An index therefore needs
//! no memory here, and is valid as long as the snapshot exists. Nothing changes, so nothing can race: two
//! readers that miss the same leaf fetch it once.

use crate::format::page::Child;
use crate::model::entry::{Entry, Kind};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::ManifestReader;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, GuardResult};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum memory for decoded leaves, in bytes.
const KEPT_BYTES: u64 = 64 << 20;
/// Maximum number of leaves that are fetched together for a reader that goes through them in order.
const AHEAD_LEAVES: usize = 32;
/// Number of bits of an index for the position in the leaf; they suffice, since a leaf is a chunk and an
/// entry takes at least a byte.
const ENTRY_BITS: u32 = 20;

/// The position of an entry in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryIndex(u64);

impl EntryIndex {
    fn new(leaf: usize, entry: usize) -> Self {
        Self((leaf as u64) << ENTRY_BITS | entry as u64)
    }

    pub fn number(self) -> u64 {
        self.0
    }

    pub(crate) fn of(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn leaf(self) -> usize {
        (self.0 >> ENTRY_BITS) as usize
    }

    pub fn entry(self) -> usize {
        (self.0 & ((1 << ENTRY_BITS) - 1)) as usize
    }
}

#[derive(Clone)]
struct ByMemory;

impl Weighter<usize, Arc<Vec<Entry>>> for ByMemory {
    fn weight(&self, _: &usize, leaf: &Arc<Vec<Entry>>) -> u64 {
        let entries = leaf.iter().map(|entry| size_of::<Entry>() + entry.path.as_bytes().len());
        entries.sum::<usize>() as u64 + 64
    }
}

/// The leaves of one manifest.
pub(crate) struct Leaves {
    children: Vec<Child>,
    manifests: ManifestReader,
    kept: Cache<usize, Arc<Vec<Entry>>, ByMemory>,
    /// The leaf after the last one that was fetched, and the number of leaves that were fetched together
    /// then.
    next: AtomicUsize,
    together: AtomicUsize,
}

impl Leaves {
    /// Opens a manifest and reads all pages except for the leaves.
    pub fn open(manifests: ManifestReader, root: &ManifestRoot) -> Result<Self, RepositoryError> {
        let children = manifests.leaves(root)?;
        let kept = Cache::with_weighter(children.len().min(4096), KEPT_BYTES, ByMemory);
        let (next, together) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(1));
        Ok(Self { children, manifests, kept, next, together })
    }

    /// Returns a leaf's entries; empty for a leaf that does not exist.
    pub(crate) fn leaf(&self, number: usize) -> Result<Arc<Vec<Entry>>, RepositoryError> {
        if number >= self.children.len() {
            return Ok(Arc::default());
        }
        match self.kept.get_value_or_guard(&number, None) {
            GuardResult::Value(leaf) => Ok(leaf),
            GuardResult::Guard(guard) => {
                let in_order = self.next.load(Ordering::Relaxed) == number;
                let together = match in_order {
                    true => (self.together.load(Ordering::Relaxed) * 2).min(AHEAD_LEAVES),
                    false => 1,
                };
                let end = (number + together).min(self.children.len());
                let read = self.manifests.read_leaves(&self.children[number..end])?;
                let end = number + read.len();
                let mut read = read.into_iter().map(Arc::new);
                let leaf = read.next().unwrap_or_default();
                let _ = guard.insert(leaf.clone());
                for (at, leaf) in read.enumerate() {
                    self.kept.insert(number + 1 + at, leaf);
                }
                self.next.store(end, Ordering::Relaxed);
                self.together.store(together, Ordering::Relaxed);
                Ok(leaf)
            }
            // Cannot happen, since no time limit is given.
            GuardResult::Timeout => Ok(Arc::default()),
        }
    }

    /// Returns the index of the entry with this path.
    pub fn find(&self, path: &TreePath) -> Result<Option<EntryIndex>, RepositoryError> {
        let Some(leaf) = self.children.partition_point(|child| child.first <= *path).checked_sub(1) else {
            return Ok(None);
        };
        let entries = self.leaf(leaf)?;
        let found = entries.binary_search_by(|entry| entry.path.cmp(path));
        Ok(found.ok().map(|entry| EntryIndex::new(leaf, entry)))
    }

    /// Returns the first entry of a directory at or after `from`, and the index after that entry's subtree.
    ///
    /// Entries of a hostile manifest whose directory is missing are skipped.
    pub(crate) fn child(
        &self,
        directory: &TreePath,
        from: EntryIndex,
    ) -> Result<Option<(EntryIndex, EntryIndex)>, RepositoryError> {
        let mut place = from;
        loop {
            let leaf = self.leaf(place.leaf())?;
            let Some(entry) = leaf.get(place.entry()) else {
                if place.leaf() + 1 >= self.children.len() {
                    return Ok(None);
                }
                place = EntryIndex::new(place.leaf() + 1, 0);
                continue;
            };
            let Some((parent, _)) = entry.path.split().filter(|_| entry.path.is_within(directory)) else {
                return Ok(None);
            };
            if parent == directory.as_bytes() {
                return Ok(Some((place, self.behind(place, entry)?)));
            }
            place = self.behind(place, entry)?;
        }
    }

    /// Returns the first index after an entry and everything below it.
    fn behind(&self, place: EntryIndex, entry: &Entry) -> Result<EntryIndex, RepositoryError> {
        if entry.kind != Kind::Directory {
            return Ok(EntryIndex::new(place.leaf(), place.entry() + 1));
        }
        let below = |entries: &[Entry]| entries.partition_point(|below| below.path.is_within(&entry.path));
        let leaf = self.leaf(place.leaf())?;
        let start = place.entry() + 1;
        let end = start + below(&leaf[start..]);
        if end < leaf.len() {
            return Ok(EntryIndex::new(place.leaf(), end));
        }
        // Skips the leaves that begin below the entry; the last of them may contain the end of its subtree.
        let start = place.leaf() + 1;
        let count = self.children[start..].partition_point(|child| child.first.is_within(&entry.path));
        if count == 0 {
            return Ok(EntryIndex::new(start, 0));
        }
        let last = start + count - 1;
        Ok(EntryIndex::new(last, below(&self.leaf(last)?)))
    }
}
