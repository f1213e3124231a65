//! Where other filesystems begin in a tree: as the last snapshot noted it, and as this scan finds it.
//!
//! A directory that was such a place and is none is under suspicion: its volume may only not be mounted. What is lost with it is
//! counted behind the scan, and the hold decides.

use super::error::ResyncError;
use crate::model::hold::Bare;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::changes::join;
use crate::repository::chunks::ChunkReader;
use crate::repository::manifest::ManifestReader;
use std::collections::BTreeSet;

/// So many are noted; a tree of more mount points is guarded by its deletions only.
const MOUNTS_MAX: usize = 10_000;

/// The places where other filesystems begin.
#[derive(Default)]
pub struct Mounts {
    now: BTreeSet<TreePath>,
    bare: BTreeSet<TreePath>,
}

impl Mounts {
    /// As they were; what no scan looks at stays as it was.
    pub fn new(before: &[TreePath]) -> Self {
        Self { now: before.iter().cloned().collect(), bare: BTreeSet::new() }
    }

    /// A directory was found.
    pub fn note(&mut self, path: &TreePath, is_boundary: bool) {
        if is_boundary {
            self.bare.remove(path);
            if self.now.len() < MOUNTS_MAX {
                self.now.insert(path.clone());
            }
        } else if !self.now.is_empty() && self.now.remove(path) {
            self.bare.insert(path.clone());
        }
    }

    /// What was there is gone, or is no directory any more.
    pub fn forget(&mut self, path: &TreePath) {
        if !self.now.is_empty() {
            self.now.remove(path);
        }
    }

    pub fn now(&self) -> Vec<TreePath> {
        self.now.iter().cloned().collect()
    }

    /// What is gone below directories at which nothing is mounted any more. `now` gives the manifest of this scan, readable.
    pub fn bare<'m>(
        &self,
        chunks: &ChunkReader,
        before: Option<&ManifestRoot>,
        now: impl FnOnce() -> Result<&'m ManifestRoot, ResyncError>,
    ) -> Result<Vec<Bare>, ResyncError> {
        let mut bare = Vec::new();
        let Some(before) = before.filter(|_| !self.bare.is_empty()) else { return Ok(bare) };
        let (now, manifests) = (now()?, ManifestReader::new(chunks.clone()));
        for path in &self.bare {
            let mut found = Bare { path: path.clone(), entries_before: 0, deleted: 0 };
            let (old, new) = (manifests.entries_within(before, path), manifests.entries_within(now, path));
            join(old, new, |old, new| {
                let below = old.is_some_and(|old| old.path != *path);
                found.entries_before += u64::from(below);
                found.deleted += u64::from(below && new.is_none());
                Ok::<_, ResyncError>(())
            })?;
            bare.push(found);
        }
        Ok(bare)
    }
}
