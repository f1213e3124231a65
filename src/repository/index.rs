//! Where chunks lie: the open index segments, looked up in files.
//!
//! A lookup reads a few entries of each segment from the page cache; memory does not grow with the
//! number of chunks. Segments are checked whole when opened, so a lookup trusts what it reads.

use super::error::RepositoryError;
use super::key;
use super::store::Store;
use crate::format::index::{self as format, ENTRY_BYTES, Location, SegmentHeader};
use crate::model::id::{ChunkId, IndexId, PackId};
use crate::model::record::ObjectRef;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// A segment is refused above this.
const SEGMENT_MAX_BYTES: u64 = 1 << 30;
/// Entries read at once at the end of a lookup.
const RUN_ENTRIES: u64 = 64;

/// One open segment.
pub struct Segment {
    pub reference: ObjectRef<IndexId>,
    pub header: SegmentHeader,
    file: File,
    used: AtomicBool,
}

impl Segment {
    /// Wraps bytes that were just written to the repository, or read from it.
    fn from_bytes(store: &Store, id: IndexId, bytes: &[u8]) -> Result<Self, RepositoryError> {
        let at = key::index(&store.name, id);
        if IndexId::of(bytes) != id {
            return Err(RepositoryError::format(&at)(crate::format::wire::FormatError::Hash));
        }
        let header = format::check(bytes).map_err(RepositoryError::format(&at))?;
        let file = keep(store, id, bytes)?;
        let reference = ObjectRef { id, size_bytes: bytes.len() as u64 };
        Ok(Self { reference, header, file, used: AtomicBool::new(false) })
    }

    /// From the cache, else from the repository.
    fn open(store: &Store, id: IndexId) -> Result<Self, RepositoryError> {
        if let Some(path) = store.cache_file(&id.to_string())
            && let Ok(cached) = std::fs::read(&path)
        {
            if IndexId::of(&cached) == id {
                return Self::from_bytes(store, id, &cached);
            }
            // Damaged: what is fetched takes its place.
            let _ = std::fs::remove_file(&path);
        }
        let at = key::index(&store.name, id);
        let fetch = || {
            let found = store.repository.wait(store.objects().get(&at, SEGMENT_MAX_BYTES))?;
            found.ok_or_else(|| RepositoryError::Request {
                operation: "get",
                key: at.to_string(),
                reason: "the index segment is missing; run `understudy verify`".into(),
                kind: super::error::RepositoryErrorKind::Damaged,
            })
        };
        match Self::from_bytes(store, id, &fetch()?) {
            // The transfer may be at fault: one more look.
            Err(RepositoryError::Format { .. }) => Self::from_bytes(store, id, &fetch()?),
            other => other,
        }
    }

    fn entry(&self, number: u64) -> std::io::Result<format::SegmentEntry> {
        let mut bytes = [0; ENTRY_BYTES];
        self.file.read_exact_at(&mut bytes, self.header.entries_offset + number * ENTRY_BYTES as u64)?;
        Ok(format::decode_entry(&bytes))
    }

    /// Interpolation search, reading a run of entries at each guess. Ids are hashes, so the first guess
    /// mostly hits; every other guess halves, so that ids which somebody chose cost no more than a
    /// binary search.
    fn lookup(&self, id: ChunkId) -> std::io::Result<Option<Location>> {
        let rank = |id: &[u8]| id[..8].iter().fold(0u64, |rank, byte| rank << 8 | u64::from(*byte));
        let wanted = rank(&id.0);
        let (mut low, mut high) = (0u64, u64::from(self.header.entries));
        let (mut low_rank, mut high_rank) = (0u64, u64::MAX);
        let mut run = [0u8; RUN_ENTRIES as usize * ENTRY_BYTES];
        for step in 0.. {
            let count = (high - low).min(RUN_ENTRIES);
            if count == 0 {
                return Ok(None);
            }
            let guess = if step % 2 == 0 && high_rank > low_rank {
                let share = u128::from(wanted.clamp(low_rank, high_rank) - low_rank) * u128::from(high - low);
                low + (share / u128::from(high_rank - low_rank)) as u64
            } else {
                low + (high - low) / 2
            };
            let start = guess.saturating_sub(RUN_ENTRIES / 2).clamp(low, high - count);
            let bytes = &mut run[..count as usize * ENTRY_BYTES];
            self.file.read_exact_at(bytes, self.header.entries_offset + start * ENTRY_BYTES as u64)?;
            let entries = bytes.as_chunks::<ENTRY_BYTES>().0;
            let (first, last) = (&entries[0][..32], &entries[count as usize - 1][..32]);
            if id.0.as_slice() < first {
                (high, high_rank) = (start, rank(first));
            } else if id.0.as_slice() > last {
                (low, low_rank) = (start + count, rank(last));
            } else {
                let found = entries.binary_search_by(|e| e[..32].cmp(&id.0));
                return Ok(found.ok().and_then(|at| {
                    let (_, pack, offset_bytes, length_bytes) = format::decode_entry(&entries[at]);
                    let pack = self.header.packs.get(pack as usize)?.id;
                    Some(Location { pack, offset_bytes, length_bytes })
                }));
            }
        }
        Ok(None)
    }

