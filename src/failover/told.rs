//! The history of a store's members and primary, as people and programs are told it. Pure.

use crate::api::history::HistoryRow;
use crate::model::decision::{Cause, Decision, Promoted, Statement};
use crate::model::gtid::GtidPosition;
use crate::model::record::Event;
use crate::repository::history::Happened;

/// Returns a record of the history, in words.
pub(crate) fn row(Happened { record, irregular }: &Happened) -> HistoryRow {
    let mut row = HistoryRow {
        record: record.sequence,
        epoch: record.epoch.0,
        at: None,
        host: record.writer.clone(),
        person: None,
        kind: "snapshot".to_owned(),
        what: "a snapshot".to_owned(),
        irregular: irregular.clone(),
    };
    match &record.event {
        Event::Decided(decided) => {
            row.host.clone_from(&decided.member);
            (row.kind, row.what) = ("unreadable".to_owned(), "a text that is no decision".to_owned());
            if let Some(Statement { at, decision }) = decided.statement() {
                row.at = Some(at.seconds());
                row.kind = decision.name().to_owned();
                row.person = person(&decision).cloned();
                row.what = what(&decision);
            }
        }
        Event::Promoted { primary } => {
            row.kind = "promoted".to_owned();
            row.what = format!("'{primary}' is the primary, unsigned");
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

fn at(database: Option<&GtidPosition>) -> String {
    database.map(|position| format!(", the database at {position}")).unwrap_or_default()
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
        Decision::Handover { to, snapshot, database, reason } => {
            let because = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("handover to '{to}' with snapshot {snapshot}{}{because}", at(database.as_ref()))
        }
        Decision::Cancelled { handover, reason } => format!("handover {handover} is cancelled: {reason}"),
        Decision::Completed { promotion, steps, database } => {
            let ms: u64 = steps.iter().fold(0, |sum, step| sum.saturating_add(step.ms));
            format!("promotion {promotion} is completed in {ms} ms{}", at(database.as_ref()))
        }
        Decision::Paused { reason, .. } => format!("automatic promotions are paused: {reason}"),
        Decision::Resumed { .. } => "automatic promotions are resumed".to_owned(),
        Decision::Synced { standbys } if standbys.is_empty() => {
            "the database waits for no standby".to_owned()
        }
        Decision::Synced { standbys } => {
            let names: Vec<_> = standbys.iter().map(ToString::to_string).collect();
            format!("the database waits for {}, which has all that customers were told", names.join(", "))
        }
        Decision::Stranded(stranded) => format!(
            "stranded from epoch {}: {} added, {} changed, {} removed",
            stranded.of_epoch.0, stranded.added, stranded.changed, stranded.removed
        ),
        Decision::Settled { stranded, taken, dropped, .. } => {
            format!("what was stranded in {stranded} is settled: {taken} taken, {dropped} dropped")
        }
    }
}
