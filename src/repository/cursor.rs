//! A manifest from its beginning to its end, leaf by leaf: whole leaves can be passed over unread.

use super::error::RepositoryError;
use super::manifest::ManifestReader;
use crate::format::page::Child;
use crate::format::wire::FormatError;
use crate::model::entry::Entry;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;

/// A place in a manifest.
pub struct Cursor {
    manifests: ManifestReader,
    leaves: Vec<Child>,
    next_leaf: usize,
    entries: std::vec::IntoIter<Entry>,
    last: Option<TreePath>,
}

impl Cursor {
    /// Before the first entry.
    pub fn new(manifests: ManifestReader, root: &ManifestRoot) -> Result<Self, RepositoryError> {
        let leaves = manifests.leaves(root)?;
        Ok(Self { manifests, leaves, next_leaf: 0, entries: Vec::new().into_iter(), last: None })
    }

    pub fn peek(&mut self) -> Result<Option<&Entry>, RepositoryError> {
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

    /// The entry, behind which the cursor is then.
    pub fn advance(&mut self) -> Result<Option<Entry>, RepositoryError> {
        self.peek()?;
        Ok(self.entries.next())
    }

    /// The next leaf, passed over: if it has not begun, and all of it is below `top`.
    pub fn pass_leaf_within(&mut self, top: &TreePath) -> Option<Child> {
        if !self.entries.as_slice().is_empty() {
            return None;
        }
        let leaf = self.leaves.get(self.next_leaf).filter(|leaf| leaf.first.is_within(top))?;
        // What is on it lies before what is on the next.
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
