//! The upkeep of a store, by whichever host did it.

use crate::model::id::Sequence;
use serde::{Deserialize, Serialize};

/// The last time of each duty. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpkeepStatus {
    pub pruned: Option<f64>,
    pub verified: Option<f64>,
    /// When the verifications by share last completed a reading of every pack.
    pub read_whole: Option<f64>,
    /// Number of broken objects and affected files that the last verification found.
    pub problems: u64,
    /// The snapshot that was last proven restorable by a drill, and when.
    pub proven_snapshot: Option<Sequence>,
    pub proven: Option<f64>,
    /// The error of the last drill; none if it succeeded.
    pub drill_error: Option<String>,
    /// When a drill of a failover last succeeded.
    pub recovery_proven: Option<f64>,
    /// How long it took then, from the decision to a store that serves.
    pub recovery_seconds: Option<f64>,
    /// The error of the last drill of a failover; none if it succeeded.
    pub site_drill_error: Option<String>,
}
