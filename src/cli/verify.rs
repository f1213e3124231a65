//! `understudy verify`.

use super::context::{Context, nonce};
use super::exit::Exit;
use super::{Global, show};
use crate::model::id::StoreName;
use crate::repository::error::RepositoryError;
use crate::repository::verify::VerifyOptions;
use crate::standby::check::{CheckReport, check};
use crate::standby::depot::Depot;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

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
    /// With --standby: fetch what is missing or damaged
    #[arg(long, requires = "standby")]
    repair: bool,
}

fn percent(text: &str) -> Result<u8, String> {
    match text.trim_end_matches('%').parse() {
        Ok(n @ 1..=100) => Ok(n),
        _ => Err("a share goes from 1 to 100 percent".into()),
    }
}

pub(super) fn run(global: &Global, args: VerifyArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let store = context.repository_of(&name)?.store(&name);
    if let Some(dir) = &args.standby {
        let dir = Some(dir).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = dir.or_else(|| std::env::var_os("UNDERSTUDY_STANDBY").map(PathBuf::from));
        let depot = Depot::new(&context.standby(dir.as_deref())?, &name);
        return standby(global, &check(&store, &depot, args.repair, context.threads())?, args.repair);
    }
    let options = VerifyOptions { read_data_percent: args.read_data.unwrap_or(0), seed: nonce() };
    let report = store.verify(options)?;
    if report.records == 0 {
        return Err(RepositoryError::NoStore(name).into());
    }
    let sound = report.is_sound();
    if global.json {
        show::json(&report)?;
    } else {
        for problem in &report.problems {
            eprintln!("understudy: {}: {}", problem.key, problem.problem);
        }
        for touched in &report.touched {
            eprintln!("understudy: {name}@{}: {}: {}", touched.snapshot, touched.path, touched.reason);
        }
        let unnamed = report.touched_count - report.touched.len() as u64;
        if unnamed > 0 {
            eprintln!("understudy: and {unnamed} more files");
        }
        if !global.quiet {
            show::line(&format!(
                "{name}: {} records, {} snapshots, {} index segments, {} packs ({} read, {}), {} files checked: {}",
                report.records,
                report.snapshots,
                report.index_segments,
                report.packs,
                report.packs_read,
                show::bytes(report.read_bytes),
                show::count(report.files),
                if sound {
                    "sound".to_owned()
                } else {
                    format!(
                        "{} objects broken, {} files touched",
                        report.problems.len(),
                        report.touched_count
                    )
                },
            ))?;
        }
    }
    Ok(if sound { Exit::Done } else { Exit::Failed })
}

fn standby(global: &Global, report: &CheckReport, repair: bool) -> Result<Exit> {
    let sound = report.problem_count == 0 || (repair && report.repaired >= report.problem_count);
    if global.json {
        show::json(report)?;
    } else {
        for problem in &report.problems {
            let needed = problem.needed_for.as_ref().map_or("nothing needs it", |file| file);
            eprintln!("understudy: {}: {} ({needed})", problem.path, problem.reason);
        }
        let unnamed = report.problem_count - report.problems.len() as u64;
        if unnamed > 0 {
            eprintln!("understudy: and {unnamed} more");
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
        }
    }
    Ok(if sound { Exit::Done } else { Exit::Failed })
}
