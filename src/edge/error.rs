//! Errors of an edge, with the edge's name in front.

use super::mark::{Mark, MarkError};
use crate::model::escape;
use crate::model::id::Epoch;
use crate::support::failure::{Failure, FailureKind};
use crate::support::program::ProgramError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The reason why an edge was not switched, or not shown to be.
#[derive(Debug, Error)]
pub enum EdgeError {
    #[error(
        "{edge}: it sends customers to {there} already, which is not older than epoch {} of {}; nothing was changed. Read `understudy status`: another host was promoted", ours.epoch.0, ours.host
    )]
    Fenced { edge: String, there: Box<Mark>, ours: Box<Mark> },
    #[error("{edge}: it knows an epoch higher than {}; nothing was changed. Read `understudy status`: another host was promoted{said}", ours.0)]
    FencedByCommand { edge: String, ours: Epoch, said: String },
    #[error("{url}: it shows epoch {}, which is higher than {}. Read `understudy status`: another host was promoted", shown.0, ours.0)]
    FencedAtCustomer { url: String, shown: Epoch, ours: Epoch },
    #[error("{edge}: {reason}")]
    Wrong { edge: String, reason: String },
    #[error("{edge}: {source}")]
    Host { edge: String, source: MarkError },
    #[error("{edge}: {reason}; see whether it runs, and switch again")]
    Silent { edge: String, reason: String },
    #[error("{edge}: {reason}")]
    Refused { edge: String, reason: String },
    #[error("{edge}: it reports success but names {shown}, not {wanted}; {advice}")]
    NotTaken { edge: String, shown: String, wanted: Box<Mark>, advice: &'static str },
    #[error(
        "{edge}: it reports success but names {wanted} in some places only; what it runs and its files must agree: see what else changes them, and switch again"
    )]
    TakenInPart { edge: String, wanted: Box<Mark> },
    #[error("{edge}: {source}")]
    Program { edge: String, source: ProgramError },
    #[error("{edge}: {}: {source}", path.display())]
    File { edge: String, path: PathBuf, source: io::Error },
    #[error(
        "{url}: {shown}, not epoch {} after {seconds} s: customers may not reach the new primary. See what answers there (a cache, another edge, the old host), and switch again", wanted.0
    )]
    Stale { url: String, shown: String, wanted: Epoch, seconds: u64 },
    #[error("{url}: {reason}; the customers' address does not answer")]
    NoCustomer { url: String, reason: String },
}

impl EdgeError {
    pub(crate) fn wrong(edge: &str, reason: impl Into<String>) -> Self {
        Self::Wrong { edge: edge.to_owned(), reason: escape::line(&reason.into()).into_owned() }
    }

    pub(crate) fn silent(edge: &str, reason: impl Into<String>) -> Self {
        Self::Silent { edge: edge.to_owned(), reason: escape::line(&reason.into()).into_owned() }
    }

    /// Returns an error with words of the edge's, which are escaped.
    pub(crate) fn refused(edge: &str, reason: impl Into<String>) -> Self {
        Self::Refused { edge: edge.to_owned(), reason: escape::line(&reason.into()).into_owned() }
    }

    /// Returns the error of a program that did not run to its end within what was left of `limit`.
    pub(crate) fn of_program(edge: &str, error: ProgramError, limit: Duration) -> Self {
        match error {
            ProgramError::Late { program, said, .. } => {
                let seconds = limit.as_secs();
                Self::silent(
                    edge,
                    format!("{program} was ended, since it was not done within {seconds} s{said}"),
                )
            }
            source => Self::Program { edge: edge.to_owned(), source },
        }
    }

    pub(crate) fn file(edge: &str, path: &Path, source: io::Error) -> Self {
        Self::File { edge: edge.to_owned(), path: path.to_owned(), source }
    }
}

impl Failure for EdgeError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Fenced { .. } | Self::FencedByCommand { .. } | Self::FencedAtCustomer { .. } => {
                FailureKind::Fenced
            }
            Self::Wrong { .. } => FailureKind::Usage,
            Self::Host { source, .. } => source.kind(),
            Self::Silent { .. } | Self::NoCustomer { .. } => FailureKind::Unavailable,
            Self::Program { source, .. } => source.kind(),
            Self::Refused { .. }
            | Self::NotTaken { .. }
            | Self::TakenInPart { .. }
            | Self::File { .. }
            | Self::Stale { .. } => FailureKind::Failed,
        }
    }
}
