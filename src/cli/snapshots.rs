//! `understudy snapshots`.

use super::context::Context;
use super::exit::Exit;
use super::{Global, show};
use crate::model::id::{Sequence, StoreName};
use crate::model::record::SnapshotRecord;
use crate::repository::error::RepositoryError;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

#[derive(Args)]
pub(super) struct SnapshotsArgs {
    #[arg(value_name = "STORE")]
    store: String,
}

#[derive(Serialize)]
struct Row<'a> {
    snapshot: Sequence,
    #[serde(flatten)]
    record: &'a SnapshotRecord,
}

pub(super) fn run(global: &Global, args: SnapshotsArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let state = context.repository_of(&name)?.store(&name).state()?;
    if state.snapshots.is_empty() {
        return Err(RepositoryError::NoStore(name).into());
    }
    if global.json {
        let rows: Vec<_> = state.snapshots.iter().map(|(s, record)| Row { snapshot: *s, record }).collect();
        show::json(&rows)?;
        return Ok(Exit::Done);
    }
    let head = ["snapshot", "scan started (UTC)", ">entries", ">size", ">changed", ">shipped", "torn"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (sequence, record) in &state.snapshots {
        let s = &record.statistics;
        rows.push(vec![
            format!("{name}@{sequence}"),
            show::time(record.scan_start_ns),
            show::count(record.manifest.entries),
            show::bytes(record.manifest.size_bytes),
            show::count(s.changes.added + s.changes.removed + s.changes.modified + s.changes.metadata),
            show::bytes(s.shipped_bytes),
            if s.torn_files + s.unreadable > 0 {
                format!("{}", s.torn_files + s.unreadable)
            } else {
                String::new()
            },
        ]);
    }
    show::table(&rows)?;
    Ok(Exit::Done)
}
