//! What only a former primary has.

use crate::model::id::{Sequence, WriterId};
use serde::{Deserialize, Serialize};

/// A tree of a former primary that no person has settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub loss: LossCheck,
}

/// What a promotion stated that it loses, beside what its former primary turned out to have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossCheck {
    /// Whatever changed in so many seconds before the promotion was stated as lost; none if no time was stated.
    pub stated_seconds: Option<u64>,
    /// Number of paths that were stated as lost; none if no number was stated.
    pub stated_paths: Option<u64>,
    /// Time of the promotion in seconds since 1970; none if the log does not tell.
    pub promoted_at: Option<f64>,
    /// Number of paths that only the former primary has, has changed, or has deleted; without what is transient.
    pub found_paths: u64,
    /// Time of the last change of such a path by the former primary's clock, in seconds since 1970.
    pub last_change: Option<f64>,
    /// Number of such paths that changed after the promotion.
    pub changed_after: u64,
    pub verdict: LossVerdict,
}

/// How what was found agrees with what was stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossVerdict {
    /// It is within it.
    AsStated,
    /// It is more paths.
    More,
    /// Paths changed after the promotion.
    After,
    /// The log does not say when the promotion was.
    Unknown,
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

/// A path that a former primary changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedPath {
    /// `only`, `both`, `deleted`, `transient` or `same`; see [`StrandedCounts`].
    pub class: String,
    pub path: String,
    /// What it is, such as `file` or `directory`.
    pub kind: String,
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// The path's size on the new primary, if it is there.
    pub size_bytes_there: Option<u64>,
    pub mtime_there: Option<i64>,
}

/// Some of the paths of a stranded tree, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedPaths {
    pub paths: Vec<StrandedPath>,
    /// The number to ask for the rest with; none after the last path.
    pub next: Option<u64>,
}

/// Asks for some of the paths of a stranded tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedPathsQuery {
    /// Number of paths to leave out.
    #[serde(default)]
    pub from: u64,
    /// Maximum number of paths in the answer.
    pub limit: Option<usize>,
}

/// Asks for files of a stranded tree to be added to the tree in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedTake {
    /// All that only the former primary has.
    #[serde(default)]
    pub new: bool,
    /// Paths below the store's root, each with all that is stranded below it; `.` is everything but what is
    /// transient.
    #[serde(default)]
    pub paths: Vec<String>,
    /// The person who decides.
    pub person: Option<String>,
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedTaken {
    /// Number of paths that were chosen.
    pub chosen: u64,
    /// Number of paths that could have been taken and were not chosen.
    pub remaining: u64,
    pub files_written: u64,
    /// Number of files that were there already.
    pub files_kept: u64,
    /// Number of entries beside which something else has their name: they are `NAME.stranded-N`.
    pub renamed: u64,
    /// Number of entries that could not be taken.
    pub missing: u64,
    /// The record that settles the tree, if all that could be taken is there.
    pub settled: Option<Sequence>,
}

/// Asks for a stranded tree to be given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedDropQuery {
    /// The number of paths that could be taken, as the person was shown it: another number is refused.
    pub paths: u64,
    /// The person who decides.
    pub person: Option<String>,
}

/// What was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedDropped {
    pub dropped: u64,
    /// The record that settles the tree.
    pub settled: Option<Sequence>,
}
