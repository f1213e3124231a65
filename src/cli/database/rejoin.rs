//! `understudy database rejoin`.

use super::Configured;
use super::run::{bring, may_be_ahead, settings};
use super::stranded::{BranchArgs, default_dir, promotions};
use crate::cli::confirm::confirm;
use crate::cli::error::{Context as _, Result};
use crate::cli::exit::Exit;
use crate::cli::{Global, ending, show};
use crate::database::desk::Settings;
use crate::database::error::{DatabaseError, Trouble};
use crate::database::report::Report;
use crate::database::seed::store_name;
use crate::database::stranded::journal::{How, Rejoin};
use crate::database::stranded::rejoin::Request;
use crate::database::supervisor::take;
use crate::model::gtid::GtidPosition;
use crate::model::id::StoreName;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct RejoinArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Undo what is stranded row by row, where that is safe
    #[arg(long, required_unless_present = "reseed", conflicts_with = "reseed")]
    flashback: bool,
    /// Begin again from the newest seed
    #[arg(long)]
    reseed: bool,
    /// Keep what is stranded in this new directory (default: below the supervisor's directory, by the time)
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    branch: BranchArgs,
    /// Do not ask for the store's name
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    how: How,
    branch: Option<GtidPosition>,
    kept: Option<PathBuf>,
}

pub(super) fn rejoin(global: &Global, args: &RejoinArgs) -> Result<Exit> {
    let configured = Configured::open(global, &args.store)?;
    let (settings, name) = (settings(&configured)?, &configured.store.name);
    let _taken = take(&settings.place).map_err(|error| match error {
        DatabaseError::Taken(path) => DatabaseError::Held(format!(
            "{}: its supervisor runs; stop it, and start it again afterwards",
            path.display()
        )),
        error => error,
    })?;
    let promotions = promotions(&configured, &args.branch)?;
    check_may_rejoin(&settings)?;
    let how = if args.flashback { How::Flashback } else { How::Reseed };
    if !args.yes {
        let question = question(how);
        confirm(name, question, &format!("{question}: nothing was done"))?;
    }
    let into = args.into.clone().map_or_else(|| default_dir(&configured), Ok)?;
    // What is begun here may be ended from elsewhere.
    let into = std::path::absolute(&into).context("the directory of what is kept")?;
    let stop = ending::is_asked;
    let request = Request {
        settings: &settings,
        env: configured.context.env(),
        stop: &stop,
        promotions,
        archived: archived(&configured, how)?,
        into,
    };
    let done = match how {
        How::Flashback => request.flashback()?,
        How::Reseed => {
            let begun = request.begin_reseed(may_be_ahead(&settings)?)?;
            bring(global, &configured, &settings)?;
            request.finish()?;
            begun
        }
    };
    said(global, name, &done)
}

/// Refuses where nothing says that this server stands apart from the new primary's, or does not start.
fn check_may_rejoin(settings: &Settings) -> Result<()> {
    let is_begun = Rejoin::read(&settings.place)?.is_some();
    let report = Report::read(&settings.place);
    // What does not start may be a replica's that received more than it applied.
    let is_crashing = report.is_some_and(|report| report.trouble == Some(Trouble::Crashing));
    match is_begun || is_crashing || may_be_ahead(settings)? {
        true => Ok(()),
        false => Err(DatabaseError::Held(format!(
            "this host's server is no former primary's, and was not seen to be diverged or to crash; start its supervisor, and look: understudy database status {}",
            settings.store
        ))
        .into()),
    }
}

/// Returns what is archived, where a flashback would delete what is not.
fn archived(configured: &Configured, how: How) -> Result<Option<GtidPosition>> {
    if how == How::Reseed || !configured.store.database.mode.archives() {
        return Ok(None);
    }
    let store = configured.database_repository()?.store(&store_name(&configured.store.name)?);
    let last = store.binlog().line()?.last();
    let last = last.map(|place| store.binlog().read(place)).transpose()?;
    Ok(Some(last.map(|last| last.segment.header.after).unwrap_or_default()))
}

/// Returns what a rejoin does, for whoever is asked for it.
fn question(how: How) -> &'static str {
    match how {
        How::Flashback => "what only this host's server has committed is kept and then undone",
        How::Reseed => {
            "what only this host's server has committed is kept, and its data is replaced by the newest seed"
        }
    }
}

fn said(global: &Global, name: &StoreName, done: &Rejoin) -> Result<Exit> {
    if global.json {
        show::json(&Output {
            store: name,
            how: done.how,
            branch: done.branch.clone(),
            kept: done.kept.clone(),
        })?;
        return Ok(Exit::Done);
    }
    if global.quiet {
        return Ok(Exit::Done);
    }
    show::line(&match done.how {
        How::Flashback => format!(
            "store '{name}': this host's server is back at {}",
            done.branch.clone().unwrap_or_default()
        ),
        How::Reseed => format!("store '{name}': this host's server begins again from the newest seed"),
    })?;
    if let Some(kept) = &done.kept {
        show::line(&format!("  what was stranded is kept in {}", kept.display()))?;
    }
    show::line(&format!("  start its supervisor again: understudy database run {name}"))?;
    if done.how == How::Flashback {
        show::line(&format!(
            "  older seeds no longer lead into this server's history; make a new one, on the primary: understudy database seed {name}"
        ))?;
    }
    Ok(Exit::Done)
}
