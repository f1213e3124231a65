//! A day of a store as a drawing: snapshots, the lag between them against the objective, and what happened. Pure.
//!
//! The drawing is SVG with percentages, so that it is as wide as the page and its marks stay round. The same
//! data stands in a table below it, for those who cannot see the drawing or want the figures.

use super::words::{at_most, clock, counted, full, span};
use crate::support::clock::{DAY, UnixNanos};
use maud::{Markup, html};
use std::fmt::Write;
use std::time::Duration;

/// A snapshot of the day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub number: u64,
    /// When its scan began: what it has is from then.
    pub begun: UnixNanos,
    /// When it was there.
    pub there: UnixNanos,
    /// Number of entries that changed.
    pub changed: u64,
}

/// What a mark stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Failover,
    Pause,
    Hold,
    Drill,
    Decision,
}

impl MarkKind {
    pub const ALL: [Self; 5] = [Self::Failover, Self::Pause, Self::Hold, Self::Drill, Self::Decision];

    pub fn word(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Pause => "pause",
            Self::Hold => "hold",
            Self::Drill => "drill",
            Self::Decision => "decision",
        }
    }

    /// Returns a shape of its own around the origin, so that no kind is told by its colour alone.
    fn shape(self) -> &'static str {
        match self {
            Self::Failover => "M0-7L7 0 0 7-7 0z",
            Self::Pause => "M-5-6h3.500v12h-3.500zM1.5-6h3.500v12h-3.500z",
            Self::Hold => "M-6 5.500L0-6l6 11.500z",
            Self::Drill => "M-5.5-5.500h11v11h-11z",
            Self::Decision => "M-6.5-1.500h5v-5h3v5h5v3h-5v5h-3v-5h-5z",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub at: UnixNanos,
    pub kind: MarkKind,
    pub what: String,
}

/// A day of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// In their order. The first may be from before the day: its lag reaches into it.
    pub snapshots: Vec<Taken>,
    pub marks: Vec<Mark>,
}

/// Maximum number of dots; of more, some are left out of the drawing.
const DOTS_MAX: usize = 180;
/// Maximum number of rows of the table.
const ROWS_MAX: usize = 60;
/// Height of the part with the lag, in the drawing's units.
const LAG_HEIGHT: f64 = 100.0;

/// Returns the place of a time on the drawing, in thousandths of its width.
fn x(at: UnixNanos, now: UnixNanos) -> f64 {
    let past = now.since(at).as_secs_f64();
    ((1.0 - past / DAY.as_secs_f64()) * 1000.0).clamp(0.0, 1000.0)
}

/// Returns the highest lag that the drawing has room for.
fn ceiling(timeline: &Timeline, objective: Duration, now: UnixNanos) -> f64 {
    let ends = timeline.snapshots.iter().skip(1).map(|taken| taken.there).chain([now]);
    let lags = timeline.snapshots.iter().zip(ends).map(|(taken, end)| end.since(taken.begun).as_secs_f64());
    lags.fold(objective.as_secs_f64() * 1.25, f64::max).max(1.0)
}

/// Returns the outline of the lag: it grows with time, and falls when a snapshot is there.
fn outline(timeline: &Timeline, top: f64, now: UnixNanos) -> String {
    let mut path = String::new();
    let y = |lag: f64| LAG_HEIGHT - lag / top * LAG_HEIGHT;
    let start = now.minus(DAY);
    for (at, taken) in timeline.snapshots.iter().enumerate() {
        let end = timeline.snapshots.get(at + 1).map_or(now, |next| next.there);
        let from = taken.there.max(start);
        if end <= from {
            continue;
        }
        let lag = |at: UnixNanos| at.since(taken.begun).as_secs_f64();
        if path.is_empty() {
            let _ = write!(path, "M{:.1} {LAG_HEIGHT}", x(from, now));
        }
        let _ = write!(path, "L{:.1} {:.1}", x(from, now), y(lag(from)));
        let _ = write!(path, "L{:.1} {:.1}", x(end, now), y(lag(end)));
    }
    if !path.is_empty() {
        let _ = write!(path, "L1000 {LAG_HEIGHT}z");
    }
    path
}

/// Returns an hour of the day at each four hours, with its place.
fn hours(now: UnixNanos) -> Vec<(f64, String)> {
    let four = Duration::from_hours(4);
    let mut at = now.minus(DAY).next_multiple(four).unwrap_or(now);
    let mut hours = Vec::new();
    while at < now {
        // Words at the very edges would be cut off.
        if (25.0..960.0).contains(&x(at, now)) {
            hours.push((x(at, now), clock(at, at)));
        }
        at = at.plus(four);
    }
    hours
}

