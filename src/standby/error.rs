//! What can go wrong on the standby, with the path in it.

use crate::model::id::StoreName;
use crate::mount::error::{ImageError, MountError};
use crate::repository::error::RepositoryError;
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a restore ended. What it wrote so far stays, and the next run goes on from there.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("{}: {action}: {}", path, std::io::Error::from(*errno))]
    Write { path: String, action: &'static str, errno: Errno },
    #[error(
        "{0} is not empty; --overwrite replaces what differs, and --delete also removes what the snapshot does not have"
    )]
    NotEmpty(PathBuf),
    #[error("{0} is a symlink or not a directory; nothing is written through it")]
    NotADirectory(PathBuf),
    #[error("{0}: a directory is where the snapshot has something else; --delete allows its removal")]
    InTheWay(String),
    #[error("{0} is not in this snapshot; `understudy diff` and `snapshots` show what is")]
    NoSuchPath(String),
    #[error("{path}: the restored bytes do not have the file's hash; run `understudy verify --read-data`")]
    Content { path: String },
    #[error("{path}: the manifest has an entry without its directory, or lengths that disagree")]
    Manifest { path: String },
}

impl RestoreError {
    pub fn write(path: impl ToString, action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Write { path: path.to_string(), action, errno }
    }
}

/// Why a standby did not get further. What is published stays, and the next run goes on from there.
#[derive(Debug, Error)]
pub enum FollowError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Content(#[from] RestoreError),
    #[error("{}: {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Image { path: PathBuf, source: ImageError },
    #[error(
        "{}: it says which snapshot a mount needs, and cannot be read: {reason}. It may be that of a writable mount's changes: if no such mount of this store is left on this host, delete it", path.display()
    )]
    Pin { path: PathBuf, reason: String },
    #[error("stopped before the snapshot was published; the next run goes on from there")]
    Stopped,
    #[error("{}: another process is changing it; `follow` runs once for a store on a host", .0.display())]
    Locked(PathBuf),
}

impl FollowError {
    /// What the repository says of it, if it comes from there.
    pub fn of_repository(&self) -> Option<&RepositoryError> {
        match self {
            Self::Repository(error) | Self::Content(RestoreError::Repository(error)) => Some(error),
            _ => None,
        }
    }

    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }

    pub fn path(path: &Path, action: &'static str) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self::Io { path, action, source: errno.into() }
    }
}

/// Why a snapshot is not mounted.
#[derive(Debug, Error)]
pub enum StageError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Depot(#[from] FollowError),
    #[error("{store}{wanted} is not on this standby ({here} in {}); `understudy follow {store}{wanted}` brings it here, and --method fuse reads it from the repository", root.display())]
    NotHere { store: StoreName, wanted: String, here: String, root: PathBuf },
    #[error("{} holds changes to {found}, and means nothing on {wanted}; mount {found}, or give another directory", upper.display())]
    Bound { upper: PathBuf, found: String, wanted: String },
    #[error("{} is in the way: it has to become a symlink that moves on, since a mount cannot be made beneath another here (that takes root and Linux 6.5); name a path that is not there", .0.display())]
    InTheWay(PathBuf),
    #[error("{} holds something else; changes need an empty directory, or one that holds changes to this snapshot", .0.display())]
    Foreign(PathBuf),
}
