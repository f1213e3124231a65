//! Up or down, from answers one after the other. Pure.
//!
//! A number of failures in a row makes it down, and a number of successes in a row makes it up again: single
//! slow answers change nothing, and what comes and goes is not taken for well.

use crate::support::clock::BootNanos;

/// Number of failures in a row that make it down, and of successes that make it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyRules {
    pub misses: u32,
    pub hits: u32,
}

/// What is known of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    pub is_up: bool,
    /// Number of answers in a row that speak against [`Self::is_up`].
    against: u32,
    /// Why the last answer was a failure; none after a success.
    pub failure: Option<String>,
    /// Time of the last success; none before the first.
    pub last_success: Option<BootNanos>,
}

impl Default for Tally {
    /// Nothing was asked yet: it is taken for up.
    fn default() -> Self {
        Self { is_up: true, against: 0, failure: None, last_success: None }
    }
}

impl Tally {
    /// Takes an answer that was complete at `now`.
    pub fn note(&mut self, rules: TallyRules, answer: Result<(), String>, now: BootNanos) {
        let is_success = answer.is_ok();
        if is_success {
            self.last_success = Some(now);
        }
        self.failure = answer.err();
        if is_success == self.is_up {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against >= if self.is_up { rules.misses } else { rules.hits } {
            (self.is_up, self.against) = (is_success, 0);
        }
    }

    /// Returns whether it is down now: one that answers again is only in doubt until it has answered often enough.
    pub fn is_down(&self) -> bool {
        !self.is_up && self.failure.is_some()
    }

    /// Returns whether it is neither down nor well.
    pub fn is_in_doubt(&self) -> bool {
        self.is_up == self.failure.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_changes_only_after_enough_answers_in_a_row(answers in proptest::collection::vec(any::<bool>(), 0..60), misses in 1..5u32, hits in 1..6u32) {
            let rules = TallyRules { misses, hits };
            let mut tally = Tally::default();
            for (at, is_success) in answers.iter().enumerate() {
                let was_up = tally.is_up;
                tally.note(rules, if *is_success { Ok(()) } else { Err("no".into()) }, BootNanos(at as u64));
                let needed = if was_up { misses } else { hits } as usize;
                let so_far = &answers[..=at];
                let is_row = so_far.len() >= needed && so_far[so_far.len() - needed..].iter().all(|is| *is != was_up);
                if tally.is_up != was_up {
                    prop_assert!(is_row);
                } else if is_row {
                    // Answers before the last change count for nothing any more.
                    prop_assert!(tally.against < needed as u32);
                }
                prop_assert_eq!(tally.failure.is_none(), *is_success);
            }
        }
    }

    #[test]
    fn three_misses_make_it_down_and_five_hits_make_it_up() {
        let rules = TallyRules { misses: 3, hits: 5 };
        let mut tally = Tally::default();
        let mut give = |text: &str| {
            for (at, c) in text.chars().enumerate() {
                tally.note(rules, if c == '+' { Ok(()) } else { Err("no".into()) }, BootNanos(at as u64));
            }
            tally.is_up
        };
        assert!(give("--+--+"));
        assert!(!give("---"));
        assert!(!give("++++-++++"));
        assert!(give("+"));
    }

    #[test]
    fn what_was_down_and_answers_again_is_in_doubt() {
        let rules = TallyRules { misses: 1, hits: 2 };
        let mut tally = Tally::default();
        assert!(!tally.is_down() && !tally.is_in_doubt());
        tally.note(rules, Err("no".into()), BootNanos(1));
        assert!(tally.is_down() && !tally.is_in_doubt());
        tally.note(rules, Ok(()), BootNanos(2));
        assert!(!tally.is_down() && tally.is_in_doubt());
        tally.note(rules, Ok(()), BootNanos(3));
        assert!(!tally.is_down() && !tally.is_in_doubt());
    }
}
