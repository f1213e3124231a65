//! The entries of a stranded tree that a person chose, each after the directories above it.
//!
//! Two streams in one order are merged: the chosen paths, and the whole manifest, which has the directories.
//! Memory holds the directories above one path.

use super::class::{Class, Three};
use crate::model::entry::{Entry, Kind};
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use std::collections::VecDeque;

/// What a person chose.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// All that only the former primary has.
    pub new: bool,
    /// These entries, with all below them.
    pub paths: Vec<TreePath>,
}

impl Choice {
    /// Returns whether a path is chosen. What is made again is not, unless it lies in a named path.
    pub fn has(&self, class: Class, three: &Three) -> bool {
        let Some(entry) = &three.here else { return false };
        let is_named = |root: bool| {
            self.paths.iter().any(|path| (root || !path.is_root()) && entry.path.is_within(path))
        };
        match class {
            Class::Only => self.new || is_named(true),
            Class::Both => is_named(true),
            Class::Transient => is_named(false),
            Class::Deleted | Class::Same => false,
        }
    }
}

/// The chosen entries, in order.
pub(crate) struct Chosen<E, P> {
    entries: E,
    paths: P,
    /// The directories above the last entry, and whether each was returned.
    above: Vec<(Entry, bool)>,
    ready: VecDeque<Entry>,
}

impl<E, P> Chosen<E, P>
where
    E: Iterator<Item = Result<Entry, RepositoryError>>,
    P: Iterator<Item = Result<TreePath, RepositoryError>>,
{
    /// Merges the entries of a manifest with the chosen paths.
    pub fn new(entries: E, paths: P) -> Self {
        Self { entries, paths, above: Vec::new(), ready: VecDeque::new() }
    }

    fn step(&mut self) -> Result<Option<Entry>, RepositoryError> {
        if let Some(entry) = self.ready.pop_front() {
            return Ok(Some(entry));
        }
        let Some(wanted) = self.paths.next().transpose()? else { return Ok(None) };
        for entry in self.entries.by_ref() {
            let entry = entry?;
            while self.above.last().is_some_and(|(above, _)| !entry.path.is_within(&above.path)) {
                self.above.pop();
            }
            let is_wanted = entry.path == wanted;
            if is_wanted {
                for (above, is_returned) in self.above.iter_mut().filter(|(_, is_returned)| !is_returned) {
                    *is_returned = true;
                    self.ready.push_back(above.clone());
                }
                self.ready.push_back(entry.clone());
            }
            if entry.kind == Kind::Directory {
                self.above.push((entry, is_wanted));
            }
            if is_wanted {
                return Ok(self.ready.pop_front());
            }
        }
        // The chosen paths are those of the same manifest.
        Err(RepositoryError::Entry { path: wanted.to_string() })
    }
}

impl<E, P> Iterator for Chosen<E, P>
where
    E: Iterator<Item = Result<Entry, RepositoryError>>,
    P: Iterator<Item = Result<TreePath, RepositoryError>>,
{
    type Item = Result<Entry, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
