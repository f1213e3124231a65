//! `understudy database run`.

use super::{Changes, Configured};
use crate::cli::error::{Error, LocalError, Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, ending, progress, show};
use crate::database::desk::{Around, Settings};
use crate::database::error::DatabaseError;
use crate::database::minimal::{Place, Size};
use crate::database::received::Received;
use crate::database::report::Report;
use crate::database::role_file;
use crate::database::seed::{self, NOTE, store_name};
use crate::database::stranded::journal::Rejoin;
use crate::database::supervisor::{note_end, supervise, take};
use crate::model::plan::PlanName;
use crate::model::snapshot_ref::Moment;
use crate::service::database::DatabaseMode;
use crate::support::kill_point;
use crate::support::progress::Progress;
use clap::Args;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mark, beside the server's files, that a seed is being restored over an older replica.
const RESTORING: &str = "restoring";

#[derive(Args)]
pub(super) struct RunArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Begin again from the newest seed: what differs from it in the replica's directory is overwritten
    #[arg(long)]
    reseed: bool,
    /// Go on when the process that started this one ends
    #[arg(long, hide = true)]
    detached: bool,
}

pub(super) fn run_server(global: &Global, args: &RunArgs) -> Result<Exit> {
    if args.detached {
        // No signal of a terminal, or to the group of the one that started it, reaches it.
        let _ = rustix::process::setsid();
    }
    let configured = Arc::new(Configured::open(global, &args.store)?);
    configured.check_mode(DatabaseMode::replicates, DatabaseMode::Replica)?;
    let settings = settings(&configured)?;
    let context = &configured.context;
    let is_there = settings.root.join(NOTE).exists();
    if args.reseed || !is_there || settings.customers.is_none() {
        configured.check_stands_by()?;
    }
    let _taken = take(&settings.place)?;
    note_end(&settings.place, false)?;
    Rejoin::refuse(&settings.place, &settings.store)?;
    if args.reseed {
        check_has_nothing_stranded(&settings)?;
    }
    bring_if_needed(global, &configured, &settings, args.reseed)?;
    let reader = configured.clone();
    let log = Arc::new(move || reader.log_says().map_err(|error| DatabaseError::Log(error.to_string())));
    let mut changes = Changes::new(global);
    let mut on_report = |report: &Report| changes.tell(&settings.store, report, said(report));
    let is_noted = Cell::new(false);
    let stop = || {
        let is_asked = ending::is_asked();
        if is_asked && !is_noted.replace(true) {
            // A server may take longer to end than this process has. Without the note another one is started.
            let _ = note_end(&settings.place, true);
        }
        is_asked
    };
    let mut around = Around { env: context.env(), stop: &stop, log, on_report: &mut on_report };
    supervise(&settings, &mut around)?;
    Ok(Exit::Done)
}

/// Describes what a person should know of a report, and what changes seldom.
fn said(report: &Report) -> String {
    let state = match report.trouble {
        Some(trouble) => format!("{} ({}): {}", report.state.name(), trouble.name(), trouble.meaning()),
        None => report.state.name().to_owned(),
    };
    match &report.error {
        Some(error) => format!("{state}; {error}"),
        None => state,
    }
}

/// Returns where the files of the store's server are on this host.
pub(super) fn place(configured: &Configured) -> Result<Place> {
    let place = configured.store.database_place()?;
    Ok(place.ok_or_else(no_place)?)
}

/// Returns the error of a host that has no place for them.
pub(super) fn no_place() -> LocalError {
    LocalError::new("no place for the server's files; set XDG_STATE_HOME or HOME")
}

/// Returns the directory of this host's server.
pub(super) fn datadir(configured: &Configured) -> Result<PathBuf> {
    configured.store.database.datadir.clone().ok_or_else(|| {
        UsageError(format!(
            "store '{}': there is no place for the replica; set `datadir` in [store.database]",
            configured.store.name
        ))
        .into()
    })
}

