//! The closure rule of manifests: the root comes first, paths ascend, and each entry follows its directory.
//!
//! A manifest that keeps this rule can be restored in one pass; an entry that breaks it cannot be restored at
//! all. So the writer of a manifest refuses such an entry, and `verify` looks for one.

use super::tree_path::{TreePath, shared_bytes};
use thiserror::Error;

/// Reason why an entry is refused at its place in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misplaced {
    #[error("the manifest does not begin with its root directory")]
    NoRoot,
    #[error("its path does not sort after the entry before it")]
    Order,
    #[error("its directory is not in the manifest")]
    NoDirectory,
    #[error("the manifest's counts do not add up")]
    Count,
}

/// The part of a manifest seen so far that decides whether the next entry is allowed.
///
/// Each directory that may still get entries is the last path or one of its ancestors, so only these are
/// kept.
#[derive(Clone, Debug, Default)]
pub struct Closure {
    last: Vec<u8>,
    /// Lengths of the paths of these directories; each path is a prefix of `last`.
    directories: Vec<usize>,
    /// Directory whose contents were taken over without a look at each entry; they are known to be closed.
    unseen_below: Option<TreePath>,
}

impl Closure {
    /// Returns the state after entry `last` of a manifest that is closed up to there.
    pub(crate) fn behind(last: &TreePath, is_directory: bool) -> Self {
        let mut closure = Self::default();
        closure.take(last, is_directory);
        closure
    }

    /// Returns the state before entry `first` of a manifest that is closed up to there.
    pub(crate) fn in_front_of(first: &TreePath) -> Self {
        match first.split() {
            None => Self::default(),
            Some((above, _)) => {
                let mut closure = Self::default();
                closure.take_bytes(above, true);
                closure
            }
        }
    }

    /// Appends the next entry.
    pub fn push(&mut self, path: &TreePath, is_directory: bool) -> Result<(), Misplaced> {
        if self.unseen_below.is_none()
            && let Some((above, name)) = path.split()
        {
            // The most frequent case: an entry of the innermost directory, or of one of its ancestors.
            let start = if above.is_empty() { 0 } else { above.len() + 1 };
            while self.directories.last().is_some_and(|length| *length > above.len()) {
                self.directories.pop();
            }
            let is_known = self.directories.last() == Some(&above.len()) && self.last.starts_with(above);
            if is_known && follows(name, self.last.get(start..).unwrap_or_default()) {
                self.last.truncate(above.len());
                if start > 0 {
                    self.last.push(b'/');
                }
                self.last.extend_from_slice(name);
                if is_directory {
                    self.directories.push(self.last.len());
                }
                return Ok(());
            }
        }
        self.check(path)?;
        if self.directories.is_empty() && !is_directory {
            return Err(Misplaced::NoRoot);
        }
        if self.unseen_below.as_ref().is_some_and(|top| !path.is_within(top)) {
            self.unseen_below = None;
        }
        self.take(path, is_directory);
        Ok(())
    }

    /// Checks whether an entry may come next.
    pub fn check(&self, path: &TreePath) -> Result<(), Misplaced> {
        let Some((above, _)) = path.split() else {
            return if self.directories.is_empty() { Ok(()) } else { Err(Misplaced::Order) };
        };
        if self.directories.is_empty() {
            return Err(Misplaced::NoRoot);
        }
        self.check_order(path)?;
        if self.unseen_below.as_ref().is_some_and(|top| path.is_within(top)) {
            return Ok(());
        }
        let is_known = self.directories.iter().rev().any(|length| *length == above.len())
            && self.last.starts_with(above);
        if is_known { Ok(()) } else { Err(Misplaced::NoDirectory) }
    }

    /// Passes over entries without a look at each; `first` is the first of them.
    ///
    /// They are a part of what is below `top`, and were taken over from another manifest, which is closed.
    pub(crate) fn pass(&mut self, first: &TreePath, top: &TreePath) -> Result<(), Misplaced> {
        if self.unseen_below.as_ref() != Some(top) {
            let length = top.as_bytes().len();
            let is_known = self.last.starts_with(top.as_bytes()) && self.directories.contains(&length);
            if !is_known || !first.is_within(top) {
                return Err(Misplaced::NoDirectory);
            }
        }
        self.check_order(first)?;
        self.take(first, false);
        self.unseen_below = Some(top.clone());
        Ok(())
    }

    fn check_order(&self, path: &TreePath) -> Result<(), Misplaced> {
        if follows(path.as_bytes(), &self.last) { Ok(()) } else { Err(Misplaced::Order) }
    }

