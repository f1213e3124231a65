//! Manifests: trees of pages, written in one pass, read as a stream, compared by differing pages only.
//!
//! The writer refuses entries that could not be restored (see [`closure`](crate::model::closure)), and a tree
//! of pages whose counts differ from those of the pushed entries.

use super::chunks::ChunkReader;
use super::error::RepositoryError;
use super::packer::Packer;
use crate::format::frame::{ChunkType, Compressor};
use crate::format::page::{self, Child, HEIGHT_MAX, LeafWriter, NodeWriter, Page};
use crate::format::wire::FormatError;
use crate::model::closure::{Closure, Misplaced};
use crate::model::entry::{Entry, Kind};
use crate::model::id::ChunkId;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::support::mutant::{self, Mutant};
use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Number of pages that are fetched together.
const WINDOW_PAGES: usize = 64;
/// Total length of paths at which read entries are passed on.
const HELD_MAX_BYTES: usize = 4 << 20;

/// Writes a manifest from entries in ascending order of path, the root directory first.
pub struct ManifestWriter<'a> {
    packer: &'a Packer,
    compressor: Compressor,
    scratch: Vec<u8>,
    leaf: LeafWriter,
    open: Option<Child>,
    levels: Vec<(NodeWriter, Option<Child>)>,
    total: Child,
    closure: Closure,
    /// Number of bytes of pages that the store did not have.
    pub shipped_bytes: u64,
}

impl<'a> ManifestWriter<'a> {
    pub fn new(packer: &'a Packer, compressor: Compressor) -> Self {
        let total = Child { first: TreePath::root(), page: ChunkId([0; 32]), entries: 0, size_bytes: 0 };
        Self {
            packer,
            compressor,
            scratch: Vec::new(),
            leaf: LeafWriter::default(),
            open: None,
            levels: Vec::new(),
            total,
            closure: Closure::default(),
            shipped_bytes: 0,
        }
    }

    /// Returns whether an entry with this path may come next.
    pub(crate) fn admits(&self, path: &TreePath) -> bool {
        self.closure.check(path).is_ok()
    }

    pub fn push(&mut self, entry: &Entry) -> Result<(), RepositoryError> {
        let misplaced = |misplaced| RepositoryError::Unsound { path: entry.path.to_string(), misplaced };
        let placed = self.closure.push(&entry.path, entry.kind == Kind::Directory);
        if !mutant::is(Mutant::NoClosingCheck) {
            placed.map_err(misplaced)?;
        }
        self.leaf.push(entry);
        count(&mut self.open, &entry.path, 1, entry.size_bytes());
        self.total.entries += 1;
        self.total.size_bytes = self.total.size_bytes.saturating_add(entry.size_bytes());
        let ends = page::ends_page(&entry.path, self.leaf.len_bytes()) || self.leaf.is_full();
        if ends { self.end_leaf() } else { Ok(()) }
    }

    /// Returns whether a page has just ended, so that the next entry begins another.
    pub(crate) fn is_between_pages(&self) -> bool {
        self.open.is_none()
    }

    /// Takes over a leaf of the last manifest, all of which is below `top`, a directory that is taken over.
    ///
    /// Allowed only between pages, since the end of a page depends only on its own entries.
    pub(crate) fn push_leaf(&mut self, leaf: Child, top: &TreePath) -> Result<(), RepositoryError> {
        let misplaced = |misplaced| RepositoryError::Unsound { path: leaf.first.to_string(), misplaced };
        self.closure.pass(&leaf.first, top).map_err(misplaced)?;
        debug_assert!(self.is_between_pages());
        self.total.entries += leaf.entries;
        self.total.size_bytes = self.total.size_bytes.saturating_add(leaf.size_bytes);
        self.push_child(0, leaf)
    }

    fn ship(&mut self, bytes: &[u8]) -> Result<ChunkId, RepositoryError> {
        let id = ChunkId::of(bytes);
        let added = self.packer.add(id, ChunkType::Page, bytes, &mut self.compressor, &mut self.scratch)?;
        self.shipped_bytes += added.shipped_bytes;
        Ok(id)
    }

    fn end_leaf(&mut self) -> Result<(), RepositoryError> {
        if let Some(mut child) = self.open.take() {
            let bytes = self.leaf.finish();
            child.page = self.ship(&bytes)?;
            self.push_child(0, child)?;
        }
        Ok(())
    }

