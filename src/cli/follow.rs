//! `understudy follow`.

use super::context::{Context, kill_at, progress};
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Global, StandbyArgs, ending, show};
use crate::api::follow::FollowReport;
use crate::model::id::StoreName;
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::repository::store::Repository;
use crate::service::run::DEFAULT_KEEP;
use crate::standby::depot::Depot;
use crate::standby::follow::{FollowRequest, Observer, follow};
use crate::support::chain::chain;
use clap::Args;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(super) struct FollowArgs {
    /// STORE, or STORE@SNAPSHOT to bring an older snapshot here; default: all stores of the repository
    #[arg(value_name = "STORE")]
    stores: Vec<String>,
    /// Bring every store up to date and exit
    #[arg(long)]
    once: bool,
    /// Seconds between checks of the repository
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    every: u64,
    /// A tree that already holds files of the store: files with the right bytes are copied from it, not fetched
    #[arg(long, value_name = "DIR")]
    seed: Option<PathBuf>,
    /// Number of snapshots to keep here, in addition to those that are mounted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    #[command(flatten)]
    standby: StandbyArgs,
}

impl FollowArgs {
    /// Returns the exit code of a command that was asked to end: without `--once` it has done its work, with
    /// it not.
    pub(super) fn asked_to_end(&self) -> Exit {
        if self.once { Exit::Failed } else { Exit::Done }
    }
}

pub(super) fn run(global: &Global, args: FollowArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let wanted = args.stores.iter().map(|text| SnapshotRef::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let fixed = wanted.iter().any(|wanted| wanted.moment != Moment::Latest);
    if args.seed.is_some() && wanted.len() != 1 {
        return Err(UsageError("--seed is the tree of one store: name the store".into()).into());
    }
    if fixed && !args.once {
        return Err(UsageError("an older snapshot does not change: follow it with --once".into()).into());
    }
    let mut failed: HashMap<StoreName, String> = HashMap::new();
    loop {
        let mut worst = Exit::Done;
        for (wanted, repository) in stores(&context, &wanted)? {
            if ending::is_asked() {
                return Ok(args.asked_to_end());
            }
            match one(global, &context, &args, &repository, &wanted) {
                Ok(exit) => {
                    worst = worst.max(exit);
                    failed.remove(&wanted.store);
                }
                Err(error) if args.once && args.stores.len() == 1 => return Err(error),
                Err(_) if ending::is_asked() && !args.once => return Ok(Exit::Done),
                Err(error) => {
                    worst = worst.max(error.kind().into());
                    // The same failure is reported once, until it changes or ends.
                    let text = chain(error.as_ref());
                    if failed.get(&wanted.store) != Some(&text) {
                        complain!("understudy: {}: {text}", wanted.store);
                        failed.insert(wanted.store, text);
                    }
                }
            }
        }
        if args.once {
            return Ok(worst);
        }
        if !ending::sleep(Duration::from_secs(args.every)) {
            return Ok(Exit::Done);
        }
    }
}

/// Returns the snapshots to follow: the given ones, or those of all stores that the repository holds now.
fn stores(context: &Context, wanted: &[SnapshotRef]) -> Result<Vec<(SnapshotRef, Repository)>> {
    if !wanted.is_empty() {
        let with = |wanted: &SnapshotRef| Ok((wanted.clone(), context.repository_of(&wanted.store)?));
        return wanted.iter().map(with).collect();
    }
    let mut found = Vec::new();
    let main = context.repository(None)?;
    for store in main.stores()? {
        found.push((SnapshotRef { store, moment: Moment::Latest }, main.clone()));
    }
    for store in context.config.store.iter().filter(|store| store.repository.is_some()) {
        found.retain(|(wanted, _)| wanted.store != store.name);
        let wanted = SnapshotRef { store: store.name.clone(), moment: Moment::Latest };
        found.push((wanted, context.repository(Some(store))?));
    }
    Ok(found)
}

fn one(
    global: &Global,
    context: &Context,
    args: &FollowArgs,
    repository: &Repository,
    wanted: &SnapshotRef,
) -> Result<Exit> {
    let started = context.env().stopwatch();
    let depot = Depot::new(&args.standby.dir(context)?, &wanted.store);
    let keep = args.keep.or(context.config.standby.keep).unwrap_or(DEFAULT_KEEP);
    let request = FollowRequest {
        moment: wanted.moment,
        keep: keep as usize,
        seed: args.seed.clone(),
        threads: context.threads(),
        host: context.writer(),
    };
    let progress = progress();
    let observer = Observer { progress: &progress, on_step: &kill_at };
    let store = repository.store(&wanted.store);
    let report = super::progress::watched(global, context.env(), &progress, "checked", || {
        follow(&store, &depot, &request, &observer)
    })?;
    let seconds = started.seconds();
    if report.published || report.renamed_from.is_some() || args.once {
        print(global, &report, &depot, seconds)?;
    }
    Ok(if report.has_warnings() { Exit::Warnings } else { Exit::Done })
}

fn print(global: &Global, report: &FollowReport, depot: &Depot, seconds: f64) -> Result<()> {
    if global.json {
        return show::json(report);
    }
    if let Some(before) = &report.renamed_from {
        complain!(
            "understudy: warning: this standby had the name '{before}' before; nothing is kept for that name any more. If the host's name changes at each start, set `writer` or UNDERSTUDY_WRITER"
        );
    }
    if let Some(untold) = &report.untold {
        complain!(
            "understudy: warning: the repository does not know what is published here, so a pruning may delete it: {untold}"
        );
    }
    if global.quiet {
        return Ok(());
    }
    if !report.published {
        return show::line(&format!("{}@{} is here already", report.store, report.snapshot));
    }
    show::line(&format!("{}@{} published in {}", report.store, report.snapshot, depot.root().display()))?;
    show::line(&format!(
        "  {} entries, {} objects made, {} taken from the seed, {} copied from older versions",
        show::count(report.entries),
        show::count(report.objects_made),
        show::count(report.objects_seeded),
        show::bytes(report.copied_bytes),
    ))?;
    show::line(&format!(
        "  {} fetched in {} requests, image of {}, {seconds:.2} s",
        show::bytes(report.requests.received_bytes),
        report.requests.put + report.requests.get + report.requests.head + report.requests.list,
        show::bytes(report.image_bytes),
    ))?;
    if report.snapshots_dropped > 0 {
        show::line(&format!(
            "  {} older snapshots dropped here, with {} objects",
            report.snapshots_dropped, report.objects_dropped
        ))?;
    }
    warn(report);
    Ok(())
}

fn warn(report: &FollowReport) {
    if report.objects_repaired > 0 {
        complain!(
            "understudy: warning: {} objects were incomplete on the disk after an interrupted run; they were made again",
            report.objects_repaired
        );
    }
    if report.snapshots_lost > 0 {
        complain!(
            "understudy: warning: {} snapshots lacked some of these objects and are no longer in the log: they are not published any more; unmount them",
            report.snapshots_lost
        );
    }
    if report.attributes_left_out > 0 {
        complain!(
            "understudy: warning: {} extended attributes are missing from a mount (`restore` writes them): their values have 64 KiB, or those of one file more than 256 KiB",
            report.attributes_left_out
        );
    }
    if report.whiteouts > 0 {
        complain!("understudy: warning: {} devices 0:0 appear as empty files in a mount", report.whiteouts);
    }
}
