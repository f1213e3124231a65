//! `understudy verify`.

use super::context::Context;
use super::error::{Result, StoppedError};
use super::exit::{Exit, noted_or_warned};
use super::{Global, ending, show, values};
use crate::maintain::damage::VerifyReport;
use crate::maintain::verify::{self, VerifyOptions};
use crate::model::id::StoreName;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::service::repair::repair_of_this_host;
use crate::service::upkeep::verify_on;
use crate::standby::check::{CheckReport, check};
use crate::standby::depot::Depot;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct VerifyArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Also read packs: all, or this percentage of them, a different share each time
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100", value_parser = values::percent)]
    read_data: Option<u8>,
    /// Check this host's standby copy of the store instead, in its usual place or in DIR
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "read_data")]
    standby: Option<String>,
    /// Ship again what the repository lost, from the source and from this host's standby copy; with --standby, fetch what
    /// is missing or damaged there
    #[arg(long)]
    repair: bool,
    /// With --repair: a tree that may hold files of the store under their paths; default: the configured path
    #[arg(long, value_name = "DIR", requires = "repair", conflicts_with = "standby")]
    source: Option<PathBuf>,
    /// Read packs for this long (90s, 10m, 2h), from where the last reading ended
    #[arg(long = "for", value_name = "TIME", conflicts_with = "standby", value_parser = values::seconds)]
    time: Option<u64>,
}

pub(super) fn run(global: &Global, args: VerifyArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let store = context.repository_of(&name)?.store(&name);
    if args.standby.is_some() || args.repair {
        ending::at_once();
    }
    if let Some(dir) = &args.standby {
        let dir = Some(dir).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = dir.or_else(|| std::env::var_os("UNDERSTUDY_STANDBY").map(PathBuf::from));
        let depot = Depot::new(&context.standby(dir.as_deref())?, &name);
        return standby(global, &check(&store, &depot, args.repair, context.threads())?, args.repair);
    }
    if args.repair {
        return repair_repository(global, &context, &store, args.source.as_deref());
    }
    // A share continues where the last reading ended, which is noted in the repository; reading everything
    // starts at the beginning.
    let share = args.read_data.or(args.time.map(|_| 100)).unwrap_or(0);
    let mut noted = Exit::Done;
    let report = if share > 0 && (share < 100 || args.time.is_some()) {
        let begun = context.env().stopwatch();
        let is_over =
            || ending::is_asked() || args.time.is_some_and(|time| begun.elapsed().as_secs() >= time);
        let mut note = store.notes().upkeep_of(&context.writer())?;
        let options = VerifyOptions { read_data_percent: share, after: None, is_over: &is_over };
        let report = verify_on(&store, &mut note, options, context.env().wall())?;
        if report.records > 0 {
            noted = noted_or_warned(store.notes().note_upkeep(&note));
        }
        report
    } else {
        let is_over = ending::is_asked;
        verify::verify(
            &store,
            VerifyOptions { read_data_percent: share, is_over: &is_over, ..Default::default() },
        )?
    };
    if ending::is_asked() {
        return Err(StoppedError(format!("{name}: stopped before everything was verified")).into());
    }
    if report.records == 0 {
        return Err(RepositoryError::NoStore(name).into());
    }
    if global.json {
        show::json(&report)?;
    } else {
        print(global, &name, &report)?;
    }
    Ok(if report.is_sound() { noted } else { Exit::Failed })
}

