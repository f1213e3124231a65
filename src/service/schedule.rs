//! Schedules: cron expressions of five fields, evaluated in UTC. Each store runs at a fixed offset after
//! their times.
//!
//! The crate `cron` wants a field for seconds, numbers the days of the week from 1 = Sunday, and requires
//! both kinds of days to match. Here they are as in cron(8): Sunday is 0 or 7, and when the day of the month
//! and the day of the week are both restricted, either is enough.

use crate::support::clock::UnixNanos;
use crate::support::failure::{Failure, FailureKind};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

const NS: u64 = 1_000_000_000;
/// Start of the year 2090. The crate knows no year beyond 2100, so later times are evaluated a multiple of
/// [`CYCLE_SECONDS`] earlier.
const CRATE_ENDS_SECONDS: u64 = 3_786_912_000;
/// Length of 28 years: a shift by it keeps the days of the week and the leap days (but for 2100).
const CYCLE_SECONDS: u64 = 10_227 * 86_400;
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The reason why an expression is no schedule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ScheduleError {
    #[error(
        "'{0}' has {1} fields; a schedule has five: minute, hour, day of the month, month, day of the week"
    )]
    Fields(String, usize),
    #[error("'{0}': {1}")]
    Expression(String, String),
    #[error("'{0}' never matches a date")]
    Never(String),
}

impl Failure for ScheduleError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// A schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    due: Due,
}

#[derive(Clone, Debug)]
enum Due {
    /// The times of any of these expressions.
    Any(Vec<cron::Schedule>),
    /// The multiples of this time.
    Every(Duration),
}

impl Schedule {
    /// Returns the schedule that is due every `seconds`.
    pub(crate) fn every(seconds: u64) -> Self {
        Self { text: format!("every {seconds} s"), due: Due::Every(Duration::from_secs(seconds.max(1))) }
    }

    /// Parses a cron expression.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            other => other,
        };
        let fields: Vec<_> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(ScheduleError::Fields(text.to_owned(), fields.len()));
        };
        let wrong = |reason: String| ScheduleError::Expression(text.to_owned(), reason);
        let weekdays = weekdays(weekday).map_err(wrong)?;
        // As in cron(8), a field that begins with a star does not restrict the days, whatever its step.
        let both = !day.starts_with('*') && !weekday.starts_with('*');
        let days = if both { vec![(day, "*"), ("*", &weekdays[..])] } else { vec![(day, &weekdays[..])] };
        let parse = |(day, weekday): (&str, &str)| {
            cron::Schedule::from_str(&format!("0 {minute} {hour} {day} {month} {weekday}"))
                .map_err(|error| wrong(error.to_string().lines().next().unwrap_or("no schedule").to_owned()))
        };
        let due = days.into_iter().map(parse).collect::<Result<_, _>>().map(Due::Any)?;
        let schedule = Self { text: text.to_owned(), due };
        // Leap days are at most eight years apart.
        match schedule.after(UnixNanos::EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(text.to_owned())),
        }
    }

    /// Returns the interval at which it is due, by either clock; none if its times are the calendar's.
    pub(crate) fn interval(&self) -> Option<Duration> {
        match self.due {
            Due::Every(period) => Some(period),
            Due::Any(_) => None,
        }
    }

    /// Returns whether its times are the calendar's.
    pub(crate) fn is_by_calendar(&self) -> bool {
        self.interval().is_none()
    }

    /// Returns the first due time after `time`.
    pub(crate) fn after(&self, time: UnixNanos) -> Option<UnixNanos> {
        let any = match &self.due {
            Due::Every(period) => return time.next_multiple(*period),
            Due::Any(any) => any,
        };
        let seconds = time.0 / NS;
        // A clock that is set beyond that year is wrong, which is no reason to stop.
        let shift = seconds.saturating_sub(CRATE_ENDS_SECONDS).div_ceil(CYCLE_SECONDS) * CYCLE_SECONDS;
        let from = DateTime::<Utc>::from_timestamp((seconds - shift) as i64, 0)?;
        let next = any.iter().filter_map(|schedule| schedule.after(&from).next()).min()?;
        u64::try_from(next.timestamp()).ok()?.checked_add(shift)?.checked_mul(NS).map(UnixNanos)
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Translates the days of the week into the crate's names. Every form becomes a list, since a range may pass
/// the end of the week.
fn weekdays(field: &str) -> Result<String, String> {
    if field == "*" || field == "?" {
        return Ok("*".to_owned());
    }
    let mut days = BTreeSet::new();
    for item in field.split(',') {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let step: u32 =
            step.map_or(Ok(1), str::parse).map_err(|_| format!("'{item}' is not a valid step"))?;
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (weekday(from)?, weekday(to)?),
            None if range == "*" => (0, 6),
            None if item.contains('/') => (weekday(range)?, 6),
            None => (weekday(range)?, weekday(range)?),
        };
        if step == 0 || (from > to && to != 0) {
            return Err(format!("'{item}' is not a valid range of days"));
        }
        // The range ends on Sunday, which is the end of the week.
        let to = if to < from { 7 } else { to };
        days.extend((from..=to).step_by(step as usize).map(|day| day % 7));
    }
    Ok(days.into_iter().map(|day| (day + 1).to_string()).collect::<Vec<_>>().join(","))
}

