//! Verification: reads what a store consists of, goes on past what is broken, and says which files of
//! which snapshots that touches.

use super::chunks::ChunkReader;
use super::error::{RepositoryError, RepositoryErrorKind};
use super::index::Index;
use super::key;
use super::manifest::ManifestReader;
use super::store::Store;
use crate::format::frame::Decompressor;
use crate::format::index as index_format;
use crate::format::page::Page;
use crate::format::record as record_format;
use crate::format::{attrs, extent_list};
use crate::model::entry::{Content, Entry, Extent, Xattrs};
use crate::model::id::{ChunkId, IndexId, PackId, Sequence};
use crate::model::record::{Event, ObjectRef, SnapshotRecord, StoreState};
use crate::model::tree_path::TreePath;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// At most so many files are named; all are counted.
const NAMED_MAX: usize = 1000;

/// How deep to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyOptions {
    /// Reads so many percent of the packs whole; 0 checks that they are there and have their size.
    pub read_data_percent: u8,
    /// Chooses which packs, when not all are read.
    pub seed: u64,
}

/// A broken object.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    pub key: String,
    pub problem: String,
}

/// A file that a snapshot cannot give back whole. The path is empty when a page of many files is gone.
#[derive(Clone, Debug, Serialize)]
pub struct Touched {
    pub snapshot: Sequence,
    pub path: String,
    pub reason: String,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    pub records: u64,
    pub snapshots: u64,
    pub index_segments: u64,
    pub packs: u64,
    pub packs_read: u64,
    pub read_bytes: u64,
    pub files: u64,
    pub problems: Vec<Problem>,
    pub touched_count: u64,
    pub touched: Vec<Touched>,
}

impl VerifyReport {
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.touched_count == 0
    }

    fn problem(&mut self, key: impl ToString, problem: impl ToString) {
        self.problems.push(Problem { key: key.to_string(), problem: problem.to_string() });
    }

    fn touch(&mut self, snapshot: Sequence, path: String, reason: String) {
        self.touched_count += 1;
        if self.touched.len() < NAMED_MAX {
            self.touched.push(Touched { snapshot, path, reason });
        }
    }
}

/// What is known to be broken before the manifests are walked.
#[derive(Default)]
struct Broken {
    packs: HashMap<PackId, String>,
    chunks: HashSet<ChunkId>,
}

impl Store {
    /// Verifies all snapshots of the store.
    ///
    /// # Errors
    /// Only when the repository cannot be asked; what is broken is in the report.
    pub fn verify(&self, options: VerifyOptions) -> Result<VerifyReport, RepositoryError> {
        let mut report = VerifyReport::default();
        let snapshots = self.verify_log(&mut report)?;
        let index = Arc::new(self.verify_index(&snapshots, &mut report)?);
        let broken = self.verify_packs(&index, options, &mut report)?;
        let chunks = ChunkReader::new(self.clone(), index.clone());
        let mut walker = Walker {
            manifests: ManifestReader::new(chunks.clone()),
            chunks,
            index,
            broken,
            sound: HashSet::new(),
            report,
            snapshot: Sequence(0),
        };
        for (sequence, record) in &snapshots {
            walker.snapshot = *sequence;
            walker.page(record.manifest.page, record.manifest.height, &TreePath::root())?;
        }
        Ok(walker.report)
    }

