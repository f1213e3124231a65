//! Decides which snapshots stay.
//!
//! The decision is pure and uses no clock: the snapshots' own times decide, so that a store whose primary
//! failed loses nothing by waiting.
//!
//! Each rule passes from the newest snapshot to the oldest and keeps the newest of each hour (day, ISO week,
//! month, year, in UTC) that has one, until it has kept its number. The latest snapshot always stays.

use super::id::Sequence;
use crate::support::clock::UnixNanos;
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Numbers of snapshots that each rule keeps. If all are zero, every snapshot stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    pub last: u32,
    pub hours: u32,
    pub days: u32,
    pub weeks: u32,
    pub months: u32,
    pub years: u32,
}

/// Reason why a snapshot stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Latest,
    /// There are no rules, so nothing is dropped.
    All,
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// An operator pinned it, with this note.
    Pinned(String),
    /// The standby of this name has it published or mounted.
    Standby(String),
    /// A failover still needs it.
    Failover(&'static str),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Latest => f.write_str("latest"),
            Reason::All => f.write_str("no rule"),
            Reason::Last => f.write_str("last"),
            Reason::Hourly => f.write_str("hourly"),
            Reason::Daily => f.write_str("daily"),
            Reason::Weekly => f.write_str("weekly"),
            Reason::Monthly => f.write_str("monthly"),
            Reason::Yearly => f.write_str("yearly"),
            Reason::Pinned(note) if note.is_empty() => f.write_str("pinned"),
            Reason::Pinned(note) => write!(f, "pinned: {note}"),
            Reason::Standby(host) => write!(f, "in use by {host}"),
            Reason::Failover(why) => f.write_str(why),
        }
    }
}

/// Returns the number of the period that holds `time`: two times with one number lie in the same period.
fn period(reason: &Reason, time: DateTime<Utc>) -> i64 {
    match reason {
        Reason::Hourly => time.timestamp().div_euclid(3600),
        Reason::Daily => time.timestamp().div_euclid(86_400),
        // 1970 began on a Thursday.
        Reason::Weekly => (time.timestamp().div_euclid(86_400) + 3).div_euclid(7),
        Reason::Monthly => i64::from(time.year()) * 12 + i64::from(time.month0()),
        _ => i64::from(time.year()),
    }
}

