//! The reason why a standby's operation failed, with the path.

use crate::content::error::ContentError;
use crate::repository::error::RepositoryError;
use crate::support::failure::{Failure, FailureKind};
use crate::vfs::error::ImageError;
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The reason why a standby's operation failed. Published snapshots stay, and the next run continues from
/// there.
#[derive(Debug, Error)]
pub enum FollowError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Image { path: PathBuf, source: ImageError },
    #[error(
        "{}: cannot read this pin, which records the snapshot that a mount needs: {reason}. A writable mount's changes may depend on it: delete it if this host has no such mount of this store any more", path.display()
    )]
    Pin { path: PathBuf, reason: String },
    #[error("stopped before the snapshot was published; the next run continues from there")]
    Stopped,
    #[error("{}: another process is changing it; only one `follow` of a store can run on a host", .0.display())]
    Locked(PathBuf),
}

impl Failure for FollowError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Image { source, .. } => source.kind(),
            Self::Stopped => FailureKind::Stopped,
            Self::Io { .. } | Self::Pin { .. } | Self::Locked(_) => FailureKind::Failed,
        }
    }
}

impl FollowError {
    /// Returns the repository's error, if it is one.
    pub(crate) fn of_repository(&self) -> Option<&RepositoryError> {
        match self {
            Self::Repository(error) | Self::Content(ContentError::Repository(error)) => Some(error),
            _ => None,
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    pub(crate) fn path(path: &Path, action: &'static str) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self::Io { path, action, source: errno.into() }
    }
}