    /// Reads every record that can be read; a damaged one is a problem of its own snapshot only.
    fn verify_log(
        &self,
        report: &mut VerifyReport,
    ) -> Result<BTreeMap<Sequence, SnapshotRecord>, RepositoryError> {
        let prefix = key::log_prefix(&self.name);
        let listed = self.repository.wait(self.objects().list(Some(&prefix), None))?;
        let mut state = StoreState::default();
        let mut chained = true;
        let mut snapshots = BTreeMap::new();
        let mut last = Sequence(0);
        for object in listed {
            let Some(sequence) = key::parse_record(&object.location) else {
                report.problem(&object.location, "is no record's name");
                continue;
            };
            let mut missing = last.next();
            while missing < sequence {
                report.problem(key::record(&self.name, missing), "is missing");
                report.touch(missing, String::new(), "its record is missing".into());
                missing = missing.next();
                chained = false;
            }
            last = sequence;
            report.records += 1;
            let limit = record_format::RECORD_MAX_BYTES as u64;
            let found = self.repository.wait(self.objects().get(&object.location, limit))?;
            let decoded = record_format::decode(&found.unwrap_or_default());
            let (record, hash) = match decoded {
                Ok(decoded) => decoded,
                Err(error) => {
                    report.problem(&object.location, error);
                    report.touch(sequence, String::new(), "its record is damaged".into());
                    chained = false;
                    continue;
                }
            };
            // Behind a gap there is nothing to chain to; the records themselves are still sound.
            if chained && let Err(error) = state.apply(&self.name, record.clone(), hash) {
                report.problem(&object.location, error);
                chained = false;
            }
            match record.event {
                Event::Snapshot(snapshot) => {
                    snapshots.insert(sequence, *snapshot);
                }
                Event::Pruned { snapshots: dropped, .. } => snapshots.retain(|s, _| !dropped.contains(s)),
                Event::Promoted { .. } => {}
            }
        }
        report.snapshots = snapshots.len() as u64;
        Ok(snapshots)
    }

    fn verify_index(
        &self,
        snapshots: &BTreeMap<Sequence, SnapshotRecord>,
        report: &mut VerifyReport,
    ) -> Result<Index, RepositoryError> {
        let mut named: Vec<ObjectRef<IndexId>> = Vec::new();
        let mut seen = BTreeSet::new();
        for reference in snapshots.values().flat_map(|s| &s.index) {
            if seen.insert(reference.id) {
                named.push(reference.clone());
            }
        }
        let mut sound = Vec::new();
        for reference in named {
            report.index_segments += 1;
            let at = key::index(&self.name, reference.id);
            // Straight from the repository: a copy in the cache says nothing about it.
            let found = self.repository.wait(self.objects().get(&at, 1 << 30))?;
            match found
                .as_deref()
                .map(|bytes| (IndexId::of(bytes) == reference.id, index_format::check(bytes)))
            {
                None => report.problem(at, "is missing"),
                Some((_, Err(error))) => report.problem(at, error),
                Some((false, Ok(_))) => report.problem(at, "does not have the hash that names it"),
                Some((true, Ok(_))) => sound.push(reference),
            }
        }
        Index::open(self, &sound, BTreeSet::new())
    }

    fn verify_packs(
        &self,
        index: &Index,
        options: VerifyOptions,
        report: &mut VerifyReport,
    ) -> Result<Broken, RepositoryError> {
        let mut packs: BTreeMap<PackId, u64> = BTreeMap::new();
        for segment in index.segments() {
            packs.extend(segment.header.packs.iter().map(|p| (p.id, p.size_bytes)));
        }
        let prefix = key::pack_prefix(&self.name);
        let listed = self.repository.wait(self.objects().list(Some(&prefix), None))?;
        let present: HashMap<PackId, u64> =
            listed.iter().filter_map(|o| Some((key::parse_pack(&o.location)?, o.size))).collect();
        let mut broken = Broken::default();
        report.packs = packs.len() as u64;
        for (id, size_bytes) in &packs {
            let at = key::pack(&self.name, *id);
            match present.get(id) {
                None => {
                    report.problem(&at, "is missing");
                    broken.packs.insert(*id, format!("pack {id} is missing"));
                }
                Some(found) if found != size_bytes => {
                    report.problem(&at, format!("has {found} bytes instead of {size_bytes}"));
                    self.find_broken_chunks(index, *id, &mut broken)?;
                }
                Some(_) if chosen(*id, options) => {
                    report.packs_read += 1;
                    report.read_bytes += size_bytes;
                    let bytes =
                        self.repository.wait(self.objects().get(&at, *size_bytes))?.unwrap_or_default();
                    if PackId::of(&bytes) != *id {
                        report.problem(&at, "does not have the hash that names it");
                        self.find_broken_chunks(index, *id, &mut broken)?;
                    }
                }
                Some(_) => {}
            }
        }
        Ok(broken)
    }

