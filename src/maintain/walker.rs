//! Finds entries that cannot be restored, by walking all manifests.
//!
//! Subtrees shared by snapshots are visited once.
//!
//! Each page is checked by itself for order, missing directories and counts. The result is kept as a
//! [`Part`], and adjoining parts are compared where they meet.

use super::damage::{Broken, Examined, VerifyReport};
use crate::format::attrs;
use crate::format::extent_list;
use crate::format::page::{Child, Page};
use crate::model::closure::{Closure, Misplaced};
use crate::model::entry::{Content, Entry, Extent, Kind, Xattrs};
use crate::model::id::{ChunkId, Sequence};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use crate::repository::store::Store;
use crate::support::failure::{Failure, FailureKind};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Walks all manifests, and calls `touched` with every entry that cannot be restored whole.
pub(crate) fn walk_all(
    store: &Store,
    examined: Examined,
    touched: &mut dyn FnMut(&Entry) -> Result<(), RepositoryError>,
) -> Result<VerifyReport, RepositoryError> {
    let Examined { trees, index, broken, report } = examined;
    let chunks = ChunkReader::new(store.clone(), Arc::new(index.fork()));
    let mut walker = Walker {
        manifests: ManifestReader::new(chunks.clone()),
        chunks,
        index,
        broken,
        sound: HashMap::new(),
        broken_firsts: HashMap::new(),
        report,
        snapshot: Sequence(0),
        touched,
    };
    for (sequence, manifest) in &trees {
        walker.snapshot = *sequence;
        let root = Child {
            first: TreePath::root(),
            page: manifest.page,
            entries: manifest.entries,
            size_bytes: manifest.size_bytes,
        };
        walker.page(&root, manifest.height)?;
    }
    Ok(walker.report)
}

/// Calls `touched` with every entry of these trees that refers to a chunk missing in `index`.
///
/// Returns their number.
pub(crate) fn walk_missing(
    store: &Store,
    trees: &BTreeMap<Sequence, ManifestRoot>,
    index: Arc<Index>,
    touched: &mut dyn FnMut(&Entry) -> Result<(), RepositoryError>,
) -> Result<u64, RepositoryError> {
    let (broken, report) = (Broken::default(), VerifyReport::default());
    let examined = Examined { trees: trees.clone(), index, broken, report };
    Ok(walk_all(store, examined, touched)?.touched_count)
}

struct Walker<'a> {
    manifests: ManifestReader,
    chunks: ChunkReader,
    index: Arc<Index>,
    broken: Broken,
    /// Pages without damage at or below them. They are visited once, however many snapshots share them.
    sound: HashMap<ChunkId, Part>,
    /// The first path of each other page.
    ///
    /// If a node gives another first path for one, it is not visited again, so pages that name each other
    /// over and over cost no more than their bytes.
    broken_firsts: HashMap<ChunkId, TreePath>,
    report: VerifyReport,
    snapshot: Sequence,
    touched: &'a mut dyn FnMut(&Entry) -> Result<(), RepositoryError>,
}

/// A part of a manifest that is sound in itself.
#[derive(Clone)]
struct Part {
    first: TreePath,
    last: TreePath,
    last_is_directory: bool,
    entries: u64,
    size_bytes: u64,
}

impl Part {
    /// Returns why the part cannot follow `before`.
    fn misplaced_behind(&self, before: Option<&Part>) -> Option<Misplaced> {
        match before {
            None => None,
            Some(before) => Closure::behind(&before.last, before.last_is_directory).check(&self.first).err(),
        }
    }

    /// Returns how the part contradicts the node above it.
    fn contradicts(&self, child: &Child) -> Option<Misplaced> {
        if self.first != child.first {
            return Some(if child.first.is_root() { Misplaced::NoRoot } else { Misplaced::Order });
        }
        let same = (self.entries, self.size_bytes) == (child.entries, child.size_bytes);
        (!same).then_some(Misplaced::Count)
    }
}