pub(super) fn settings(configured: &Configured) -> Result<Settings> {
    let (store, context) = (&configured.store, &configured.context);
    let database = &store.database;
    let unset = |key: &str, what: &str| {
        UsageError(format!("store '{}': {what}; set `{key}` in [store.database]", store.name))
    };
    let root = datadir(configured)?;
    // A replica goes by TCP, also where there is a socket.
    let primary = database.tcp(context.env());
    if primary.is_none() && database.serve.is_none() {
        return Err(unset("host", "MariaDB replicates over TCP only").into());
    }
    let size = if store.plan == PlanName::Standard { Size::Standard } else { Size::Private };
    Ok(Settings {
        store: store.name.to_string(),
        host: context.writer().to_string(),
        size,
        memory_mib: database.memory_mib.unwrap_or_else(|| size.memory_mib()),
        root,
        place: place(configured)?,
        primary,
        account_file: database.account_file.clone(),
        tls_ca: database.tls_ca.clone(),
        customers: database.customers(),
        reports: database.reports(),
    })
}

/// Returns whether this host's server may have what no other one has, by the last order and by what was seen of it.
pub(super) fn may_be_ahead(settings: &Settings) -> Result<bool> {
    let trouble = Report::read(&settings.place).and_then(|report| report.trouble);
    Ok(role_file::read(&settings.place)?.may_be_ahead(trouble))
}

/// Refuses to overwrite what only this host's server may have.
fn check_has_nothing_stranded(settings: &Settings) -> Result<()> {
    match may_be_ahead(settings)? {
        true => Err(DatabaseError::Held(format!(
            "this host's server may have transactions that the new primary never had; this keeps them first, and then begins from a seed: understudy database rejoin {} --reseed",
            settings.store
        ))
        .into()),
        false => Ok(()),
    }
}

/// Restores the newest seed over what is there.
pub(super) fn bring(global: &Global, configured: &Configured, settings: &Settings) -> Result<()> {
    bring_if_needed(global, configured, settings, true)
}

/// Restores the newest seed, if there is no replica yet or it is to begin again.
fn bring_if_needed(
    global: &Global,
    configured: &Configured,
    settings: &Settings,
    reseed: bool,
) -> Result<()> {
    let (root, mark) = (&settings.root, settings.place.dir.join(RESTORING));
    let is_there = root.join(NOTE).exists();
    if is_there && !reseed && !mark.exists() {
        return Ok(());
    }
    let is_ours = is_there || mark.exists();
    if !is_ours && std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
        let text =
            format!("{}: it holds something that is no replica; name an empty directory", root.display());
        return Err(UsageError(text).into());
    }
    if is_ours {
        // Until the mark is gone, no server is started in what may be half of two seeds.
        std::fs::write(&mark, b"").map_err(|error| not_written(&mark, &error))?;
    }
    kill_point::reached("restoring noted");
    // What an earlier replica had received goes on from other data.
    Received::of(&settings.place).forget();
    let context = &configured.context;
    // A seed may be past the position that it was held at.
    role_file::change(&settings.place, context.env(), |note| note.hold = None)?;
    let repository = context.repository_of(&configured.store.name)?;
    let seeds = repository.store(&store_name(&configured.store.name)?);
    let own: Vec<PathBuf> = context.own_places().into_iter().chain(context.keys()?.key_file).collect();
    let progress = Progress::default();
    let (sequence, report) = progress::watched(global, context.env(), &progress, "restored", || {
        seed::bring(&seeds, Moment::Latest, root, is_ours, (context.threads(), own), &progress)
    })?;
    kill_point::reached("seed restored");
    if is_ours {
        std::fs::remove_file(&mark).map_err(|error| not_written(&mark, &error))?;
    }
    kill_point::reached("restoring ended");
    if !global.quiet && !global.json {
        show::line(&format!(
            "{}@{sequence} restored to {}: {} files written, {} kept",
            seeds.name(),
            root.display(),
            show::count(report.files_written),
            show::count(report.files_kept),
        ))?;
    }
    Ok(())
}

fn not_written(path: &Path, error: &std::io::Error) -> Error {
    LocalError::new(format!("{}: {error}", path.display())).into()
}
