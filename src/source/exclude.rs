//! The paths that a store leaves out, as patterns in the syntax of `.gitignore`.

use super::error::SourceError;
use crate::model::tree_path::TreePath;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Compiled patterns.
pub struct Excludes {
    patterns: Option<Gitignore>,
    /// Whether some patterns match only directories.
    tell_kinds: bool,
}

impl Excludes {
    pub fn parse(patterns: &[String]) -> Result<Self, SourceError> {
        if patterns.is_empty() {
            return Ok(Self { patterns: None, tell_kinds: false });
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let wrong =
                |e: ignore::Error| SourceError::Exclude { pattern: pattern.clone(), reason: e.to_string() };
            builder.add_line(None, pattern).map_err(wrong)?;
        }
        let all =
            |e: ignore::Error| SourceError::Exclude { pattern: patterns.join(", "), reason: e.to_string() };
        let tell_kinds = patterns.iter().any(|pattern| pattern.trim_end().ends_with('/'));
        Ok(Self { patterns: Some(builder.build().map_err(all)?), tell_kinds })
    }

    /// Returns whether the entry matches whatever its type is.
    ///
    /// Then it need not be looked at, which may never return below a dead mount.
    pub(crate) fn exclude_unseen(&self, path: &TreePath) -> bool {
        self.exclude(path, true) && (!self.tell_kinds || self.exclude(path, false))
    }

    /// Returns whether the entry or a directory above it matches.
    pub(crate) fn covers(&self, path: &TreePath, is_directory: bool) -> bool {
        if self.patterns.is_none() {
            return false;
        }
        let mut above = TreePath::root();
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            above = above.join(name);
            if self.exclude(&above, names.peek().is_some() || is_directory) {
                return true;
            }
        }
        false
    }

    /// Returns whether the entry itself matches; entries below an excluded directory are never looked at.
    pub(crate) fn exclude(&self, path: &TreePath, is_directory: bool) -> bool {
        self.patterns.as_ref().is_some_and(|patterns| {
            let path = Path::new(OsStr::from_bytes(path.as_bytes()));
            patterns.matched(path, is_directory).is_ignore()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_gitignore() {
        let patterns = ["var/cache/", "*.tmp", "!keep.tmp", "/top"].map(String::from);
        let excludes = Excludes::parse(&patterns).unwrap();
        let excluded = |path: &str, dir| excludes.exclude(&TreePath::parse(path.as_bytes()).unwrap(), dir);
        assert!(excluded("var/cache", true));
        assert!(!excluded("var/cache", false));
        assert!(excluded("a/b.tmp", false));
        assert!(!excluded("a/keep.tmp", false));
        assert!(excluded("top", false));
        assert!(!excluded("a/top", false));
        let covers = |path: &str, dir| excludes.covers(&TreePath::parse(path.as_bytes()).unwrap(), dir);
        assert!(covers("var/cache", true) && covers("var/cache/a/keep.tmp", false) && covers("top/a", false));
        assert!(!covers("var/cache", false) && !covers("var/caches/a", false) && !covers("", true));
    }
}
