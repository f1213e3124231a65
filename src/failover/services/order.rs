//! Whose turn it is: services start in the order of the configuration and stop in reverse. Pure.
//!
//! Those that are marked `last` (cron, consumers of queues) act without a customer: they start after all
//! others, once customers reach this host, and stop before all others.

use super::settings::ServiceSettings;

/// A part of a store's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What serves customers: all that is not marked `last`.
    Serving,
    /// What is marked `last`.
    Last,
}

impl Part {
    fn has(self, service: &ServiceSettings) -> bool {
        service.last == (self == Self::Last)
    }
}

/// Returns the services of a part in the order in which they start.
pub(crate) fn start_order(services: &[ServiceSettings], part: Part) -> Vec<&ServiceSettings> {
    services.iter().filter(|service| part.has(service)).collect()
}

/// Returns the services of a part in the order in which they stop.
pub(crate) fn stop_order(services: &[ServiceSettings], part: Part) -> Vec<&ServiceSettings> {
    services.iter().rev().filter(|service| part.has(service)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_started_first_stops_last(marks in proptest::collection::vec(any::<bool>(), 0..12)) {
            let named = |(at, last): (usize, &bool)| {
                ServiceSettings { name: at.to_string(), last: *last, ..ServiceSettings::default() }
            };
            let all: Vec<_> = marks.iter().enumerate().map(named).collect();
            let parts = [Part::Serving, Part::Last];
            let started: Vec<_> = parts.iter().flat_map(|part| start_order(&all, *part)).collect();
            let mut stopped: Vec<_> = parts.iter().rev().flat_map(|part| stop_order(&all, *part)).collect();
            stopped.reverse();
            prop_assert_eq!(&started, &stopped);
            prop_assert_eq!(started.len(), all.len());
            prop_assert!(started.is_sorted_by_key(|service| service.last));
        }
    }
}
