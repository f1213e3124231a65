//! The error of a resync that committed nothing.

use crate::model::escape;
use crate::model::hold::Hold;
use crate::model::id::{StoreName, WriterId};
use crate::repository::error::RepositoryError;
use crate::repository::session::SessionError;
use crate::source::error::SourceError;
use crate::support::failure::{Failure, FailureKind};
use thiserror::Error;

/// An error of a resync. It leaves no partial state: the store's head is unchanged.
#[derive(Debug, Error)]
pub enum ResyncError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "store '{store}' is held and nothing was committed: {hold}{} If this is right, run again with --accept", if hold.to_string().ends_with('?') { "" } else { "." }
    )]
    Held { store: StoreName, hold: Hold },
    #[error(
        "store '{store}' was promoted to '{}': this host ('{writer}') is fenced and must not write",
        escape::line(primary)
    )]
    Fenced { store: StoreName, primary: String, writer: WriterId },
    #[error("store '{store}' is being handed over to '{to}': no snapshot is committed until that has ended")]
    HandingOver { store: StoreName, to: WriterId },
    #[error("stopped before the commit; the next run does not ship the same content again")]
    Stopped,
    #[error("cannot set up compression: {0}")]
    Compressor(std::io::Error),
}

impl From<SessionError> for ResyncError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Repository(error) => Self::Repository(error),
            SessionError::Fenced { store, primary, writer } => Self::Fenced { store, primary, writer },
            SessionError::HandingOver { store, to } => Self::HandingOver { store, to },
        }
    }
}

impl Failure for ResyncError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Source(error) => error.kind(),
            Self::Held { .. } | Self::HandingOver { .. } => FailureKind::Held,
            Self::Fenced { .. } => FailureKind::Fenced,
            Self::Stopped => FailureKind::Stopped,
            Self::Compressor(_) => FailureKind::Failed,
        }
    }
}

/// The reason why a scan ended early.
#[derive(Debug)]
pub(super) enum ScanEnd {
    /// A file with several names changed, and this scan, which is led by hints, does not look at all of them.
    /// The resync scans again, and looks at everything.
    LinksUnseen,
    Failed(ResyncError),
}

impl<E: Into<ResyncError>> From<E> for ScanEnd {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
