//! What a scan warns of: counted, the first of them named, and taken back where the next look finds better.

use crate::api::resync::{Warning, WarningKind, Warnings};
use crate::model::tree_path::TreePath;

/// Maximum number of warnings that are named one by one; all of them are counted.
pub const WARNINGS_MAX: usize = 100;

/// Warnings of a scan that goes on.
#[derive(Clone, Debug, Default)]
pub struct WarningLog {
    /// Without the first: these are named here with their paths as they are.
    counts: Warnings,
    first: Vec<(TreePath, Warning)>,
}

impl WarningLog {
    pub fn add(&mut self, kind: WarningKind, path: &TreePath, reason: String) {
        *self.count(kind) += 1;
        if self.first.len() < WARNINGS_MAX {
            self.first.push((path.clone(), Warning { kind, path: path.to_string(), reason }));
        }
    }

    fn count(&mut self, kind: WarningKind) -> &mut u64 {
        match kind {
            WarningKind::Torn => &mut self.counts.torn,
            WarningKind::Unreadable => &mut self.counts.unreadable,
            WarningKind::Attributes => &mut self.counts.attributes,
            WarningKind::Unsettled => &mut self.counts.unsettled,
            WarningKind::ChangedSilently => &mut self.counts.changed_silently,
        }
    }

    /// Takes back what was said of paths that are looked at again, as far as they are named.
    pub(super) fn forget(&mut self, covers: impl Fn(&TreePath) -> bool) {
        let (removed, kept): (Vec<_>, _) =
            std::mem::take(&mut self.first).into_iter().partition(|(path, _)| covers(path));
        self.first = kept;
        for (_, warning) in removed {
            *self.count(warning.kind) -= 1;
        }
    }

    pub(super) fn append(&mut self, mut other: WarningLog) {
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

    /// Returns the counts; their first warnings are left out.
    pub fn counts(&self) -> &Warnings {
        &self.counts
    }

    /// Returns the paths where another look is due, whatever hints say: what the snapshot has not as it was. None: more than are named.
    pub fn to_be_retried(&self) -> Option<Vec<TreePath>> {
        let partial = self.first.iter().filter(|(_, warning)| warning.kind != WarningKind::ChangedSilently);
        let paths: Vec<_> = partial.map(|(path, _)| path.clone()).collect();
        (paths.len() as u64 == self.counts.partial()).then_some(paths)
    }

    /// Returns what a report says.
    pub fn report(self) -> Warnings {
        Warnings { first: self.first.into_iter().map(|(_, warning)| warning).collect(), ..self.counts }
    }
}
