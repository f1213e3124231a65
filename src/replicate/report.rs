//! What a run reports: one object, the same for people and for `--json`.

use crate::model::diff::ChangeCounts;
use crate::model::id::{Sequence, StoreName};
use crate::model::tree_path::TreePath;
use crate::repository::objects::Requests;
use serde::Serialize;

/// At most so many warnings are told one by one; all of them are counted.
pub const WARNINGS_MAX: usize = 100;

/// What is worth telling of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// It changed while it was read, as often as it was tried.
    Torn,
    /// It could not be read; what the last snapshot has of it, and of what is below it, was kept.
    Unreadable,
    /// Its extended attributes could not be read, or not all; its content was.
    Attributes,
    /// It was another thing, or elsewhere, each time it was looked at; what was read last was taken.
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

    /// Takes back what was told of paths that are looked at again, as far as they are named.
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

    /// Where another look is due, whatever hints say: what the snapshot has not as it was. None: more than are named.
    pub fn to_be_retried(&self) -> Option<Vec<TreePath>> {
        let partial = self.first.iter().filter(|warning| warning.kind != WarningKind::ChangedSilently);
        let paths: Vec<_> = partial.map(|warning| warning.at.clone()).collect();
        (paths.len() as u64 == self.partial()).then_some(paths)
    }

    pub fn total(&self) -> u64 {
        self.partial() + self.changed_silently
    }

    /// How many entries the snapshot has not as they were: what exit code 3 says.
    pub fn partial(&self) -> u64 {
        self.torn + self.unreadable + self.attributes + self.unsettled
    }
}

impl Report {
    /// Whether there is something to look at: exit code 3.
    pub fn has_warnings(&self) -> bool {
        self.warnings.partial() > 0 || self.hook_failed.is_some()
    }
}

/// Seconds by phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Phases {
    /// Probe, log, index.
    pub open_seconds: f64,
    /// Walk, read, hash, compress; uploads go on beside it.
    pub scan_seconds: f64,
    /// The last uploads, and the check that all arrived.
    pub ship_seconds: f64,
    pub commit_seconds: f64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub store: StoreName,
    pub snapshot: Sequence,
    /// Nanoseconds since 1970: what the lag is counted from.
    pub scan_start_ns: u64,
    pub entries: u64,
    pub size_bytes: u64,
    pub changes: ChangeCounts,
    /// Read from the source.
    pub read_bytes: u64,
    /// Of those, what the store did not have.
    pub new_bytes: u64,
    /// Everything sent: packs with data and pages, index, record.
    pub shipped_bytes: u64,
    pub vanished: u64,
    /// What this program keeps itself below the store's root: it is no part of the store.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    pub warnings: Warnings,
    /// What came behind the commit, and failed: the hook `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failed: Option<String>,
    /// How often another writer took the number first.
    pub rebased: u32,
    pub requests: Requests,
    pub phases: Phases,
}
