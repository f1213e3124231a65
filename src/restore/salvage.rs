//! Reads the entries of a manifest, also past damaged pages: their loss is reported, and reading continues.
//!
//! The pages are not trusted: an entry that does not follow the last one, or is not below the wanted
//! directory, is not returned, whatever page it comes from.

use super::directory::RestoreTally;
use super::shortfall::ShortfallKind;
use crate::format::page::Child;
use crate::model::entry::Entry;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::{EntryStream, ManifestReader};
use crate::support::failure::{Failure, FailureKind};
use std::sync::atomic::Ordering;

/// A manifest's entries, in order.
pub(crate) struct Salvage<'a> {
    manifests: ManifestReader,
    root: ManifestRoot,
    top: TreePath,
    outcome: &'a RestoreTally,
    stream: EntryStream,
    last: Option<TreePath>,
    /// The pages still to be read, each by itself; set once a page was damaged.
    leaves: Option<std::iter::Skip<std::vec::IntoIter<Child>>>,
    leaf: std::vec::IntoIter<Entry>,
    /// The first error, in case nothing can be read.
    lost: Option<RepositoryError>,
}

impl<'a> Salvage<'a> {
    /// Reads the entry `top` and all entries below it.
    pub fn new(
        manifests: ManifestReader,
        root: &ManifestRoot,
        top: &TreePath,
        outcome: &'a RestoreTally,
    ) -> Self {
        let stream = manifests.entries_within(root, top);
        let (root, top, leaf) = (root.clone(), top.clone(), Vec::new().into_iter());
        Self { manifests, root, top, outcome, stream, last: None, leaves: None, leaf, lost: None }
    }

    /// Begins to read page by page from the last entry on, after `error`.
    fn begin(&mut self, error: RepositoryError) -> Result<(), RepositoryError> {
        if error.kind() != FailureKind::Damaged {
            return Err(error);
        }
        let Ok(leaves) = self.manifests.leaves(&self.root) else { return Err(error) };
        // The page that contains an entry begins at or before it.
        let from = self.last.as_ref().unwrap_or(&self.top);
        let first = leaves.partition_point(|leaf| leaf.first <= *from).saturating_sub(1);
        self.leaves = Some(leaves.into_iter().skip(first));
        self.lost = Some(error);
        Ok(())
    }

    fn next_leaf(&mut self) -> Result<bool, RepositoryError> {
        let Some(leaf) = self.leaves.as_mut().and_then(Iterator::next) else { return Ok(false) };
        if leaf.first > self.top && !leaf.first.is_within(&self.top) {
            return Ok(false);
        }
        match self.manifests.read_leaves(std::slice::from_ref(&leaf)) {
            Ok(read) => self.leaf = read.into_iter().next().unwrap_or_default().into_iter(),
            Err(error) if error.kind() == FailureKind::Damaged => {
                self.outcome.page_lost.store(true, Ordering::Relaxed);
                let reason = format!("the manifest page that begins here is damaged: {error}");
                self.outcome.told.tell(ShortfallKind::Damaged, &leaf.first, reason);
                self.outcome.told.count(ShortfallKind::Damaged, leaf.entries.saturating_sub(1));
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

impl Iterator for Salvage<'_> {
    type Item = Result<Entry, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.leaves.is_none() {
            match self.stream.next() {
                Some(Ok(entry)) => {
                    self.last = Some(entry.path.clone());
                    return Some(Ok(entry));
                }
                Some(Err(error)) => {
                    if let Err(error) = self.begin(error) {
                        return Some(Err(error));
                    }
                }
                None => return None,
            }
        }
        loop {
            for entry in self.leaf.by_ref() {
                let behind = self.last.as_ref().is_none_or(|last| *last < entry.path);
                if behind && entry.path.is_within(&self.top) {
                    self.last = Some(entry.path.clone());
                    return Some(Ok(entry));
                }
            }
            match self.next_leaf() {
                Ok(true) => {}
                // No page could be read.
                Ok(false) if self.last.is_none() => return self.lost.take().map(Err),
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