fn print(global: &Global, name: &StoreName, report: &VerifyReport) -> Result<()> {
    for problem in &report.problems {
        complain!("understudy: {}: {}", problem.key, problem.problem);
    }
    for touched in &report.touched {
        complain!("understudy: {name}@{}: {}: {}", touched.snapshot, touched.path, touched.reason);
    }
    for irregular in &report.irregular.last {
        complain!(
            "understudy: {name}: record {} by '{}' is irregular: {}",
            irregular.sequence,
            irregular.host,
            irregular.why
        );
    }
    let unnamed = report.touched_count - report.touched.len() as u64;
    if unnamed > 0 {
        complain!("understudy: and {unnamed} more files");
    }
    if global.quiet {
        return Ok(());
    }
    let archive = match report.archive_segments {
        0 => String::new(),
        segments => format!(" {segments} archived segments ({} read),", report.archive_read),
    };
    show::line(&format!(
        "{name}: {} records, {} snapshots, {} index segments, {} packs ({} read, {}),{archive} {} files checked: {}",
        report.records,
        report.snapshots,
        report.index_segments,
        report.packs,
        report.packs_read,
        show::bytes(report.read_bytes),
        show::count(report.files),
        if report.is_sound() {
            "sound".to_owned()
        } else {
            format!("{} objects damaged, {} files affected", report.problems.len(), report.touched_count)
        },
    ))
}

/// Ships again what the repository lost, from the source and from the objects that this host holds as a
/// standby.
fn repair_repository(
    global: &Global,
    context: &Context,
    store: &Store,
    source: Option<&Path>,
) -> Result<Exit> {
    let name = store.name();
    let standby = std::env::var_os("UNDERSTUDY_STANDBY").map(PathBuf::from);
    let report = repair_of_this_host(context.host(), store, source, standby.as_deref())?;
    if global.json {
        show::json(&report)?;
        return Ok(if report.after.is_sound() { Exit::Done } else { Exit::Failed });
    }
    let shown = if report.record.is_some() { &report.after } else { &report.before };
    if report.record.is_some() && !global.quiet {
        show::line(&format!(
            "{name}: {} objects damaged, {} files affected; {} chunks copied, {} taken from the cache, {} shipped again{}",
            report.before.problems.len(),
            report.before.touched_count,
            report.chunks_copied,
            report.chunks_cached,
            report.chunks_made,
            if report.lost {
                "; resync the store: the next snapshot is complete for all that the source still has"
            } else {
                ""
            },
        ))?;
    }
    print(global, name, shown)?;
    Ok(if shown.is_sound() { Exit::Done } else { Exit::Failed })
}

fn standby(global: &Global, report: &CheckReport, repair: bool) -> Result<Exit> {
    if global.json {
        show::json(report)?;
    } else {
        for problem in &report.problems {
            let needed = problem.needed_for.as_deref().unwrap_or("no snapshot here needs it");
            complain!("understudy: {}: {} ({needed})", problem.path, problem.reason);
        }
        let unnamed = report.problem_count - report.problems.len() as u64;
        if unnamed > 0 {
            complain!("understudy: and {unnamed} more");
        }
        if report.lost > 0 {
            complain!(
                "understudy: {} of them belong to snapshots that the log no longer has and cannot be fetched: unmount these snapshots (`understudy umount`) and do not trust them",
                report.lost
            );
        }
        if !global.quiet {
            show::line(&format!(
                "{} snapshots, {} objects read ({}): {}",
                report.snapshots,
                show::count(report.objects),
                show::bytes(report.read_bytes),
                match report.problem_count {
                    0 => "sound".to_owned(),
                    count if repair => format!("{count} missing or damaged, {} repaired", report.repaired),
                    count => format!("{count} missing or damaged; --repair fetches them"),
                },
            ))?;
            if report.unknown_snapshots > 0 {
                show::line(&format!(
                    "  {} of them are no longer in the log: their files' bytes were checked, but their names and metadata cannot be",
                    report.unknown_snapshots,
                ))?;
            }
            if report.damaged_unneeded > 0 {
                show::line(&format!(
                    "  {} more are damaged, and no snapshot here needs them: {}",
                    report.damaged_unneeded,
                    if repair { "removed" } else { "the next drop or --repair removes them" },
                ))?;
            }
        }
    }
    Ok(if report.is_sound() { Exit::Done } else { Exit::Failed })
}
