//! `understudy resync`.

use super::context::{Context, kill_at, name_from_path, nonce, now_ns};
use super::exit::{Exit, UsageError};
use super::{Global, show};
use crate::model::id::StoreName;
use crate::model::plan::PlanName;
use crate::replicate::report::{Report, WarningKind};
use crate::replicate::resync::{Request, Surroundings, resync};
use crate::service::config::StoreConfig;
use crate::support::progress::Progress;
use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Compression that keeps up with two cores' reading.
const COMPRESSION_LEVEL: i32 = 1;

#[derive(Args)]
pub(super) struct ResyncArgs {
    /// A store of the configuration, or a directory
    #[arg(value_name = "PATH|STORE")]
    target: String,
    /// The store's name, when a directory is given (default: made of the directory's name)
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// Leave out what matches (syntax of .gitignore); may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Commit although the run would be held
    #[arg(long)]
    accept: bool,
}

pub(super) fn run(global: &Global, args: ResyncArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let store = choose(&context, &args)?;
    let repository = context.repository(Some(&store))?;
    let request = Request {
        store: store.name.clone(),
        path: store.path.clone(),
        plan: store.plan.plan(),
        excludes: store.exclude.iter().chain(&args.exclude).cloned().collect(),
        writer: context.writer(),
        accept: args.accept,
        compression_level: context.config.limits.compression_level.unwrap_or(COMPRESSION_LEVEL),
        threads: context.threads(),
    };
    let progress = Progress::default();
    let around = Surroundings { clock: &now_ns, nonce: &nonce, progress: &progress, on_step: &kill_at };
    let report = watched(global, &progress, "scanned", || resync(&repository, &request, &around))?;
    if global.json {
        show::json(&report)?;
    } else if !global.quiet {
        print(&report, repository.location())?;
    }
    warn(&report);
    let warned = report.warnings.torn + report.warnings.unreadable > 0;
    Ok(if warned { Exit::Warnings } else { Exit::Done })
}

fn choose(context: &Context, args: &ResyncArgs) -> Result<StoreConfig> {
    if let Some(store) = context.config.store(&args.target) {
        return Ok(store.clone());
    }
    let path = Path::new(&args.target);
    if !args.target.contains('/') && !path.is_dir() {
        let known: Vec<_> = context.config.store.iter().map(|s| s.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(UsageError(format!(
            "'{}' is neither a directory nor a configured store (configured: {known})",
            args.target
        ))
        .into());
    }
    let name = match &args.store {
        Some(name) => StoreName::parse(name)?,
        None => name_from_path(path)?,
    };
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    Ok(StoreConfig { name, path, plan: PlanName::Standard, repository: None, exclude: Vec::new() })
}

/// Runs `work` with a progress line on a terminal, and with none in a pipe.
pub(super) fn watched<T>(global: &Global, progress: &Progress, verb: &str, work: impl FnOnce() -> T) -> T {
    let bar = ProgressBar::new_spinner();
    if global.quiet || global.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if bar.is_hidden() {
        return work();
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let entries = Progress::get(&progress.entries);
                let expected = Progress::get(&progress.expected_entries);
                let read = Progress::get(&progress.read_bytes);
                let seconds = started.elapsed().as_secs_f64();
                let rate = (read as f64 / seconds.max(0.001)) as u64;
                let left = match expected.checked_sub(entries) {
                    Some(left) if entries > 0 && left > 0 => {
                        let seconds = seconds * left as f64 / entries as f64;
                        format!(", about {} left", show::age((seconds * 1e9) as u64))
                    }
                    _ => String::new(),
                };
                bar.set_message(format!(
                    "{} entries {verb}, {} read ({}/s), {} shipped{left}",
                    show::count(entries),
                    show::bytes(read),
                    show::bytes(rate),
                    show::bytes(Progress::get(&progress.shipped_bytes)),
                ));
                bar.tick();
                std::thread::sleep(Duration::from_millis(100));
            }
            bar.finish_and_clear();
        });
        let result = work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    })
}

fn print(report: &Report, repository: &str) -> Result<()> {
    let c = &report.changes;
    let seconds = report.phases.open_seconds
        + report.phases.scan_seconds
        + report.phases.ship_seconds
        + report.phases.commit_seconds;
    show::line(&format!("{}@{} committed to {repository}", report.store, report.snapshot))?;
    show::line(&format!(
        "  {} entries, {}: {} added, {} modified, {} metadata only, {} removed, {} unchanged",
        show::count(report.entries),
        show::bytes(report.size_bytes),
        show::count(c.added),
        show::count(c.modified),
        show::count(c.metadata),
        show::count(c.removed),
        show::count(c.unchanged),
    ))?;
    show::line(&format!(
        "  {} read, {} of it new, {} shipped in {} requests, {seconds:.2} s",
        show::bytes(report.read_bytes),
        show::bytes(report.new_bytes),
        show::bytes(report.shipped_bytes),
        report.requests.put + report.requests.get + report.requests.head + report.requests.list,
    ))
}

/// Warnings go to standard error, also in a pipe: a scheduler's mail shows them.
fn warn(report: &Report) {
    let warnings = &report.warnings;
    for warning in warnings.first.iter().take(10) {
        let what = match warning.kind {
            WarningKind::Torn => "changed while it was read; taken as it was read",
            WarningKind::Unreadable => "could not be read; what the last snapshot has of it was kept",
            WarningKind::ChangedSilently => "changed without a new mtime or ctime; shipped",
        };
        eprintln!("understudy: warning: {}: {what} {}", warning.path, warning.reason);
    }
    let all = warnings.torn + warnings.unreadable + warnings.changed_silently;
    if all > 10 {
        eprintln!("understudy: warning: {} more; --json names the first 100", all - 10);
    }
}