    fn push_child(&mut self, level: usize, child: Child) -> Result<(), RepositoryError> {
        if self.levels.len() == level {
            self.levels.push((NodeWriter::default(), None));
        }
        let (node, open) = &mut self.levels[level];
        node.push(&child);
        count(open, &child.first, child.entries, child.size_bytes);
        // A node has at least two children, so that the tree ends.
        if node.children >= 2 && page::ends_page(&child.first, node.len_bytes()) {
            self.end_node(level)?;
        }
        Ok(())
    }

    fn end_node(&mut self, level: usize) -> Result<(), RepositoryError> {
        if let Some(mut child) = self.levels[level].1.take() {
            let bytes = self.levels[level].0.finish();
            child.page = self.ship(&bytes)?;
            self.push_child(level + 1, child)?;
        }
        Ok(())
    }

    /// Ends the manifest; returns its root and the number of shipped bytes.
    ///
    /// At least the root directory must have been pushed.
    pub fn finish(mut self) -> Result<(ManifestRoot, u64), RepositoryError> {
        self.end_leaf()?;
        let mut level = 0;
        // The root is the only page of its height: a level with several pages gets one above it.
        loop {
            let above = self.levels.len() > level + 1;
            let children = self.levels.get(level).map_or(0, |(node, _)| node.children);
            if !above && children <= 1 {
                break;
            }
            self.end_node(level)?;
            level += 1;
        }
        // The only child of the top level is the root. The node that names it is never shipped.
        let unsound = |misplaced| RepositoryError::Unsound { path: TreePath::root().to_string(), misplaced };
        let Some((page, top)) =
            self.levels.get(level).and_then(|(node, top)| Some((node.last?, top.as_ref()?)))
        else {
            return Err(unsound(Misplaced::NoRoot));
        };
        if (top.entries, top.size_bytes) != (self.total.entries, self.total.size_bytes) {
            return Err(unsound(Misplaced::Count));
        }
        let height = level as u8;
        let root =
            ManifestRoot { page, height, entries: self.total.entries, size_bytes: self.total.size_bytes };
        Ok((root, self.shipped_bytes))
    }
}

fn count(open: &mut Option<Child>, first: &TreePath, entries: u64, size_bytes: u64) {
    let child = open.get_or_insert_with(|| Child {
        first: first.clone(),
        page: ChunkId([0; 32]),
        entries: 0,
        size_bytes: 0,
    });
    child.entries += entries;
    child.size_bytes = child.size_bytes.saturating_add(size_bytes);
}

/// Reads manifests.
#[derive(Clone)]
pub struct ManifestReader {
    chunks: ChunkReader,
}

impl ManifestReader {
    pub fn new(chunks: ChunkReader) -> Self {
        Self { chunks }
    }

    /// Fetches pages together and decodes them one by one, since decoded they may be much larger.
    fn pages(
        &self,
        ids: &[ChunkId],
    ) -> Result<impl Iterator<Item = Result<Page, RepositoryError>>, RepositoryError> {
        let found = self.chunks.read_many(ids)?;
        let ids = ids.to_vec();
        Ok(ids.into_iter().map(move |id| {
            let bytes = found.get(&id).ok_or(RepositoryError::UnknownChunk { chunk: id })?;
            page::decode(bytes).map_err(RepositoryError::format(format!("page {id}")))
        }))
    }

    fn root_child(root: &ManifestRoot) -> Child {
        Child { first: TreePath::root(), page: root.page, entries: root.entries, size_bytes: root.size_bytes }
    }

    /// Calls `with` on the children of all `nodes` (pages of one height above the leaves), in order.
    ///
    /// Each node must match the page above it, so that no page is met twice: a few bytes that name each other
    /// cannot become many.
    fn children(
        &self,
        nodes: &[Child],
        with: &mut dyn FnMut(Vec<Child>) -> Result<bool, RepositoryError>,
    ) -> Result<bool, RepositoryError> {
        for window in nodes.chunks(WINDOW_PAGES) {
            let ids: Vec<_> = window.iter().map(|c| c.page).collect();
            for (page, node) in self.pages(&ids)?.zip(window) {
                match page? {
                    Page::Node(children) => {
                        let add = |sum: u64, more: u64| sum.saturating_add(more);
                        let entries = children.iter().map(|child| child.entries).fold(0, add);
                        let size_bytes = children.iter().map(|child| child.size_bytes).fold(0, add);
                        as_said(node, children.first().map(|child| &child.first), entries, size_bytes)?;
                        if !with(children)? {
                            return Ok(false);
                        }
                    }
                    Page::Leaf(_) => return Err(unexpected(node.page)),
                }
            }
        }
        Ok(true)
    }

