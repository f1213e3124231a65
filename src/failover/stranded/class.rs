//! What happened to a path on a former primary, and on the one that replaced it. Pure.

use crate::api::stranded::StrandedCounts;
use crate::model::entry::{Entry, Kind};
use crate::source::exclude::Excludes;
use serde::Serialize;

/// The class of a path that changed on the former primary after the snapshot that its successor began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Only the former primary has it, or has changed it.
    Only,
    /// Both sides have changed it, in different ways.
    Both,
    /// Only the former primary has removed it.
    Deleted,
    /// A cache, a session, or something else that is made again.
    Transient,
    /// Both sides have it alike.
    Same,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Both => "both",
            Self::Deleted => "deleted",
            Self::Transient => "transient",
            Self::Same => "same",
        }
    }
}

/// One path in three trees: that of the snapshot which the new primary began with, the former primary's, and
/// the new primary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Three {
    pub base: Option<Entry>,
    pub here: Option<Entry>,
    pub theirs: Option<Entry>,
}

impl Three {
    /// Returns the path's entry: the former primary's, or the one that it removed.
    pub fn entry(&self) -> Option<&Entry> {
        self.here.as_ref().or(self.base.as_ref())
    }

    /// Returns whether the former primary did not change the path.
    pub fn is_unchanged(&self) -> bool {
        is_same(self.base.as_ref(), self.here.as_ref())
    }

    /// Returns the class; `None` for a path that the former primary did not change.
    pub fn class(&self, transient: &Excludes) -> Option<Class> {
        let Self { base, here, theirs } = self;
        let [base, here, theirs] = [base, here, theirs].map(Option::as_ref);
        if self.is_unchanged() {
            return None;
        }
        if is_same(here, theirs) {
            return Some(Class::Same);
        }
        if self.entry().is_some_and(|entry| transient.covers(&entry.path, entry.kind == Kind::Directory)) {
            return Some(Class::Transient);
        }
        Some(match here {
            None => Class::Deleted,
            Some(_) if is_same(base, theirs) => Class::Only,
            Some(_) => Class::Both,
        })
    }
}

/// Returns whether a user sees no difference. A directory's mtime says only that an entry of it changed.
fn is_same(a: Option<&Entry>, b: Option<&Entry>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) if a.kind == Kind::Directory && b.kind == Kind::Directory => {
            a.same_to_a_user(&Entry { mtime: a.mtime, ..b.clone() })
        }
        (Some(a), Some(b)) => a.same_to_a_user(b),
        _ => false,
    }
}

impl StrandedCounts {
    pub(crate) fn count(&mut self, class: Class, three: &Three) {
        let count = match class {
            Class::Only => &mut self.only,
            Class::Both => &mut self.both,
            Class::Deleted => &mut self.deleted,
            Class::Transient => &mut self.transient,
            Class::Same => &mut self.same,
        };
        *count += 1;
        self.added += u64::from(class == Class::Only && three.theirs.is_none());
        if matches!(class, Class::Only | Class::Both) {
            let size_bytes = three.here.as_ref().map_or(0, Entry::size_bytes);
            self.size_bytes = self.size_bytes.saturating_add(size_bytes);
        }
    }

    /// Returns the number of paths that a person can take over.
    pub fn to_take(&self) -> u64 {
        self.only + self.both
    }

    /// Returns whether there is anything that a person has to hear of.
    pub fn is_stranded(&self) -> bool {
        self.to_take() + self.deleted > 0
    }
}
