//! A server's position of a few seconds ago.
//!
//! What a standby tells of itself is seconds old. Under steady writes it never has what the primary has at this
//! moment, though it follows at once: so it is asked for what the primary had a little earlier. Pure.

use crate::model::gtid::GtidPosition;
use crate::support::clock::BootNanos;
use std::time::Duration;

/// How old a position becomes before the next one takes its place: longer than a supervisor's report may be.
const KEPT_FOR: Duration = Duration::from_secs(4);

/// The positions of two moments.
#[derive(Debug, Default)]
pub(super) struct Trailing {
    older: Option<GtidPosition>,
    newer: Option<(BootNanos, GtidPosition)>,
}

impl Trailing {
    /// Notes a position, and returns one of some seconds ago, or the first one that was noted.
    pub fn note(&mut self, position: &GtidPosition, now: BootNanos) -> GtidPosition {
        let is_over = |(noted, _): &(BootNanos, GtidPosition)| now >= noted.plus(KEPT_FOR);
        if self.newer.as_ref().is_none_or(is_over) {
            self.older = self.newer.take().map(|(_, position)| position);
            self.newer = Some((now, position.clone()));
        }
        let newer = self.newer.as_ref().map(|(_, position)| position);
        self.older.as_ref().or(newer).unwrap_or(position).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_is_a_moment_behind_has_what_is_asked_for_within_seconds() {
        let position = |number: u64| format!("1-11-{number}").parse::<GtidPosition>().unwrap();
        let mut trailing = Trailing::default();
        // A transaction a second, and a standby that is 2 s behind.
        let had = |second: u64| {
            let wanted = trailing.note(&position(second), BootNanos(second * 1_000_000_000));
            (second, position(second.saturating_sub(2)).covers(&wanted))
        };
        let answers: Vec<_> = (10..40).map(had).collect();
        assert!(answers.iter().all(|(second, has)| *has == (*second >= 12)), "{answers:?}");
    }
}
