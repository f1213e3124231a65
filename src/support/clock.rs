//! Times of both clocks: the wall clock, which people set, and the machine's, which only increases.
//!
//! A calendar schedule uses the wall clock; the time since or until an event uses the machine's. A wall-clock
//! time that lies in the future was made by a clock that was ahead, here or on another host: it does not show
//! how long ago that was. The two kinds of times and the spans between them have types of their own, so that
//! none is taken for another. Their arithmetic saturates, whatever a clock says.

use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const HOUR: Duration = Duration::from_hours(1);
pub(crate) const DAY: Duration = Duration::from_hours(24);

/// Difference between two hosts' clocks that is tolerated.
const APART: Duration = Duration::from_secs(60);

/// A time of the wall clock, this host's or another one's: nanoseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(pub u64);

/// A time of the machine's clock: nanoseconds since the machine started, including time it slept. It means
/// something to processes of this host only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootNanos(pub u64);

/// Defines the arithmetic that both clocks' times share.
macro_rules! arithmetic {
    ($time:ident) => {
        impl $time {
            /// The last time; what is due then is never due.
            pub const MAX: Self = Self(u64::MAX);

            /// Returns the time this much later.
            pub fn plus(self, span: Duration) -> Self {
                Self(self.0.saturating_add(nanos(span)))
            }

            /// Returns the time this much earlier.
            pub fn minus(self, span: Duration) -> Self {
                Self(self.0.saturating_sub(nanos(span)))
            }

            /// Returns the time that passed since `earlier`; zero if that is later.
            pub fn since(self, earlier: Self) -> Duration {
                Duration::from_nanos(self.0.saturating_sub(earlier.0))
            }

            /// Returns the first time after this one that is a multiple of `period`, which is not zero.
            pub(crate) fn next_multiple(self, period: Duration) -> Option<Self> {
                let period_ns = nanos(period);
                self.0.checked_div(period_ns)?.checked_add(1)?.checked_mul(period_ns).map(Self)
            }
        }
    };
}

arithmetic!(UnixNanos);
arithmetic!(BootNanos);

impl UnixNanos {
    /// The start of 1970.
    pub const EPOCH: Self = Self(0);

    /// Returns the time in seconds since 1970, for reports.
    pub(crate) fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    pub(crate) fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0)
    }

    /// Returns how far this time lies after `now`; none if that is within the tolerated difference.
    pub(crate) fn ahead_of(self, now: Self) -> Option<Duration> {
        let ahead = self.since(now);
        (ahead > APART).then_some(ahead)
    }

    /// Returns the time that passed from this time to `now`; none if this time lies in the future.
    pub(crate) fn age_at(self, now: Self) -> Option<Duration> {
        match self.ahead_of(now) {
            Some(_) => None,
            None => Some(now.since(self)),
        }
    }
}

impl From<SystemTime> for UnixNanos {
    /// Takes a time before 1970 for 1970.
    fn from(time: SystemTime) -> Self {
        time.duration_since(UNIX_EPOCH).map_or(Self::EPOCH, |since| Self(nanos(since)))
    }
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// May jump back or forward by any step.
    pub wall: UnixNanos,
    /// Never decreases.
    pub boot: BootNanos,
}

/// Returns a span in nanoseconds; the maximum if it is longer than 584 years.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a span in seconds, for reports.
pub(crate) fn seconds(span: Duration) -> f64 {
    span.as_nanos() as f64 / 1e9
}

/// Returns a span of whole hours.
pub(crate) fn hours(count: u64) -> Duration {
    Duration::from_secs(count.saturating_mul(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_future_is_no_time_ago() {
        const NOW: UnixNanos = UnixNanos(1_000_000_000_000);
        let nanosecond = Duration::from_nanos(1);
        assert_eq!(NOW.minus(5 * nanosecond).age_at(NOW), Some(5 * nanosecond));
        // A time from a host whose clock is slightly ahead.
        assert_eq!(NOW.plus(APART).age_at(NOW), Some(Duration::ZERO));
        assert_eq!(NOW.plus(APART + nanosecond).age_at(NOW), None);
        assert_eq!(
            (NOW.ahead_of(NOW), UnixNanos::MAX.ahead_of(NOW)),
            (None, Some(UnixNanos::MAX.since(NOW)))
        );
    }

    #[test]
    fn arithmetic_ends_at_the_first_and_the_last_time() {
        let time = BootNanos(7);
        assert_eq!(time.minus(HOUR), BootNanos(0));
        assert_eq!((time.plus(Duration::MAX), BootNanos::MAX.plus(HOUR)), (BootNanos::MAX, BootNanos::MAX));
        assert_eq!(time.since(BootNanos(8)), Duration::ZERO);
        assert_eq!(BootNanos::MAX.next_multiple(HOUR), None);
        assert_eq!(time.next_multiple(Duration::ZERO), None);
        let multiple = |ns| BootNanos(ns).next_multiple(Duration::from_nanos(10));
        assert_eq!([multiple(0), multiple(9), multiple(10)], [10, 10, 20].map(|ns| Some(BootNanos(ns))));
    }

    #[test]
    fn a_time_is_written_as_its_number() {
        assert_eq!(serde_json::to_string(&UnixNanos::MAX).unwrap(), "18446744073709551615");
        assert_eq!(serde_json::from_str::<UnixNanos>("5").unwrap(), UnixNanos(5));
    }
}
