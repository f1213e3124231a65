//! How far a replica is behind, by positions and this host's own clock.
//!
//! The primary's position is looked at from time to time. The lag counts from the first look that saw a
//! transaction which is not applied yet, so it is exact to the interval between looks, and neither the primary's
//! clock nor `Seconds_Behind_Master` (0 when nothing is received at all) has a part in it. Pure.

use crate::model::gtid::GtidPosition;
use crate::support::clock::BootNanos;
use std::collections::VecDeque;
use std::time::Duration;

/// Maximum number of looks that are remembered; beyond it every other one is forgotten.
const LOOKS_MAX: usize = 1024;

/// The looks at a primary's position.
#[derive(Debug, Default)]
pub struct Lag {
    /// Positions that are not applied, each with the time when it was first seen.
    looks: VecDeque<(GtidPosition, BootNanos)>,
    last: Option<BootNanos>,
}

impl Lag {
    /// Notes the primary's position.
    pub fn look(&mut self, position: &GtidPosition, now: BootNanos) {
        self.last = Some(now);
        if self.looks.back().is_none_or(|(last, _)| last != position) {
            self.looks.push_back((position.clone(), now));
        }
        if self.looks.len() > LOOKS_MAX {
            let mut at = 0;
            self.looks.retain(|_| {
                at += 1;
                at % 2 == 1
            });
        }
    }

    /// Returns the lag of a replica that has applied `position`; none if the primary was never seen.
    pub fn of(&mut self, position: &GtidPosition, now: BootNanos) -> Option<Duration> {
        let last = self.last?;
        while self.looks.front().is_some_and(|(seen, _)| position.covers(seen)) {
            self.looks.pop_front();
        }
        let since = self.looks.front().map_or(last, |(_, seen)| *seen);
        Some(now.since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootNanos {
        BootNanos(seconds * 1_000_000_000)
    }

    fn position(number: u64) -> GtidPosition {
        format!("1-11-{number}").parse().unwrap()
    }

    #[test]
    fn lag_counts_from_the_first_look_that_saw_what_is_not_applied() {
        let mut lag = Lag::default();
        assert_eq!(lag.of(&position(1), at(9)), None);
        for (second, number) in [(10, 5), (11, 5), (12, 8), (13, 9)] {
            lag.look(&position(number), at(second));
        }
        let mut of = |number, second| lag.of(&position(number), at(second)).unwrap().as_secs();
        assert_eq!(of(4, 13), 3);
        assert_eq!(of(5, 13), 1);
        assert_eq!(of(9, 13), 0);
        // The primary is not seen any more, so that what it has is not known.
        assert_eq!(of(9, 60), 47);
    }

    #[test]
    fn looks_do_not_grow_without_end_and_the_oldest_stays() {
        let mut lag = Lag::default();
        for number in 1..=100_000 {
            lag.look(&position(number), at(number));
        }
        assert!(lag.looks.len() <= LOOKS_MAX);
        assert_eq!(lag.of(&position(0), at(100_000)).unwrap().as_secs(), 99_999);
    }
}
