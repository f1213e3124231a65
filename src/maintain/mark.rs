//! What snapshots refer to: one bit for each entry of an index.
//!
//! A page or a list whose bit is set was looked at, with all below it: what snapshots share is read once. So memory is one bit
//! for each chunk of the store, however many snapshots there are.

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

/// Lists read together.
const LISTS: usize = 64;
/// Pages read together.
const PAGES: usize = 64;

/// The entries of an index that something refers to.
pub struct Marks {
    index: Arc<Index>,
    bits: Vec<Vec<u64>>,
    /// References to chunks that are nowhere.
    pub missing: u64,
}

impl Marks {
    pub fn none(index: Arc<Index>) -> Self {
        let words = |entries: u32| vec![0; (entries as usize).div_ceil(64)];
        let bits = index.segments().iter().map(|segment| words(segment.header.entries)).collect();
        Self { index, bits, missing: 0 }
    }

    pub fn contains(&self, (segment, entry): (usize, u32)) -> bool {
        self.bits[segment][entry as usize / 64] >> (entry % 64) & 1 == 1
    }

    /// Returns whether the chunk is there and was not marked before.
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

/// Marks all that a manifest refers to. What cannot be read is an error, unless something was given up before: then it is
/// counted.
pub fn mark(
    store: &Store,
    marks: &mut Marks,
    root: &ManifestRoot,
    lost: bool,
) -> Result<(), RepositoryError> {
    // Read with an index of its own: entries keep their numbers in the one that is marked.
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

    /// Reads together; one by one when that fails and something may be lost.
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
