//! `understudy drill`.

use super::context::Context;
use super::error::Result;
use super::exit::{Exit, noted_or_warned};
use super::site_text::site_text;
use super::{Global, StandbyArgs, ending, select, show};
use crate::model::snapshot_ref::Moment;
use crate::repository::store::Store;
use crate::service::config::{DrillConfig, StoreConfig, resolve_program};
use crate::service::drill::{DrillError, drill};
use crate::service::site::dry::World;
use crate::service::site::run::SiteDrill;
use crate::service::upkeep::{note_drill, note_site};
use crate::standby::depot::Depot;
use clap::Args;
use std::path::Path;

#[derive(Args)]
pub(super) struct DrillArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// The point or snapshot to drill, such as @42, or @2026-11-23T10:00 (UTC); default: the latest
    #[arg(long, value_name = "@SNAPSHOT", value_parser = super::values::point)]
    at: Option<Moment>,
    /// Percentage of files to read
    #[arg(long, value_name = "PERCENT", value_parser = super::values::percent)]
    read: Option<u8>,
    /// Drill the whole failover, on copies and without a way out: files, database, services, probes
    #[arg(long, conflicts_with_all = ["read", "command"])]
    site: bool,
    /// With --site: drill also a replica that acknowledges what it receives; customers' commits wait while it is copied
    #[arg(long, requires = "site")]
    customers_wait: bool,
    #[command(flatten)]
    standby: StandbyArgs,
    /// Command to run in the mounted snapshot, in place of the configured one; it must succeed
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
}

pub(super) fn run(global: &Global, args: DrillArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let config = select::configured(&context, &args.store)?;
    let store = context.repository(Some(&config))?.store(&config.name);
    if args.site {
        return run_site(global, &context, (&store, &config), &args);
    }
    let mut command = if args.command.is_empty() { config.drill.command.clone() } else { args.command };
    // A command line names paths relative to the current directory, not to the snapshot.
    resolve_program(&mut command, Path::new(""));
    let how = DrillConfig { command, read_percent: args.read.or(config.drill.read_percent), ..config.drill };
    let depot = Depot::new(&args.standby.dir(&context)?, &config.name);
    let begun = context.env().wall();
    let drilled = drill(&store, &depot, args.at.unwrap_or(Moment::Latest), &how, &ending::is_asked);
    if let Err(error @ DrillError::Stopped { .. }) = drilled {
        return Err(error.into());
    }
    let noted = store.notes().upkeep_of(&context.writer()).and_then(|mut note| {
        let now = context.env().wall();
        match (args.at, &drilled) {
            (None, _) => note_drill(&mut note, &drilled, begun, now),
            // It says nothing about the latest one, which is drilled when it is due.
            (Some(_), Ok(report)) => note.prove(report.proof(now)),
            (Some(_), Err(_)) => return Ok(()),
        }
        store.notes().note_upkeep(&note)
    });
    let report = drilled?;
    if global.json {
        show::json(&report)?;
    } else if !global.quiet {
        show::line(&show::drill_text(&report))?;
    }
    Ok(noted_or_warned(noted))
}

/// Drills the failover.
fn run_site(
    global: &Global,
    context: &Context,
    (store, config): (&Store, &StoreConfig),
    args: &DrillArgs,
) -> Result<Exit> {
    let depot = Depot::new(&args.standby.dir(context)?, &config.name);
    let world = World { host: context.host(), store, config };
    let (begun, customers_wait) = (context.env().wall(), args.customers_wait);
    let drilled =
        SiteDrill::new(world, &depot, customers_wait, &ending::is_asked).and_then(|drill| drill.run());
    let noted = store.notes().upkeep_of(&context.writer()).and_then(|mut note| {
        match note_site(&mut note, &drilled, begun) {
            true => store.notes().note_upkeep(&note),
            false => Ok(()),
        }
    });
    let report = drilled?;
    if global.json {
        show::json(&report)?;
    } else if !global.quiet {
        show::line(&site_text(&report))?;
    }
    Ok(noted_or_warned(noted))
}
