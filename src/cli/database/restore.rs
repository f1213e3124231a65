//! `understudy database restore`.

use super::Configured;
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::{Global, ending, progress, show};
use crate::database::minimal::Place;
use crate::database::recover::{Recovered, Recovery, recover};
use crate::database::seed::{DATA, store_name};
use crate::database::target::Target;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::Moment;
use crate::support::clock::UnixNanos;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Default memory of the server that applies the archive.
const MEMORY_MIB: u32 = 256;

#[derive(Args)]
pub(super) struct RestoreArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// The moment: `latest`, a transaction such as 1-11-4711, with which it ends, a time (UTC), with all that was committed up to then, or a point of the store's, such as @42
    #[arg(long, value_name = "MOMENT")]
    to: String,
    /// A new directory for the database
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    seed: Sequence,
    seed_position: &'a GtidPosition,
    position: &'a GtidPosition,
    transactions: u64,
    segments: u64,
    /// When the last transaction that was applied was committed, by the server's clock.
    committed_ns: Option<UnixNanos>,
    datadir: PathBuf,
    start: String,
}

pub(super) fn restore(global: &Global, args: &RestoreArgs) -> Result<Exit> {
    let configured = Configured::open(global, &args.store)?;
    let target = match args.to.strip_prefix('@') {
        Some(moment) => Target::at(&configured.point(Moment::parse(moment)?)?.1),
        None => Target::parse(&args.to)?,
    };
    let (context, name) = (&configured.context, &configured.store.name);
    let destination = std::path::absolute(&args.into).unwrap_or_else(|_| args.into.clone());
    let place = Place { dir: configured.here().own_dir("restore")? };
    let _taken = crate::database::supervisor::take(&place)?;
    let store = configured.database_repository()?.store(&store_name(name)?);
    let bars = crate::cli::context::progress();
    let recovery = Recovery {
        store: &store,
        target,
        destination: &destination,
        place,
        memory_mib: configured.store.database.memory_mib.unwrap_or(MEMORY_MIB),
        threads: context.threads(),
        own: context.own_places().into_iter().chain(context.keys()?.key_file).collect(),
        env: context.env(),
        stop: &ending::is_asked,
        progress: &bars,
        on_step: &crate::support::kill_point::reached,
    };
    let recovered = progress::watched(global, context.env(), &bars, "restored", || recover(&recovery))?;
    say(global, name, &recovered, &destination)?;
    Ok(Exit::Done)
}

fn say(global: &Global, name: &StoreName, recovered: &Recovered, destination: &Path) -> Result<()> {
    let Recovered { seed, seed_position, position, played } = recovered;
    let datadir = destination.join(DATA);
    let start = format!("mariadbd --datadir={}", datadir.display());
    let committed =
        (played.last_s > 0).then(|| UnixNanos::EPOCH.plus(Duration::from_secs(u64::from(played.last_s))));
    if global.json {
        return show::json(&Output {
            store: name,
            seed: *seed,
            seed_position,
            position,
            transactions: played.transactions,
            segments: played.segments,
            committed_ns: committed,
            datadir,
            start,
        });
    }
    if global.quiet {
        return Ok(());
    }
    let until = committed.map_or_else(String::new, |time| format!(", committed {} (UTC)", show::time(time)));
    show::line(&format!(
        "store '{name}': the database at {position}{until}, restored to {}",
        destination.display()
    ))?;
    show::line(&format!(
        "  from {}@{seed} at {seed_position}, and {} transactions of {} segments",
        store_name(name)?,
        show::count(played.transactions),
        show::count(played.segments)
    ))?;
    show::line(&format!("  start it with the primary's configuration, and: {start}"))?;
    show::line(
        "  it holds its position in gtid_slave_pos, so that a replica of it, or it as a replica, goes on from there",
    )
}