    /// Which chunks of a damaged pack cannot be read any more.
    fn find_broken_chunks(
        &self,
        index: &Index,
        id: PackId,
        broken: &mut Broken,
    ) -> Result<(), RepositoryError> {
        let at = key::pack(&self.name, id);
        let bytes =
            self.repository.wait(self.objects().get(&at, index_format::PACK_MAX_BYTES))?.unwrap_or_default();
        let mut decompressor = Decompressor::new().map_err(RepositoryError::local("zstd"))?;
        for segment in index.segments() {
            if !segment.header.packs.iter().any(|p| p.id == id) {
                continue;
            }
            for entry in segment.entries() {
                let (chunk, location) = entry.map_err(RepositoryError::local("cached index segment"))?;
                if location.pack != id {
                    continue;
                }
                let start = location.offset_bytes as usize;
                let end = start + location.length_bytes as usize;
                let whole =
                    end <= bytes.len() && decompressor.decode(&bytes.slice(start..end), chunk).is_ok();
                if !whole {
                    broken.chunks.insert(chunk);
                }
            }
        }
        Ok(())
    }
}

/// Whether a pack is among the share that is read.
fn chosen(id: PackId, options: VerifyOptions) -> bool {
    let draw = crate::model::reread::fnv1a(&[&id.0[..], &options.seed.to_le_bytes()].concat());
    draw % 100 < u64::from(options.read_data_percent)
}

struct Walker {
    manifests: ManifestReader,
    chunks: ChunkReader,
    index: Arc<Index>,
    broken: Broken,
    /// Pages below which nothing is broken: looked at once, however many snapshots share them.
    sound: HashSet<ChunkId>,
    report: VerifyReport,
    snapshot: Sequence,
}

impl Walker {
    /// Whether nothing at or below this page is broken. The height bounds the recursion.
    fn page(&mut self, id: ChunkId, height: u8, first: &TreePath) -> Result<bool, RepositoryError> {
        if self.sound.contains(&id) {
            return Ok(true);
        }
        let found = match self.missing(id) {
            Some(reason) => Err(reason),
            None => match self.manifests.page(id, height) {
                Ok(page) => Ok(page),
                Err(error) if error.kind() == RepositoryErrorKind::Unavailable => return Err(error),
                Err(error) => Err(error.to_string()),
            },
        };
        let sound = match found {
            Err(reason) => {
                let reason = format!("the page from here on is lost: {reason}");
                self.report.touch(self.snapshot, first.to_string(), reason);
                false
            }
            Ok(Page::Node(children)) => {
                let mut sound = true;
                for child in children {
                    sound &= self.page(child.page, height - 1, &child.first)?;
                }
                sound
            }
            Ok(Page::Leaf(entries)) => {
                let mut sound = true;
                for entry in entries {
                    self.report.files += u64::from(entry.file().is_some());
                    if let Some(reason) = self.entry(&entry)? {
                        sound = false;
                        self.report.touch(self.snapshot, entry.path.to_string(), reason);
                    }
                }
                sound
            }
        };
        if sound {
            self.sound.insert(id);
        }
        Ok(sound)
    }

    /// Why a chunk cannot be read, as far as is known without reading it.
    fn missing(&self, id: ChunkId) -> Option<String> {
        if self.broken.chunks.contains(&id) {
            return Some(format!("chunk {id} is damaged"));
        }
        match self.index.lookup(id) {
            Ok(Some(location)) => self.broken.packs.get(&location.pack).cloned(),
            Ok(None) => Some(format!("chunk {id} is in no index")),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Why an entry cannot be restored whole.
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
                let mut sum = 0u64;
                for list in lists {
                    match self.decoded(*list, extent_list::decode_chunk)? {
                        Err(reason) => return Ok(Some(reason)),
                        Ok(extents) => {
                            sum = extents.iter().fold(sum, |sum, e| sum.saturating_add(e.length_bytes()));
                            if let Some(reason) = of(&extents) {
                                return Ok(Some(reason));
                            }
                        }
                    }
                }
                Ok((sum != file.size_bytes).then(|| "its extents do not make up its size".to_owned()))
            }
        }
    }

    /// What a chunk decodes to, or why it does not.
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
            Err(error) if error.kind() == RepositoryErrorKind::Unavailable => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}
