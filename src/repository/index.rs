//! Looks up where chunks are, in the open index segments.
//!
//! A lookup reads a few entries of each segment from the page cache, so memory does not grow with the number
//! of chunks. A segment is checked as a whole when it is opened, so a lookup trusts its entries.

use super::error::RepositoryError;
use super::object_key;
use super::parts::Segments;
use super::store::Store;
use crate::format::index::{self as format, ENTRY_BYTES, FrameLocation, SegmentEntry, SegmentHeader};
use crate::model::id::{ChunkId, IndexId, PackId};
use crate::model::record::ObjectRef;
use crate::model::record::StoreState;
use crate::support::failure::{Failure, FailureKind};
use crate::support::files;
use crate::support::mutant::{self, Mutant};
use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags};
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Maximum size of a segment. Larger ones are refused.
const SEGMENT_MAX_BYTES: u64 = 1 << 30;
/// Maximum size of a table that is kept in memory if there is no cache. Merging keeps such segments few.
const MEMORY_MAX_BYTES: usize = 1 << 20;
/// Number of entries that are read together at the end of a lookup.
const RUN_ENTRIES: u64 = 64;

/// One open segment.
pub struct Segment {
    pub reference: ObjectRef<IndexId>,
    pub header: SegmentHeader,
    file: File,
    used: AtomicBool,
}

/// The authentication of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vouched {
    /// A record names it.
    ByRecord,
    /// Only its seal, which must be that of the newest data key: no removed holder has it.
    BySeal,
}

impl Segment {
    /// Wraps a table that was just made or read.
    fn from_table(
        store: &Store,
        reference: &ObjectRef<IndexId>,
        table: &[u8],
    ) -> Result<Self, RepositoryError> {
        let at = object_key::index(store.name(), reference.id);
        let header = format::check(table).map_err(RepositoryError::format(&at))?;
        let file = keep(store, reference.id, table)?;
        Ok(Self { reference: reference.clone(), header, file, used: AtomicBool::new(false) })
    }

    /// Opens a segment from the cache, or else from the repository.
    fn open(
        store: &Store,
        reference: &ObjectRef<IndexId>,
        vouched: Vouched,
    ) -> Result<Self, RepositoryError> {
        if let Some(path) = store.cache().file(&reference.id.to_string())
            && let Ok(cached) = std::fs::read(&path)
        {
            match Self::from_table(store, reference, &cached) {
                Ok(segment) => return Ok(segment),
                // It is damaged. The fetched segment replaces it.
                Err(_) => drop(std::fs::remove_file(&path)),
            }
        }
        let fetch = || Self::from_table(store, reference, &store.segments().table(reference.id, vouched)?);
        match fetch() {
            // The transfer may have damaged it. Fetch it once more.
            Err(RepositoryError::Format { .. }) => fetch(),
            other => other,
        }
    }

    /// Finds a chunk by interpolation search, reading a run of entries at each guess.
    ///
    /// Ids are hashes, so the first guess mostly hits. Every other guess halves the range, so that ids chosen
    /// by an attacker cost no more than a binary search.
    fn lookup(&self, id: ChunkId) -> std::io::Result<Option<(u32, FrameLocation)>> {
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
                    let location = self.location(format::decode_entry(&entries[at]))?;
                    Some(((start + at as u64) as u32, location))
                }));
            }
        }
        Ok(None)
    }

    fn location(&self, entry: SegmentEntry) -> Option<FrameLocation> {
        let SegmentEntry { pack, offset_bytes, length_bytes, .. } = entry;
        let pack = self.header.packs.get(pack as usize)?;
        Some(FrameLocation { pack: pack.id, offset_bytes, length_bytes, sealing: pack.sealing })
    }

    /// Returns all entries in order, read in runs.
    pub fn entries(&self) -> impl Iterator<Item = Result<(ChunkId, FrameLocation), RepositoryError>> + '_ {
        const STRETCH: u64 = 4096;
        let total = u64::from(self.header.entries);
        let read = move |start: u64| {
            let count = STRETCH.min(total - start);
            let mut bytes = vec![0; count as usize * ENTRY_BYTES];
            let offset = self.header.entries_offset + start * ENTRY_BYTES as u64;
            let done = self.file.read_exact_at(&mut bytes, offset).map(|()| bytes);
            done.map_err(RepositoryError::local("cached index segment"))
        };
        (0..total.div_ceil(STRETCH)).flat_map(move |stretch| {
            let (bytes, error) = match read(stretch * STRETCH) {
                Ok(bytes) => (bytes, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let entries: Vec<_> = bytes
                .as_chunks::<ENTRY_BYTES>()
                .0
                .iter()
                .map(format::decode_entry)
                .filter_map(|entry| Some(Ok((entry.chunk, self.location(entry)?))))
                .collect();
            error.into_iter().chain(entries)
        })
    }
}

