//! `understudy status`.

use super::context::{Context, now_ns};
use super::exit::Exit;
use super::{Global, show};
use crate::model::id::{Sequence, StoreName};
use crate::model::record::SnapshotRecord;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Args)]
pub(super) struct StatusArgs {}

#[derive(Serialize)]
struct Row {
    store: StoreName,
    repository: String,
    snapshots: u64,
    latest: Option<Sequence>,
    /// Since the START of the last committed scan.
    lag_seconds: Option<f64>,
    entries: u64,
    size_bytes: u64,
    primary: Option<String>,
    standbys: Vec<Standby>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Standby {
    host: String,
    snapshot: Sequence,
    /// Since the START of the scan of the snapshot that it has; none when the log no longer has it.
    lag_seconds: Option<f64>,
}

pub(super) fn run(global: &Global, _args: StatusArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    // Configured stores with repositories of their own, and all that the main repository holds.
    let mut places: BTreeMap<StoreName, _> = BTreeMap::new();
    let main = context.repository(None)?;
    for name in main.stores()? {
        places.insert(name, main.clone());
    }
    for store in &context.config.store {
        places.insert(store.name.clone(), context.repository(Some(store))?);
    }
    let now_ns = now_ns();
    let mut rows = Vec::new();
    for (name, repository) in places {
        let location = repository.location().to_owned();
        let mut row = Row {
            store: name.clone(),
            repository: location,
            snapshots: 0,
            latest: None,
            lag_seconds: None,
            entries: 0,
            size_bytes: 0,
            primary: None,
            standbys: Vec::new(),
            error: None,
        };
        match repository.store(&name).state() {
            Ok(state) => {
                row.snapshots = state.snapshots.len() as u64;
                row.primary = state.primary.as_ref().map(|p| p.0.clone());
                if let Some((sequence, record)) = state.latest() {
                    row.latest = Some(sequence);
                    row.lag_seconds = Some(now_ns.saturating_sub(record.scan_start_ns) as f64 / 1e9);
                    row.entries = record.manifest.entries;
                    row.size_bytes = record.manifest.size_bytes;
                }
                // A hint only: the store's own state is known without it.
                for report in repository.store(&name).standbys().unwrap_or_default() {
                    let record = state.snapshots.get(&report.snapshot);
                    let lag = |r: &SnapshotRecord| now_ns.saturating_sub(r.scan_start_ns) as f64 / 1e9;
                    let (host, snapshot) = (report.host.0, report.snapshot);
                    row.standbys.push(Standby { host, snapshot, lag_seconds: record.map(lag) });
                }
            }
            Err(error) => row.error = Some(error.to_string()),
        }
        rows.push(row);
    }
    let broken = rows.iter().any(|r| r.error.is_some());
    if global.json {
        show::json(&rows)?;
    } else if rows.is_empty() {
        show::line(&format!("no stores in {}; begin with: understudy resync PATH", main.location()))?;
    } else {
        let head = ["store", "latest", ">lag", ">snapshots", ">entries", ">size", "primary", "standbys"];
        let mut table = vec![head.map(String::from).to_vec()];
        for row in &rows {
            table.push(vec![
                row.store.to_string(),
                match (&row.error, row.latest) {
                    (Some(_), _) => "damaged".into(),
                    (None, Some(latest)) => format!("@{latest}"),
                    (None, None) => "never".into(),
                },
                row.lag_seconds.map_or("-".into(), |s| show::age((s * 1e9) as u64)),
                show::count(row.snapshots),
                show::count(row.entries),
                show::bytes(row.size_bytes),
                row.primary.clone().unwrap_or_default(),
                row.standbys.iter().map(Standby::show).collect::<Vec<_>>().join(", "),
            ]);
        }
        show::table(&table)?;
        for (store, error) in rows.iter().filter_map(|r| Some((&r.store, r.error.as_ref()?))) {
            eprintln!("understudy: {store}: {error}");
        }
    }
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

impl Standby {
    /// `web-2 @42 (5 min)`: with which snapshot it would take over, and how old that is.
    fn show(&self) -> String {
        let lag = self.lag_seconds.map(|s| format!(" ({})", show::age((s * 1e9) as u64)));
        format!("{} @{}{}", self.host, self.snapshot, lag.unwrap_or_default())
    }
}
