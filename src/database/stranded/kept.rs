//! A directory with stranded transactions that were kept, and its note.

use super::find::{Found, find_kept};
use super::summary::Touched;
use crate::database::error::DatabaseError;
use crate::model::gtid::GtidPosition;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The note, which is written last.
pub const NOTE: &str = "kept.json";
/// The rows, a line each.
pub const ROWS: &str = "rows.jsonl";

/// What a directory of kept transactions says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptNote {
    pub store: String,
    /// What all of them lie behind; none where it was not found in the binary logs, which are all kept then.
    pub branch: Option<GtidPosition>,
    /// Binary logs that `mariadb-binlog` reads, in order.
    pub files: Vec<String>,
    pub transactions: u64,
    pub bytes: u64,
    #[serde(default)]
    pub tables: Vec<String>,
    /// Whether the names of all columns are in the rows.
    pub names_columns: bool,
}

impl KeptNote {
    /// Reads the note of a directory.
    ///
    /// # Errors
    /// There is none, or it is not understood.
    pub fn read(dir: &Path) -> Result<Self, DatabaseError> {
        let path = dir.join(NOTE);
        let bytes =
            std::fs::read(&path).map_err(|source| DatabaseError::File { path: path.clone(), source })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| DatabaseError::Content { path, text: error.to_string() })
    }

    /// Finds its transactions.
    ///
    /// # Errors
    /// A file is missing or damaged, or holds others.
    pub fn found(&self, dir: &Path) -> Result<Found, DatabaseError> {
        let branch = self.branch.clone().unwrap_or_default();
        let files: Vec<PathBuf> = self.files.iter().map(|name| dir.join(name)).collect();
        let found = find_kept(&files, &branch)?;
        match found.transactions.len() as u64 == self.transactions {
            true => Ok(found),
            false => Err(DatabaseError::Content {
                path: dir.to_owned(),
                text: format!(
                    "{} transactions are in it, and {} were kept",
                    found.transactions.len(),
                    self.transactions
                ),
            }),
        }
    }
}

/// Says of each table what was touched.
pub(super) fn said(tables: &[Touched]) -> Vec<String> {
    tables.iter().map(Touched::said).collect()
}
