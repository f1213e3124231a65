//! The body of an answer that is no success.

use serde::{Deserialize, Serialize};

/// Reason why a request was refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}
