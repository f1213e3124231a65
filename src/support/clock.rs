//! Times of both clocks: the wall clock, which people set, and the machine's, which only increases.
//!
//! A calendar schedule uses the wall clock; the time since or until an event uses the machine's. A wall-clock
//! time that lies in the future was made by a clock that was ahead, here or on another host: it does not show
//! how long ago that was.

pub(crate) const HOUR_NS: u64 = 3_600_000_000_000;
pub(crate) const DAY_NS: u64 = 24 * HOUR_NS;

/// Converts nanoseconds to seconds, for reports.
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since 1970; may jump back or forward by any step.
    pub wall_ns: u64,
    /// Nanoseconds since the machine started, including time it slept; never decreases.
    pub boot_ns: u64,
}

/// Difference between two hosts' clocks that is tolerated.
const APART_NS: u64 = 60 * 1_000_000_000;

/// Returns the distance of a time in the future; none if it is within the tolerated difference.
pub(crate) fn ahead_ns(now_ns: u64, then_ns: u64) -> Option<u64> {
    let ahead_ns = then_ns.saturating_sub(now_ns);
    (ahead_ns > APART_NS).then_some(ahead_ns)
}

/// Returns the time since a moment; none if the moment lies in the future.
pub(crate) fn since_ns(now_ns: u64, then_ns: u64) -> Option<u64> {
    match ahead_ns(now_ns, then_ns) {
        Some(_) => None,
        None => Some(now_ns.saturating_sub(then_ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_future_is_no_time_ago() {
        const NOW: u64 = 1_000_000_000_000;
        assert_eq!(since_ns(NOW, NOW - 5), Some(5));
        // A time from a host whose clock is slightly ahead.
        assert_eq!(since_ns(NOW, NOW + APART_NS), Some(0));
        assert_eq!(since_ns(NOW, NOW + APART_NS + 1), None);
        assert_eq!((ahead_ns(NOW, NOW), ahead_ns(NOW, u64::MAX)), (None, Some(u64::MAX - NOW)));
    }
}