fn is_in_day(at: UnixNanos, now: UnixNanos) -> bool {
    at > now.minus(DAY) && at <= now
}

fn drawing(timeline: &Timeline, objective: Duration, now: UnixNanos) -> Markup {
    let top = ceiling(timeline, objective, now);
    let line = LAG_HEIGHT - objective.as_secs_f64() / top * LAG_HEIGHT;
    let percent = |at: UnixNanos| format!("{:.2}%", x(at, now) / 10.0);
    let dots: Vec<&Taken> = timeline.snapshots.iter().filter(|taken| is_in_day(taken.there, now)).collect();
    let each = dots.len().div_ceil(DOTS_MAX).max(1);
    let in_day = timeline.marks.iter().filter(|mark| is_in_day(mark.at, now));
    html! {
        svg class="timeline" width="100%" height="176" role="img" aria-labelledby="timeline-title timeline-text" {
            title id="timeline-title" { "The last 24 hours" }
            desc id="timeline-text" { (described(timeline, objective, now)) }
            @for (place, hour) in hours(now) {
                line class="hour" x1=(format!("{:.2}%", place / 10.0)) x2=(format!("{:.2}%", place / 10.0)) y1="30" y2="146" {}
                text class="hour" x=(format!("{:.2}%", place / 10.0)) y="168" text-anchor="middle" { (hour) }
            }
            svg x="0" y="34" width="100%" height="100" viewBox=(format!("0 0 1000 {LAG_HEIGHT}")) preserveAspectRatio="none" {
                path class="lag" d=(outline(timeline, top, now)) {}
            }
            line class="objective" x1="0" x2="100%" y1=(format!("{:.1}", 34.0 + line)) y2=(format!("{:.1}", 34.0 + line)) {}
            text class="objective" x="4" y=(format!("{:.1}", 34.0 + line - 5.0)) { "promised: " (span(objective.as_secs_f64())) }
            line class="base" x1="0" x2="100%" y1="140" y2="140" {}
            @for taken in dots.iter().step_by(each) {
                circle class="dot" cx=(percent(taken.there)) cy="140" r="4" { title { (dot(taken, now)) } }
            }
            @for mark in in_day {
                svg class={ "mark " (mark.kind.word()) } x=(percent(mark.at)) y="16" overflow="visible" width="1" height="1" {
                    path d=(mark.kind.shape()) { title { (clock(mark.at, now)) " " (mark.kind.word()) ": " (mark.what) } }
                }
            }
        }
    }
}

fn dot(taken: &Taken, now: UnixNanos) -> String {
    let took = span(taken.there.since(taken.begun).as_secs_f64());
    format!("{} snapshot {}, {} changed, took {took}", clock(taken.there, now), taken.number, taken.changed)
}

/// Says what the drawing shows.
fn described(timeline: &Timeline, objective: Duration, now: UnixNanos) -> String {
    let count = timeline.snapshots.iter().filter(|taken| is_in_day(taken.there, now)).count() as u64;
    let worst = worst(timeline, now);
    let mut text = format!("{} in 24 hours.", counted(count, "snapshot", "snapshots"));
    if let Some(worst) = worst {
        let _ = write!(
            text,
            " The lag was at most {}; {} are promised.",
            at_most(worst),
            span(objective.as_secs_f64())
        );
    }
    let marks = timeline.marks.iter().filter(|mark| is_in_day(mark.at, now)).count();
    if marks > 0 {
        let _ = write!(text, " {marks} other events.");
    }
    text
}

/// Returns the longest lag of the day; none while there is no snapshot.
fn worst(timeline: &Timeline, now: UnixNanos) -> Option<f64> {
    let ends = timeline.snapshots.iter().skip(1).map(|taken| taken.there).chain([now]);
    let spans = timeline.snapshots.iter().zip(ends).filter(|(_, end)| is_in_day(*end, now));
    spans.map(|(taken, end)| end.since(taken.begun).as_secs_f64()).reduce(f64::max)
}

