//! What was decided about a store's members and its primary.

use crate::model::id::{Sequence, WriterId};
use serde::{Deserialize, Serialize};

/// A record of a store's log that decides, or that has no effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRow {
    pub record: Sequence,
    pub epoch: u64,
    /// Seconds since 1970 by the maker's clock.
    pub at: Option<f64>,
    pub host: WriterId,
    /// The person who decided it, if one did.
    pub person: Option<String>,
    /// The decision's word in the log; `snapshot` or `unreadable` for what is none.
    pub kind: String,
    /// What it says, in words.
    pub what: String,
    /// Why it has no effect.
    pub irregular: Option<String>,
}
