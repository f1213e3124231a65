//! The manifest that a scan compares the tree with, read entry by entry in its order.

use crate::format::page::Child as Leaf;
use crate::model::entry::Entry;
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::cursor::Cursor;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::{EntryStream, ManifestReader};

/// A position in a manifest.
pub(crate) enum Baseline {
    /// Reads the whole manifest ahead.
    Stream(Box<std::iter::Peekable<EntryStream>>),
    /// Skips whole leaves; used with hints.
    Cursor(Box<Cursor>),
}

impl Baseline {
    /// Begins before the first entry. Without a manifest there are no entries.
    pub fn new(
        chunks: &ChunkReader,
        root: Option<&ManifestRoot>,
        is_hinted: bool,
    ) -> Result<Self, RepositoryError> {
        let manifests = || ManifestReader::new(chunks.clone());
        Ok(match root {
            Some(root) if is_hinted => Self::Cursor(Box::new(Cursor::new(manifests(), root)?)),
            Some(root) => Self::Stream(Box::new(manifests().entries(root).peekable())),
            None => Self::Stream(Box::new(EntryStream::none().peekable())),
        })
    }

    pub(crate) fn advance(&mut self) -> Result<Option<Entry>, RepositoryError> {
        match self {
            Self::Stream(stream) => stream.next().transpose(),
            Self::Cursor(cursor) => cursor.advance(),
        }
    }

    /// Returns the next entry if `admits` accepts its path.
    pub(crate) fn next_if(
        &mut self,
        admits: impl FnOnce(&TreePath) -> bool,
    ) -> Result<Option<Entry>, RepositoryError> {
        let is_admitted = match self {
            Self::Stream(stream) => match stream.peek() {
                None => false,
                Some(Ok(entry)) => admits(&entry.path),
                // An error is returned by the next call.
                Some(Err(_)) => true,
            },
            Self::Cursor(cursor) => cursor.peek()?.is_some_and(|entry| admits(&entry.path)),
        };
        if is_admitted { self.advance() } else { Ok(None) }
    }

    /// Skips the next leaf and returns it, if it has not begun and lies below `top` as a whole.
    pub(crate) fn pass_leaf_within(&mut self, top: &TreePath) -> Option<Leaf> {
        match self {
            Self::Stream(_) => None,
            Self::Cursor(cursor) => cursor.pass_leaf_within(top),
        }
    }
}
