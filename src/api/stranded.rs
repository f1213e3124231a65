//! What only a former primary has.

use crate::model::id::{Sequence, WriterId};
use serde::{Deserialize, Serialize};

/// A tree of a former primary that no person has settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedTree {
    pub record: Sequence,
    pub of_epoch: u64,
    /// The former primary, if the log tells.
    pub host: Option<WriterId>,
    /// The snapshot with which the primary of the next epoch began.
    pub base: Option<Sequence>,
    /// The snapshot with which it is compared.
    pub compared: Option<Sequence>,
    pub counts: StrandedCounts,
}

/// Numbers of paths by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedCounts {
    /// Only the former primary has it, or has changed it.
    pub only: u64,
    /// Both sides have changed it, in different ways.
    pub both: u64,
    /// Only the former primary has removed it.
    pub deleted: u64,
    /// A cache, a session, or something else that is made again.
    pub transient: u64,
    /// Both sides have it alike.
    pub same: u64,
    /// Number of those of `only` that the new primary does not have at all.
    pub added: u64,
    /// Number of bytes of the files of `only` and `both`.
    pub size_bytes: u64,
}
