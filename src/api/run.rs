//! A requested run: the request, and how the run ended. The response is a stream of events: `progress`
//! carries [`ProgressFigures`](super::progress::ProgressFigures); then comes `done` with a [`RunReport`], or
//! `failed` with a [`RunFailure`].

use super::follow::FollowReport;
use super::resync::ResyncReport;
use crate::support::failure::FailureKind;
use serde::{Deserialize, Serialize};

/// Query of a request for a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncQuery {
    /// Whether the run is let through although it would be held.
    #[serde(default)]
    pub accept: bool,
}

/// Query of a request to hold a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldQuery {
    pub reason: Option<String>,
}

/// The report of a run: a resync where this host is the primary, a follow where it is a standby.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunReport {
    Resync(Box<ResyncReport>),
    Follow(Box<FollowReport>),
}

impl RunReport {
    /// Returns whether an operator should look at the report.
    pub(crate) fn has_warnings(&self) -> bool {
        match self {
            Self::Resync(report) => report.has_warnings(),
            Self::Follow(report) => report.has_warnings(),
        }
    }

    pub fn entries(&self) -> u64 {
        match self {
            Self::Resync(report) => report.entries,
            Self::Follow(report) => report.entries,
        }
    }
}

/// The error of a run that committed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailure {
    /// The kind of the failure, which says what to do.
    pub outcome: FailureKind,
    pub error: String,
}
