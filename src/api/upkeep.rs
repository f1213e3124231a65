//! What was done to keep a store sound, by whichever host did it.

use crate::model::id::Sequence;
use serde::{Deserialize, Serialize};

/// The last of each duty. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpkeepStatus {
    pub pruned: Option<f64>,
    pub verified: Option<f64>,
    /// When the verifications by share had last read every pack.
    pub read_whole: Option<f64>,
    /// Broken objects and touched files that the last verification found.
    pub problems: u64,
    /// The snapshot that was last proven restorable by a drill, and when.
    pub proven_snapshot: Option<Sequence>,
    pub proven: Option<f64>,
    /// Why the last drill failed; none when it did not.
    pub drill_error: Option<String>,
}
