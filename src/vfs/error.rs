//! Errors of images and mounts.

use crate::model::tree_path::TreePath;
use rustix::io::Errno;
use std::path::PathBuf;
use thiserror::Error;

/// Reason why an image cannot be made or read.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error("{0}: the manifest has an entry without its directory, twice, or out of order")]
    Manifest(TreePath),
    #[error("{0}: a name or a target that no filesystem takes")]
    Name(TreePath),
    #[error("an image of more than 128 GiB: too many entries")]
    TooLarge,
    /// `at` is an inode's number, or a byte of the file.
    #[error("the image has {what} that cannot be, at {at}")]
    Broken { what: &'static str, at: u64 },
    #[error(
        "{path}: the image that was made has another {what} than the snapshot; it is not published; this is a bug of understudy's"
    )]
    Differs { path: String, what: &'static str },
    #[error("the image: {0}")]
    Io(#[from] std::io::Error),
}

/// Reason why a mount was not made, moved or removed.
#[derive(Debug, Error)]
pub enum MountError {
    #[error("{}: {action}: {}", path.display(), std::io::Error::from(*errno))]
    Path { path: PathBuf, action: &'static str, errno: Errno },
    #[error("the kernel would not {action}: {}{hint}", std::io::Error::from(*errno))]
    Kernel { action: &'static str, errno: Errno, hint: String },
    #[error("{0}: {1}")]
    Upper(PathBuf, String),
    #[error("{}: {action}: {source}", path.display())]
    Fuse { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error(
        "without root, FUSE mounts are made by fusermount3, which is not here: install the package fuse3, or run as root"
    )]
    Helper,
    #[error("{0} is not a mount of understudy's; `understudy mounts` lists them")]
    NotOurs(PathBuf),
}

impl MountError {
    pub fn path(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |errno| Self::Path { path, action, errno }
    }
}
