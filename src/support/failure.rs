//! The kinds of failure: what a caller does about an error.
//!
//! Every public error of every layer has a kind. The exit code, the HTTP status, whether and when a run is tried again, and the word that
//! an operator reads are each one `match` on the kind, and on nothing else: so the commands and the daemon never differ.

use serde::{Deserialize, Serialize};
use std::error::Error;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// The request, the configuration, a key or a credential cannot work as it is: change it. To try again does not help.
    Usage,
    /// The store, the snapshot or the path does not exist: name another, or wait until it is there.
    Missing,
    /// A safeguard stopped it, and nothing was changed: an operator looks at what it says, and accepts it or not.
    Held,
    /// Another host is the primary: stop writing, for good.
    Fenced,
    /// The repository did not answer: try again later. Nothing is known of what it holds.
    Unavailable,
    /// This process was asked to end: the next run continues.
    Stopped,
    /// What was written is missing or altered: `verify`, and repair it.
    Damaged,
    /// Anything else, mostly of this machine (a full disk, no memory left): read the message. A later try may succeed. A kind that this
    /// version does not know, which a daemon of another one may name, is this one.
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
