//! Errors of the live tree, with the path in them.

use crate::support::failure::{Failure, FailureKind};
use std::path::PathBuf;
use thiserror::Error;

/// An error that ends a scan. A problem of one entry only is an outcome, not an error.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("store root {path}: {source}; is the volume mounted?")]
    Root { path: PathBuf, source: std::io::Error },
    #[error("store root {0} is not a directory; name the directory that holds the store")]
    NotADirectory(PathBuf),
    /// This process lacks a resource; the error says nothing of the tree.
    #[error(
        "{path}: {source}; nothing was committed. Raise the limits of this process: open files (`ulimit -n`) or memory"
    )]
    Exhausted { path: String, source: std::io::Error },
    #[error(
        "store root {path} is inside {place}, a directory of understudy's own: it would be replicated into itself. Move one of them"
    )]
    Own { path: PathBuf, place: PathBuf },
    #[error("exclude pattern '{pattern}': {reason}; patterns use the syntax of .gitignore")]
    Exclude { pattern: String, reason: String },
}

impl Failure for SourceError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::NotADirectory(_) | Self::Own { .. } | Self::Exclude { .. } => FailureKind::Usage,
            Self::Root { .. } | Self::Exhausted { .. } => FailureKind::Failed,
        }
    }
}
