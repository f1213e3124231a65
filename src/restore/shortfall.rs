//! Entries that were not restored exactly: counted by kind, with the first ones of each kind named.
//!
//! Kinds are ordered by weight, and the report names the heaviest first, so that a thousand owners which this
//! user may not set do not hide the one missing file. Workers report in any order; the report is sorted.

use crate::model::tree_path::TreePath;
use crate::support::lock::lock;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Maximum number of entries that are named. All are counted.
pub(crate) const NAMED_MAX: usize = 100;

/// The way in which an entry differs from the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortfallKind {
    /// Its content cannot be read from the repository. The path is missing, or as it was before.
    Damaged,
    /// It could not be made. The path is missing, or as it was before.
    Missing,
    /// Other users can read or change more of it than before.
    Wider,
    /// It is not in the snapshot and was to be removed, but it was not.
    Left,
    /// The snapshot lacks its directory, so one was made for it.
    Orphaned,
    /// It has another name.
    Renamed,
    /// It is a separate file instead of another name of one.
    Separate,
    Mode,
    Owner,
    Attribute,
    Time,
}

/// One entry that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shortfall {
    pub kind: ShortfallKind,
    pub path: String,
    pub reason: String,
}

/// All entries that differ. An entry that differs in two ways is counted in both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shortfalls {
    pub damaged: u64,
    /// Includes the entries below a directory that could not be made, of which only the directory is named.
    pub missing: u64,
    pub wider: u64,
    pub left: u64,
    pub orphaned: u64,
    pub renamed: u64,
    pub separate: u64,
    pub modes: u64,
    pub owners: u64,
    pub attributes: u64,
    pub times: u64,
    pub first: Vec<Shortfall>,
}

impl Shortfalls {
    fn count(&mut self, kind: ShortfallKind) -> &mut u64 {
        match kind {
            ShortfallKind::Damaged => &mut self.damaged,
            ShortfallKind::Missing => &mut self.missing,
            ShortfallKind::Wider => &mut self.wider,
            ShortfallKind::Left => &mut self.left,
            ShortfallKind::Orphaned => &mut self.orphaned,
            ShortfallKind::Renamed => &mut self.renamed,
            ShortfallKind::Separate => &mut self.separate,
            ShortfallKind::Mode => &mut self.modes,
            ShortfallKind::Owner => &mut self.owners,
            ShortfallKind::Attribute => &mut self.attributes,
            ShortfallKind::Time => &mut self.times,
        }
    }

    /// Returns the total number.
    pub fn total(&self) -> u64 {
        let lost = self.missing + self.wider + self.left + self.orphaned + self.renamed + self.separate;
        // A forged manifest can claim any number of entries, so this addition saturates.
        self.damaged.saturating_add(lost + self.modes + self.owners + self.attributes + self.times)
    }
}

/// The place where a restore's threads report entries that differ.
#[derive(Debug, Default)]
pub struct Told(Mutex<(Shortfalls, BTreeMap<ShortfallKind, Vec<Shortfall>>)>);

impl Told {
    pub(crate) fn tell(&self, kind: ShortfallKind, path: &TreePath, reason: impl Into<String>) {
        let mut told = lock(&self.0);
        *told.0.count(kind) += 1;
        let named = told.1.entry(kind).or_default();
        if named.len() < NAMED_MAX {
            named.push(Shortfall { kind, path: path.to_string(), reason: reason.into() });
        }
    }

    /// Counts `more` entries without naming them, since the entry above them was named.
    pub(crate) fn count(&self, kind: ShortfallKind, more: u64) {
        let mut told = lock(&self.0);
        let count = told.0.count(kind);
        *count = count.saturating_add(more);
    }

    pub(crate) fn take(&self) -> Shortfalls {
        let (mut all, named) = std::mem::take(&mut *lock(&self.0));
        for mut of_kind in named.into_values() {
            of_kind.sort_by(|a, b| a.path.cmp(&b.path));
            all.first.extend(of_kind);
        }
        all.first.truncate(NAMED_MAX);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: String) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_thousand_owners_do_not_hide_the_one_missing_file() {
        let told = Told::default();
        for number in 0..1000 {
            told.tell(ShortfallKind::Owner, &path(format!("f{number}")), "not permitted");
        }
        told.tell(ShortfallKind::Missing, &path("z".into()), "no such name here");
        told.count(ShortfallKind::Missing, 1);
        let all = told.take();
        assert_eq!((all.owners, all.missing, all.total()), (1000, 2, 1002));
        assert_eq!((all.first.len(), all.first[0].path.as_str()), (NAMED_MAX, "z"));
    }
}
