//! The error of a restore, or of an entry that was left out of it, with the path.

use crate::content::error::ContentError;
use crate::repository::error::RepositoryError;
use crate::support::failure::{Failure, FailureKind};
use rustix::io::Errno;
use std::path::PathBuf;
use thiserror::Error;

/// An error that ended a restore. The entries written so far stay, and the next run continues from there.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("{}: cannot {action}: {}", path, std::io::Error::from(*errno))]
    Write { path: String, action: &'static str, errno: Errno },
    #[error(
        "{0} is not empty; give --overwrite to replace what differs, and --delete to also remove what the snapshot does not have"
    )]
    NotEmpty(PathBuf),
    #[error(
        "{0} contains an interrupted restore of another snapshot; restore that snapshot again, or give --overwrite"
    )]
    Unfinished(PathBuf),
    #[error("{0} is a symlink or not a directory, and a restore does not write through it: name a directory")]
    NotADirectory(PathBuf),
    #[error("{}: cannot rename the finished tree to it: {}; the tree is complete in {}: move it there", destination.display(), std::io::Error::from(*errno), work.display())]
    Publish { destination: PathBuf, work: PathBuf, errno: Errno },
    #[error("{} is inside {}, a directory of understudy's own; restore elsewhere", path.display(), place.display())]
    Own { path: PathBuf, place: PathBuf },
    #[error(
        "{0} is the directory where this restore builds its tree, but other users have access to it: another user made it, or its mode was changed. Check it, remove it, and restore again"
    )]
    Taken(PathBuf),
    #[error("{0}: a directory is in the place of another kind of entry; give --delete to allow its removal")]
    InTheWay(String),
    #[error("{0}: this filesystem does not distinguish its name from another entry's")]
    SameName(String),
    #[error(
        "{0} is not in this snapshot; use `understudy snapshots` and `understudy diff` to find one that has it"
    )]
    NoSuchPath(String),
    #[error("{path}: the restored bytes do not have the file's hash; run `understudy verify --read-data`")]
    Content { path: String },
}

impl Failure for RestoreError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::NotEmpty(_)
            | Self::Unfinished(_)
            | Self::NotADirectory(_)
            | Self::Own { .. }
            | Self::Taken(_) => FailureKind::Usage,
            Self::NoSuchPath(_) => FailureKind::Missing,
            Self::Content { .. } => FailureKind::Damaged,
            Self::Write { .. } | Self::Publish { .. } | Self::InTheWay(_) | Self::SameName(_) => {
                FailureKind::Failed
            }
        }
    }
}

impl From<ContentError> for RestoreError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Repository(error) => Self::Repository(error),
            ContentError::File { path, action, errno } => Self::Write { path, action, errno },
            ContentError::Mismatch { path } => Self::Content { path },
        }
    }
}

impl RestoreError {
    pub fn write(path: impl ToString, action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Write { path: path.to_string(), action, errno }
    }

    /// Returns whether the error ends the restore, or only leaves out the entry.
    ///
    /// An error ends the restore if the next entry would meet it as well and it is temporary, so that a later
    /// run can continue: the repository is unreachable (not: it answers, and its data is damaged), this
    /// process has too few handles or too little memory, or the disk takes no more content. A full or
    /// read-only filesystem is judged by the caller that knows the directory: see `settle`.
    pub(crate) fn ends(&self, doing: Doing) -> bool {
        match self {
            Self::Repository(error) => error.kind() != FailureKind::Damaged,
            Self::Write { errno, .. } => {
                is_own(*errno)
                    || matches!(*errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS)
                    || (doing == Doing::Filling && *errno == Errno::IO)
            }
            Self::Content { .. } | Self::InTheWay(_) | Self::SameName(_) => false,
            Self::NotEmpty(_)
            | Self::Unfinished(_)
            | Self::NotADirectory(_)
            | Self::NoSuchPath(_)
            | Self::Own { .. }
            | Self::Taken(_)
            | Self::Publish { .. } => true,
        }
    }

    /// Returns the reason, without the path.
    pub fn reason(&self) -> String {
        match self {
            Self::Write { action, errno, .. } => format!("cannot {action}: {}", std::io::Error::from(*errno)),
            Self::Content { .. } => "the restored bytes do not have the file's hash".into(),
            Self::Repository(RepositoryError::Entry { .. }) => "its manifest entry is inconsistent".into(),
            Self::InTheWay(_) => {
                "a directory is in the place of another kind of entry; give --delete to allow its removal"
                    .into()
            }
            Self::SameName(_) => "this filesystem does not distinguish its name from another entry's".into(),
            other => other.to_string(),
        }
    }
}

/// The work that a restore was doing on an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Writing a file's content.
    Filling,
    /// Any other work.
    Making,
}

/// An error, and the work that it interrupted.
#[derive(Debug)]
pub(crate) struct EntryError {
    pub(crate) doing: Doing,
    pub(crate) error: RestoreError,
}

impl EntryError {
    pub(crate) fn filling(error: impl Into<RestoreError>) -> Self {
        Self { doing: Doing::Filling, error: error.into() }
    }
}

impl From<RestoreError> for EntryError {
    fn from(error: RestoreError) -> Self {
        Self { doing: Doing::Making, error }
    }
}

/// Returns whether this process has too many files open or too little memory, which is no fault of an entry.
pub(crate) fn is_own(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}
