//! A snapshot as a tree that FUSE serves, straight from the repository. Pages and chunks are fetched on
//! demand; on a host that follows the store, content is read from its depot where it is there.
//!
//! A snapshot never changes, so readers can only race with each other; what they fetch is checked against its
//! hash. A failed fetch is an error for its reader only; the next reader fetches again.

use super::chunk_cache::{ChunkCache, Reading};
use super::leaves::{EntryIndex, Leaves};
use crate::content::attributes::attributes_of;
use crate::content::error::ContentError;
use crate::model::entry::{Attributes, Content, Entry, File, Group, Kind, Xattrs};
use crate::model::id::ChunkId;
use crate::model::record::{ManifestRoot, SnapshotRecord, StoreState};
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use crate::repository::store::Store;
use crate::source::content::read_exact;
use crate::standby::depot::Depot;
use crate::support::failure::{Failure, FailureKind};
use crate::support::lock::lock;
use crate::vfs::fuse::{Node, ROOT, Tree};
use quick_cache::sync::Cache;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Maximum number of files whose extents and read-ahead state are kept.
const READINGS_MAX: usize = 512;
/// Maximum size of small files' contents that are fetched together for a sequential reader, and their maximum
/// number.
const BESIDE_BYTES: u64 = 1 << 20;
const BESIDE_FILES: usize = 128;

/// Reports a failure; the text contains the path.
pub(crate) type Complain = Box<dyn Fn(&str) + Send + Sync>;

/// A snapshot in the repository.
pub struct SnapshotTree {
    leaves: Leaves,
    contents: ChunkCache,
    chunks: ChunkReader,
    root: ManifestRoot,
    readings: Cache<u64, Arc<Reading>>,
    /// The names seen so far of files with several, by hardlink group; the first name is the file's number.
    groups: Mutex<HashMap<Group, Names>>,
    /// The last small file that was fetched.
    last: AtomicU64,
    depot: Option<Depot>,
    complain: Complain,
}

struct Names {
    number: u64,
    seen: BTreeSet<u64>,
}

impl SnapshotTree {
    /// Opens a snapshot and reads the pages above the manifest's leaves; up to `kept_bytes` of content are
    /// kept in memory.
    pub fn open(
        store: &Store,
        state: &StoreState,
        record: &SnapshotRecord,
        depot: Option<Depot>,
        kept_bytes: u64,
        complain: Complain,
    ) -> Result<Self, RepositoryError> {
        let index = Arc::new(Index::open(store, state)?);
        let chunks = ChunkReader::new(store.clone(), index);
        let leaves = Leaves::open(ManifestReader::new(chunks.clone().cached()), &record.manifest)?;
        let first = leaves.leaf(0)?;
        if !first.first().is_some_and(|entry| entry.path.is_root() && entry.kind == Kind::Directory) {
            let page = format!("page {}", record.manifest.page);
            return Err(RepositoryError::format(page)(crate::format::wire::FormatError::Order("entries")));
        }
        Ok(Self {
            leaves,
            contents: ChunkCache::new(chunks.clone(), kept_bytes),
            chunks: chunks.cached(),
            root: record.manifest.clone(),
            readings: Cache::new(READINGS_MAX),
            groups: Mutex::default(),
            last: AtomicU64::new(u64::MAX),
            depot,
            complain,
        })
    }

    fn at(&self, place: EntryIndex) -> Result<Node, Errno> {
        let page = self.leaves.leaf(place.leaf()).map_err(|error| self.told("its page", error))?;
        let at = place.entry();
        let entry = page.get(at).ok_or(Errno::STALE)?;
        let mut node = Node { number: place.number() + ROOT, links: 1, page: page.clone(), at };
        if let Some(group) = entry.group().filter(|_| entry.kind != Kind::Directory) {
            let mut groups = lock(&self.groups);
            let names = groups.entry(group);
            let names = names.or_insert(Names { number: node.number, seen: BTreeSet::new() });
            names.seen.insert(place.number());
            // There is at least one other name; a manifest does not record how many.
            (node.number, node.links) = (names.number, names.seen.len().max(2) as u32);
        }
        Ok(node)
    }

    /// Reports why something failed, and returns the error for the reader.
    fn told(&self, what: impl std::fmt::Display, error: impl Into<ContentError>) -> Errno {
        let error = error.into();
        (self.complain)(&format!("{what}: {error}"));
        match error {
            ContentError::Repository(error) if error.kind() == FailureKind::Unavailable => Errno::TIMEDOUT,
            _ => Errno::IO,
        }
    }

    fn with_file<T>(
        &self,
        number: u64,
        with: impl FnOnce(&Node, &File) -> Result<T, ContentError>,
    ) -> Result<T, Errno> {
        let node = self.node(number)?;
        match &node.entry().kind {
            Kind::File(file) => with(&node, file).map_err(|error| self.told(&node.entry().path, error)),
            _ => Err(Errno::INVAL),
        }
    }

