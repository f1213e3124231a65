//! Determines when records were made, by the store's clock, and how long ago that is.
//!
//! A store dates its objects. Hosts' clocks are not used: a wrong one would end a grace early, or never. A
//! store's clock may have been wrong as well: that of a directory is the clock of its host. A record's date
//! is therefore accepted only as far as its neighbours confirm it: the record was made after the records
//! before it, and before the records after it.

use super::error::RepositoryError;
use super::object_key;
use super::objects::modified;
use super::parts::Log;
use crate::model::id::Sequence;
use crate::support::clock::UnixNanos;
use std::collections::BTreeMap;
use std::time::Duration;

/// Number of earlier records whose dates are read as well.
const WITNESSES: u64 = 16;

impl Log<'_> {
    /// Returns when the records from `first` on were put, and some before it.
    pub(crate) fn record_times(
        &self,
        first: Sequence,
    ) -> Result<BTreeMap<Sequence, UnixNanos>, RepositoryError> {
        let prefix = object_key::log_prefix(self.store.name());
        let after = object_key::record(self.store.name(), Sequence(first.0.saturating_sub(WITNESSES + 1)));
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), Some(&after)))?;
        let time = |object: &object_store::ObjectMeta| {
            Some((object_key::parse_record(&object.location)?, modified(object)))
        };
        Ok(listed.iter().filter_map(time).collect())
    }
}

/// Returns the minimum age of a record that is certain. Pure.
///
/// - A date that is not in the future counts, but not before the date of an earlier record, since the clock
///   was slow then.
/// - A date in the future is wrong. The record was made before the next one with a valid date, or now if
///   there is none.
pub(crate) fn age(times: &BTreeMap<Sequence, UnixNanos>, of: Sequence, now: UnixNanos) -> Duration {
    let past = |(_, time): &(&Sequence, &UnixNanos)| **time <= now;
    let before = times.range(..=of).filter(past).map(|(_, time)| *time).max();
    let made = match times.get(&of) {
        Some(time) if *time <= now => before,
        _ => times.range(of..).find(past).map(|(_, time)| (*time).max(before.unwrap_or_default())),
    };
    now.since(made.unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::nanos;
    use proptest::prelude::*;

    fn age_ns(times: &[u64], of: u64, now_ns: u64) -> u64 {
        let times =
            times.iter().enumerate().map(|(at, time)| (Sequence(at as u64 + 1), UnixNanos(*time))).collect();
        nanos(age(&times, Sequence(of), UnixNanos(now_ns)))
    }

    #[test]
    fn a_record_is_as_old_as_its_date_where_the_clock_was_right() {
        assert_eq!(age_ns(&[100, 200, 300], 2, 450), 250);
        assert_eq!(age_ns(&[100, 200, 300], 3, 450), 150);
    }

    #[test]
    fn a_clock_that_is_behind_now_makes_nothing_old() {
        assert_eq!(age_ns(&[100, 200, 300], 1, 10), 0);
        assert_eq!(age_ns(&[100, 200, 300], 2, 150), 0);
    }

    #[test]
    fn a_record_dated_behind_the_one_before_it_is_no_older_than_that() {
        assert_eq!(age_ns(&[100, 1, 300], 2, 400), 300);
    }

    #[test]
    fn a_date_in_the_future_blocks_nothing_for_ever() {
        assert_eq!(age_ns(&[100, 9999], 2, 400), 0, "nothing is known of it yet");
        assert_eq!(age_ns(&[100, 9999, 300], 2, 450), 150, "made before the next one");
        assert_eq!(age_ns(&[100, 9999, 9998, 300], 2, 450), 150);
    }

    #[test]
    fn what_no_store_dates_is_not_old() {
        assert_eq!(age_ns(&[], 1, 400), 0);
    }

    proptest! {
        #[test]
        fn no_record_is_older_than_it_is(
            steps in prop::collection::vec(0u64..1000, 1..12),
            wrong in prop::collection::vec((0usize..12, 0u64..100_000), 0..3),
            of in 0usize..12,
            later in 0u64..1000,
        ) {
            // True times increase. Some of the dates are ahead of them, from a clock that is ahead.
            let truth: Vec<u64> = steps.iter().scan(1000, |at, step| { *at += step; Some(*at) }).collect();
            let mut dates = truth.clone();
            for (at, ahead) in wrong {
                if let Some(date) = dates.get_mut(at) {
                    *date += ahead;
                }
            }
            let of = of % truth.len();
            let now = truth.last().unwrap() + later;
            prop_assert!(age_ns(&dates, of as u64 + 1, now) <= now - truth[of]);
        }
    }
}