impl Segments<'_> {
    /// Fetches a segment's table from the repository, bypassing the cache.
    ///
    /// It verifies that the bytes match the segment's id, not that the table is well formed.
    pub(crate) fn table(&self, id: IndexId, vouched: Vouched) -> Result<Vec<u8>, RepositoryError> {
        let at = object_key::index(self.store.name(), id);
        let found = self.store.wait(self.store.objects().get(&at, SEGMENT_MAX_BYTES))?;
        let object = found
            .ok_or_else(|| RepositoryError::MissingObject { key: at.to_string(), what: "index segment" })?;
        if IndexId::of(&object) != id {
            return Err(RepositoryError::format(&at)(crate::format::wire::FormatError::Hash));
        }
        let generation = format::generation(&object);
        let keys = match vouched {
            Vouched::ByRecord => self.store.keyrings().keys_for(generation)?,
            Vouched::BySeal => self.store.keyrings().keys_for_unnamed(generation)?,
        };
        format::open(&object, keys.as_deref()).map_err(RepositoryError::format(&at))
    }

    /// Seals a table into a segment and puts it into the repository.
    pub(crate) fn put(&self, table: &[u8]) -> Result<ObjectRef<IndexId>, RepositoryError> {
        let prefix = object_key::index_prefix(self.store.name());
        let (sealing, keys) = self.store.keyrings().new_sealing()?;
        let object = format::close(table, &sealing, keys.as_deref());
        let object = Bytes::from(object.map_err(RepositoryError::format(&prefix))?);
        let reference = ObjectRef { id: IndexId::of(&object), size_bytes: object.len() as u64 };
        let at = object_key::index(self.store.name(), reference.id);
        self.store.wait(self.store.put(&at, object))?;
        Ok(reference)
    }
}

/// Stores a segment's bytes in the cache, or in a file without a name.
fn keep(store: &Store, id: IndexId, bytes: &[u8]) -> Result<File, RepositoryError> {
    if let Some(path) = store.cache().file(&id.to_string())
        && let Ok(file) = keep_at(&path, bytes)
    {
        return Ok(file);
    }
    // There is no cache, or it cannot be written. A small segment is kept in memory.
    if bytes.len() <= MEMORY_MAX_BYTES
        && let Ok(memory) = rustix::fs::memfd_create("understudy-index", rustix::fs::MemfdFlags::CLOEXEC)
    {
        let mut file = File::from(memory);
        file.write_all(bytes).map_err(RepositoryError::local("memory for an index segment"))?;
        return Ok(file);
    }
    // A large one is kept in a file that disappears with the process.
    let dir = std::env::temp_dir();
    let path = dir.join(format!(".understudy-{}-{}", std::process::id(), files::unique()));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let unnamed = || {
        if let Ok(file) = rustix::fs::openat(CWD, &dir, flags, Mode::RUSR | Mode::WUSR) {
            let mut file = File::from(file);
            return file.write_all(bytes).map(|()| file);
        }
        let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        file.write_all(bytes)?;
        Ok(file)
    };
    unnamed().map_err(RepositoryError::local(format!("temporary file in {}", dir.display())))
}

fn keep_at(path: &Path, bytes: &[u8]) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() == bytes.len() as u64) {
        // This process has just verified its hash, or written it.
        return File::open(path);
    }
    // It needs no fsync: the hash of a cached segment is checked whenever it is opened.
    files::replace(path, bytes)?;
    File::open(path)
}

/// The position of an entry in an index: the number of its segment, and its number there.
pub(crate) type EntryPlace = (usize, u32);

/// The segments in which this process looks up chunks.
pub struct Index {
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Packs whose chunks count as missing.
    doomed: RwLock<BTreeSet<PackId>>,
}

impl Index {
    /// Opens the live segments of a store.
    ///
    /// If a pruning deleted segments of `state` since it was read, the current ones are opened. They name
    /// every chunk that still exists, and a writer that relies on `state` loses the race for its record.
    pub fn open(store: &Store, state: &StoreState) -> Result<Self, RepositoryError> {
        Self::while_it_moves(store, state.clone(), |state| {
            let doomed = state.doomed_packs.keys().filter(|_| !mutant::is(Mutant::NoDoomedSet));
            Self::of(store, &state.index, doomed.copied().collect())
        })
    }

    /// Runs a read of a state's segments.
    ///
    /// While segments are missing and the log moves on, it runs again with the next state.
    fn while_it_moves<T>(
        store: &Store,
        mut state: StoreState,
        read: impl Fn(&StoreState) -> Result<T, RepositoryError>,
    ) -> Result<T, RepositoryError> {
        loop {
            match read(&state) {
                Err(error) if error.kind() == FailureKind::Damaged => {
                    let now = store.log().state()?;
                    if now.index == state.index {
                        return Err(error);
                    }
                    state = now;
                }
                other => return other,
            }
        }
    }

    /// Opens the given segments.
    pub fn of(
        store: &Store,
        segments: &[ObjectRef<IndexId>],
        doomed: BTreeSet<PackId>,
    ) -> Result<Self, RepositoryError> {
        let opened = segments.iter().map(|s| Segment::open(store, s, Vouched::ByRecord).map(Arc::new));
        let segments = opened.collect::<Result<_, _>>()?;
        Ok(Self { segments: RwLock::new(segments), doomed: RwLock::new(doomed) })
    }

