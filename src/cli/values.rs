//! Parsers for the values of options: times, percentages, points.

use crate::model::snapshot_ref::Moment;

/// Parses a time in seconds: `90s`, `10m`, `2h`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.trim().split_at_checked(text.trim().len().saturating_sub(1)) {
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 3600),
        _ => (text, 1),
    };
    match number.trim().parse::<u64>() {
        Ok(n @ 1..=1_000_000) => Ok(n * factor),
        _ => Err("write a time as, for example, 90s, 10m or 2h".into()),
    }
}

/// Parses a percentage: 1 to 100, with or without a percent sign.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    match text.trim_end_matches('%').parse() {
        Ok(n @ 1..=100) => Ok(n),
        _ => Err("a share must be 1 to 100 percent".into()),
    }
}

/// Parses a point: `@42`, `@latest` or `@2026-11-23T10:00`.
pub(super) fn point(text: &str) -> Result<Moment, String> {
    let wrong = || format!("'{text}' is not a point: use @42, @latest or @2026-11-23T10:00 (UTC)");
    let moment = text.strip_prefix('@').ok_or_else(wrong)?;
    Moment::parse(moment).map_err(|_| wrong())
}
