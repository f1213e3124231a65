//! The error that ends a command: of any layer, with its kind.

use crate::support::failure::{Failure, FailureKind};
use hyper::StatusCode;
use std::error::Error as StdError;
use std::fmt;

/// An error that ends a command.
#[derive(Debug)]
pub(crate) struct Error(Box<dyn Failure + Send + Sync>);

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn kind(&self) -> FailureKind {
        self.0.kind()
    }
}

impl AsRef<dyn StdError> for Error {
    fn as_ref(&self) -> &(dyn StdError + 'static) {
        &*self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: Failure + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// A mistake in how a command was called.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub String);

impl Failure for UsageError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// The error of a command that was asked to end and stopped before it was done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StoppedError(pub String);

impl Failure for StoppedError {
    fn kind(&self) -> FailureKind {
        FailureKind::Stopped
    }
}

/// A refusal by the daemon, or by what it knows.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct RefusedError {
    text: String,
    kind: FailureKind,
}

impl RefusedError {
    /// Returns a refusal that stays until a person decides otherwise.
    pub fn held(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: FailureKind::Held }
    }

    /// Returns the refusal that an answer of the daemon with this status is.
    pub fn of_status(status: StatusCode, text: String) -> Self {
        let kind = match status {
            StatusCode::CONFLICT => FailureKind::Held,
            StatusCode::NOT_FOUND => FailureKind::Missing,
            StatusCode::BAD_REQUEST => FailureKind::Usage,
            StatusCode::SERVICE_UNAVAILABLE => FailureKind::Unavailable,
            _ => FailureKind::Failed,
        };
        Self { text, kind }
    }
}

impl Failure for RefusedError {
    fn kind(&self) -> FailureKind {
        self.kind
    }
}

/// An error of this machine or of another program.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct LocalError {
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl LocalError {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

impl Failure for LocalError {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        LocalError::new(error.to_string()).into()
    }
}

/// Adds what was being done to an error that does not say it itself.
pub(crate) trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
    fn with_context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.with_context(|| what)
    }

    fn with_context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|source| LocalError { what: what().into(), source: Some(source.into()) }.into())
    }
}