    /// Returns all entries in order. A thread reads them ahead, and ends when the receiver is dropped.
    pub fn entries(&self, root: &ManifestRoot) -> EntryStream {
        self.entries_within(root, &TreePath::root())
    }

    /// Returns the entry `top` and all entries below it. Pages elsewhere are not read.
    pub(crate) fn entries_within(&self, root: &ManifestRoot, top: &TreePath) -> EntryStream {
        self.stream(vec![Self::root_child(root)], root.height, top.clone())
    }

    /// Returns the entries of the leaves `leaves`, in order.
    pub(crate) fn entries_of(&self, leaves: Vec<Child>) -> EntryStream {
        self.stream(leaves, 0, TreePath::root())
    }

    fn stream(&self, pages: Vec<Child>, height: u8, top: TreePath) -> EntryStream {
        let (sender, receiver) = sync_channel(2);
        let reader = self.clone();
        std::thread::spawn(move || {
            if let Err(error) = reader.send_below(&pages, height, &top, &sender) {
                let _ = sender.send(Err(error));
            }
        });
        EntryStream { receiver, window: Vec::new().into_iter(), last: None, failed: false }
    }

    /// Sends the entries below `pages`. Returns `false` once the receiver is dropped.
    fn send_below(
        &self,
        pages: &[Child],
        height: u8,
        top: &TreePath,
        sender: &SyncSender<Result<Vec<Entry>, RepositoryError>>,
    ) -> Result<bool, RepositoryError> {
        if height > HEIGHT_MAX {
            return Err(RepositoryError::format("manifest")(FormatError::Range("height")));
        }
        if height > 0 {
            return self.children(pages, &mut |children| {
                self.send_below(&within(children, top), height - 1, top, sender)
            });
        }
        for window in pages.chunks(WINDOW_PAGES) {
            let ids: Vec<_> = window.iter().map(|c| c.page).collect();
            let mut entries = Vec::new();
            let mut held_bytes = 0;
            for (page, leaf) in self.pages(&ids)?.zip(window) {
                let more = entries_on(page?, leaf)?;
                held_bytes += paths_bytes(&more);
                entries.extend(more.into_iter().filter(|entry| entry.path.is_within(top)));
                if held_bytes > HELD_MAX_BYTES {
                    held_bytes = 0;
                    if sender.send(Ok(std::mem::take(&mut entries))).is_err() {
                        return Ok(false);
                    }
                }
            }
            if sender.send(Ok(entries)).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the leaves that two manifests do not share, which have to be merge-joined.
    ///
    /// Memory grows with the number of differing pages, not of entries.
    pub(crate) fn differing_leaves(
        &self,
        a: &ManifestRoot,
        b: &ManifestRoot,
    ) -> Result<(Vec<Child>, Vec<Child>), RepositoryError> {
        let mut sides = [(vec![Self::root_child(a)], a.height), (vec![Self::root_child(b)], b.height)];
        if sides.iter().any(|(_, height)| *height > HEIGHT_MAX) {
            return Err(RepositoryError::format("manifest")(FormatError::Range("height")));
        }
        loop {
            let [(x, x_height), (y, y_height)] = &mut sides;
            if x_height == y_height {
                let in_x: HashSet<_> = x.iter().map(|c| c.page).collect();
                let in_y: HashSet<_> = y.iter().map(|c| c.page).collect();
                x.retain(|c| !in_y.contains(&c.page));
                y.retain(|c| !in_x.contains(&c.page));
                if *x_height == 0 {
                    let [(x, _), (y, _)] = sides;
                    return Ok((x, y));
                }
            }
            let top = (*x_height).max(*y_height);
            for (pages, height) in &mut sides {
                if *height == top {
                    let mut below = Vec::new();
                    self.children(pages, &mut |children| {
                        below.extend(children);
                        Ok(true)
                    })?;
                    *pages = below;
                    *height -= 1;
                }
            }
        }
    }

    /// Returns all leaves in order, unread.
    pub(crate) fn leaves(&self, root: &ManifestRoot) -> Result<Vec<Child>, RepositoryError> {
        if root.height > HEIGHT_MAX {
            return Err(RepositoryError::format("manifest")(FormatError::Range("height")));
        }
        let mut pages = vec![Self::root_child(root)];
        for _ in 0..root.height {
            let mut below = Vec::new();
            self.children(&pages, &mut |children| {
                below.extend(children);
                Ok(true)
            })?;
            pages = below;
        }
        Ok(pages)
    }

    /// Returns the entries of some leaves, fetched together.
    ///
    /// These are the first leaf, and more as long as they are not too large together.
    pub(crate) fn read_leaves(&self, leaves: &[Child]) -> Result<Vec<Vec<Entry>>, RepositoryError> {
        let ids: Vec<_> = leaves.iter().map(|leaf| leaf.page).collect();
        let (mut read, mut held_bytes) = (Vec::new(), 0);
        for (page, leaf) in self.pages(&ids)?.zip(leaves) {
            let entries = entries_on(page?, leaf)?;
            held_bytes += paths_bytes(&entries);
            read.push(entries);
            if held_bytes > HELD_MAX_BYTES {
                break;
            }
        }
        Ok(read)
    }

    /// Fetches pages together, and checks them against the height at which they are.
    pub(crate) fn read_pages(&self, ids: &[ChunkId], height: u8) -> Result<Vec<Page>, RepositoryError> {
        let pages = self.pages(ids)?.collect::<Result<Vec<_>, _>>()?;
        for (page, id) in pages.iter().zip(ids) {
            match (page, height) {
                (Page::Leaf(_), 0) | (Page::Node(_), 1..=HEIGHT_MAX) => {}
                _ => return Err(unexpected(*id)),
            }
        }
        Ok(pages)
    }

    /// Fetches one page, and checks it against the height at which it is: for verification.
    pub fn page(&self, id: ChunkId, height: u8) -> Result<Page, RepositoryError> {
        self.read_pages(&[id], height)?.pop().ok_or_else(|| unexpected(id))
    }
}

/// Returns the pages that may contain `top` or entries below it.
fn within(children: Vec<Child>, top: &TreePath) -> Vec<Child> {
    let first = children.iter().rposition(|c| c.first <= *top).unwrap_or(0);
    let end = children.iter().rposition(|c| c.first <= *top || c.first.is_within(top)).map_or(0, |at| at + 1);
    children.into_iter().take(end).skip(first).collect()
}

/// Returns the entries of a leaf, if it matches the page above it.
fn entries_on(page: Page, leaf: &Child) -> Result<Vec<Entry>, RepositoryError> {
    let Page::Leaf(entries) = page else { return Err(unexpected(leaf.page)) };
    let size_bytes = entries.iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.size_bytes()));
    as_said(leaf, entries.first().map(|entry| &entry.path), entries.len() as u64, size_bytes)?;
    Ok(entries)
}

