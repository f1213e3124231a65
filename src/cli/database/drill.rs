//! `understudy database drill`.

use super::Configured;
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::{Global, ending, show};
use crate::database::drill::Drilled;
use crate::database::drill_at::{At, From};
use crate::database::report::Report;
use crate::database::seed::store_name;
use crate::database::target::Target;
use crate::model::gtid::Gtid;
use crate::model::id::StoreName;
use crate::model::snapshot_ref::Moment;
use crate::service::databases::drilling::{Wanted, drill_here};
use clap::Args;
use serde::Serialize;
use std::time::Duration;

#[derive(Args)]
pub(super) struct DrillArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Check tables for this time only, others in each drill; default: all of them
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Drill also a replica that acknowledges what it receives: customers' commits wait while it is copied
    #[arg(long)]
    customers_wait: bool,
    /// Bring the copy to this transaction, such as 1-11-4711, by the archive; or to a point of the store's, such as @42, from a seed where the replica is past it
    #[arg(long, value_name = "GTID|@SNAPSHOT")]
    at: Option<String>,
}

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    sound: bool,
    #[serde(flatten)]
    drilled: &'a Drilled,
}

pub(super) fn drill_copy(global: &Global, args: &DrillArgs) -> Result<Exit> {
    let configured = Configured::open(global, &args.store)?;
    let store = &configured.store;
    let target = args.at.as_ref().map(|at| wanted_at(&configured, at)).transpose()?;
    let archive = match target {
        Some(_) => Some(configured.database_repository()?.store(&store_name(&store.name)?)),
        None => None,
    };
    let wanted = Wanted {
        table_time: args.time.map(Duration::from_secs),
        customers_wait: args.customers_wait,
        at: target.zip(archive.as_ref()).map(|((target, from), archive)| At { target, archive, from }),
    };
    let reached = &crate::support::kill_point::reached;
    let drilled = drill_here(configured.here(), wanted, &ending::is_asked, reached)?;
    let sound = drilled.faults.is_empty();
    if global.json {
        show::json(&Output { store: &store.name, sound, drilled: &drilled })?;
    } else if !global.quiet || !sound {
        say(&store.name, &drilled)?;
    }
    Ok(if sound { Exit::Done } else { Exit::Failed })
}

/// Returns the moment that is meant, and what the data is made of.
fn wanted_at(configured: &Configured, at: &str) -> Result<(Target, From)> {
    let Some(moment) = at.strip_prefix('@') else {
        return Ok((Target::Gtid(at.parse::<Gtid>()?), From::Replica));
    };
    let (_, position) = configured.point(Moment::parse(moment)?)?;
    let target = Target::at(&position);
    let place = configured.store.database_place()?;
    let replica = place.and_then(|place| Report::read(&place)).map(|report| report.applied.of_store());
    let is_past = replica.is_none_or(|applied| target.is_passed(&applied));
    let threads = configured.context.threads();
    Ok((target, if is_past { From::Archive { threads } } else { From::Replica }))
}

fn say(store: &StoreName, drilled: &Drilled) -> Result<()> {
    let (seconds, faults) = (&drilled.seconds, drilled.faults.len() as u64);
    let verdict = match faults {
        0 => "is proven to open".to_owned(),
        count => format!("is NOT sound: {} faults", show::count(count)),
    };
    let lag = drilled.lag_seconds.map_or_else(|| "unknown".to_owned(), show::age);
    match drilled.seed {
        None => {
            show::line(&format!(
                "store '{store}': the replica's data at {} {verdict} (lag then: {lag})",
                drilled.position
            ))?;
            show::line(&format!(
                "  copied {}: {} files, {}; the replica stood still for {:.2} s",
                drilled.way.name(),
                show::count(drilled.files),
                show::bytes(drilled.bytes),
                seconds.still
            ))?;
        }
        Some(seed) => {
            show::line(&format!("store '{store}': the database at {} {verdict}", drilled.position))?;
            let restored = format!("  restored from {}@{seed}", store_name(store)?);
            show::line(&restored)?;
        }
    }
    show::line(&format!(
        "  a server on it answered after {:.2} s; {} of {} tables checked in {:.2} s, {} queries in {:.2} s; {:.2} s in all",
        seconds.start,
        show::count(drilled.tables_checked),
        show::count(drilled.tables),
        seconds.tables,
        show::count(drilled.queries),
        seconds.queries,
        seconds.all
    ))?;
    if drilled.applied > 0 {
        let (count, seconds) = (show::count(drilled.applied), seconds.archive);
        show::line(&format!("  {count} transactions of the archive were applied to it in {seconds:.2} s"))?;
    }
    if drilled.command {
        show::line("  the command ran")?;
    }
    if !drilled.not_checkable.is_empty() {
        let names = drilled.not_checkable.join(", ");
        show::line(&format!("  of an engine that checks none: {names}"))?;
    }
    for fault in &drilled.faults {
        show::line(&format!("  {}: {}", fault.what, fault.reason))?;
    }
    Ok(())
}