/// Parses a day of the week, 0 to 7 or three letters. Returns 0 for Sunday.
fn weekday(text: &str) -> Result<u32, String> {
    let text = text.to_ascii_lowercase();
    if let Some(day) = DAYS.iter().position(|day| *day == text) {
        return Ok(day as u32);
    }
    match text.parse::<u32>() {
        Ok(day @ 0..=7) => Ok(day % 7),
        _ => Err(format!("'{text}' is not a day of the week (0 to 7, or sun to sat)")),
    }
}

/// Returns a store's fixed offset within the jitter; it is the same on every host and after every restart.
pub(crate) fn slot(store: &str, jitter: Duration) -> Duration {
    let hash = blake3::hash(store.as_bytes());
    let (first, _) = hash.as_bytes().split_at(8);
    let number = u64::from_le_bytes(first.try_into().unwrap_or_default());
    // The offset is a whole number of seconds.
    Duration::from_secs(((u128::from(number) * u128::from(jitter.as_secs())) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::HOUR;

    fn at(text: &str) -> UnixNanos {
        let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
        UnixNanos(time.and_utc().timestamp() as u64 * NS)
    }

    /// Returns the next `count` times after `from`.
    fn next(expression: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(expression).unwrap();
        let mut time = at(from);
        (0..count)
            .map(|_| {
                time = schedule.after(time).unwrap();
                DateTime::<Utc>::from_timestamp((time.0 / NS) as i64, 0)
                    .unwrap()
                    .format("%a %m-%d %H:%M")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn every_form_of_a_field_means_what_cron_means_by_it() {
        let from = "2026-11-24 22:30"; // a Tuesday
        for (expression, wanted) in [
            ("0 */4 * * *", &["Wed 11-25 00:00", "Wed 11-25 04:00"][..]),
            ("15 * * * *", &["Tue 11-24 23:15", "Wed 11-25 00:15"]),
            ("*/20 22 * * *", &["Tue 11-24 22:40", "Wed 11-25 22:00"]),
            (
                "5,10-12 1 * * *",
                &[
                    "Wed 11-25 01:05",
                    "Wed 11-25 01:10",
                    "Wed 11-25 01:11",
                    "Wed 11-25 01:12",
                    "Thu 11-26 01:05",
                ],
            ),
            ("0 12 1 * *", &["Tue 12-01 12:00", "Fri 01-01 12:00"]),
            ("0 0 1 jan,jul *", &["Fri 01-01 00:00", "Thu 07-01 00:00"]),
            // Days of the week: Sunday is 0 or 7.
            ("0 0 * * 0", &["Sun 11-29 00:00", "Sun 12-06 00:00"]),
            ("0 0 * * 7", &["Sun 11-29 00:00"]),
            ("0 0 * * 1", &["Mon 11-30 00:00"]),
            ("0 0 * * 6", &["Sat 11-28 00:00"]),
            (
                "0 0 * * mon-fri",
                &["Wed 11-25 00:00", "Thu 11-26 00:00", "Fri 11-27 00:00", "Mon 11-30 00:00"],
            ),
            ("0 0 * * 5-7", &["Fri 11-27 00:00", "Sat 11-28 00:00", "Sun 11-29 00:00", "Fri 12-04 00:00"]),
            ("0 0 * * sat,Sun", &["Sat 11-28 00:00", "Sun 11-29 00:00"]),
            ("0 0 * * */2", &["Thu 11-26 00:00", "Sat 11-28 00:00", "Sun 11-29 00:00", "Tue 12-01 00:00"]),
            ("0 0 * * 1/2", &["Wed 11-25 00:00", "Fri 11-27 00:00", "Mon 11-30 00:00"]),
            // With both kinds of days, either is enough.
            ("0 0 13 * fri", &["Fri 11-27 00:00", "Fri 12-04 00:00", "Fri 12-11 00:00", "Sun 12-13 00:00"]),
            // A star does not restrict the days, also with a step.
            ("0 0 */10 * fri", &["Fri 12-11 00:00", "Fri 01-01 00:00"]),
            ("@hourly", &["Tue 11-24 23:00"]),
        ] {
            assert_eq!(next(expression, from, wanted.len()), wanted, "{expression}");
        }
    }

    #[test]
    fn a_leap_day_comes_when_there_is_one() {
        assert_eq!(next("0 6 29 2 *", "2026-11-24 00:00", 2), ["Tue 02-29 06:00", "Sun 02-29 06:00"]);
        assert_eq!(
            Schedule::parse("0 6 29 2 *").unwrap().after(at("2027-03-01 00:00")),
            Some(at("2028-02-29 06:00"))
        );
        // Clocks elsewhere change on this day; in UTC there is no such day.
        assert_eq!(next("30 2 * * *", "2026-03-28 12:00", 2), ["Sun 03-29 02:30", "Mon 03-30 02:30"]);
    }

    #[test]
    fn a_clock_that_is_set_to_the_next_centuries_still_has_ticks() {
        let schedule = Schedule::parse("0 */4 * * *").unwrap();
        for year in [2089, 2090, 2099, 2100, 2101, 2250, 2500] {
            let time = at(&format!("{year}-07-01 01:30"));
            let next = schedule.after(time).unwrap();
            assert!(next > time && next.since(time) <= 4 * HOUR, "{year}");
        }
        assert_eq!(next("0 6 * * 1", "2091-03-01 00:00", 1), ["Mon 03-05 06:00"]);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_a_reason() {
        for (bad, reason) in [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("0 0 * * * *", "6 fields"),
            ("61 * * * *", "61"),
            ("0 0 * * 8", "day of the week"),
            ("0 0 * * fri-tue", "not a valid range"),
            ("0 0 * * */0", "not a valid range"),
            ("0 0 30 2 *", "never matches a date"),
            ("nonsense * * * *", "nonsense"),
        ] {
            let error = Schedule::parse(bad).unwrap_err().to_string();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }

    #[test]
    fn stores_are_spread_over_the_jitter_and_keep_their_place() {
        let slots: Vec<_> = (0..1000).map(|number| slot(&format!("store-{number}"), HOUR)).collect();
        assert!(slots.iter().all(|slot| *slot < HOUR && slot.subsec_nanos() == 0));
        let first_quarter = slots.iter().filter(|slot| **slot < HOUR / 4).count();
        assert!((200..300).contains(&first_quarter), "{first_quarter}");
        assert_eq!(slot("acme", HOUR), slot("acme", HOUR));
        assert_eq!(slot("acme", Duration::ZERO), Duration::ZERO);
    }
}