    /// All entries in order: for verification.
    pub fn entries(&self) -> impl Iterator<Item = std::io::Result<(ChunkId, Location)>> + '_ {
        (0..u64::from(self.header.entries)).map(|number| {
            let (id, pack, offset_bytes, length_bytes) = self.entry(number)?;
            Ok((id, Location { pack: self.header.packs[pack as usize].id, offset_bytes, length_bytes }))
        })
    }
}

/// Keeps a segment's bytes in the cache, or in a file without a name.
fn keep(store: &Store, id: IndexId, bytes: &[u8]) -> Result<File, RepositoryError> {
    if let Some(path) = store.cache_file(&id.to_string())
        && let Ok(file) = keep_at(&path, bytes)
    {
        return Ok(file);
    }
    // No cache, or none that can be written: a file that is gone with the process.
    let dir = std::env::temp_dir();
    let path = dir.join(format!(".understudy-{}-{}", std::process::id(), unique()));
    let unnamed = || {
        let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        file.write_all(bytes)?;
        Ok(file)
    };
    unnamed().map_err(RepositoryError::local(format!("temporary file in {}", dir.display())))
}

/// A number for a file's name; no two threads of this process get the same.
pub(super) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn keep_at(path: &Path, bytes: &[u8]) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() == bytes.len() as u64) {
        // Read and compared by hash a moment ago, or written by this very process.
        return File::open(path);
    }
    // No fsync: a cached segment is checked by its hash whenever it is opened.
    super::cache::write_beside(path, bytes)?;
    File::open(path)
}

/// The segments that this process looks chunks up in.
pub struct Index {
    segments: RwLock<Vec<Arc<Segment>>>,
    doomed: BTreeSet<PackId>,
}

impl Index {
    /// Opens the segments that a record names. What lies in `doomed` packs is as good as gone.
    pub fn open(
        store: &Store,
        segments: &[ObjectRef<IndexId>],
        doomed: BTreeSet<PackId>,
    ) -> Result<Self, RepositoryError> {
        let segments =
            segments.iter().map(|s| Segment::open(store, s.id).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self { segments: RwLock::new(segments), doomed })
    }

    /// Also opens segments that no record names: what a run left that did not get to its commit.
    /// Their packs were there before they were, so their chunks need not be shipped again.
    pub fn adopt_orphans(&self, store: &Store) -> Result<(), RepositoryError> {
        let prefix = key::index_prefix(&store.name);
        let listed = store.repository.wait(store.objects().list(Some(&prefix), None))?;
        for id in listed.iter().filter_map(|object| key::parse_index(&object.location)) {
            let known = self.segments().iter().any(|s| s.reference.id == id);
            // A damaged or vanished orphan is of no use, and harms nobody.
            if !known && let Ok(segment) = Segment::open(store, id) {
                let present = segment.header.packs.iter().all(
                    |pack| matches!(store.pack_size(pack.id), Ok(Some(size)) if size == pack.size_bytes),
                );
                if present {
                    self.write().push(Arc::new(segment));
                }
            }
        }
        Ok(())
    }

    /// Adds a segment that was just written.
    pub fn add(&self, store: &Store, id: IndexId, bytes: &Bytes) -> Result<Arc<Segment>, RepositoryError> {
        let segment = Arc::new(Segment::from_bytes(store, id, bytes)?);
        segment.used.store(true, Ordering::Relaxed);
        self.write().push(segment.clone());
        Ok(segment)
    }

    /// Where a chunk lies; `None` when it is nowhere, or only in doomed packs.
    pub fn lookup(&self, id: ChunkId) -> Result<Option<Location>, RepositoryError> {
        let segments = self.segments.read().unwrap_or_else(|e| e.into_inner());
        for segment in segments.iter().rev() {
            let found = segment.lookup(id).map_err(RepositoryError::local("cached index segment"))?;
            if let Some(location) = found
                && !self.doomed.contains(&location.pack)
            {
                segment.used.store(true, Ordering::Relaxed);
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// The segments that a record must name: those of `before`, and all others that were used.
    pub fn live(&self, before: &[ObjectRef<IndexId>]) -> Vec<ObjectRef<IndexId>> {
        let mut live = before.to_vec();
        for segment in self.segments() {
            let named = before.iter().any(|b| b.id == segment.reference.id);
            if !named && segment.used.load(Ordering::Relaxed) {
                live.push(segment.reference.clone());
            }
        }
        live
    }

    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        self.segments.write().unwrap_or_else(|e| e.into_inner())
    }
}
