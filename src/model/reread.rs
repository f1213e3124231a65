//! Chooses the seemingly unchanged files that a run reads again, so that each file is read once a period.
//!
//! A file's path gives it a fixed slot in the period. A run reads the files whose slot lies between the start
//! of the last scan and its own. Nothing is remembered between runs.
//!
//! If the clock was set between the two scans, the later of the two times may be the last scan's. So the
//! slots between the two times are read, in whichever order the times are. Then no file waits longer than a
//! period after the last setting of the clock, and after a step of a period or more all files are read.

use crate::support::clock::{UnixNanos, nanos};
use std::time::Duration;

/// Returns whether the file with this path is due.
///
/// A period of zero turns re-reading off.
pub fn is_due(path: &[u8], period: Duration, last_scan: UnixNanos, this_scan: UnixNanos) -> bool {
    let (earlier, later) = (last_scan.min(this_scan), last_scan.max(this_scan));
    let (period_ns, window_ns) = (nanos(period), nanos(later.since(earlier)));
    if period_ns == 0 || window_ns == 0 {
        return false;
    }
    if window_ns >= period_ns {
        return true;
    }
    let slot_ns = fnv1a(path) % period_ns;
    // Distance from the slot to the later of the two times, modulo the period.
    let end_ns = later.0 % period_ns;
    let behind_ns = (end_ns + period_ns - slot_ns) % period_ns;
    behind_ns < window_ns
}

/// Returns the FNV-1a hash, 64 bits (Fowler, Noll, Vo), with a final mix.
///
/// It is even and cheap. It does not resist adversaries, who could at most choose when their own files are
/// re-read.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_due(path: &[u8], period_ns: u64, last_ns: u64, this_ns: u64) -> bool {
        super::is_due(path, Duration::from_nanos(period_ns), UnixNanos(last_ns), UnixNanos(this_ns))
    }

    proptest! {
        #[test]
        fn every_path_is_due_once_a_period(path in prop::collection::vec(any::<u8>(), 0..40), gaps in prop::collection::vec(1u64..500, 1..60)) {
            let period = 10_000;
            let start = 1_000_000;
            let mut times = vec![start];
            for gap in gaps { times.push(times.last().unwrap() + gap); }
            let end = start + period;
            times.retain(|t| *t < end);
            times.push(end);
            let due = times.windows(2).filter(|w| is_due(&path, period, w[0], w[1])).count();
            prop_assert_eq!(due, 1);
        }

        #[test]
        fn however_the_clock_is_set_every_path_is_due_within_a_period_and_at_once_after_a_longer_step(
            path in prop::collection::vec(any::<u8>(), 0..40),
            set in prop::collection::vec(0u64..1_000_000, 1..20),
            gaps in prop::collection::vec(1u64..500, 1..60),
        ) {
            let period = 10_000;
            for pair in set.windows(2) {
                let is_far = pair[0].abs_diff(pair[1]) >= period;
                prop_assert!(!is_far || is_due(&path, period, pair[0], pair[1]), "{pair:?}");
            }
            // After its last setting the clock runs normally.
            let mut times = vec![*set.last().unwrap()];
            let end = times[0] + period;
            for gap in gaps { times.push((times.last().unwrap() + gap).min(end)); }
            times.push(end);
            prop_assert!(times.windows(2).any(|w| is_due(&path, period, w[0], w[1])));
        }
    }

    #[test]
    fn after_a_long_pause_all_is_due() {
        assert!(is_due(b"a", 100, 0, 100));
        assert!(!is_due(b"a", 0, 0, 100));
        assert!(!is_due(b"a", 100, 50, 50));
        // All is due also if the last scan's clock was years ahead.
        assert!(is_due(b"a", 100, 9_000_000, 50));
    }
}
