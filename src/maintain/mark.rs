//! Marks everything that snapshots refer to, with one bit for each entry of an index.
//!
//! A page or list whose bit is set was read, with everything below it, so data shared by snapshots is read
//! once. Memory is one bit for each chunk of the store, however many snapshots there are.

use crate::format::page::Page;
use crate::model::entry::{Entry, Extent, Extents, File};
use crate::model::id::ChunkId;
use crate::model::record::ManifestRoot;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::extents::read_lists;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use crate::repository::store::Store;
use crate::support::failure::{Failure, FailureKind};
use std::sync::Arc;

/// Number of lists that are read together.
const LISTS: usize = 64;
/// Number of pages that are read together.
const PAGES: usize = 64;

/// The entries of an index that snapshots refer to.
pub(crate) struct Marks {
    index: Arc<Index>,
    bits: Vec<Vec<u64>>,
    /// Number of references to chunks that do not exist.
    pub missing: u64,
}

impl Marks {
    pub(crate) fn none(index: Arc<Index>) -> Self {
        let words = |entries: u32| vec![0; (entries as usize).div_ceil(64)];
        let bits = index.segments().iter().map(|segment| words(segment.header.entries)).collect();
        Self { index, bits, missing: 0 }
    }

    pub(crate) fn contains(&self, (segment, entry): (usize, u32)) -> bool {
        self.bits[segment][entry as usize / 64] >> (entry % 64) & 1 == 1
    }

    /// Marks a chunk. Returns whether it exists and was not marked before.
    fn add(&mut self, id: ChunkId) -> Result<bool, RepositoryError> {
        let Some(((segment, entry), _)) = self.index.find(id)? else {
            self.missing += 1;
            return Ok(false);
        };
        let word = &mut self.bits[segment][entry as usize / 64];
        let bit = 1 << (entry % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        Ok(is_new)
    }
}

/// Marks everything that a manifest refers to.
///
/// Data that cannot be read is an error, or is counted if `lost` says that a repair has given up some.
pub(crate) fn mark(
    store: &Store,
    marks: &mut Marks,
    root: &ManifestRoot,
    lost: bool,
) -> Result<(), RepositoryError> {
    // Reading uses its own copy of the index, so that entries keep their numbers in the marked one.
    let chunks = ChunkReader::new(store.clone(), Arc::new(marks.index.fork())).cached();
    let manifests = ManifestReader::new(chunks.clone());
    let mut marking = Marking { marks, chunks, manifests, lost };
    marking.pages(vec![root.page], root.height)
}

struct Marking<'a> {
    marks: &'a mut Marks,
    chunks: ChunkReader,
    manifests: ManifestReader,
    lost: bool,
}

impl Marking<'_> {
    fn pages(&mut self, ids: Vec<ChunkId>, height: u8) -> Result<(), RepositoryError> {
        for window in ids.chunks(PAGES) {
            let mut new = Vec::new();
            for id in window {
                if self.marks.add(*id)? {
                    new.push(*id);
                }
            }
            for page in self.read(&new, |reader, ids| reader.manifests.read_pages(ids, height))? {
                match page {
                    Page::Node(children) => {
                        let ids = children.iter().map(|child| child.page).collect();
                        self.pages(ids, height - 1)?;
                    }
                    Page::Leaf(entries) => self.entries(&entries)?,
                }
            }
        }
        Ok(())
    }

    /// Reads chunks together, or one by one if that fails and some may be lost.
    fn read<T>(
        &mut self,
        ids: &[ChunkId],
        read: impl Fn(&Self, &[ChunkId]) -> Result<Vec<T>, RepositoryError>,
    ) -> Result<Vec<T>, RepositoryError> {
        match read(self, ids) {
            Err(error) if self.lost && error.kind() == FailureKind::Damaged => {}
            other => return other,
        }
        let mut found = Vec::new();
        for id in ids {
            match read(self, &[*id]) {
                Ok(one) => found.extend(one),
                Err(error) if error.kind() == FailureKind::Damaged => self.marks.missing += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn entries(&mut self, entries: &[Entry]) -> Result<(), RepositoryError> {
        let mut lists = Vec::new();
        for entry in entries {
            for id in entry.chunks() {
                self.marks.add(id)?;
            }
            if let Some(Extents::Listed(ids)) = entry.file().map(File::extents) {
                for id in ids {
                    if self.marks.add(*id)? {
                        lists.push(*id);
                    }
                }
            }
        }
        for window in lists.chunks(LISTS) {
            let found = self.read(window, |reader, ids| read_lists(&reader.chunks, ids))?;
            for id in found.iter().flatten().flat_map(Extent::chunks) {
                self.marks.add(id)?;
            }
        }
        Ok(())
    }
}
