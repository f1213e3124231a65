//! Errors of the live tree, with the path in them.

use std::path::PathBuf;
use thiserror::Error;

/// An error that ends a scan. A problem of one entry only is an outcome, not an error.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("store root {path}: {source}; is the volume mounted?")]
    Root { path: PathBuf, source: std::io::Error },
    #[error("store root {0} is not a directory")]
    NotADirectory(PathBuf),
    /// This process lacks a resource; the error says nothing of the tree.
    #[error(
        "{path}: {source}; this process has no more of it to give (see `ulimit -n`, or the memory it may use), nothing was committed"
    )]
    Exhausted { path: String, source: std::io::Error },
    #[error(
        "store root {path} lies in {place}, which is understudy's own: it would be replicated into itself"
    )]
    Own { path: PathBuf, place: PathBuf },
    #[error("exclude '{pattern}': {reason}; excludes use the syntax of .gitignore")]
    Exclude { pattern: String, reason: String },
}
