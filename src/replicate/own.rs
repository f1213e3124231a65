//! What this program keeps itself: no part of a store that contains it, or the repository would be shipped into itself.
//!
//! Told by inode, so that neither a symlink nor a bind mount leads to it.

use crate::source::disk;
use crate::source::error::SourceError;
use crate::source::stat::Identity;
use std::path::{Path, PathBuf};

/// What is left out of a store.
#[derive(Default)]
pub struct Own {
    pub identities: Vec<Identity>,
    /// Those of them that lie below the store's root, as they are reported.
    pub left_out: Vec<String>,
}

/// Looks for them. What is not there is not in the way.
///
/// # Errors
/// The store's root lies in one of `places`.
pub fn find(root: &Path, places: &[PathBuf], mounts: &[PathBuf]) -> Result<Own, SourceError> {
    let mut own = Own::default();
    let real_root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let root_device = disk::identity(&real_root).map(|identity| identity.device);
    for (path, is_place) in
        places.iter().map(|path| (path, true)).chain(mounts.iter().map(|path| (path, false)))
    {
        let (Ok(real), Some(identity)) = (std::fs::canonicalize(path), disk::identity(path)) else {
            continue;
        };
        if is_place && real_root.starts_with(&real) && root_device == Some(identity.device) {
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
