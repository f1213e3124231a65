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
    #[error("{store}{wanted} is not on this standby ({here} in {}); run `understudy follow {store}{wanted}` to bring it here, or mount with --method fuse to read it from the repository", root.display())]
    NotHere { store: StoreName, wanted: String, here: String, root: PathBuf },
    #[error("{} contains changes to {found}, which do not apply to {wanted}; mount {found}, or give another directory", upper.display())]
    Bound { upper: PathBuf, found: String, wanted: String },
    #[error("{} exists, but it would have to be a symlink that --follow switches, since this host cannot mount beneath another mount (that requires root and Linux 6.5); name a path that does not exist", .0.display())]
    InTheWay(PathBuf),
    #[error("{} has a snapshot mounted already; run `understudy umount` first, or mount elsewhere", .0.display())]
    Shown(PathBuf),
    #[error("{} belongs to user {owner}, who could alter the changes and run set-user-id programs there; give a directory that belongs to this user", path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error("{} contains other files; give an empty directory, or one with changes to this snapshot", .0.display())]
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
