//! What an edge needs of its process, and the time that it may take.

use super::error::EdgeError;
use crate::support::env::{Env, Stopwatch};
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Handle;

/// What an edge needs of its process. An edge blocks its thread, which must not be one of the runtime's.
#[derive(Clone)]
pub struct EdgeContext {
    pub env: Env,
    pub runtime: Handle,
    /// Path of this program, which starts others.
    pub this: PathBuf,
}

/// The time within which a switch or a test must end.
pub struct Deadline {
    begun: Stopwatch,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn of(env: &Env, limit: Duration) -> Self {
        Self { begun: env.stopwatch(), limit }
    }

    /// Returns the time that is left, at most `most`.
    ///
    /// # Errors
    /// [`EdgeError::Silent`] once no time is left.
    pub(crate) fn left(&self, edge: &str, most: Duration) -> Result<Duration, EdgeError> {
        match self.limit.saturating_sub(self.begun.elapsed()) {
            Duration::ZERO => {
                Err(EdgeError::silent(edge, format!("not done within {} s", self.limit.as_secs())))
            }
            left => Ok(left.min(most)),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.limit
    }
}
