//! Where a store stands: its newest snapshot, and how old that is.

use crate::model::id::Sequence;
use crate::model::role::Role;
use crate::support::clock::UnixNanos;
use std::time::Duration;

/// The newest snapshot that was committed, or published here, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    pub snapshot: Option<Sequence>,
    pub scan_start: Option<UnixNanos>,
    /// The role of this host by the log; none where the log was not read.
    pub role: Option<Role>,
}

impl Standing {
    /// Returns the time since the snapshot's scan began; none when that lies in the future.
    pub(crate) fn lag(&self, now: UnixNanos) -> Option<Duration> {
        self.scan_start?.age_at(now)
    }

    /// Returns how far the start of the scan lies in the future; zero when it does not, or by no more than
    /// clocks differ.
    pub(crate) fn clock_skew(&self, now: UnixNanos) -> Option<Duration> {
        Some(self.scan_start?.ahead_of(now).unwrap_or_default())
    }

    pub fn clock_text(&self, now: UnixNanos) -> Option<String> {
        clock_text(now, self.scan_start?)
    }
}

/// Returns a text about the clocks when the last snapshot's scan began in the future.
pub fn clock_text(now: UnixNanos, scan_start: UnixNanos) -> Option<String> {
    let seconds = scan_start.ahead_of(now)?.as_secs();
    let ahead = match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} days {h} h"),
    };
    Some(format!(
        "the last snapshot's scan began {ahead} in the future: the clock of this host or of its writer is wrong, so the snapshot's age is unknown"
    ))
}
