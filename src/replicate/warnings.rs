//! The warnings of a scan: all are counted, the first ones are named, and a warning is withdrawn if a later
//! look at the path succeeds.

use crate::api::resync::{Warning, WarningKind, Warnings};
use crate::model::tree_path::TreePath;

/// Maximum number of warnings that are named one by one; all of them are counted.
pub(crate) const WARNINGS_MAX: usize = 100;

/// The warnings of a running scan.
#[derive(Clone, Debug, Default)]
pub struct WarningLog {
    /// The counts. Their list of first warnings stays empty, since this type keeps those with their unescaped
    /// paths.
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

    /// Withdraws the named warnings about paths that are looked at again.
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
    pub(crate) fn counts(&self) -> &Warnings {
        &self.counts
    }

    /// Returns the paths that the next run must look at, whatever the hints are, since the snapshot does not
    /// have them as they were. `None` if there are more than are named.
    pub fn to_be_retried(&self) -> Option<Vec<TreePath>> {
        let partial = self.first.iter().filter(|(_, warning)| warning.kind != WarningKind::ChangedSilently);
        let paths: Vec<_> = partial.map(|(path, _)| path.clone()).collect();
        (paths.len() as u64 == self.counts.partial()).then_some(paths)
    }

    /// Returns what a report says.
    pub(crate) fn report(self) -> Warnings {
        Warnings { first: self.first.into_iter().map(|(_, warning)| warning).collect(), ..self.counts }
    }
}