    fn reading(&self, number: u64) -> Arc<Reading> {
        let new = || Ok::<_, Errno>(Arc::default());
        self.readings.get_or_insert_with(&number, new).unwrap_or_default()
    }

    /// Returns the content of a file that is one chunk. For a reader that goes through small files in order,
    /// the next ones are fetched by the same request.
    fn small(&self, node: &Node, file: &File) -> Result<bytes::Bytes, ContentError> {
        let chunk = ChunkId(file.hash.0);
        if self.contents.has(chunk) {
            return self.contents.chunk(chunk, &[]);
        }
        let place = node.number - ROOT;
        let last = self.last.swap(place, Ordering::Relaxed);
        let leaf = |place| EntryIndex::of(place).leaf();
        let mut beside = Vec::new();
        if last < place && leaf(place) - leaf(last) <= 1 {
            let mut sum = file.size_bytes;
            for entry in node.page[node.at + 1..].iter() {
                let Some(next) = entry.file() else { continue };
                sum += next.size_bytes;
                if sum > BESIDE_BYTES || beside.len() == BESIDE_FILES {
                    break;
                }
                if let Content::Whole { .. } = next.content
                    && !self.contents.has(ChunkId(next.hash.0))
                {
                    beside.push(ChunkId(next.hash.0));
                }
            }
        }
        self.contents.chunk(chunk, &beside)
    }

    fn object(&self, file: &File) -> Option<OwnedFd> {
        let path = self.depot.as_ref()?.object(file.hash);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&handle).ok()?;
        (stat.st_size as u64 == file.size_bytes).then_some(handle)
    }
}

impl Tree for SnapshotTree {
    fn node(&self, number: u64) -> Result<Node, Errno> {
        self.at(EntryIndex::of(number.checked_sub(ROOT).ok_or(Errno::STALE)?))
    }

    fn lookup(&self, directory: u64, name: &[u8]) -> Result<Option<Node>, Errno> {
        let directory = self.node(directory)?;
        let path = directory.entry().path.join(name);
        match self.leaves.find(&path).map_err(|error| self.told(&path, error))? {
            Some(place) => Ok(Some(self.at(place)?)),
            None => Ok(None),
        }
    }

    fn parent(&self, directory: u64) -> Result<Node, Errno> {
        let node = self.node(directory)?;
        let Some((parent, _)) = node.entry().path.split() else { return Ok(node) };
        let parent = TreePath::parse(parent).map_err(|_| Errno::IO)?;
        match self.leaves.find(&parent).map_err(|error| self.told(&parent, error))? {
            Some(place) => self.at(place),
            None => Err(Errno::STALE),
        }
    }

    fn child(&self, directory: u64, place: u64) -> Result<Option<(Node, u64)>, Errno> {
        let directory = self.node(directory)?;
        let path = &directory.entry().path;
        // A directory's first entry follows it directly. Its index equals the directory's number, since a
        // number is the index plus 1.
        let from = EntryIndex::of(if place == 0 { directory.number } else { place });
        let found = self.leaves.child(path, from).map_err(|error| self.told(path, error))?;
        let Some((place, next)) = found else { return Ok(None) };
        Ok(Some((self.at(place)?, next.number())))
    }

    fn attributes(&self, number: u64) -> Result<Attributes, Errno> {
        let node = self.node(number)?;
        let entry: &Entry = node.entry();
        if entry.xattrs == Xattrs::None {
            return Ok(Attributes::new());
        }
        attributes_of(&self.chunks, entry).map_err(|error| self.told(&entry.path, error))
    }

    fn read(&self, number: u64, offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        self.with_file(number, |node, file| {
            let end = offset.saturating_add(length.into()).min(file.size_bytes);
            if offset >= end {
                return Ok(Vec::new());
            }
            if let Some(object) = self.object(file) {
                let mut bytes = vec![0; (end - offset) as usize];
                if read_exact(object.as_fd(), &mut bytes, offset).is_ok() {
                    return Ok(bytes);
                }
            }
            if let Content::Whole { .. } = file.content {
                let bytes = self.small(node, file)?;
                let part = bytes.get(offset as usize..end as usize);
                let path = || node.entry().path.to_string();
                return Ok(part.ok_or_else(|| RepositoryError::Entry { path: path() })?.to_vec());
            }
            self.contents.read(&self.reading(number), node.entry(), file, (offset, end))
        })
    }

    fn seek(&self, number: u64, offset: u64, hole: bool) -> Result<u64, Errno> {
        let found = self.with_file(number, |node, file| {
            if offset >= file.size_bytes {
                return Ok(None);
            }
            self.contents.seek(&self.reading(number), node.entry(), file, offset, hole)
        })?;
        found.ok_or(Errno::NXIO)
    }

    fn has_local(&self) -> bool {
        self.depot.is_some()
    }

    fn local(&self, number: u64) -> Result<Option<OwnedFd>, Errno> {
        self.with_file(number, |_, file| Ok(self.object(file)))
    }

    fn totals(&self) -> (u64, u64) {
        (self.root.entries, self.root.size_bytes)
    }
}
