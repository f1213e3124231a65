//! A note in JSON beside a server's data.

use super::error::DatabaseError;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Reads a note; none where there is none.
///
/// # Errors
/// It cannot be read, or is not understood.
pub(crate) fn read<T: DeserializeOwned>(path: PathBuf) -> Result<Option<T>, DatabaseError> {
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| DatabaseError::Content { path, text: error.to_string() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DatabaseError::File { path, source }),
    }
}
