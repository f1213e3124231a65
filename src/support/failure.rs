//! The kinds of failure: what a caller does about an error.
//!
//! Every public error of every layer has a kind. The exit code, the HTTP status, whether and when a run is
//! tried again, and the word that an operator reads are each one `match` on the kind, and on nothing else, so
//! the commands and the daemon never differ.

use serde::{Deserialize, Serialize};
use std::error::Error;

/// The kind of an error, which says what a caller does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// The request, the configuration, a key or a credential cannot work as it is and must be changed. A
    /// retry does not help.
    Usage,
    /// The store, the snapshot or the path does not exist: name another one, or wait until it exists.
    Missing,
    /// A safeguard stopped the operation, and nothing was changed. An operator must look at the reason, and
    /// accept it or not.
    Held,
    /// Another host is the primary: stop writing permanently.
    Fenced,
    /// The repository did not answer: try again later. Its content is unknown.
    Unavailable,
    /// This process was asked to end; the next run continues.
    Stopped,
    /// Stored data is missing or altered: run `verify`, and repair it.
    Damaged,
    /// Any other error, mostly of this machine (a full disk, no memory left): read the message. A later try
    /// may succeed. Unknown kinds, which a daemon of another version may name, are read as this one.
    #[serde(other)]
    Failed,
}

impl FailureKind {
    pub const ALL: [Self; 8] = [
        Self::Usage,
        Self::Missing,
        Self::Held,
        Self::Fenced,
        Self::Unavailable,
        Self::Stopped,
        Self::Damaged,
        Self::Failed,
    ];
}

/// An error that knows its kind.
pub trait Failure: Error {
    fn kind(&self) -> FailureKind;
}
