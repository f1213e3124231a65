//! `understudy verify`.

use super::context::Context;
use super::exit::{Exit, noted_or_warned};
use super::{Global, ending, show};
use crate::maintain::repair::repair;
use crate::maintain::verify::{VerifyOptions, VerifyReport};
use crate::model::entry::Entry;
use crate::model::id::StoreName;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::service::upkeep::verify_on;
use crate::standby::check::{CheckReport, check};
use crate::standby::depot::Depot;
use anyhow::{Result, bail};
use clap::Args;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct VerifyArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Also read packs: all, or so many percent of them, another share each time
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100", value_parser = percent)]
    read_data: Option<u8>,
    /// Check what this host holds of the store instead, in its usual place or in DIR
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "read_data")]
    standby: Option<String>,
    /// Ship again what the repository lost, of the source and of what this host holds; with --standby fetch what is missing
    /// or damaged there
    #[arg(long)]
    repair: bool,
    /// With --repair: a tree that may hold files of the store under their paths; left out, the configured one
    #[arg(long, value_name = "DIR", requires = "repair", conflicts_with = "standby")]
    source: Option<PathBuf>,
    /// Read packs for so long: 90s, 10m, 2h. Goes on where the last reading ended
    #[arg(long = "for", value_name = "TIME", conflicts_with = "standby", value_parser = seconds)]
    time: Option<u64>,
}

fn seconds(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.trim().split_at_checked(text.trim().len().saturating_sub(1)) {
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 3600),
        _ => (text, 1),
    };
    match number.trim().parse::<u64>() {
        Ok(n @ 1..=1_000_000) => Ok(n * factor),
        _ => Err("a time is for example 90s, 10m or 2h".into()),
    }
}

pub(super) fn percent(text: &str) -> Result<u8, String> {
    match text.trim_end_matches('%').parse() {
        Ok(n @ 1..=100) => Ok(n),
        _ => Err("a share goes from 1 to 100 percent".into()),
    }
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
    // All of it is all of it; a share goes on where the last one ended, which is noted.
    let share = args.read_data.or(args.time.map(|_| 100)).unwrap_or(0);
    let mut noted = Exit::Done;
    let report = if share > 0 && (share < 100 || args.time.is_some()) {
        let begun = context.env().stopwatch();
        let is_over =
            || ending::is_asked() || args.time.is_some_and(|time| begun.elapsed().as_secs() >= time);
        let mut note = store.upkeep_of(&context.writer())?;
        let options = VerifyOptions { read_data_percent: share, after: None, is_over: &is_over };
        let report = verify_on(&store, &mut note, options, context.env().wall_ns())?;
        if report.records > 0 {
            noted = noted_or_warned(store.note_upkeep(&note));
        }
        report
    } else {
        let is_over = ending::is_asked;
        store.verify(VerifyOptions { read_data_percent: share, is_over: &is_over, ..Default::default() })?
    };
    if ending::is_asked() {
        bail!("{name}: not all was verified: asked to end");
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
    let unnamed = report.touched_count - report.touched.len() as u64;
    if unnamed > 0 {
        complain!("understudy: and {unnamed} more files");
    }
    if global.quiet {
        return Ok(());
    }
    show::line(&format!(
        "{name}: {} records, {} snapshots, {} index segments, {} packs ({} read, {}), {} files checked: {}",
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
            format!("{} objects broken, {} files touched", report.problems.len(), report.touched_count)
        },
    ))
}

/// Ships again what the repository lost: of the source, and of the objects that this host holds as a standby.
fn repair_repository(
    global: &Global,
    context: &Context,
    store: &Store,
    source: Option<&Path>,
) -> Result<Exit> {
    let name = store.name();
    let configured =
        context.config.store(name.as_str()).map(|s| s.path.clone()).filter(|p| !p.as_os_str().is_empty());
    let source = source.map(Path::to_owned).or(configured);
    let standby = std::env::var_os("UNDERSTUDY_STANDBY").map(PathBuf::from);
    let depot = context.standby(standby.as_deref()).ok().map(|dir| Depot::new(&dir, name));
    let read = |path: &Path, entry: &Entry, offset: u64, length: usize| {
        let file = std::fs::File::open(path).ok()?;
        let meta = file.metadata().ok()?;
        if !meta.is_file() || meta.len() != entry.size_bytes() {
            return None;
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    };
    let provider = |entry: &Entry, offset: u64, length: usize| {
        let object = depot.as_ref().zip(entry.file()).map(|(depot, file)| depot.object(file.hash));
        let below =
            source.as_ref().map(|source| source.join(std::ffi::OsStr::from_bytes(entry.path.as_bytes())));
        // What is there may be another file by now: the chunk's name decides.
        below.into_iter().chain(object).find_map(|path| read(&path, entry, offset, length))
    };
    let report = repair(store, &context.writer(), &provider)?;
    if global.json {
        show::json(&report)?;
        return Ok(if report.after.is_sound() { Exit::Done } else { Exit::Failed });
    }
    let shown = if report.record.is_some() { &report.after } else { &report.before };
    if report.record.is_some() && !global.quiet {
        show::line(&format!(
            "{name}: {} objects were broken and {} files touched; {} chunks were copied, {} taken from the cache, {} shipped again{}",
            report.before.problems.len(),
            report.before.touched_count,
            report.chunks_copied,
            report.chunks_cached,
            report.chunks_made,
            if report.lost {
                "; resync the store: what its source still has is whole in the next snapshot"
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
            let needed = problem.needed_for.as_deref().unwrap_or("nothing here needs it");
            complain!("understudy: {}: {} ({needed})", problem.path, problem.reason);
        }
        let unnamed = report.problem_count - report.problems.len() as u64;
        if unnamed > 0 {
            complain!("understudy: and {unnamed} more");
        }
        if report.lost > 0 {
            complain!(
                "understudy: {} of them are of snapshots that the log no longer has, and cannot be fetched: `understudy umount` what shows them, and do not trust it",
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
                    count if repair => format!("{count} missing or damaged, {} made anew", report.repaired),
                    count => format!("{count} missing or damaged; --repair fetches them"),
                },
            ))?;
            if report.unknown_snapshots > 0 {
                show::line(&format!(
                    "  {} of them are not in the log any more: their files' bytes were checked, their names and metadata cannot be",
                    report.unknown_snapshots,
                ))?;
            }
            if report.damaged_unneeded > 0 {
                show::line(&format!(
                    "  {} more are damaged, and no snapshot here needs them: {}",
                    report.damaged_unneeded,
                    if repair { "removed" } else { "they go with what is dropped next, or with --repair" },
                ))?;
            }
        }
    }
    Ok(if report.is_sound() { Exit::Done } else { Exit::Failed })
}