fn paths_bytes(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.path.as_bytes().len()).sum()
}

/// Checks that a page matches the one above it. (Older versions could write a manifest without its root.)
fn as_said(
    said: &Child,
    first: Option<&TreePath>,
    entries: u64,
    size_bytes: u64,
) -> Result<(), RepositoryError> {
    let is_first = said.first.is_root() || first == Some(&said.first);
    match is_first && (entries, size_bytes) == (said.entries, said.size_bytes) {
        true => Ok(()),
        false => Err(RepositoryError::format(format!("page {}", said.page))(FormatError::Range("its place"))),
    }
}

fn unexpected(id: ChunkId) -> RepositoryError {
    RepositoryError::format(format!("page {id}"))(FormatError::Range("height"))
}

/// A stream of entries in ascending order. It ends after the first error.
pub struct EntryStream {
    receiver: Receiver<Result<Vec<Entry>, RepositoryError>>,
    window: std::vec::IntoIter<Entry>,
    last: Option<TreePath>,
    failed: bool,
}

impl EntryStream {
    /// Returns an empty stream: the manifest before the first snapshot.
    pub(crate) fn none() -> Self {
        let (_, receiver) = sync_channel(1);
        Self { receiver, window: Vec::new().into_iter(), last: None, failed: false }
    }
}

impl Iterator for EntryStream {
    type Item = Result<Entry, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.failed {
                return None;
            }
            if let Some(entry) = self.window.next() {
                return Some(Ok(entry));
            }
            match self.receiver.recv().ok()? {
                // Each page is in order. Here the pages are compared with each other.
                Ok(window) => {
                    let ordered = match (&self.last, window.first()) {
                        (Some(last), Some(first)) => *last < first.path,
                        _ => true,
                    } && window.windows(2).all(|pair| pair[0].path < pair[1].path);
                    if !ordered {
                        self.failed = true;
                        return Some(Err(RepositoryError::format("manifest")(FormatError::Order("pages"))));
                    }
                    if let Some(last) = window.last() {
                        self.last = Some(last.path.clone());
                    }
                    self.window = window.into_iter();
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
