//! What can go wrong on the standby, with the path in it.

use crate::repository::error::RepositoryError;
use rustix::io::Errno;
use std::path::PathBuf;
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
