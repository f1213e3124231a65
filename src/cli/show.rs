//! The presentation of figures and reports.

use super::error::{Context as _, Result};
use crate::api::resync::ResyncReport;
use crate::api::run::RunReport;
use crate::api::stranded::{LossCheck, StrandedCounts};
use crate::maintain::prune::PruneReport;
use crate::model::escape;
use crate::service::drill::DrillReport;
use crate::support::clock::UnixNanos;
use serde::Serialize;
use std::path::Path;

pub(super) use super::out::line;

/// Formats a size as `1.4 MiB`.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Formats a time as `2026-11-24 10:00:00`, in UTC.
pub(super) fn time(time: UnixNanos) -> String {
    let seconds = i64::try_from(time.0 / 1_000_000_000).unwrap_or(i64::MAX);
    match chrono::DateTime::from_timestamp(seconds, 0) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        None => "?".to_owned(),
    }
}

/// Formats a time in seconds as `3h 12m`.
pub(super) fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

/// Formats a number as `1,234,567`.
pub(super) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// Prints one JSON object on a line of its own.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    line(&escape::json(&serde_json::to_string(value).context("writing the report as JSON")?))
}

/// Cuts a cell's text to a maximum number of characters.
fn cut(text: String) -> String {
    const CELL_MAX: usize = 200;
    match text.char_indices().nth(CELL_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Prints a table. The first row is its head; columns whose head begins with `>` are aligned to the right.
pub(super) fn table(rows: &[Vec<String>]) -> Result<()> {
    // A cell must not contain line breaks, and its length is limited.
    let safe: Vec<Vec<_>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| cut(escape::line(cell).into_owned())).collect())
        .collect();
    let rows = &safe;
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().map(|row| row[column].trim_start_matches('>').chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let right: Vec<_> =
        rows.first().map_or(Vec::new(), |head| head.iter().map(|h| h.starts_with('>')).collect());
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let cell = cell.trim_start_matches('>');
            if right[column] {
                format!("{cell:>width$}", width = widths[column])
            } else {
                format!("{cell:<width$}", width = widths[column])
            }
        });
        line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Prints the report of a run of either kind.
pub(super) fn report(report: &RunReport, how: &str) -> Result<()> {
    match report {
        RunReport::Resync(report) => resync(report, how),
        RunReport::Follow(report) => {
            let how = if report.published { "published" } else { "is here already" };
            line(&format!("{}@{} {how}", report.store, report.snapshot))
        }
    }
}

/// Prints the report of a resync.
pub(super) fn resync(report: &ResyncReport, how: &str) -> Result<()> {
    let c = &report.changes;
    let seconds = report.phases.open_seconds
        + report.phases.scan_seconds
        + report.phases.ship_seconds
        + report.phases.commit_seconds;
    line(&format!("{}@{} {how}", report.store, report.snapshot))?;
    line(&format!(
        "  {} entries, {}: {} added, {} modified, {} metadata only, {} removed, {} unchanged",
        count(report.entries),
        bytes(report.size_bytes),
        count(c.added),
        count(c.modified),
        count(c.metadata),
        count(c.removed),
        count(c.unchanged),
    ))?;
    line(&format!(
        "  {} read, {} of it new, {} shipped in {} requests, {seconds:.2} s",
        bytes(report.read_bytes),
        bytes(report.new_bytes),
        bytes(report.shipped_bytes),
        report.requests.put + report.requests.get + report.requests.head + report.requests.list,
    ))
}

/// Warns about standbys for which nothing is kept any more, and about deletions that these credentials do not
/// permit.
pub(super) fn pruning_warnings(report: &PruneReport) {
    for standby in &report.silent_standbys {
        complain!(
            "understudy: warning: {}: standby '{}' last reported {} days ago; nothing is kept for it any more{}",
            report.store,
            standby.host,
            standby.silent_days,
            if standby.forgotten { ", and it is no longer listed" } else { "" },
        );
    }
    if let Some(reason) = &report.deletion_refused {
        complain!(
            "understudy: warning: {}: nothing was deleted: {reason}; prune with credentials that can delete",
            report.store
        );
    }
}

/// Returns the report of a drill as one line.
pub(super) fn drill_text(report: &DrillReport) -> String {
    format!(
        "{}@{} is proven restorable: {} entries looked up, {} files read and compared ({}){}, mounted in {:.0} ms, {:.2} s",
        report.store,
        report.snapshot,
        count(report.entries),
        count(report.files_read),
        bytes(report.read_bytes),
        if report.command { ", the command succeeded" } else { "" },
        report.mount_seconds * 1e3,
        report.seconds,
    )
}

/// Reports that a key was made, of which the user must keep a copy.
pub(super) fn announce_key(made: Option<&Path>) {
    if let Some(path) = made.filter(|path| path.exists()) {
        complain!(
            "understudy: created the key file {}: keep a copy elsewhere; without it encrypted stores are lost",
            path.display()
        );
    }
}

/// Says how many paths of each class a former primary has; `place` is "here" or "there".
pub(crate) fn stranded(counts: &StrandedCounts, place: &str) -> String {
    format!(
        "{} only {place}, {} changed on both sides, {} deleted {place}, {} transient, {} the same on both; {}",
        count(counts.only),
        count(counts.both),
        count(counts.deleted),
        count(counts.transient),
        count(counts.same),
        bytes(counts.size_bytes),
    )
}

/// Prints what a promotion stated that it loses, and how what was found agrees with it.
pub(super) fn loss(loss: &LossCheck) -> Result<()> {
    let stated = match (loss.stated_paths, loss.stated_seconds) {
        (Some(paths), _) => format!("{} paths", count(paths)),
        (None, Some(seconds)) => format!("what changed in the {} before it", age(seconds as f64)),
        (None, None) => "nothing".to_owned(),
    };
    line(&format!("  the promotion stated as lost: {stated}; found: {} paths", count(loss.found_paths)))?;
    loss.said().map_or(Ok(()), |said| line(&format!("  {said}")))
}
