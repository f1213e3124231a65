//! The times of a lease. All of them are measured by the machine's own clock, which nobody sets.

use std::time::Duration;

/// The times of a lease, and of what depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Time from one renewal to the next.
    pub renew_every: Duration,
    /// Time for which a renewal or a promise is valid, counted from when it was *sent*.
    pub valid_for: Duration,
    /// Maximum time that closing takes after the validity ended.
    pub close_within: Duration,
    /// Time for which a candidate sees no renewal before it may open.
    pub ttl: Duration,
    /// Maximum time from the start of a handover to its record's cancellation.
    pub hand_over_within: Duration,
    /// Time after which a standby that does not acknowledge is taken out of the set.
    pub loosen_after: Duration,
    /// Time from when a standby stopped acknowledging until it may be in the set again; twice as long each time that it
    /// leaves the set again soon.
    pub join_again: Duration,
    /// Longest such time.
    pub join_again_max: Duration,
    /// Time from one read of the log, or of another host's lease, to the next.
    pub look_every: Duration,
    /// Time from one read of the log to the next while nothing is under way. Nothing depends on it but how soon
    /// news are seen by a host that nobody told to look.
    pub look_quiet: Duration,
}

impl Timing {
    /// The times that are used.
    pub const DEFAULT: Self = Self {
        renew_every: Duration::from_secs(5),
        valid_for: Duration::from_secs(12),
        close_within: Duration::from_secs(3),
        ttl: Duration::from_secs(20),
        hand_over_within: Duration::from_secs(60),
        loosen_after: Duration::from_secs(5),
        join_again: Duration::from_secs(10),
        join_again_max: Duration::from_mins(5),
        look_every: Duration::from_secs(2),
        look_quiet: Duration::from_secs(10),
    };

    /// Returns whether a host is closed for sure before another one opens: even if one clock runs an eighth
    /// too slow and the other one an eighth too fast.
    pub const fn is_safe(&self) -> bool {
        let closed = self.valid_for.as_nanos() + self.close_within.as_nanos();
        closed * 4 <= self.ttl.as_nanos() * 3 && self.renew_every.as_nanos() * 2 <= self.valid_for.as_nanos()
    }
}

const _: () = assert!(Timing::DEFAULT.is_safe());
