//! How long a standby that left the set of those that have every acknowledged transaction stays out of it. Pure.
//!
//! Each leaving and each joining is a record in the log, which stays. So one that comes and goes joins again later
//! each time, and after a quiet time as soon as at first. Leaving is never delayed: commits wait for it.

use super::timing::Timing;
use crate::support::clock::BootNanos;
use std::time::Duration;

/// Number of longest absences without another one, after which they begin anew.
const QUIET: u32 = 4;

/// When a standby left the set last, and how often it did without a quiet time in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Absence {
    since: BootNanos,
    times: u32,
}

impl Absence {
    /// Returns the absence that begins at `since`, after the one before. The same one may be noted again.
    pub fn begin(before: Option<Self>, since: BootNanos, timing: &Timing) -> Self {
        let times = match before {
            Some(before) if before.since == since => before.times,
            Some(before) if since < before.ends(timing).plus(timing.join_again_max * QUIET) => {
                before.times.saturating_add(1)
            }
            _ => 1,
        };
        Self { since, times }
    }

    /// Returns when the standby may join again.
    pub fn ends(&self, timing: &Timing) -> BootNanos {
        let doubled = 1_u32.checked_shl(self.times.saturating_sub(1)).unwrap_or(u32::MAX);
        let after: Duration = timing.join_again.saturating_mul(doubled).min(timing.join_again_max);
        self.since.plus(after)
    }
}
