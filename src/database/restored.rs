//! A database that was restored to take the place of a replica's data: its mark, and where it lies.

use super::error::DatabaseError;
use super::note;
use crate::model::gtid::GtidPosition;
use crate::support::durable;
use crate::support::env::Env;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the mark in a restored database's directory.
const MARK: &str = "restored.json";
const MARK_MODE: u32 = 0o600;

/// What a restored database is; the mark in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// A random name of this one restore.
    pub id: String,
    pub position: GtidPosition,
}

/// What is to take the place of a replica's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoBack {
    pub id: String,
    pub position: GtidPosition,
    /// Where it was restored.
    pub restored: PathBuf,
    /// Where the replica's data is kept from then on.
    pub aside: PathBuf,
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> DatabaseError + '_ {
    |source| DatabaseError::File { path: path.to_owned(), source }
}

impl Restored {
    /// Reads the mark of a directory; none where it has none.
    pub fn read(root: &Path) -> Result<Option<Self>, DatabaseError> {
        note::read(root.join(MARK))
    }

    /// Marks a directory.
    pub fn write(&self, root: &Path, env: &Env) -> Result<(), DatabaseError> {
        let path = root.join(MARK);
        let text = serde_json::to_vec(self).unwrap_or_default();
        durable::replace(env, &path, MARK_MODE, &text).map_err(file_error(&path))
    }
}

/// Returns where a database is restored that is to take the place of a replica's data: on the same filesystem.
pub fn restored_dir(root: &Path, snapshot: u64) -> PathBuf {
    beside(root, &format!("at-{snapshot}"))
}

/// Returns where the replica's data is kept that a restored database took the place of.
pub fn aside_dir(root: &Path, id: &str) -> PathBuf {
    beside(root, &format!("stranded-{id}"))
}

fn beside(root: &Path, mark: &str) -> PathBuf {
    let mut name = root.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(mark);
    root.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_restored_and_what_is_kept_lie_beside_the_data() {
        let root = Path::new("/var/lib/understudy/database/acme");
        assert_eq!(restored_dir(root, 42), Path::new("/var/lib/understudy/database/acme.at-42"));
        assert_eq!(aside_dir(root, "a1"), Path::new("/var/lib/understudy/database/acme.stranded-a1"));
    }
}
