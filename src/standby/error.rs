//! What can go wrong on the standby, with the path in it.

use crate::model::id::StoreName;
use crate::repository::error::{RepositoryError, RepositoryErrorKind};
use crate::vfs::error::{ImageError, MountError};
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
    #[error(
        "{0} holds a restore of another snapshot that was broken off; restore that one again, or --overwrite it"
    )]
    Unfinished(PathBuf),
    #[error("{0} is a symlink or not a directory; nothing is written through it")]
    NotADirectory(PathBuf),
    #[error("{}: the finished tree could not be renamed to it: {}; it is complete in {}", destination.display(), std::io::Error::from(*errno), work.display())]
    Publish { destination: PathBuf, work: PathBuf, errno: Errno },
    #[error("{} is in {}, where understudy keeps something of its own; restore elsewhere", path.display(), place.display())]
    Own { path: PathBuf, place: PathBuf },
    #[error(
        "{0} is where this restore builds its tree, and is not this user's alone: somebody else made it, or changed its mode. Look at it, remove it, and restore again"
    )]
    Taken(PathBuf),
    #[error("{0}: a directory is where the snapshot has something else; --delete allows its removal")]
    InTheWay(String),
    #[error("{0}: this filesystem takes its name for that of another entry")]
    SameName(String),
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

    /// Whether a restore ends by it, or goes on without the entry. Room and read-only filesystems are looked at by whoever
    /// knows the directory: see `settle`.
    ///
    /// What ends it is what the next entry would meet as well, and what passes: then the next run goes on. That is the repository
    /// (unless it answers, and what it has is damaged), this process's own want of handles or memory, and a disk that takes no
    /// more content.
    pub(crate) fn ends(&self, doing: Doing) -> bool {
        match self {
            Self::Repository(error) => error.kind() != RepositoryErrorKind::Damaged,
            Self::Write { errno, .. } => {
                is_own(*errno)
                    || matches!(*errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS)
                    || (doing == Doing::Filling && *errno == Errno::IO)
            }
            Self::Content { .. } | Self::Manifest { .. } | Self::InTheWay(_) | Self::SameName(_) => false,
            Self::NotEmpty(_)
            | Self::Unfinished(_)
            | Self::NotADirectory(_)
            | Self::NoSuchPath(_)
            | Self::Own { .. }
            | Self::Taken(_)
            | Self::Publish { .. } => true,
        }
    }

    /// Why, without the path.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Write { action, errno, .. } => format!("{action}: {}", std::io::Error::from(*errno)),
            Self::Content { .. } => "the restored bytes do not have the file's hash".into(),
            Self::Manifest { .. } => "its entry in the manifest contradicts itself or others".into(),
            Self::InTheWay(_) => {
                "a directory is where the snapshot has something else; --delete allows its removal".into()
            }
            Self::SameName(_) => "this filesystem takes its name for that of another entry".into(),
            other => other.to_string(),
        }
    }
}

/// What a restore was doing with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Writing a file's content.
    Filling,
    /// Anything else.
    Making,
}

/// An error, and what was being done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) doing: Doing,
    pub(crate) error: RestoreError,
}

impl Failure {
    pub(crate) fn filling(error: impl Into<RestoreError>) -> Self {
        Self { doing: Doing::Filling, error: error.into() }
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        Self { doing: Doing::Making, error }
    }
}

/// This process has too many files open, or too little memory: that is never an entry's fault.
pub(crate) fn is_own(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
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
    #[error("{} shows a snapshot already; `understudy umount` it first, or mount elsewhere", .0.display())]
    Shown(PathBuf),
    #[error("{} belongs to user {owner}; changes go to a directory of this user's, who else could change them, and run what is set-user-id there", path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("{} holds something else; changes need an empty directory, or one that holds changes to this snapshot", .0.display())]
    Foreign(PathBuf),
}
