//! Finds the directories of this program in a store's tree.
//!
//! They are left out of the store: otherwise the repository would be shipped into itself.
//!
//! They are compared by inode, so that no symlink or bind mount leads to one.

use crate::source::disk;
use crate::source::error::SourceError;
use crate::source::stat::Identity;
use std::path::{Path, PathBuf};

/// The directories that are left out of a store.
#[derive(Default)]
pub(crate) struct Own {
    pub identities: Vec<Identity>,
    /// Paths of those that lie below the store's root, for the report.
    pub left_out: Vec<String>,
}

/// Finds the directories by inode. A path that does not exist is ignored.
///
/// # Errors
/// The store's root lies in one of `places`.
pub fn find(root: &Path, places: &[PathBuf], mounts: &[PathBuf]) -> Result<Own, SourceError> {
    let mut own = Own::default();
    let real_root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let root_identity = disk::identity(&real_root);
    for (path, is_place) in
        places.iter().map(|path| (path, true)).chain(mounts.iter().map(|path| (path, false)))
    {
        let (Ok(real), Some(identity)) = (std::fs::canonicalize(path), disk::identity(path)) else {
            continue;
        };
        let is_root = root_identity == Some(identity);
        let is_around =
            real_root.starts_with(&real) && root_identity.is_some_and(|root| root.device == identity.device);
        if is_place && (is_root || is_around) {
            return Err(SourceError::Own { path: root.to_owned(), place: path.clone() });
        }
        if own.identities.contains(&identity) {
            continue;
        }
        own.identities.push(identity);
        if real != real_root && real.starts_with(&real_root) {
            own.left_out.push(path.display().to_string());
        }
    }
    Ok(own)
}
