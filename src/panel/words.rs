//! Times, spans and sizes as people read them. Pure.

use crate::support::clock::UnixNanos;
use maud::{Markup, html};

/// Returns a span of time in its two largest units, such as `7 min 12 s`.
pub fn span(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
    if seconds > 0.0 && seconds < 10.0 {
        return if seconds < 0.95 { format!("{seconds:.1} s") } else { format!("{} s", seconds.round()) };
    }
    let whole = seconds.round() as u64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, 0) => format!("{m} min"),
        (0, 0, m, s) if m < 10 => format!("{m} min {s} s"),
        (0, 0, m, _) => format!("{m} min"),
        (0, h, 0, _) => format!("{h} h"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (1, 0, ..) => "1 day".to_owned(),
        (1, h, ..) => format!("1 day {h} h"),
        (d, ..) => format!("{d} days"),
    }
}

/// Returns a span in one unit, for rows and for what changes all the time: `7 min`.
pub fn about(seconds: f64) -> String {
    let whole = if seconds.is_finite() { seconds.max(0.0).round() as u64 } else { 0 };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min", whole / 60),
        3600..172_800 => format!("{} h", whole / 3600),
        _ => format!("{} days", whole / 86_400),
    }
}

/// Returns a span in one unit that is not shorter than it is: what is lost is never shown as less.
pub fn at_most(seconds: f64) -> String {
    let whole = if seconds.is_finite() { seconds.max(0.0).ceil() as u64 } else { 0 };
    match whole {
        0..60 => format!("{} s", whole.max(1)),
        60..3600 => format!("{} min", whole.div_ceil(60)),
        3600..172_800 => format!("{} h", whole.div_ceil(3600)),
        _ => format!("{} days", whole.div_ceil(86_400)),
    }
}

/// Returns how long ago a time is: `7 min ago`.
pub fn ago(seconds: f64) -> String {
    if seconds < 1.0 { "just now".to_owned() } else { format!("{} ago", about(seconds)) }
}

/// Returns a size such as `1.4 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// Returns a number such as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a count with its noun.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

fn date_time(at: UnixNanos) -> Option<chrono::DateTime<chrono::Utc>> {
    chrono::DateTime::from_timestamp(i64::try_from(at.0 / 1_000_000_000).ok()?, 0)
}

/// Returns the time of day in UTC: `02:51`, with the date if it is another day than `now`.
pub fn clock(at: UnixNanos, now: UnixNanos) -> String {
    let (Some(at), Some(now)) = (date_time(at), date_time(now)) else { return "?".to_owned() };
    match at.date_naive() == now.date_naive() {
        true => at.format("%H:%M").to_string(),
        false => at.format("%-d %b %H:%M").to_string(),
    }
}

/// Returns a time in full, for programs and for hints: `2026-11-24T10:00:00Z`.
pub fn full(at: UnixNanos) -> String {
    date_time(at).map_or("?".to_owned(), |at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Returns the time that was this many seconds before `now`.
pub fn before(now: UnixNanos, seconds: f64) -> UnixNanos {
    now.minus(std::time::Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

/// Returns a time from seconds since 1970.
pub fn at_seconds(seconds: f64) -> UnixNanos {
    UnixNanos(if seconds.is_finite() && seconds > 0.0 { (seconds * 1e9) as u64 } else { 0 })
}

/// Returns a text whose figures are not parted from their units at the end of a line.
pub fn whole(text: &str) -> String {
    const UNITS: [&str; 6] = ["s", "min", "h", "day", "days", "ago"];
    let mut out = String::with_capacity(text.len() + 8);
    let mut before = "";
    for word in text.split(' ') {
        let is_unit = UNITS.contains(&word.trim_end_matches(['.', ',', ';']));
        let follows = before.ends_with(|c: char| c.is_ascii_digit()) || UNITS.contains(&before);
        if !out.is_empty() {
            out.push(if is_unit && follows { '\u{a0}' } else { ' ' });
        }
        out += word;
        before = word;
    }
    out
}

/// Shows a moment as `7 min ago`, with the time in UTC for those who ask.
pub fn moment(at: UnixNanos, now: UnixNanos) -> Markup {
    let passed = now.since(at).as_secs_f64();
    html! { time datetime=(full(at)) title=(full(at)) data-ago { (ago(passed)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_at_a_glance() {
        for (seconds, long, short) in [
            (0.0, "0 s", "0 s"),
            (0.21, "0.2 s", "0 s"),
            (7.0, "7 s", "7 s"),
            (59.0, "59 s", "59 s"),
            (120.0, "2 min", "2 min"),
            (432.0, "7 min 12 s", "7 min"),
            (1260.5, "21 min", "21 min"),
            (7200.0, "2 h", "2 h"),
            (7260.0, "2 h 1 min", "2 h"),
            (90_000.0, "1 day 1 h", "25 h"),
            (400_000.0, "4 days", "4 days"),
            (f64::NAN, "0 s", "0 s"),
            (-5.0, "0 s", "0 s"),
        ] {
            assert_eq!((span(seconds).as_str(), about(seconds).as_str()), (long, short), "{seconds}");
        }
        let most = [0.0, 0.2, 59.5, 60.0, 61.0, 420.0, 421.0, 3601.0, 172_801.0].map(at_most);
        assert_eq!(most, ["1 s", "1 s", "1 min", "1 min", "2 min", "7 min", "8 min", "2 h", "3 days"]);
        assert_eq!((ago(0.4), ago(425.0)), ("just now".into(), "7 min ago".into()));
    }

    #[test]
    fn figures_stay_with_their_units() {
        assert_eq!(
            whole("safe as of 07:53, 7 min ago. 2 h"),
            "safe as of 07:53, 7\u{a0}min\u{a0}ago. 2\u{a0}h"
        );
        assert_eq!(whole("a h 3 files"), "a h 3 files");
    }

    #[test]
    fn sizes_counts_and_times_have_one_form() {
        assert_eq!(
            [0, 1023, 1024, 1_500_000, 50 << 30].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "50 GiB"]
        );
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (counted(1, "file", "files"), counted(2, "file", "files")),
            ("1 file".into(), "2 files".into())
        );
        let now = at_seconds(1_800_000_000.0);
        assert_eq!(clock(before(now, 60.0), now), "07:59");
        assert_eq!(clock(before(now, 86_400.0), now), "14 Jan 08:00");
        assert_eq!(full(now), "2027-01-15T08:00:00Z");
        assert_eq!(full(UnixNanos(u64::MAX)), "2554-07-21T23:34:33Z");
        assert_eq!(at_seconds(f64::NAN), UnixNanos(0));
    }
}
