//! `understudy database status`.

use super::run::place;
use super::{Configured, OfStore};
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::{Global, show};
use crate::database::decide::State;
use crate::database::desk::local;
use crate::database::error::Trouble;
use crate::database::report::Report;
use crate::database::server::Server;
use crate::model::gtid::GtidPosition;
use crate::model::id::StoreName;
use serde::Serialize;

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    /// The primary's position, where this host reaches it.
    primary: Option<GtidPosition>,
    /// The replica on this host.
    replica: Option<&'a Report>,
    /// Whether its supervisor runs.
    supervised: bool,
    meaning: Option<&'static str>,
    mend: Option<String>,
}

pub(super) fn status(global: &Global, of: &OfStore) -> Result<Exit> {
    let configured = Configured::open(global, &of.store)?;
    let (context, name) = (&configured.context, &configured.store.name);
    let place = place(&configured)?;
    let mut report = Report::read(&place);
    let supervised = report.as_ref().is_some_and(|report| report.is_fresh(context.env().wall()));
    let primary = configured.primary().ok().map(|client| Server::new(client).binlog_position());
    if let Some(report) = &mut report {
        ask(
            report,
            &Server::new(local(&place, context.env())),
            primary.as_ref().and_then(|p| p.as_ref().ok()),
        );
    }
    let trouble = report.as_ref().and_then(|report| report.trouble);
    let output = Output {
        store: name,
        primary: primary.as_ref().and_then(|position| position.as_ref().ok().cloned()),
        replica: report.as_ref(),
        supervised,
        meaning: trouble.map(Trouble::meaning),
        mend: trouble.map(|trouble| trouble.mend(name.as_str())),
    };
    match global.json {
        true => show::json(&output)?,
        false => say(&output)?,
    }
    if output.replica.is_none() {
        // A primary has no replica; what it says is all there is.
        primary.transpose()?;
    }
    Ok(exit(&output))
}

/// Takes what the server itself says now, rather than what its supervisor saw.
fn ask(report: &mut Report, server: &Server, primary: Option<&GtidPosition>) {
    match report.state {
        State::Fenced => {}
        State::Serving => match server.binlog_position() {
            Ok(position) => report.applied = position,
            Err(_) => report.state = State::Down,
        },
        _ => match server.replica_status() {
            Ok(Some(status)) => {
                report.behind = primary.map_or(report.behind, |primary| Some(status.applied.behind(primary)));
                report.applied = status.applied;
            }
            _ => report.state = State::Down,
        },
    }
}

fn is_replica(report: &Report) -> bool {
    !matches!(report.state, State::Serving | State::Fenced)
}

fn exit(output: &Output) -> Exit {
    match output.replica.map(|report| report.state) {
        Some(State::Broken) => Exit::Held,
        Some(State::Down | State::Waiting) => Exit::Unavailable,
        Some(State::Fenced) => Exit::Fenced,
        Some(State::Following | State::Serving) if !output.supervised => Exit::Unavailable,
        _ => Exit::Done,
    }
}

fn say(output: &Output) -> Result<()> {
    let position = |position: &GtidPosition| match position.is_empty() {
        true => "nothing".to_owned(),
        false => position.to_string(),
    };
    let primary = output.primary.as_ref().map_or_else(|| "not reached from here".to_owned(), position);
    show::line(&format!("store '{}': primary at {primary}", output.store))?;
    let Some(report) = output.replica else {
        return show::line("  no replica on this host");
    };
    let applied = position(&report.applied);
    if !is_replica(report) {
        let word = report.state.name();
        show::line(&format!("  this host's server: {word} in epoch {}, at {applied}", report.epoch.0))?;
        if let Some(branch) = &report.branch {
            show::line(&format!("  it was a replica until {}", position(branch)))?;
        }
        return end(output, report);
    }
    let behind = report.behind.map_or("an unknown number of".to_owned(), show::count);
    let lag = report.lag_seconds.map_or_else(|| "unknown".to_owned(), show::age);
    show::line(&format!(
        "  replica {} at {applied}: {behind} transactions behind, lag {lag}",
        report.state.name()
    ))?;
    end(output, report)
}

/// Says what is said of every server.
fn end(output: &Output, report: &Report) -> Result<()> {
    if let Some(bytes) = report.resident_bytes {
        show::line(&format!("  memory {}", show::bytes(bytes)))?;
    }
    if let Some(trouble) = report.trouble {
        show::line(&format!("  {}: {}", trouble.name(), trouble.meaning()))?;
    }
    if let Some(error) = &report.error {
        show::line(&format!("  {error}"))?;
    }
    if let Some(mend) = &output.mend {
        show::line(&format!("  what mends it: {mend}"))?;
    }
    match output.supervised {
        true => Ok(()),
        false => show::line(&format!("  nobody supervises it: understudy database run {}", output.store)),
    }
}
