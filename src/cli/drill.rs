//! `understudy drill`.

use super::context::Context;
use super::error::Result;
use super::exit::{Exit, noted_or_warned};
use super::{Global, StandbyArgs, ending, select, show};
use crate::service::config::{DrillConfig, resolve_program};
use crate::service::drill::{DrillError, drill};
use crate::service::upkeep::note_drill;
use crate::standby::depot::Depot;
use clap::Args;
use std::path::Path;

#[derive(Args)]
pub(super) struct DrillArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Percentage of files to read
    #[arg(long, value_name = "PERCENT", value_parser = super::values::percent)]
    read: Option<u8>,
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
    let mut command = if args.command.is_empty() { config.drill.command.clone() } else { args.command };
    // A command line names paths relative to the current directory, not to the snapshot.
    resolve_program(&mut command, Path::new(""));
    let how = DrillConfig { command, read_percent: args.read.or(config.drill.read_percent), ..config.drill };
    let depot = Depot::new(&args.standby.dir(&context)?, &config.name);
    let begun = context.env().wall();
    let drilled = drill(&store, &depot, &how, &ending::is_asked);
    if let Err(error @ DrillError::Stopped { .. }) = drilled {
        return Err(error.into());
    }
    let noted = store.notes().upkeep_of(&context.writer()).and_then(|mut note| {
        note_drill(&mut note, &drilled, begun, context.env().wall());
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
