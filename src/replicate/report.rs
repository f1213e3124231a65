//! The report of a run: one object, the same for people and for `--json`.

use crate::model::diff::ChangeCounts;
use crate::model::id::{Sequence, StoreName};
use crate::model::tree_path::TreePath;
use crate::repository::objects::Requests;
use serde::Serialize;

/// Maximum number of warnings that are listed. All are counted.
pub const WARNINGS_MAX: usize = 100;

/// The kinds of warnings about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// It changed while it was read, at each attempt.
    Torn,
    /// It could not be read. The last snapshot's state of it, and of everything below it, was kept.
    Unreadable,
    /// Its extended attributes could not be read completely. Its content was read.
    Attributes,
    /// It was another kind of entry, or in another place, at each look. The last state read was taken.
    Unsettled,
    /// Its bytes differ although size, mtime, ctime and inode are those of the last run.
    ChangedSilently,
}

/// A warning about one entry.
#[derive(Clone, Debug, Serialize)]
pub struct Warning {
    pub kind: WarningKind,
    pub path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip)]
    at: TreePath,
}

/// Counts of warnings, and the first of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Warnings {
    pub torn: u64,
    pub unreadable: u64,
    pub attributes: u64,
    pub unsettled: u64,
    pub changed_silently: u64,
    pub first: Vec<Warning>,
}

impl Warnings {
    pub fn add(&mut self, kind: WarningKind, path: &TreePath, reason: String) {
        *self.count(kind) += 1;
        if self.first.len() < WARNINGS_MAX {
            self.first.push(Warning { kind, path: path.to_string(), reason, at: path.clone() });
        }
    }

    fn count(&mut self, kind: WarningKind) -> &mut u64 {
        match kind {
            WarningKind::Torn => &mut self.torn,
            WarningKind::Unreadable => &mut self.unreadable,
            WarningKind::Attributes => &mut self.attributes,
            WarningKind::Unsettled => &mut self.unsettled,
            WarningKind::ChangedSilently => &mut self.changed_silently,
        }
    }

    /// Removes the listed warnings about paths that are scanned again.
    pub(super) fn forget(&mut self, covers: impl Fn(&TreePath) -> bool) {
        let (gone, kept) =
            std::mem::take(&mut self.first).into_iter().partition(|warning| covers(&warning.at));
        self.first = kept;
        let gone: Vec<Warning> = gone;
        for warning in gone {
            *self.count(warning.kind) -= 1;
        }
    }

    pub(super) fn append(&mut self, mut other: Warnings) {
        for kind in [
            WarningKind::Torn,
            WarningKind::Unreadable,
            WarningKind::Attributes,
            WarningKind::Unsettled,
            WarningKind::ChangedSilently,
        ] {
            *self.count(kind) += *other.count(kind);
        }
        self.first.extend(other.first);
        self.first.truncate(WARNINGS_MAX);
    }

    /// Returns the paths to scan again whatever hints say, since the snapshot lacks their exact state.
    ///
    /// Returns `None` if not all of them are listed.
    pub fn to_be_retried(&self) -> Option<Vec<TreePath>> {
        let partial = self.first.iter().filter(|warning| warning.kind != WarningKind::ChangedSilently);
        let paths: Vec<_> = partial.map(|warning| warning.at.clone()).collect();
        (paths.len() as u64 == self.partial()).then_some(paths)
    }

    pub fn total(&self) -> u64 {
        self.partial() + self.changed_silently
    }

    /// Returns the number of entries that the snapshot does not have exactly: exit code 3 reports it.
    pub fn partial(&self) -> u64 {
        self.torn + self.unreadable + self.attributes + self.unsettled
    }
}

impl Report {
    /// Returns whether there is something to look at: exit code 3.
    pub fn has_warnings(&self) -> bool {
        self.warnings.partial() > 0 || self.hook_failed.is_some()
    }
}

/// Duration of each phase, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Phases {
    /// Probe, log, index.
    pub open_seconds: f64,
    /// Walk, read, hash, compress. Uploads run at the same time.
    pub scan_seconds: f64,
    /// The last uploads, and the check that all objects arrived.
    pub ship_seconds: f64,
    pub commit_seconds: f64,
}

/// The report of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub store: StoreName,
    pub snapshot: Sequence,
    /// Nanoseconds since 1970 at the start of the scan, from which the lag is measured.
    pub scan_start_ns: u64,
    pub entries: u64,
    pub size_bytes: u64,
    pub changes: ChangeCounts,
    /// Number of bytes read from the source.
    pub read_bytes: u64,
    /// Number of read bytes that the store did not have.
    pub new_bytes: u64,
    /// Number of all bytes sent: packs with data and pages, index, record.
    pub shipped_bytes: u64,
    pub vanished: u64,
    /// Directories of this program below the store's root, which are left out of the store.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    pub warnings: Warnings,
    /// The failure of the hook `after`, which runs after the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<String>,
    /// Number of times another writer took the log's next number first.
    pub rebased: u32,
    pub requests: Requests,
    pub phases: Phases,
}
