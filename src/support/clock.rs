//! What time it is, by both clocks: the wall's, which people set, and the machine's, which only goes on.
//!
//! What is due by a calendar is told by the wall's; how long ago something was, or is to be, by the machine's. A time of the wall's clock
//! that lies in the future was made by a clock that was ahead, here or elsewhere: it tells nothing of how long ago that was.

/// A moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since 1970; may go back, and forth by any step.
    pub wall_ns: u64,
    /// Nanoseconds since the machine started, with those that it slept; only grows.
    pub boot_ns: u64,
}

/// What two hosts' clocks may be apart, and nobody minds.
const APART_NS: u64 = 60 * 1_000_000_000;

/// How far a time lies in the future, if it does by more than clocks are apart.
pub fn ahead_ns(now_ns: u64, then_ns: u64) -> Option<u64> {
    let ahead_ns = then_ns.saturating_sub(now_ns);
    (ahead_ns > APART_NS).then_some(ahead_ns)
}

/// How long ago something was; nobody knows, when it lies in the future.
pub fn since_ns(now_ns: u64, then_ns: u64) -> Option<u64> {
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
        // Of a host whose clock is a little ahead.
        assert_eq!(since_ns(NOW, NOW + APART_NS), Some(0));
        assert_eq!(since_ns(NOW, NOW + APART_NS + 1), None);
        assert_eq!((ahead_ns(NOW, NOW), ahead_ns(NOW, u64::MAX)), (None, Some(u64::MAX - NOW)));
    }
}
