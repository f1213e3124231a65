//! `understudy history`.

use super::context::Context;
use super::error::Result;
use super::exit::Exit;
use super::{Global, show};
use crate::model::decision::{Cause, Decision, Promoted, Statement};
use crate::model::id::StoreName;
use crate::model::record::Event;
use crate::repository::error::RepositoryError;
use crate::repository::history::Happened;
use crate::support::clock::UnixNanos;
use clap::Args;
use serde::Serialize;

#[derive(Args)]
pub(super) struct HistoryArgs {
    #[arg(value_name = "STORE")]
    store: String,
}

/// A decision, as it is shown.
#[derive(Serialize)]
struct Row {
    record: u64,
    epoch: u64,
    /// Seconds since 1970 by the maker's clock.
    at: Option<f64>,
    host: String,
    /// The person who decided it, if one did.
    person: Option<String>,
    kind: &'static str,
    /// What it says, in words.
    what: String,
    /// Why it has no effect.
    irregular: Option<String>,
    /// The decision as it was signed.
    decision: Option<Decision>,
}

pub(super) fn run(global: &Global, args: HistoryArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let store = context.repository_of(&name)?.store(&name);
    if store.log().is_empty()? {
        return Err(RepositoryError::NoStore(name).into());
    }
    let rows: Vec<_> = store.log().history()?.into_iter().map(row).collect();
    if global.json {
        show::json(&rows)?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        show::line(&format!("store '{name}': nothing was decided about its members or its primary"))?;
        return Ok(Exit::Done);
    }
    let head = [">record", ">epoch", "time (UTC)", "host", "person", "decision", ""];
    let mut table = vec![head.map(String::from).to_vec()];
    for row in &rows {
        table.push(vec![
            row.record.to_string(),
            row.epoch.to_string(),
            row.at.map_or("-".to_owned(), |at| show::time(UnixNanos((at * 1e9) as u64))),
            row.host.clone(),
            row.person.clone().unwrap_or_else(|| "-".to_owned()),
            row.what.clone(),
            row.irregular.as_ref().map(|why| format!("NO EFFECT: {why}")).unwrap_or_default(),
        ]);
    }
    show::table(&table)?;
    Ok(Exit::Done)
}

fn row(Happened { record, irregular }: Happened) -> Row {
    let mut row = Row {
        record: record.sequence.0,
        epoch: record.epoch.0,
        at: None,
        host: record.writer.0.clone(),
        person: None,
        kind: "snapshot",
        what: "a snapshot".to_owned(),
        irregular,
        decision: None,
    };
    match record.event {
        Event::Decided(decided) => {
            row.host = decided.member.0.clone();
            (row.kind, row.what) = ("unreadable", "a text that is no decision".to_owned());
            if let Some(Statement { at, decision }) = decided.statement() {
                row.at = Some(at.seconds());
                row.kind = decision.name();
                row.person = person(&decision).cloned();
                row.what = what(&decision);
                row.decision = Some(decision);
            }
        }
        Event::Promoted { primary } => {
            (row.kind, row.what) = ("promoted", format!("'{primary}' is the primary, unsigned"));
        }
        _ => {}
    }
    row
}

fn person(decision: &Decision) -> Option<&String> {
    match decision {
        Decision::Promoted(Promoted { cause: Cause::Forced { person, .. }, .. })
        | Decision::Paused { person, .. }
        | Decision::Resumed { person }
        | Decision::Settled { person, .. } => Some(person),
        _ => None,
    }
}

fn what(decision: &Decision) -> String {
    match decision {
        Decision::Members { members } => {
            let names: Vec<_> = members.iter().map(|member| member.name.to_string()).collect();
            format!("the members are {}", names.join(", "))
        }
        Decision::Promoted(promoted) => {
            let base = promoted.base.map(|base| format!(", from snapshot {base}")).unwrap_or_default();
            format!(
                "'{}' is the primary ({}{base}): {}",
                promoted.primary,
                promoted.cause.name(),
                promoted.reason
            )
        }
        Decision::Handover { to, snapshot } => format!("handover to '{to}' with snapshot {snapshot}"),
        Decision::Cancelled { handover, reason } => format!("handover {handover} is cancelled: {reason}"),
        Decision::Completed { promotion, steps } => {
            let ms: u64 = steps.iter().fold(0, |sum, step| sum.saturating_add(step.ms));
            format!("promotion {promotion} is completed in {} ms", show::count(ms))
        }
        Decision::Paused { reason, .. } => format!("automatic promotions are paused: {reason}"),
        Decision::Resumed { .. } => "automatic promotions are resumed".to_owned(),
        Decision::Stranded(stranded) => format!(
            "stranded from epoch {}: {} added, {} changed, {} removed",
            stranded.of_epoch.0, stranded.added, stranded.changed, stranded.removed
        ),
        Decision::Settled { stranded, taken, dropped, .. } => {
            format!("what was stranded in {stranded} is settled: {taken} taken, {dropped} dropped")
        }
    }
}
