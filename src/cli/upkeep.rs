//! `understudy upkeep`.

use super::context::Context;
use super::exit::Exit;
use super::{Global, ending, show};
use crate::service::config::StoreConfig;
use crate::service::upkeep::{Done, Duty, Keeper};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

#[derive(Args)]
pub(super) struct UpkeepArgs {
    /// Left out: all configured stores
    #[arg(value_name = "STORE")]
    stores: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    store: String,
    duty: Duty,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Done>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) fn run(global: &Global, args: UpkeepArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let stores = super::prune::chosen(&context, &args.stores)?;
    keep_up(global, &context, &stores)
}

/// Does for these stores what is due.
pub(super) fn keep_up(global: &Global, context: &Context, stores: &[StoreConfig]) -> Result<Exit> {
    let stop = ending::flag();
    let mut lines = Vec::new();
    for config in stores {
        if ending::is_asked() {
            break;
        }
        let store = context.repository(Some(config))?.store(&config.name);
        let keeper = Keeper { host: context.host(), store: &store, config, stop: &stop };
        for (duty, result) in keeper.keep_up()? {
            let error = result.as_ref().err().map(ToString::to_string);
            let line = Line { store: config.name.to_string(), duty, done: result.ok(), error };
            if !global.json {
                print(global, &line)?;
            }
            lines.push(line);
        }
    }
    let failed = ending::is_asked() || lines.iter().any(|line| line.error.is_some());
    if global.json && !lines.is_empty() {
        show::json(&lines)?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn print(global: &Global, line: &Line) -> Result<()> {
    let store = &line.store;
    if let Some(error) = &line.error {
        complain!("understudy: {store}: {error}");
        return Ok(());
    }
    if let Some(Done::Prune(report)) = &line.done {
        super::prune::warn(report);
    }
    if global.quiet {
        return Ok(());
    }
    match &line.done {
        Some(Done::Prune(report)) => show::line(&format!(
            "{store}: pruned: {} snapshots dropped, {} doomed, {} deleted",
            report.snapshots_dropped,
            show::bytes(report.doomed_bytes),
            show::bytes(report.deleted_bytes)
        )),
        Some(Done::Verify(report)) => show::line(&format!(
            "{store}: verified: {} of {} packs read ({}): sound",
            report.packs_read,
            report.packs,
            show::bytes(report.read_bytes)
        )),
        Some(Done::Drill(report)) => show::line(&super::drill::text(report)),
        None => Ok(()),
    }
}
