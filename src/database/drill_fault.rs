//! What a drill of a database finds wrong. Data only.

use serde::Serialize;

/// What failed in a drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The table, or the query.
    pub what: String,
    pub reason: String,
}