/// Returns, for each snapshot, the reasons why it stays; a snapshot without a reason is to be dropped.
///
/// `snapshots` gives each snapshot's number and the start of its scan in nanoseconds since 1970. `also` gives
/// further reasons, by snapshot.
pub fn decide(
    retention: &Retention,
    snapshots: &BTreeMap<Sequence, UnixNanos>,
    also: &BTreeMap<Sequence, Vec<Reason>>,
) -> BTreeMap<Sequence, Vec<Reason>> {
    let mut reasons: BTreeMap<Sequence, Vec<Reason>> = snapshots.keys().map(|s| (*s, Vec::new())).collect();
    let mut keep = |sequence: &Sequence, reason: Reason| {
        if let Some(reasons) = reasons.get_mut(sequence) {
            reasons.push(reason);
        }
    };
    if let Some(latest) = snapshots.keys().next_back() {
        keep(latest, Reason::Latest);
    }
    if *retention == Retention::default() {
        snapshots.keys().for_each(|sequence| keep(sequence, Reason::All));
    }
    for sequence in snapshots.keys().rev().take(retention.last as usize) {
        keep(sequence, Reason::Last);
    }
    let rules = [
        (Reason::Hourly, retention.hours),
        (Reason::Daily, retention.days),
        (Reason::Weekly, retention.weeks),
        (Reason::Monthly, retention.months),
        (Reason::Yearly, retention.years),
    ];
    for (reason, count) in rules {
        let (mut left, mut last) = (count, None);
        for (sequence, time) in snapshots.iter().rev() {
            let found = Some(period(
                &reason,
                DateTime::from_timestamp_nanos(i64::try_from(time.0).unwrap_or(i64::MAX)),
            ));
            if left > 0 && found != last {
                keep(sequence, reason.clone());
                (left, last) = (left - 1, found);
            }
        }
    }
    for (sequence, more) in also {
        more.iter().for_each(|reason| keep(sequence, reason.clone()));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::hours;
    use proptest::prelude::*;

    /// 2026-01-01, a Thursday.
    const START: UnixNanos = UnixNanos(1_767_225_600_000_000_000);

    fn hourly(count: u64) -> BTreeMap<Sequence, UnixNanos> {
        (0..count).map(|n| (Sequence(n + 1), START.plus(hours(n)))).collect()
    }

    fn kept(reasons: &BTreeMap<Sequence, Vec<Reason>>) -> Vec<u64> {
        reasons.iter().filter(|(_, r)| !r.is_empty()).map(|(s, _)| s.0).collect()
    }

    #[test]
    fn the_newest_of_each_period_stays() {
        let snapshots = hourly(24 * 10);
        let rule = Retention { hours: 3, days: 2, weeks: 2, ..Default::default() };
        let reasons = decide(&rule, &snapshots, &BTreeMap::new());
        // Hours 238 to 240; the days that end with 240 and 216; the weeks that end with 240 and, on a Sunday,
        // 96.
        assert_eq!(kept(&reasons), [96, 216, 238, 239, 240]);
        assert_eq!(reasons[&Sequence(216)], [Reason::Daily]);
    }

    #[test]
    fn ten_years_of_hours_leave_what_the_rules_say() {
        let snapshots = hourly(24 * 3653);
        let rule = Retention { last: 6, hours: 24, days: 14, weeks: 8, months: 6, years: 10 };
        let kept = kept(&decide(&rule, &snapshots, &BTreeMap::new())).len();
        assert!((40..=62).contains(&kept), "{kept}");
    }

    #[test]
    fn without_rules_all_stay_and_what_is_in_use_stays() {
        let snapshots = hourly(5);
        assert_eq!(kept(&decide(&Retention::default(), &snapshots, &BTreeMap::new())).len(), 5);
        let also = BTreeMap::from([
            (Sequence(2), vec![Reason::Pinned("release".into())]),
            (Sequence(77), vec![Reason::Latest]),
        ]);
        let rule = Retention { last: 1, ..Default::default() };
        assert_eq!(kept(&decide(&rule, &snapshots, &also)), [2, 5]);
    }

    proptest! {
        /// Whatever the clocks did: the latest stays, each rule keeps at most its number, and a second
        /// decision drops no more.
        #[test]
        fn deciding_twice_is_deciding_once(
            times in prop::collection::vec(0u64..200_000_000_000_000_000, 1..200),
            last in 0u32..5, hours in 0u32..9, days in 0u32..9, weeks in 0u32..5, months in 0u32..5, years in 0u32..3,
        ) {
            let snapshots: BTreeMap<_, _> = times.iter().enumerate().map(|(n, t)| (Sequence(n as u64 + 1), UnixNanos(*t))).collect();
            let rule = Retention { last, hours, days, weeks, months, years };
            let reasons = decide(&rule, &snapshots, &BTreeMap::new());
            prop_assert!(reasons[&Sequence(times.len() as u64)].contains(&Reason::Latest));
            for (reason, most) in [(Reason::Hourly, hours), (Reason::Monthly, months), (Reason::Last, last)] {
                prop_assert!(reasons.values().filter(|r| r.contains(&reason)).count() <= most as usize);
            }
            let left: BTreeMap<_, _> = snapshots.iter().filter(|(s, _)| !reasons[s].is_empty()).map(|(s, t)| (*s, *t)).collect();
            let again = decide(&rule, &left, &BTreeMap::new());
            prop_assert_eq!(kept(&again), kept(&reasons));
        }
    }
}