    fn take(&mut self, path: &TreePath, is_directory: bool) {
        self.take_bytes(path.as_bytes(), is_directory);
    }

    /// Makes `path` the last path, and assumes that all its ancestors were seen.
    fn take_bytes(&mut self, path: &[u8], is_directory: bool) {
        self.directories.clear();
        self.last.clear();
        self.last.extend_from_slice(path);
        if !path.is_empty() {
            self.directories.push(0);
        }
        self.directories.extend(path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at));
        if is_directory {
            self.directories.push(path.len());
        }
    }
}

/// Returns whether `path` comes after `last` in the order of components: a component is less than any longer
/// one that it begins.
fn follows(path: &[u8], last: &[u8]) -> bool {
    let shared = shared_bytes(path, last);
    match (path.get(shared), last.get(shared)) {
        (None, _) | (Some(b'/'), Some(_)) => false,
        (Some(_), None | Some(b'/')) => true,
        (Some(a), Some(b)) => a > b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    /// Returns whether the entries are closed, by the slow way: each parent is looked up in a map.
    fn is_closed(entries: &[(TreePath, bool)]) -> bool {
        let directories: BTreeMap<_, _> = entries.iter().cloned().collect();
        entries.first().is_some_and(|(first, is_directory)| first.is_root() && *is_directory)
            && entries.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && entries.iter().all(|(path, _)| {
                path.split().is_none_or(|(above, _)| {
                    directories.get(&TreePath::parse(above).unwrap()).copied().unwrap_or(false)
                })
            })
    }

    fn entries() -> impl Strategy<Value = Vec<(TreePath, bool)>> {
        let names = prop::collection::vec(prop::sample::select(vec!["a", "b", "a-", "c"]), 1..5);
        let entry =
            (names, any::<bool>()).prop_map(|(names, is_directory)| (path(&names.join("/")), is_directory));
        prop::collection::vec(entry, 0..30).prop_map(|entries| {
            let all: BTreeMap<TreePath, bool> = entries.into_iter().collect();
            let mut all: Vec<_> = all.into_iter().collect();
            all.insert(0, (TreePath::root(), true));
            all
        })
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_closed_and_what_is_closed_is_accepted(entries in entries(), drop in 0usize..40) {
            let mut entries = entries;
            if drop < entries.len() { entries.remove(drop); }
            let mut closure = Closure::default();
            let accepted = !entries.is_empty() && entries.iter().all(|(path, is_directory)| closure.push(path, *is_directory).is_ok());
            prop_assert_eq!(accepted, is_closed(&entries));
        }

        #[test]
        fn parts_that_are_closed_and_follow_each_other_are_closed(entries in entries(), cuts in prop::collection::vec(1usize..30, 0..4), drop in 0usize..40) {
            let mut entries = entries;
            if drop > 0 && drop < entries.len() { entries.remove(drop); }
            let mut parts: Vec<&[(TreePath, bool)]> = vec![&entries];
            for cut in cuts {
                if let Some(part) = parts.pop() {
                    if cut < part.len() { let (a, b) = part.split_at(cut); parts.extend([a, b]); } else { parts.push(part); }
                }
            }
            let each = parts.iter().all(|part| {
                let mut closure = Closure::in_front_of(&part[0].0);
                part.iter().all(|(path, is_directory)| closure.push(path, *is_directory).is_ok())
            });
            let joints = parts.windows(2).all(|pair| {
                let (last, is_directory) = pair[0].last().unwrap();
                Closure::behind(last, *is_directory).check(&pair[1][0].0).is_ok()
            });
            prop_assert_eq!(each && joints, is_closed(&entries));
        }
    }

    #[test]
    fn what_was_passed_over_may_hold_directories_that_were_not_seen() {
        let mut closure = Closure::default();
        for at in ["", "a", "b"] {
            closure.push(&path(at), true).unwrap();
        }
        // `c` was not seen, so nothing below it can be passed over.
        assert_eq!(closure.clone().pass(&path("c/d"), &path("c")), Err(Misplaced::NoDirectory));
        closure.pass(&path("b/c"), &path("b")).unwrap();
        closure.push(&path("b/x/y"), false).unwrap();
        assert_eq!(closure.clone().push(&path("b/x/y"), false), Err(Misplaced::Order));
        assert_eq!(closure.clone().push(&path("c/d"), false), Err(Misplaced::NoDirectory));
        closure.push(&path("c"), false).unwrap();
        // Entries after it are checked again.
        assert_eq!(closure.push(&path("c/d"), false), Err(Misplaced::NoDirectory));
    }
}
