//! How a failure is shown to an operator: a word for `status`, and the level of its log line.

use crate::support::failure::FailureKind;
use tracing::Level;

/// How a failure is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    /// The state of the store, as one word.
    pub word: &'static str,
    /// Level of the log line; `ERROR` when an operator must act soon.
    pub level: Level,
}

impl From<FailureKind> for Alert {
    fn from(kind: FailureKind) -> Self {
        let (word, level) = match kind {
            FailureKind::Usage => ("misconfigured", Level::ERROR),
            // A standby whose primary has no snapshot yet, for example.
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
