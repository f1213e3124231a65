//! Where a store stands: its newest snapshot, and how old that is.

use crate::model::id::Sequence;
use crate::model::role::Role;
use crate::support::clock;

/// The newest snapshot that was committed, or published here, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    pub snapshot: Option<Sequence>,
    pub scan_start_ns: Option<u64>,
    /// The role of this host by the log; none where the log was not read.
    pub role: Option<Role>,
}

impl Standing {
    /// Returns the time since the snapshot's scan began; none when that lies in the future.
    pub(crate) fn lag_ns(&self, now_ns: u64) -> Option<u64> {
        clock::since_ns(now_ns, self.scan_start_ns?)
    }

    /// Returns how far the start of the scan lies in the future; 0 when it does not, or by no more than
    /// clocks differ.
    pub(crate) fn clock_skew_ns(&self, now_ns: u64) -> Option<u64> {
        Some(clock::ahead_ns(now_ns, self.scan_start_ns?).unwrap_or(0))
    }

    pub fn clock_text(&self, now_ns: u64) -> Option<String> {
        clock_text(now_ns, self.scan_start_ns?)
    }
}

/// Returns a text about the clocks when the last snapshot's scan began in the future.
pub fn clock_text(now_ns: u64, scan_start_ns: u64) -> Option<String> {
    let seconds = clock::ahead_ns(now_ns, scan_start_ns)? / 1_000_000_000;
    let ahead = match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} days {h} h"),
    };
    Some(format!(
        "the last snapshot's scan began {ahead} in the future: the clock of this host or of its writer is wrong, so the snapshot's age is unknown"
    ))
}
