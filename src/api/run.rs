//! A run that is asked for: what is asked, and how it ends. The answer is a stream of events: `progress` carries
//! [`ProgressFigures`](super::progress::ProgressFigures), then comes `done` with a [`RunReport`], or `failed` with a [`RunFailure`].

use super::follow::FollowReport;
use super::resync::ResyncReport;
use crate::support::failure::FailureKind;
use serde::{Deserialize, Serialize};

/// Query of a request for a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncQuery {
    /// Lets the run through although it would be held.
    #[serde(default)]
    pub accept: bool,
}

/// Query of a request to hold a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldQuery {
    pub reason: Option<String>,
}

/// What a run did: a resync where the store is the primary's, a follow where it is a standby's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunReport {
    Resync(Box<ResyncReport>),
    Follow(Box<FollowReport>),
}

impl RunReport {
    /// Whether there is something to look at.
    pub fn has_warnings(&self) -> bool {
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

/// How a run ended that committed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailure {
    /// What is to be done about it.
    pub outcome: FailureKind,
    pub error: String,
}
