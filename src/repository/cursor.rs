//! Reads a manifest from beginning to end, leaf by leaf. Whole leaves can be skipped unread.

use super::error::RepositoryError;
use super::manifest::ManifestReader;
use crate::format::page::Child;
use crate::format::wire::FormatError;
use crate::model::entry::Entry;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;

/// A position in a manifest.
pub(crate) struct Cursor {
    manifests: ManifestReader,
    leaves: Vec<Child>,
    next_leaf: usize,
    entries: std::vec::IntoIter<Entry>,
    last: Option<TreePath>,
}

impl Cursor {
    /// Begins before the first entry.
    pub fn new(manifests: ManifestReader, root: &ManifestRoot) -> Result<Self, RepositoryError> {
        let leaves = manifests.leaves(root)?;
        Ok(Self { manifests, leaves, next_leaf: 0, entries: Vec::new().into_iter(), last: None })
    }

    pub(crate) fn peek(&mut self) -> Result<Option<&Entry>, RepositoryError> {
        while self.entries.as_slice().is_empty() {
            let Some(leaf) = self.leaves.get(self.next_leaf) else { return Ok(None) };
            let entries = self.manifests.read_leaves(std::slice::from_ref(leaf))?.pop().unwrap_or_default();
            if let (Some(last), Some(first)) = (&self.last, entries.first())
                && *last >= first.path
            {
                return Err(RepositoryError::format("manifest")(FormatError::Order("pages")));
            }
            self.last = entries.last().map(|entry| entry.path.clone()).or(self.last.take());
            self.entries = entries.into_iter();
            self.next_leaf += 1;
        }
        Ok(self.entries.as_slice().first())
    }

    /// Returns the next entry and moves past it.
    pub(crate) fn advance(&mut self) -> Result<Option<Entry>, RepositoryError> {
        self.peek()?;
        Ok(self.entries.next())
    }

    /// Skips the next leaf and returns it, if it has not begun and lies below `top` as a whole.
    pub(crate) fn pass_leaf_within(&mut self, top: &TreePath) -> Option<Child> {
        if !self.entries.as_slice().is_empty() {
            return None;
        }
        let leaf = self.leaves.get(self.next_leaf).filter(|leaf| leaf.first.is_within(top))?;
        // All entries of a leaf precede those of the next.
        let is_whole = match self.leaves.get(self.next_leaf + 1) {
            Some(next) => next.first.is_within(top),
            None => top.is_root(),
        };
        if !is_whole {
            return None;
        }
        self.next_leaf += 1;
        Some(leaf.clone())
    }
}
