//! Executes what is due: runs of the configured stores, and their upkeep.

use super::context::{Context, kill_at};
use super::error::{Error, Result};
use super::exit::{self, Exit};
use super::site_text::site_text;
use super::{Global, ending, show};
use crate::service::config::StoreConfig;
use crate::service::daemon::Daemon;
use crate::service::upkeep::{TaskReport, UpkeepRun, UpkeepTask};
use crate::support::chain::chain;
use crate::support::failure::FailureKind;
use serde::Serialize;

/// Runs what is due and returns, as a scheduled job needs it.
pub(super) fn run_due(global: &Global) -> Result<Exit> {
    let context = Context::new(global)?;
    let daemon = Daemon::new(context.host().clone(), false, Box::new(kill_at));
    let stopping = daemon.clone();
    ending::on_end(move || stopping.stop());
    let made = context.key_to_be_made();
    let ended = daemon.run_due();
    show::announce_key(made.as_deref());
    let mut worst = Exit::Done;
    for (store, ended) in &ended {
        let exit = exit::of_ended(ended);
        worst = worst.max(exit);
        match &ended.result {
            Ok(report) if global.json => show::json(report)?,
            Ok(_) if global.quiet => {}
            Ok(report) => show::report(report, "committed")?,
            Err(failure) => complain!("understudy: {store}: {}", failure.error),
        }
    }
    if ending::is_asked() {
        complain!("understudy: stopped; the next call does what is still due");
        return Ok(worst.max(Exit::Failed));
    }
    if ended.is_empty() && !global.quiet && !global.json {
        show::line("nothing is due")?;
    }
    // Upkeep is due as well, at its own times.
    let kept = keep_up(global, &context, &context.config.store)?;
    Ok(worst.max(kept))
}

/// The result of a duty, or the reason why a store was not looked at.
#[derive(Serialize)]
struct Line {
    store: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    duty: Option<UpkeepTask>,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<TaskReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_kind: Option<FailureKind>,
}

impl Line {
    fn done(config: &StoreConfig, duty: UpkeepTask, done: TaskReport) -> Self {
        let store = config.name.to_string();
        Self { store, duty: Some(duty), done: Some(done), error: None, error_kind: None }
    }

    fn failed(config: &StoreConfig, duty: Option<UpkeepTask>, error: &Error) -> Self {
        let (error, error_kind) = (chain(error.as_ref()), error.kind());
        let store = config.name.to_string();
        Self { store, duty, done: None, error: Some(error), error_kind: Some(error_kind) }
    }
}

/// Does the upkeep that is due for these stores. The failure of one store does not keep the others from
/// theirs.
pub(super) fn keep_up(global: &Global, context: &Context, stores: &[StoreConfig]) -> Result<Exit> {
    let stop = ending::flag();
    let mut lines = Vec::new();
    for config in stores {
        if ending::is_asked() {
            break;
        }
        let keep_one_up = || {
            let store = context.repository(Some(config))?.store(&config.name);
            let host = context.host();
            let keeper = UpkeepRun { host, store: &store, config, stop: &stop };
            Ok(keeper.keep_up()?)
        };
        let kept: Vec<_> = match keep_one_up() {
            Ok(outcomes) => {
                let line = |(duty, result)| match result {
                    Ok(done) => Line::done(config, duty, done),
                    Err(error) => Line::failed(config, Some(duty), &Error::from(error)),
                };
                outcomes.into_iter().map(line).collect()
            }
            Err(error) => vec![Line::failed(config, None, &error)],
        };
        if !global.json {
            kept.iter().try_for_each(|line| print(global, line))?;
        }
        lines.extend(kept);
    }
    if global.json && !lines.is_empty() {
        show::json(&lines)?;
    }
    let failed = lines.iter().filter_map(|line| line.error_kind).map(Exit::from);
    let stopped = ending::is_asked().then_some(FailureKind::Stopped.into());
    Ok(failed.chain(stopped).max().unwrap_or(Exit::Done))
}

fn print(global: &Global, line: &Line) -> Result<()> {
    let store = &line.store;
    if let Some(error) = &line.error {
        let what = if line.duty.is_none() { "upkeep not started: " } else { "" };
        complain!("understudy: {store}: {what}{error}");
        return Ok(());
    }
    if let Some(TaskReport::Prune(report)) = &line.done {
        show::pruning_warnings(report);
    }
    if global.quiet {
        return Ok(());
    }
    match &line.done {
        Some(TaskReport::Prune(report)) => show::line(&format!(
            "{store}: pruned: {} snapshots dropped, {} doomed, {} deleted",
            report.snapshots_dropped,
            show::bytes(report.doomed_bytes),
            show::bytes(report.deleted_bytes)
        )),
        Some(TaskReport::Verify(report)) => show::line(&format!(
            "{store}: verified: {} of {} packs read ({}): sound",
            report.packs_read,
            report.packs,
            show::bytes(report.read_bytes)
        )),
        Some(TaskReport::Drill(report)) => show::line(&show::drill_text(report)),
        Some(TaskReport::Site(report)) => show::line(&site_text(report)),
        None => Ok(()),
    }
}
