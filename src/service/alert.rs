//! What an operator reads of a failure: a word for `status`, and how loud the log is.

use crate::support::failure::FailureKind;
use tracing::Level;

/// How a failure is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The state of the store, in a word.
    pub word: &'static str,
    /// `ERROR` when somebody has to do something soon.
    pub level: Level,
}

impl From<FailureKind> for Alert {
    fn from(kind: FailureKind) -> Self {
        let (word, level) = match kind {
            FailureKind::Usage => ("misconfigured", Level::ERROR),
            // As a standby whose primary has no snapshot yet.
            FailureKind::Missing => ("waiting", Level::DEBUG),
            FailureKind::Held => ("held", Level::WARN),
            FailureKind::Fenced => ("fenced", Level::ERROR),
            FailureKind::Unavailable => ("unreachable", Level::ERROR),
            FailureKind::Stopped => ("stopped", Level::INFO),
            FailureKind::Damaged => ("damaged", Level::ERROR),
            FailureKind::Failed => ("failing", Level::ERROR),
        };
        Self { word, level }
    }
}
