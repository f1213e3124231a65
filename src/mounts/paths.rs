//! Paths of mounts: a mount point, or a symlink and the places it leads to.
//!
//! A symlink `live` leads to `.live.understudy/SEQUENCE`, next to it. Only a symlink of that shape is ever
//! replaced or removed, so that foreign symlinks stay.

use crate::standby::error::FollowError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Returns the absolute path of `dir`. Its parent is resolved, its last component is not, since that may be a
/// symlink of this program.
pub(super) fn unresolved(dir: &Path) -> Result<PathBuf, FollowError> {
    let full = std::path::absolute(dir).map_err(FollowError::io(dir, "find it"))?;
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => Ok(absolute(parent)?.join(name)),
        _ => Ok(full),
    }
}

/// Returns the hidden directory that holds the mounts of a symlink.
pub(super) fn holder(link: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(link.file_name().unwrap_or_default());
    name.push(".understudy");
    link.with_file_name(name)
}

/// Returns the target by which a symlink leads to a place: the holder's name and the place's name.
pub(super) fn relative(place: &Path) -> PathBuf {
    place.components().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect()
}

/// Returns the place that a symlink of this program leads to; `None` for any other symlink.
pub(super) fn place_of_link(link: &Path, target: &Path) -> Option<PathBuf> {
    let place = link.parent()?.join(target);
    (place.parent()? == holder(link)).then_some(place)
}

/// Removes an unmounted place, and its holder if it was the last one.
pub(super) fn remove_place(place: &Path) {
    let _ = std::fs::remove_dir(place);
    let _ = place.parent().map(std::fs::remove_dir);
}

/// Returns a path that keeps its meaning: symlinks are resolved as far as the path exists.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, FollowError> {
    if let Ok(path) = std::fs::canonicalize(path) {
        return Ok(path);
    }
    // The path does not exist, or is a mount whose server has ended.
    let full = std::path::absolute(path).map_err(FollowError::io(path, "find it"))?;
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => Ok(absolute(parent)?.join(name)),
        _ => Ok(full),
    }
}

/// Returns whether a path is a place of a symlink.
pub(super) fn is_place(path: &Path) -> bool {
    let holder = path.parent().and_then(Path::file_name);
    holder.is_some_and(|name| name.as_encoded_bytes().ends_with(b".understudy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_is_ours_if_it_leads_to_a_place_of_its_own() {
        let ours = |target: &str| place_of_link(Path::new("/srv/live"), Path::new(target));
        assert_eq!(ours(".live.understudy/42"), Some("/srv/.live.understudy/42".into()));
        assert_eq!(ours("/srv/.live.understudy/42"), Some("/srv/.live.understudy/42".into()));
        assert_eq!((ours("elsewhere/42"), ours(".other.understudy/42")), (None, None));
        assert_eq!(relative(Path::new("/srv/.live.understudy/42")), Path::new(".live.understudy/42"));
    }
}