impl Walker<'_> {
    /// Visits a page; returns its part if nothing at or below it is damaged. The height bounds the recursion.
    fn page(&mut self, child: &Child, height: u8) -> Result<Option<Part>, RepositoryError> {
        if let Some(part) = self.sound.get(&child.page) {
            let part = part.clone();
            return Ok(if self.fits(part.contradicts(child), child) { Some(part) } else { None });
        }
        let id = child.page;
        if self.broken_firsts.get(&id).is_some_and(|first| *first != child.first) {
            self.fits(Some(Misplaced::Order), child);
            return Ok(None);
        }
        let found = match self.missing(id) {
            Some(reason) => Err(reason),
            None => match self.manifests.page(id, height) {
                Ok(page) => Ok(page),
                Err(error) if error.kind() == FailureKind::Unavailable => return Err(error),
                Err(error) => Err(error.to_string()),
            },
        };
        if let Ok(page) = &found {
            let first = match page {
                Page::Node(children) => children.first().map(|child| &child.first),
                Page::Leaf(entries) => entries.first().map(|entry| &entry.path),
            };
            // The page counts as broken until it turns out to be sound.
            let first = first.unwrap_or(&child.first).clone();
            let is_elsewhere = first != child.first && !child.first.is_root();
            self.broken_firsts.insert(id, first);
            if is_elsewhere {
                self.fits(Some(Misplaced::Order), child);
                return Ok(None);
            }
        }
        let part = match found {
            Err(reason) => {
                let reason = format!("the manifest page that begins here is lost: {reason}");
                self.report.touch(self.snapshot, child.first.to_string(), reason);
                None
            }
            Ok(Page::Node(children)) => self.node(&children, height)?,
            Ok(Page::Leaf(entries)) => self.leaf(&entries)?,
        };
        let Some(part) = part else { return Ok(None) };
        if !self.fits(part.contradicts(child), child) {
            return Ok(None);
        }
        self.broken_firsts.remove(&id);
        self.sound.insert(id, part.clone());
        Ok(Some(part))
    }

    /// Reports a misplaced part; returns whether there was none.
    fn fits(&mut self, misplaced: Option<Misplaced>, child: &Child) -> bool {
        let Some(misplaced) = misplaced else { return true };
        self.report.touch(self.snapshot, child.first.to_string(), misplaced.to_string());
        false
    }

    fn node(&mut self, children: &[Child], height: u8) -> Result<Option<Part>, RepositoryError> {
        let mut sound = true;
        let mut all: Option<Part> = None;
        for child in children {
            let Some(part) = self.page(child, height - 1)? else {
                // The part that follows has nothing to be compared with.
                sound = false;
                all = None;
                continue;
            };
            sound &= self.fits(part.misplaced_behind(all.as_ref()), child);
            all = Some(match all {
                None => part,
                Some(before) => Part {
                    first: before.first,
                    entries: before.entries.saturating_add(part.entries),
                    size_bytes: before.size_bytes.saturating_add(part.size_bytes),
                    ..part
                },
            });
        }
        Ok(all.filter(|_| sound))
    }

    fn leaf(&mut self, entries: &[Entry]) -> Result<Option<Part>, RepositoryError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(None) };
        let mut sound = true;
        let mut closure = Closure::in_front_of(&first.path);
        for entry in entries {
            self.report.files += u64::from(entry.file().is_some());
            if let Err(misplaced) = closure.push(&entry.path, entry.kind == Kind::Directory) {
                sound = false;
                self.report.touch(self.snapshot, entry.path.to_string(), misplaced.to_string());
            }
            if let Some(reason) = self.entry(entry)? {
                sound = false;
                (self.touched)(entry)?;
                self.report.touch(self.snapshot, entry.path.to_string(), reason);
            }
        }
        Ok(sound.then(|| Part {
            first: first.path.clone(),
            last: last.path.clone(),
            last_is_directory: last.kind == Kind::Directory,
            entries: entries.len() as u64,
            size_bytes: entries.iter().fold(0, |sum, entry| entry.size_bytes().saturating_add(sum)),
        }))
    }

    /// Returns why a chunk cannot be read, as far as this is known without reading it.
    fn missing(&self, id: ChunkId) -> Option<String> {
        if self.broken.chunks.contains(&id) {
            return Some(format!("chunk {id} is damaged"));
        }
        match self.index.lookup(id) {
            Ok(Some(location)) if self.broken.missing.contains(&location.pack) => {
                self.broken.packs.get(&location.pack).cloned()
            }
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("chunk {id} is in no index")),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Returns why an entry cannot be restored whole.
    fn entry(&self, entry: &Entry) -> Result<Option<String>, RepositoryError> {
        if let Xattrs::Chunk(id) = entry.xattrs
            && let Err(reason) = self.decoded(id, |bytes| attrs::decode_chunk(bytes).map(|_| ()))?
        {
            return Ok(Some(reason));
        }
        let Some(file) = entry.file() else { return Ok(None) };
        let of = |extents: &[Extent]| {
            extents.iter().find_map(|extent| match extent {
                Extent::Chunk { chunk, .. } => self.missing(*chunk),
                Extent::Hole { .. } => None,
            })
        };
        match &file.content {
            Content::Empty => Ok(None),
            Content::Whole { .. } => Ok(self.missing(ChunkId(file.hash.0))),
            Content::Extents(extents) => Ok(of(extents)),
            Content::Lists(lists) => {
                let (mut sum, mut count) = (0u64, 0);
                for list in lists {
                    match self.decoded(*list, extent_list::decode_chunk)? {
                        Err(reason) => return Ok(Some(reason)),
                        Ok(extents) => {
                            count += extents.len();
                            if extent_list::is_too_dense(count, file.size_bytes) {
                                return Ok(Some(
                                    "it has more extents than a file of its size can have".to_owned(),
                                ));
                            }
                            sum = extents.iter().fold(sum, |sum, e| sum.saturating_add(e.length_bytes()));
                            if let Some(reason) = of(&extents) {
                                return Ok(Some(reason));
                            }
                        }
                    }
                }
                Ok((sum != file.size_bytes).then(|| "its extents do not add up to its size".to_owned()))
            }
        }
    }

    /// Decodes a chunk, or returns why it cannot be decoded.
    fn decoded<T>(
        &self,
        id: ChunkId,
        decode: impl FnOnce(&[u8]) -> Result<T, crate::format::wire::FormatError>,
    ) -> Result<Result<T, String>, RepositoryError> {
        if let Some(reason) = self.missing(id) {
            return Ok(Err(reason));
        }
        match self.chunks.read(id) {
            Ok(bytes) => Ok(decode(&bytes).map_err(|error| format!("chunk {id} {error}"))),
            Err(error) if error.kind() == FailureKind::Unavailable => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}
