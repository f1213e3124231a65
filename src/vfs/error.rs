//! Errors of images and mounts.

use crate::model::tree_path::TreePath;
use crate::support::failure::{Failure, FailureKind};
use rustix::io::Errno;
use std::path::PathBuf;
use thiserror::Error;

/// Reason why an image cannot be made or read.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error(
        "{0}: the manifest has the entry without its directory, twice, or out of order; run `understudy verify` to see what is affected"
    )]
    Manifest(TreePath),
    #[error("{0}: this name, or the target of this symlink, is invalid on any filesystem")]
    Name(TreePath),
    #[error("the image would have more than 128 GiB: the snapshot has too many entries")]
    TooLarge,
    /// `at` is an inode's number, or a byte of the file.
    #[error("the image is damaged at {at}: invalid {what}")]
    Broken { what: &'static str, at: u64 },
    #[error(
        "{path}: the new image and the snapshot differ in their {what}; it was not published; this is a bug in understudy"
    )]
    Differs { path: String, what: &'static str },
    #[error("the image: {0}")]
    Io(#[from] std::io::Error),
}

impl Failure for ImageError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Manifest(_) | Self::Name(_) | Self::Broken { .. } => FailureKind::Damaged,
            Self::TooLarge | Self::Differs { .. } | Self::Io(_) => FailureKind::Failed,
        }
    }
}

/// The reason why something was not mounted, moved or unmounted.
#[derive(Debug, Error)]
pub enum MountError {
    #[error("{}: cannot {action}: {}", path.display(), std::io::Error::from(*errno))]
    Path { path: PathBuf, action: &'static str, errno: Errno },
    #[error("the kernel could not {action}: {}{hint}", std::io::Error::from(*errno))]
    Kernel { action: &'static str, errno: Errno, hint: String },
    #[error("{0}: {1}")]
    Upper(PathBuf, String),
    #[error("{}: cannot {action}: {source}", path.display())]
    Fuse { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error(
        "fusermount3 not found: FUSE mounts without root need it. Install the package fuse3, or run as root"
    )]
    Helper,
    #[error("{0} is not a mount made by understudy; `understudy mounts` lists the mounts")]
    NotOurs(PathBuf),
}

impl Failure for MountError {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

impl MountError {
    pub(crate) fn path(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |errno| Self::Path { path, action, errno }
    }
}
