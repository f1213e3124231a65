//! What a primary does about itself: services that do not serve are started again, twice, and then it hands over.
//! Pure.

use crate::support::clock::BootNanos;
use std::time::Duration;

/// The rules of a primary's own health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthRules {
    /// Number of times that services are started again before the store counts as not ready.
    pub restarts: u32,
    /// Time that services have to be well again after they were started.
    pub grace: Duration,
    /// Time for which a store must be well before earlier restarts are forgotten.
    pub forget_after: Duration,
    /// Time from one attempt to hand over to the next.
    pub again_after: Duration,
}

impl HealthRules {
    pub const DEFAULT: Self = Self {
        restarts: 2,
        grace: Duration::from_secs(2),
        forget_after: Duration::from_secs(300),
        again_after: Duration::from_secs(120),
    };
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    Nothing,
    /// Start the services again.
    Restart,
    /// Hand over: the store is not ready here, and starting it again did not help.
    HandOver,
}

/// What was done about it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    restarts: u32,
    restarted: Option<BootNanos>,
    /// Since when the store is well; none while it is not.
    well_since: Option<BootNanos>,
    handed_over: Option<BootNanos>,
}

impl Health {
    /// Returns what to do at `now` about a store that serves, or does not. Without services of its own
    /// (`can_restart`), there is nothing to start again.
    pub fn next(
        &mut self,
        rules: HealthRules,
        is_serving: bool,
        can_restart: bool,
        now: BootNanos,
    ) -> Remedy {
        if is_serving {
            let since = *self.well_since.get_or_insert(now);
            if now >= since.plus(rules.forget_after) {
                *self = Self { well_since: Some(since), ..Self::default() };
            }
            return Remedy::Nothing;
        }
        self.well_since = None;
        if self.restarted.is_some_and(|at| now < at.plus(rules.grace)) {
            return Remedy::Nothing;
        }
        if can_restart && self.restarts < rules.restarts {
            self.restarts += 1;
            return Remedy::Restart;
        }
        if self.handed_over.is_some_and(|at| now < at.plus(rules.again_after)) {
            return Remedy::Nothing;
        }
        self.handed_over = Some(now);
        Remedy::HandOver
    }

    /// Notes that the services were started again, successfully or not.
    pub fn restarted(&mut self, now: BootNanos) {
        self.restarted = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: HealthRules = HealthRules::DEFAULT;

    fn at(seconds: u64) -> BootNanos {
        BootNanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_store_that_stays_down_is_restarted_twice_and_then_handed_over() {
        let mut health = Health::default();
        assert_eq!(health.next(RULES, true, true, at(1)), Remedy::Nothing);
        assert_eq!(health.next(RULES, false, true, at(2)), Remedy::Restart);
        health.restarted(at(3));
        assert_eq!(health.next(RULES, false, true, at(4)), Remedy::Nothing);
        assert_eq!(health.next(RULES, false, true, at(5)), Remedy::Restart);
        health.restarted(at(6));
        assert_eq!(health.next(RULES, false, true, at(8)), Remedy::HandOver);
        assert_eq!(health.next(RULES, false, true, at(9)), Remedy::Nothing);
        assert_eq!(health.next(RULES, false, true, at(128)), Remedy::HandOver);
    }

    #[test]
    fn a_store_without_services_of_its_own_is_handed_over_at_once() {
        assert_eq!(Health::default().next(RULES, false, false, at(2)), Remedy::HandOver);
    }

    proptest! {
        #[test]
        fn there_are_never_more_restarts_than_allowed_unless_it_was_well_for_long(well in proptest::collection::vec(any::<bool>(), 0..400)) {
            let mut health = Health::default();
            let (mut restarts, mut well_for) = (0, 0u64);
            for (second, is_serving) in well.iter().enumerate() {
                let now = at(second as u64);
                well_for = if *is_serving { well_for + 1 } else { 0 };
                if well_for > RULES.forget_after.as_secs() {
                    restarts = 0;
                }
                match health.next(RULES, *is_serving, true, now) {
                    Remedy::Restart => {
                        restarts += 1;
                        health.restarted(now);
                    }
                    Remedy::HandOver => prop_assert_eq!(restarts, RULES.restarts),
                    Remedy::Nothing => {}
                }
                prop_assert!(restarts <= RULES.restarts);
                prop_assert!(!is_serving || well_for > 0);
            }
        }
    }
}
