//! What can go wrong with the live tree, with the path in it.

use std::path::PathBuf;
use thiserror::Error;

/// An error that ends a scan. What concerns one entry only is an outcome, not an error.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("store root {path}: {source}; is the volume mounted?")]
    Root { path: PathBuf, source: std::io::Error },
    #[error("store root {0} is not a directory")]
    NotADirectory(PathBuf),
    #[error("exclude '{pattern}': {reason}; excludes use the syntax of .gitignore")]
    Exclude { pattern: String, reason: String },
}
