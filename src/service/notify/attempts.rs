//! When a receiver is tried again, and how it fares. Pure.

use crate::support::clock::BootNanos;
use std::time::Duration;

/// The first wait after an attempt that failed, doubled each time.
const FIRST: Duration = Duration::from_secs(2);
const MAX: Duration = Duration::from_mins(15);

/// The attempts to tell one receiver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts {
    /// Number of failures since the last success.
    failures: u32,
    next: BootNanos,
    /// Number of messages and pings that were delivered.
    pub sent: u64,
}

impl Attempts {
    pub fn is_due(&self, now: BootNanos) -> bool {
        now >= self.next
    }

    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Takes note of a success. Returns whether it is the first after failures.
    pub fn succeed(&mut self) -> bool {
        let was_failing = self.is_failing();
        (self.failures, self.next, self.sent) = (0, BootNanos(0), self.sent + 1);
        was_failing
    }

    /// Takes note of a failure; `random` sets hosts apart that failed together, and `later` is what the receiver wants.
    /// Returns whether it is the first since a success.
    pub fn fail(&mut self, now: BootNanos, random: u64, later: Option<Duration>) -> bool {
        let wait = FIRST.saturating_mul(1 << self.failures.min(20)).min(MAX);
        let part = u32::try_from(random % 512).unwrap_or(0);
        let wait = wait * 3 / 4 + (wait / 1024) * part;
        self.next = now.plus(wait.max(later.unwrap_or_default()));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_quarter_of_an_hour_and_a_success_ends_them() {
        let mut attempts = Attempts::default();
        let mut now = BootNanos(0);
        for (failure, seconds) in [2, 4, 8, 16, 32].into_iter().chain([900; 40]).enumerate() {
            // In between it grows on.
            if (5..12).contains(&failure) {
                attempts.fail(now, 0, None);
                continue;
            }
            assert_eq!(attempts.fail(now, failure as u64 * 77, None), failure == 0);
            let wait = Duration::from_secs(seconds);
            assert!(!attempts.is_due(now.plus(wait / 2)) && attempts.is_due(now.plus(wait * 5 / 4)));
            now = now.plus(wait * 2);
        }
        assert!(attempts.succeed() && !attempts.succeed() && attempts.is_due(now) && attempts.sent == 2);
        attempts.fail(now, 0, Some(Duration::from_mins(20)));
        assert!(!attempts.is_due(now.plus(Duration::from_mins(19))), "as the receiver wants");
    }
}
