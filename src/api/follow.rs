//! What a follow reports.

use super::requests::Requests;
use crate::model::id::Sequence;
use crate::model::role::Role;
use serde::{Deserialize, Serialize};

/// One follow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FollowReport {
    pub store: String,
    pub snapshot: Sequence,
    /// The snapshot here before; none for the first.
    pub before: Option<Sequence>,
    /// False when it was published already.
    pub published: bool,
    pub entries: u64,
    pub objects_made: u64,
    pub objects_seeded: u64,
    /// Bytes of objects that were copied from older versions here.
    pub copied_bytes: u64,
    /// Objects that a run of an older version had named, and that the disk did not have.
    pub objects_repaired: u64,
    /// Snapshots that lacked some of those, and that the log no longer has: they are published no more.
    pub snapshots_lost: u64,
    /// Why the repository could not be told what is published here, where it was not.
    pub untold: Option<String>,
    /// The name that this standby had before; nothing is kept for that one any more.
    pub renamed_from: Option<String>,
    pub image_bytes: u64,
    pub attributes_left_out: u64,
    pub whiteouts: u64,
    pub snapshots_dropped: u64,
    pub objects_dropped: u64,
    pub requests: Requests,
    /// What the log says this host is: a standby, or, although it may only follow, the primary.
    #[serde(default)]
    pub role: Role,
    /// From the start of the snapshot's scan until it was published here; none when that start lies in the future.
    pub lag_seconds: Option<f64>,
}

impl FollowReport {
    /// Whether there is something to look at.
    pub fn has_warnings(&self) -> bool {
        self.untold.is_some() || self.snapshots_lost > 0
    }
}
