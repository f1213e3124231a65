//! The body of a response that is no success.

use serde::{Deserialize, Serialize};

/// The reason why a request was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}