fn table(timeline: &Timeline, now: UnixNanos) -> Markup {
    let taken = timeline.snapshots.iter().filter(|taken| is_in_day(taken.there, now));
    let taken =
        taken.map(|taken| (taken.there, "snapshot", format!("{}: {} changed", taken.number, taken.changed)));
    let marks = timeline.marks.iter().filter(|mark| is_in_day(mark.at, now));
    let marks = marks.map(|mark| (mark.at, mark.kind.word(), mark.what.clone()));
    let mut rows: Vec<_> = taken.chain(marks).collect();
    rows.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    let left_out = rows.len().saturating_sub(ROWS_MAX);
    rows.truncate(ROWS_MAX);
    html! {
        details {
            summary { "The same as a table" }
            @if rows.is_empty() { p class="soft" { "Nothing happened in the last 24 hours." } } @else {
                table class="plain" {
                    caption class="hidden" { "The last 24 hours, the newest first" }
                    thead { tr { th scope="col" { "Time (UTC)" } th scope="col" { "Event" } th scope="col" { "What" } } }
                    tbody { @for (at, word, what) in rows {
                        tr { td { time datetime=(full(at)) { (clock(at, now)) } } td { (word) } td { (what) } }
                    } }
                }
                @if left_out > 0 { p class="soft" { (left_out) " older ones are not listed." } }
            }
        }
    }
}

/// Shows a day of a store, as a drawing and as a table. None stands for one that could not be read.
pub fn show(timeline: Option<&Timeline>, objective_seconds: u64, now: UnixNanos) -> Markup {
    let objective = Duration::from_secs(objective_seconds);
    html! {
        section class="card" aria-labelledby="day" {
            h2 id="day" { "The last 24 hours " span class="soft" { "in UTC" } }
            @match timeline {
                None => p class="soft" { "The store's log could not be read just now; what is above is from this host." },
                Some(timeline) => {
                    p class="soft" { (described(timeline, objective, now)) }
                    (drawing(timeline, objective, now))
                    (table(timeline, now))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::NOW;
    use super::*;

    fn hours_ago(hours: f64) -> UnixNanos {
        NOW.minus(Duration::from_secs_f64(hours * 3600.0))
    }

    fn taken(number: u64, hours: f64) -> Taken {
        let there = hours_ago(hours);
        Taken { number, begun: there.minus(Duration::from_mins(6)), there, changed: number }
    }

    fn day() -> Timeline {
        let snapshots = [26.0, 20.0, 16.0, 4.0].into_iter().zip(1..).map(|(at, n)| taken(n, at)).collect();
        let mark = |kind, hours| Mark { at: hours_ago(hours), kind, what: "why <&>".into() };
        Timeline {
            snapshots,
            marks: MarkKind::ALL.into_iter().zip(1..).map(|(k, n)| mark(k, f64::from(n))).collect(),
        }
    }

    #[test]
    fn the_drawing_and_the_table_say_the_same() {
        let text = show(Some(&day()), 14_400, NOW).into_string();
        assert!(
            text.contains(
                "3 snapshots in 24 hours. The lag was at most 13 h; 4 h are promised. 5 other events."
            ),
            "{text}"
        );
        assert_eq!(text.matches("<circle").count(), 3);
        for kind in MarkKind::ALL {
            assert!(text.contains(&format!("class=\"mark {}\"", kind.word())), "{kind:?}");
            assert!(text.contains(&format!("<td>{}</td>", kind.word())), "{kind:?}");
        }
        assert!(text.contains("<td>04:00</td>") || text.contains(">04:00<"), "{text}");
        assert!(!text.contains("why <&>") && text.contains("why &lt;&amp;&gt;"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn the_lag_falls_when_a_snapshot_is_there_and_not_when_it_is_begun() {
        let timeline = Timeline { snapshots: vec![taken(1, 25.0), taken(2, 12.0)], marks: Vec::new() };
        let path = outline(&timeline, 86_400.0, NOW);
        // Half of the day: 13 hours and 6 minutes of lag, then 6 minutes.
        assert!(path.contains("L500.0 45.4L500.0 99.6L1000.0 49.6L1000 100z"), "{path}");
    }

    #[test]
    fn none_and_thousands_are_drawn_as_well() {
        let none = show(Some(&Timeline::default()), 14_400, NOW).into_string();
        assert!(none.contains("0 snapshots") && none.contains("Nothing happened") && !none.contains("NaN"));
        let many = (0..5000_u64).rev().map(|n| taken(5000 - n, f64::from(n as u32) / 240.0)).collect();
        let text = show(Some(&Timeline { snapshots: many, marks: Vec::new() }), 60, NOW).into_string();
        assert!(text.matches("<circle").count() <= DOTS_MAX && text.contains("older ones are not listed"));
        assert!(show(None, 60, NOW).into_string().contains("could not be read"));
        // Times that lie in the future, by another host's clock.
        let there = NOW.plus(Duration::from_hours(1));
        let ahead = vec![Taken { number: 1, begun: there, there, changed: 0 }];
        let ahead = Timeline { snapshots: ahead, marks: Vec::new() };
        assert!(!show(Some(&ahead), 60, NOW).into_string().contains("NaN"));
    }
}
