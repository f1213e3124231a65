//! Differences between two sorted streams of entries, found by a merge-join.

use super::entry::{Entry, Kind};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// One difference. Content that moved under another name is an added and a removed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Added,
    Removed,
    /// The content, the target, the device or the kind differs.
    Modified,
    /// Only mode, owners, mtime or attributes differ.
    Metadata,
}

impl Change {
    /// Returns the sign that stands for the change in a listing.
    pub fn sign(self) -> char {
        match self {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Modified => 'M',
            Change::Metadata => 'm',
        }
    }

    /// Compares the two sides of one path; returns `None` when a user sees no difference.
    pub(crate) fn between(old: Option<&Entry>, new: Option<&Entry>) -> Option<Change> {
        match (old, new) {
            (None, None) => None,
            (None, Some(_)) => Some(Change::Added),
            (Some(_), None) => Some(Change::Removed),
            (Some(a), Some(b)) if a.same_to_a_user(b) => None,
            (Some(a), Some(b)) => Some(match (&a.kind, &b.kind) {
                (Kind::File(x), Kind::File(y)) if x.hash == y.hash && x.size_bytes == y.size_bytes => {
                    Change::Metadata
                }
                (x, y) if x == y => Change::Metadata,
                _ => Change::Modified,
            }),
        }
    }
}

/// Numbers of changed entries, by kind of change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    pub added: u64,
    pub removed: u64,
    pub modified: u64,
    pub metadata: u64,
    pub unchanged: u64,
}

impl ChangeCounts {
    pub(crate) fn count(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Added) => self.added += 1,
            Some(Change::Removed) => self.removed += 1,
            Some(Change::Modified) => self.modified += 1,
            Some(Change::Metadata) => self.metadata += 1,
            None => self.unchanged += 1,
        }
    }
}

/// Returns which side of a merge-join comes next: `Less` for the old, `Greater` for the new, `Equal` for
/// both.
pub(crate) fn next_side(old: Option<&Entry>, new: Option<&Entry>) -> Option<Ordering> {
    match (old, new) {
        (None, None) => None,
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (Some(a), Some(b)) => Some(a.path.cmp(&b.path)),
    }
}
