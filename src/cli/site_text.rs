//! The report of a drill of a failover, as text.

use super::show;
use crate::model::escape;
use crate::service::site::report::{Form, SiteReport};
use std::fmt::Write;

/// Maximum number of names that are shown.
const NAMES_SHOWN: usize = 20;

/// Returns a report as lines. Names come from the shop's programs, and are escaped.
pub(super) fn site_text(report: &SiteReport) -> String {
    let SiteReport { store, steps, seen, .. } = report;
    let what = match report.snapshot {
        Some(snapshot) => format!("{store}@{snapshot}"),
        None => store.to_string(),
    };
    let mut text = format!(
        "{what} would serve here {:.1} s after the decision (proven by a drill of {:.1} s)\n",
        report.recovery_seconds, report.seconds
    );
    for step in steps {
        let form = match step.form {
            Form::Done => "",
            Form::Dry => "  without a change",
            Form::Check => "  not counted",
        };
        let _ = writeln!(text, "  {:<14}{:>8.2} s{form}", step.step, step.seconds);
    }
    if let Some(still) = report.still_seconds {
        let _ = writeln!(text, "  the database's replica stood still for {still:.2} s while it was copied");
    }
    let calls: u64 = seen.connections.values().sum();
    let _ = writeln!(
        text,
        "  nothing got out: {} taken, {} to the sink, {} asked for",
        counted(seen.mails, "mail"),
        counted(calls, "connection"),
        counted(seen.names.len() as u64 + seen.more_names, "name"),
    );
    for (port, count) in &seen.connections {
        let _ = writeln!(text, "    port {port}: {}", counted(*count, "connection"));
    }
    for (name, count) in seen.names.iter().take(NAMES_SHOWN) {
        let _ = writeln!(text, "    {}: asked {}", escape::line(name), counted(*count, "time"));
    }
    for how in &report.not_proven {
        let _ = writeln!(text, "  not proven: {}", escape::line(how));
    }
    text.trim_end().to_owned()
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", show::count(count), if count == 1 { "" } else { "s" })
}
