//! When a database's seed is due, and when what failed is tried again. Pure.

use crate::service::schedule::Schedule;
use crate::support::clock::UnixNanos;
use std::time::Duration;

/// Shortest and longest time until what failed is tried again.
const AGAIN_MIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_hours(1);

/// Returns whether a seed is due; `last` is when the newest one was begun.
pub(crate) fn is_seed_due(last: Option<UnixNanos>, schedule: &Schedule, now: UnixNanos) -> bool {
    let Some(last) = last else { return true };
    // After a clock was set back, a seed is due rather than forgotten.
    if last.ahead_of(now).is_some() {
        return true;
    }
    match schedule.interval() {
        Some(interval) => now.since(last) >= interval,
        None => schedule.after(last).is_some_and(|next| next <= now),
    }
}

/// Returns the time until a next try, after this many failures in a row.
pub(crate) fn again_in(failures: u32) -> Duration {
    AGAIN_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(AGAIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::{DAY, HOUR};

    #[test]
    fn a_seed_is_due_without_one_and_when_its_time_has_come() {
        let weekly = Schedule::every(7 * 86_400);
        let begun = UnixNanos::EPOCH.plus(20_000 * DAY);
        assert!(is_seed_due(None, &weekly, begun));
        assert!(!is_seed_due(Some(begun), &weekly, begun.plus(7 * DAY - HOUR)));
        assert!(is_seed_due(Some(begun), &weekly, begun.plus(7 * DAY)));
        // The clock was set back, by more than clocks differ.
        assert!(!is_seed_due(Some(begun.plus(Duration::from_millis(1))), &weekly, begun));
        assert!(is_seed_due(Some(begun.plus(DAY)), &weekly, begun));
        // By the calendar: begun on a day at midnight.
        let nightly = Schedule::parse("0 3 * * *").unwrap();
        assert!(!is_seed_due(Some(begun), &nightly, begun.plus(2 * HOUR)));
        assert!(is_seed_due(Some(begun), &nightly, begun.plus(3 * HOUR)));
        assert!(!is_seed_due(Some(begun.plus(3 * HOUR)), &nightly, begun.plus(23 * HOUR)));
    }

    #[test]
    fn what_fails_is_tried_again_soon_and_then_ever_more_seldom() {
        let times: Vec<u64> = (1..=5).map(|failures| again_in(failures).as_secs()).collect();
        assert_eq!(times, [5, 10, 20, 40, 80]);
        assert_eq!((again_in(0), again_in(u32::MAX)), (AGAIN_MIN, AGAIN_MAX));
    }
}
