//! The error of a resync that committed nothing.

use crate::model::escape;
use crate::model::hold::Hold;
use crate::model::id::{StoreName, WriterId};
use crate::repository::error::RepositoryError;
use crate::repository::session::SessionError;
use crate::source::error::SourceError;
use thiserror::Error;

/// An error of a resync. It leaves no partial state: the store's head is unchanged.
#[derive(Debug, Error)]
pub enum ResyncError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "store '{store}' is held, nothing was committed: {hold}{} If this is right, run again with --accept", if hold.to_string().ends_with('?') { "" } else { "." }
    )]
    Held { store: StoreName, hold: Hold },
    #[error(
        "store '{store}' was promoted to '{}': this host ('{writer}') is fenced and must not write",
        escape::line(primary)
    )]
    Fenced { store: StoreName, primary: String, writer: WriterId },
    #[error("stopped before the commit; the next run does not ship again what was shipped")]
    Stopped,
    /// Internal to a resync, which then begins again without hints.
    #[error("a file with several names changed; all of its names have to be looked at")]
    Hardlink,
    #[error("compression could not be set up: {0}")]
    Compressor(std::io::Error),
}

impl From<SessionError> for ResyncError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Repository(error) => Self::Repository(error),
            SessionError::Fenced { store, primary, writer } => Self::Fenced { store, primary, writer },
        }
    }
}
