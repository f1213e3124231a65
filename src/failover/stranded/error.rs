//! The error of what is done about stranded trees.

use crate::model::id::{Sequence, StoreName, WriterId};
use crate::replicate::error::ResyncError;
use crate::repository::error::RepositoryError;
use crate::restore::error::RestoreError;
use crate::source::error::SourceError;
use crate::support::failure::{Failure, FailureKind};
use std::path::PathBuf;
use thiserror::Error;

/// The reason why nothing was committed, shown, taken or settled.
#[derive(Debug, Error)]
pub enum StrandedError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Resync(#[from] ResyncError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "store '{store}': '{host}' is its primary; only a host that was replaced has something to commit with `rejoin`"
    )]
    Primary { store: StoreName, host: WriterId },
    #[error("store '{store}': '{host}' never was its primary, so nothing of it can be stranded")]
    NeverPrimary { store: StoreName, host: WriterId },
    #[error(
        "store '{store}': nothing that is not settled is stranded in record {sequence}; `understudy stranded list {store}` shows what is"
    )]
    NotStranded { store: StoreName, sequence: Sequence },
    #[error(
        "store '{store}': '{host}' is not its primary, so its tree is no tree in use; run this on the primary, or name another directory with --to"
    )]
    NotPrimary { store: StoreName, host: WriterId },
    #[error(
        "{0}: nothing can be taken there; `understudy stranded show` lists what is stranded (caches have to be named themselves)"
    )]
    NothingChosen(String),
    #[error("{}: not a directory that can be opened: {source}", path.display())]
    Destination { path: PathBuf, source: std::io::Error },
}

impl Failure for StrandedError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Resync(error) => error.kind(),
            Self::Restore(error) => error.kind(),
            Self::Source(error) => error.kind(),
            Self::Primary { .. }
            | Self::NeverPrimary { .. }
            | Self::NotPrimary { .. }
            | Self::Destination { .. } => FailureKind::Usage,
            Self::NotStranded { .. } | Self::NothingChosen(_) => FailureKind::Missing,
        }
    }
}
