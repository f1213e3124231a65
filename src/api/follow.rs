//! The report of a follow.

use super::requests::Requests;
use crate::model::id::Sequence;
use crate::model::role::Role;
use serde::{Deserialize, Serialize};

/// The report of one follow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FollowReport {
    pub store: String,
    pub snapshot: Sequence,
    /// The snapshot that was published here before; none for the first one.
    pub before: Option<Sequence>,
    /// Whether this follow published the snapshot; false if it was published already.
    pub published: bool,
    pub entries: u64,
    pub objects_made: u64,
    pub objects_seeded: u64,
    /// Bytes of objects that were copied from older versions here.
    pub copied_bytes: u64,
    /// Number of objects that an older version's run had named although the disk did not have them.
    pub objects_repaired: u64,
    /// Number of snapshots that lacked such objects, and that the log no longer has; they are no longer
    /// published.
    pub snapshots_lost: u64,
    /// The error that kept the repository from taking a note of what is published here.
    pub untold: Option<String>,
    /// The name that this standby had before; nothing is kept for that name any more.
    pub renamed_from: Option<String>,
    pub image_bytes: u64,
    pub attributes_left_out: u64,
    pub whiteouts: u64,
    pub snapshots_dropped: u64,
    pub objects_dropped: u64,
    pub requests: Requests,
    /// The role of this host by the log: standby, or primary although it may only follow.
    #[serde(default)]
    pub role: Role,
    /// Time from the start of the snapshot's scan to its publication here; none when that start lies in the
    /// future.
    pub lag_seconds: Option<f64>,
}

impl FollowReport {
    /// Returns whether an operator should look at the report.
    pub(crate) fn has_warnings(&self) -> bool {
        self.untold.is_some() || self.snapshots_lost > 0
    }
}
