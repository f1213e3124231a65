//! The reason why a snapshot is not mounted, with the path.

use crate::model::id::StoreName;
use crate::repository::error::RepositoryError;
use crate::standby::error::FollowError;
use crate::support::failure::{Failure, FailureKind};
use crate::vfs::error::MountError;
use std::path::PathBuf;
use thiserror::Error;

/// The reason why a snapshot is not mounted.
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

impl Failure for StageError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Mount(error) => error.kind(),
            Self::Depot(error) => error.kind(),
            Self::NotHere { .. } => FailureKind::Missing,
            Self::Bound { .. }
            | Self::InTheWay(_)
            | Self::Shown(_)
            | Self::NotOurs { .. }
            | Self::Foreign(_) => FailureKind::Usage,
        }
    }
}

/// A mount that is served from the repository fails with the same errors as a followed snapshot.
impl From<RepositoryError> for StageError {
    fn from(error: RepositoryError) -> Self {
        Self::Depot(FollowError::Repository(error))
    }
}
