//! The error of writing a file's content, with the file's path.

use crate::repository::error::RepositoryError;
use crate::support::failure::{Failure, FailureKind};
use rustix::io::Errno;
use thiserror::Error;

/// An error of reading or writing a file's content.
#[derive(Debug, Error)]
pub enum ContentError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("{path}: cannot {action}: {}", std::io::Error::from(*errno))]
    File { path: String, action: &'static str, errno: Errno },
    #[error("{path}: the bytes do not have the file's hash; run `understudy verify --read-data`")]
    Mismatch { path: String },
}

impl Failure for ContentError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::File { .. } => FailureKind::Failed,
            Self::Mismatch { .. } => FailureKind::Damaged,
        }
    }
}

impl ContentError {
    /// Adds the path and the attempted action to a system error.
    pub(crate) fn file(path: impl ToString, action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::File { path: path.to_string(), action, errno }
    }
}
