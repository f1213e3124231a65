//! What a drill of a failover found, and the reason why one failed.

use super::sink::Seen;
use crate::database::error::DatabaseError;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Sequence, StoreName};
use crate::mounts::error::StageError;
use crate::repository::error::RepositoryError;
use crate::support::failure::{Failure, FailureKind};
use serde::Serialize;
use std::path::PathBuf;
use thiserror::Error;

/// How a step was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As in a failover, on copies.
    Done,
    /// By what shows, without a change, that it would work.
    Dry,
    /// Not a step of a failover: its time does not count.
    Check,
}

/// A step, and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    pub step: String,
    pub form: Form,
    pub seconds: f64,
}

/// The result of a drill that succeeded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteReport {
    pub store: StoreName,
    /// The snapshot that was mounted; none for a store without files.
    pub snapshot: Option<Sequence>,
    /// What the database's copy had at least; none where understudy does not run the database.
    pub position: Option<GtidPosition>,
    pub steps: Vec<Step>,
    /// Sum of the steps of a failover: from the decision to a store that serves.
    pub recovery_seconds: f64,
    /// How long the database's replica stood still.
    pub still_seconds: Option<f64>,
    #[serde(flatten)]
    pub seen: Seen,
    /// What this drill did not prove, and why.
    pub not_proven: Vec<String>,
    /// The whole drill.
    pub seconds: f64,
}

/// The reason why a failover is not proven.
#[derive(Debug, Error)]
pub enum SiteError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("no drill of a failover: {0}")]
    Impossible(String),
    #[error("no drill of a failover: another one of this store runs on this host ({})", .0.display())]
    Taken(PathBuf),
    #[error("the drill of a failover failed: {step}: {how}")]
    Step { step: String, how: String },
    #[error("no drill of a failover: the database was not copied: {0}")]
    Copy(DatabaseError),
    #[error("no drill of a failover: {0}")]
    Snapshot(Box<StageError>),
    #[error("{}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("the drill of a failover left something behind: {0}")]
    Trace(String),
    #[error("the drill of a failover was stopped before it finished; it says nothing about the store")]
    Stopped,
    #[error("the drill of a failover gave way to a real one; it says nothing about the store")]
    GaveWay,
}

impl SiteError {
    /// Returns whether the store's failover was tried and did not work; else nothing was found out.
    pub(crate) fn is_verdict(&self) -> bool {
        matches!(self, Self::Step { .. } | Self::Trace(_))
    }
}

impl From<StageError> for SiteError {
    fn from(error: StageError) -> Self {
        Self::Snapshot(Box::new(error))
    }
}

impl Failure for SiteError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Impossible(_) => FailureKind::Usage,
            Self::Copy(error) => error.kind(),
            Self::Snapshot(error) => error.kind(),
            Self::Stopped => FailureKind::Stopped,
            Self::Taken(_) | Self::GaveWay => FailureKind::Unavailable,
            Self::Step { .. } | Self::Directory { .. } | Self::Trace(_) => FailureKind::Failed,
        }
    }
}
