//! `understudy snapshots`.

use super::context::Context;
use super::error::Result;
use super::exit::Exit;
use super::{Global, show};
use crate::api::snapshot::SnapshotDetails;
use crate::model::id::{Sequence, StoreName};
use crate::repository::error::RepositoryError;
use clap::Args;

#[derive(Args)]
pub(super) struct SnapshotsArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Use the log as it was up to this record
    #[arg(long, value_name = "N")]
    until_record: Option<u64>,
}

pub(super) fn run(global: &Global, args: SnapshotsArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let store = context.repository_of(&name)?.store(&name);
    let state = match args.until_record {
        Some(last) => store.log().state_until(Sequence(last))?,
        None => store.log().state()?,
    };
    if state.snapshots.is_empty() {
        return Err(RepositoryError::NoStore(name).into());
    }
    if global.json {
        let row = |(snapshot, record)| SnapshotDetails { snapshot, record };
        let rows: Vec<_> = state.snapshots.into_iter().map(row).collect();
        show::json(&rows)?;
        return Ok(Exit::Done);
    }
    let head = [
        "snapshot",
        "scan started (UTC)",
        ">entries",
        ">size",
        ">changed",
        ">shipped",
        ">incomplete",
        "pinned",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (sequence, record) in &state.snapshots {
        let s = &record.statistics;
        rows.push(vec![
            format!("{name}@{sequence}"),
            show::time(record.scan_start),
            show::count(record.manifest.entries),
            show::bytes(record.manifest.size_bytes),
            show::count(s.changes.added + s.changes.removed + s.changes.modified + s.changes.metadata),
            show::bytes(s.shipped_bytes),
            // Number of entries that are torn, unreadable or unsettled.
            match s.torn_files + s.unreadable {
                0 => String::new(),
                count => show::count(count),
            },
            match state.pins.get(sequence).map(String::as_str) {
                None => String::new(),
                Some("") => "pinned".to_owned(),
                Some(note) => note.to_owned(),
            },
        ]);
    }
    show::table(&rows)?;
    Ok(Exit::Done)
}
