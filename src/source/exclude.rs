//! What a store leaves out, in the syntax of `.gitignore`.

use super::error::SourceError;
use crate::model::tree_path::TreePath;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Compiled patterns.
pub struct Excludes(Option<Gitignore>);

impl Excludes {
    pub fn parse(patterns: &[String]) -> Result<Self, SourceError> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let wrong =
                |e: ignore::Error| SourceError::Exclude { pattern: pattern.clone(), reason: e.to_string() };
            builder.add_line(None, pattern).map_err(wrong)?;
        }
        let all =
            |e: ignore::Error| SourceError::Exclude { pattern: patterns.join(", "), reason: e.to_string() };
        Ok(Self(Some(builder.build().map_err(all)?)))
    }

    /// Whether the entry itself matches; what lies below an excluded directory is never looked at.
    pub fn exclude(&self, path: &TreePath, is_directory: bool) -> bool {
        self.0.as_ref().is_some_and(|patterns| {
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
    }
}
