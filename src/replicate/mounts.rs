//! Records where other filesystems begin in a tree: in the last snapshot, and in this scan.
//!
//! The root is such a place if it is itself a mount point. Entries lost below such a place are counted after
//! the scan, and the hold decides about them: the volume may not be mounted, may be another or an empty one,
//! or may have been removed with the directory that it was mounted on.

use super::error::ResyncError;
use crate::model::hold::Loss;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::diff::join;
use crate::repository::manifest::ManifestReader;
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of mount points that are recorded.
///
/// In a tree with more, the hold sees only the total of deletions.
const MOUNTS_MAX: usize = 10_000;

/// The places where other filesystems begin.
#[derive(Default)]
pub(crate) struct Mounts {
    before: BTreeSet<TreePath>,
    now: BTreeSet<TreePath>,
}

impl Mounts {
    /// Starts from the places in the last snapshot. Places that no scan visits stay.
    pub fn new(before: &[TreePath]) -> Self {
        let before: BTreeSet<_> = before.iter().cloned().collect();
        Self { now: before.clone(), before }
    }

    /// Records a directory that was found.
    pub(crate) fn note(&mut self, path: &TreePath, is_boundary: bool) {
        if !is_boundary {
            self.forget(path);
        } else if self.now.len() < MOUNTS_MAX {
            self.now.insert(path.clone());
        }
    }

    /// Removes a path that no longer exists or is no directory any more.
    pub(crate) fn forget(&mut self, path: &TreePath) {
        if !self.now.is_empty() {
            self.now.remove(path);
        }
    }

    pub(crate) fn now(&self) -> Vec<TreePath> {
        self.now.iter().cloned().collect()
    }

    /// Returns the losses below places at which a filesystem was mounted.
    ///
    /// `now` returns the manifest of this scan, in a readable state. Only pages that differ are read, and all
    /// pages of a place that lost entries.
    pub(crate) fn losses<'m>(
        &self,
        chunks: &ChunkReader,
        before: Option<&ManifestRoot>,
        now: impl FnOnce() -> Result<&'m ManifestRoot, ResyncError>,
    ) -> Result<Vec<Loss>, ResyncError> {
        let Some(before) = before.filter(|_| !self.before.is_empty()) else { return Ok(Vec::new()) };
        let (now, manifests) = (now()?, ManifestReader::new(chunks.clone()));
        let (old, new) = manifests.differing_leaves(before, now)?;
        let mut deleted: BTreeMap<&TreePath, u64> = BTreeMap::new();
        join(manifests.entries_of(old), manifests.entries_of(new), |old, new| {
            if let (Some(old), None) = (old, new) {
                for place in self.before.iter().filter(|place| old.path.is_within(place)) {
                    *deleted.entry(place).or_default() += u64::from(old.path != *place);
                }
            }
            Ok::<_, ResyncError>(())
        })?;
        let mut losses = Vec::new();
        for (path, deleted) in deleted {
            let mut entries_before = 0;
            for entry in manifests.entries_within(before, path) {
                entries_before += u64::from(entry?.path != *path);
            }
            losses.push(Loss {
                path: path.clone(),
                entries_before,
                deleted,
                is_mounted: self.now.contains(path),
            });
        }
        Ok(losses)
    }
}