    /// Adds the currently live segments and removes doomed ones, for a reader that did not find its packs.
    ///
    /// Other segments that this process opened or wrote stay, since its run names them when it commits.
    /// Returns whether anything changed.
    pub fn renew(&self, store: &Store) -> Result<bool, RepositoryError> {
        Self::while_it_moves(store, store.log().state()?, |state| {
            let known: BTreeSet<_> = self.segments().iter().map(|s| s.reference.id).collect();
            let new: Vec<_> = state.index.iter().filter(|s| !known.contains(&s.id)).cloned().collect();
            if new.is_empty() && state.doomed_packs.keys().all(|pack| self.is_doomed(pack)) {
                return Ok(false);
            }
            let new = Self::of(store, &new, BTreeSet::new())?.segments();
            {
                let mut segments = self.write();
                segments.retain(|s| !state.doomed_index.contains_key(&s.reference.id));
                segments.extend(new);
            }
            self.doom(state.doomed_packs.keys().copied());
            Ok(true)
        })
    }

    /// Returns the same segments, for a reader that may renew them.
    pub(crate) fn fork(&self) -> Self {
        let doomed = self.doomed.read().unwrap_or_else(PoisonError::into_inner).clone();
        Self { segments: RwLock::new(self.segments()), doomed: RwLock::new(doomed) }
    }

    pub fn is_doomed(&self, pack: &PackId) -> bool {
        self.doomed.read().unwrap_or_else(PoisonError::into_inner).contains(pack)
    }

    /// Hides the chunks of these packs from now on.
    pub(crate) fn doom(&self, packs: impl IntoIterator<Item = PackId>) {
        self.doomed.write().unwrap_or_else(PoisonError::into_inner).extend(packs);
    }

    /// Opens also segments that no record names: those of a run that ended before its commit.
    ///
    /// Their packs existed before them, so their chunks need not be shipped again.
    pub(crate) fn adopt_orphans(&self, store: &Store, state: &StoreState) -> Result<(), RepositoryError> {
        let prefix = object_key::index_prefix(store.name());
        let listed = store.wait(store.objects().list(Some(&prefix), None))?;
        for object in listed {
            let Some(id) = object_key::parse_index(&object.location) else { continue };
            let known = self.segments().iter().any(|s| s.reference.id == id);
            let reference = ObjectRef { id, size_bytes: object.size };
            // An orphan that is damaged or has vanished is ignored.
            if !known
                && !state.doomed_index.contains_key(&id)
                && let Ok(segment) = Segment::open(store, &reference, Vouched::BySeal)
            {
                let present = segment.header.packs.iter().all(|pack| {
                    !self.is_doomed(&pack.id)
                        && matches!(store.packs().size(pack.id), Ok(Some(size)) if size == pack.size_bytes)
                });
                if present || mutant::is(Mutant::NoOrphanCheck) {
                    self.write().push(Arc::new(segment));
                }
            }
        }
        Ok(())
    }

    /// Adds a segment that was just written.
    pub fn add(
        &self,
        store: &Store,
        reference: &ObjectRef<IndexId>,
        table: &[u8],
    ) -> Result<Arc<Segment>, RepositoryError> {
        let segment = Arc::new(Segment::from_table(store, reference, table)?);
        segment.used.store(true, Ordering::Relaxed);
        self.write().push(segment.clone());
        Ok(segment)
    }

    /// Returns the location of a chunk; `None` if it exists nowhere, or only in doomed packs.
    pub fn lookup(&self, id: ChunkId) -> Result<Option<FrameLocation>, RepositoryError> {
        Ok(self.find(id)?.map(|(_, location)| location))
    }

    /// Returns the location of a chunk, and the position of its entry.
    pub fn find(&self, id: ChunkId) -> Result<Option<(EntryPlace, FrameLocation)>, RepositoryError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        for (number, segment) in segments.iter().enumerate().rev() {
            let found = segment.lookup(id).map_err(RepositoryError::local("cached index segment"))?;
            if let Some((at, location)) = found
                && !self.is_doomed(&location.pack)
            {
                segment.used.store(true, Ordering::Relaxed);
                return Ok(Some(((number, at), location)));
            }
        }
        Ok(None)
    }

    /// Returns the segments that a record must add to those that are live in `state`.
    ///
    /// They were opened or written in addition to `before`, were used, and have not been doomed meanwhile.
    pub fn added(&self, before: &[ObjectRef<IndexId>], state: &StoreState) -> Vec<ObjectRef<IndexId>> {
        let mut new = Vec::new();
        for segment in self.segments() {
            let id = segment.reference.id;
            let named = before.iter().chain(&state.index).any(|named| named.id == id);
            if !named && segment.used.load(Ordering::Relaxed) && !state.doomed_index.contains_key(&id) {
                new.push(segment.reference.clone());
            }
        }
        new
    }

    /// Returns the packs that are named, and not doomed.
    pub(crate) fn live_packs(&self) -> HashSet<PackId> {
        let segments = self.segments();
        let packs = segments.iter().flat_map(|segment| segment.header.packs.iter().map(|pack| pack.id));
        packs.filter(|pack| !self.is_doomed(pack)).collect()
    }

    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }
}
