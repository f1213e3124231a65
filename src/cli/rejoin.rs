//! `understudy rejoin`.

use super::context::kill_at;
use super::desk::Desk;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Global, progress, show, warnings};
use crate::failover::stranded::rejoin::{RejoinReport, rejoin};
use crate::model::id::StoreName;
use crate::replicate::resync::ResyncContext;
use crate::service::agents::files::note_rejoined;
use crate::service::run::request;
use crate::source::disk::Disk;
use clap::Args;
use serde::Serialize;

#[derive(Args)]
pub(super) struct RejoinArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Commit even if the tree looks like a mishap: empty, another filesystem, most of it deleted
    #[arg(long)]
    accept: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    #[serde(flatten)]
    report: &'a RejoinReport,
}

pub(super) fn run(global: &Global, args: &RejoinArgs) -> Result<Exit> {
    let name = StoreName::parse(&args.store)?;
    let desk = Desk::open(global, &name)?;
    let Some(config) = desk.context.config.store(name.as_str()) else {
        return Err(UsageError(format!(
            "store '{name}' is not in this host's configuration, which says where its tree is"
        ))
        .into());
    };
    if config.path.as_os_str().is_empty() {
        return Err(UsageError(format!("store '{name}' has no `path` in this host's configuration")).into());
    }
    // Before the tree is scanned.
    desk.check_may_decide(&desk.state()?)?;
    let request = request(&desk.context, config, args.accept);
    let progress = super::context::progress();
    let tree = Disk::new(desk.context.env());
    let report = progress::watched(global, desk.context.env(), &progress, "scanned", || {
        let around = ResyncContext { tree: &tree, progress: &progress, on_step: &kill_at };
        rejoin(&desk.store, desk.maker(), &request, &config.stranded.transient, &around)
    })?;
    // A daemon that could not commit it by itself goes on.
    if let Err(how) = note_rejoined(desk.context.env(), config, report.promotion) {
        complain!("understudy: warning: {how}; the daemon compares the tree again");
    }
    if global.json {
        show::json(&Output { store: &name, report: &report })?;
    } else if !global.quiet {
        say(&name, &report)?;
    }
    warnings::scan(&report.warnings);
    Ok(if report.warnings.partial() > 0 { Exit::Warnings } else { Exit::Done })
}

fn say(name: &StoreName, report: &RejoinReport) -> Result<()> {
    let counts = &report.counts;
    show::line(&match (report.record, report.already) {
        (None, _) => format!("store '{name}': nothing is stranded here; no record was needed"),
        (Some(record), true) => format!("store '{name}': record {record} has what is stranded here already"),
        (Some(record), false) => {
            format!("store '{name}': committed what only this host has, in record {record}")
        }
    })?;
    show::line(&format!("  {}", show::stranded(counts, "here")))?;
    if report.record.is_some() {
        show::loss(&report.loss)?;
    }
    match report.record {
        Some(record) => {
            show::line(&format!("  on '{}': understudy stranded show {name} {record}", report.primary))
        }
        None => Ok(()),
    }
}
