//! Walking all manifests for what cannot be given back whole. What snapshots share is looked at once.

use super::chunks::ChunkReader;
use super::error::{RepositoryError, RepositoryErrorKind};
use super::index::Index;
use super::manifest::ManifestReader;
use super::store::Store;
use super::verify::{Broken, Examined, VerifyReport};
use crate::format::page::Page;
use crate::format::{attrs, extent_list};
use crate::model::entry::{Content, Entry, Extent, Xattrs};
use crate::model::id::{ChunkId, Sequence};
use crate::model::record::SnapshotRecord;
use crate::model::tree_path::TreePath;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

impl Store {
    /// Walks all manifests; `touched` is called with every entry that cannot be given back whole.
    pub(super) fn walk_all(
        &self,
        examined: Examined,
        touched: &mut dyn FnMut(&Entry) -> Result<(), RepositoryError>,
    ) -> Result<VerifyReport, RepositoryError> {
        let Examined { snapshots, index, broken, report } = examined;
        let chunks = ChunkReader::new(self.clone(), Arc::new(index.fork()));
        let mut walker = Walker {
            manifests: ManifestReader::new(chunks.clone()),
            chunks,
            index,
            broken,
            sound: HashSet::new(),
            report,
            snapshot: Sequence(0),
            touched,
        };
        for (sequence, record) in &snapshots {
            walker.snapshot = *sequence;
            walker.page(record.manifest.page, record.manifest.height, &TreePath::root())?;
        }
        Ok(walker.report)
    }

    /// Calls `touched` with every entry of these snapshots that refers to what `index` does not find. Returns how many there are.
    pub(super) fn walk_missing(
        &self,
        snapshots: &BTreeMap<Sequence, SnapshotRecord>,
        index: Arc<Index>,
        touched: &mut dyn FnMut(&Entry) -> Result<(), RepositoryError>,
    ) -> Result<u64, RepositoryError> {
        let (broken, report) = (Broken::default(), VerifyReport::default());
        let examined = Examined { snapshots: snapshots.clone(), index, broken, report };
        Ok(self.walk_all(examined, touched)?.touched_count)
    }
}

struct Walker<'a> {
    manifests: ManifestReader,
    chunks: ChunkReader,
    index: Arc<Index>,
    broken: Broken,
    /// Pages below which nothing is broken: looked at once, however many snapshots share them.
    sound: HashSet<ChunkId>,
    report: VerifyReport,
    snapshot: Sequence,
    touched: &'a mut dyn FnMut(&Entry) -> Result<(), RepositoryError>,
}

impl Walker<'_> {
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
                        (self.touched)(&entry)?;
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
            Ok(Some(location)) if self.broken.missing.contains(&location.pack) => {
                self.broken.packs.get(&location.pack).cloned()
            }
            Ok(Some(_)) => None,
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
