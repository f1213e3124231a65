//! `understudy history`.

use super::context::Context;
use super::error::Result;
use super::exit::Exit;
use super::{Global, show};
use crate::api::history::HistoryRow;
use crate::failover::told;
use crate::model::decision::Decision;
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

/// A record, as it is shown.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    row: HistoryRow,
    /// The decision as it was signed.
    decision: Option<Decision>,
}

impl Row {
    fn new(happened: &Happened) -> Self {
        let decision = match &happened.record.event {
            Event::Decided(decided) => decided.statement().map(|statement| statement.decision),
            _ => None,
        };
        Self { row: told::row(happened), decision }
    }
}

pub(super) fn run(global: &Global, args: HistoryArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let store = context.repository_of(&name)?.store(&name);
    if store.log().is_empty()? {
        return Err(RepositoryError::NoStore(name).into());
    }
    let rows: Vec<_> = store.log().history()?.iter().map(Row::new).collect();
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
    for Row { row, .. } in &rows {
        table.push(vec![
            row.record.to_string(),
            row.epoch.to_string(),
            row.at.map_or("-".to_owned(), |at| show::time(UnixNanos((at * 1e9) as u64))),
            row.host.0.clone(),
            row.person.clone().unwrap_or_else(|| "-".to_owned()),
            row.what.clone(),
            row.irregular.as_ref().map(|why| format!("NO EFFECT: {why}")).unwrap_or_default(),
        ]);
    }
    show::table(&table)?;
    Ok(Exit::Done)
}
