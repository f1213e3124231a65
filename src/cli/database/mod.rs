//! `understudy database`: the server of a store's database on this host.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Ending, Global, show};
use crate::database::client::Client;
use crate::database::points::Point;
use crate::database::points_read::Site;
use crate::database::role::LogSays;
use crate::database::seed::store_name;
use crate::database::server::Server;
use crate::model::gtid::GtidPosition;
use crate::model::id::StoreName;
use crate::model::snapshot_ref::Moment;
use crate::repository::store::Repository;
use crate::service::config::StoreConfig;
use crate::service::database::DatabaseMode;
use crate::service::databases::here::DatabaseHere;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Display;
use std::path::PathBuf;

mod archive;
mod check;
mod drill;
mod found;
mod hold;
mod order;
mod rejoin;
mod restore;
mod run;
mod seed;
mod status;
mod stranded;

/// Tells a person of what goes on for months: only what changed.
struct Changes<'a> {
    global: &'a Global,
    last: String,
}

impl<'a> Changes<'a> {
    fn new(global: &'a Global) -> Self {
        Self { global, last: String::new() }
    }

    /// Tells of a report, which is `said` in words.
    fn tell(&mut self, store: &dyn Display, report: &impl Serialize, said: String) {
        if self.global.json {
            let _ = show::json(report);
        } else if said != self.last && !self.global.quiet {
            let _ = show::line(&format!("{store}: {said}"));
        }
        self.last = said;
    }
}

#[derive(Args)]
pub(super) struct DatabaseArgs {
    #[command(subcommand)]
    command: DatabaseCommand,
}

#[derive(Subcommand)]
enum DatabaseCommand {
    /// Say all at once what the primary's server lacks for a replica, and what mends each
    Check(OfStore),
    /// Copy the database and ship it, for standbys to begin from; run on the primary
    Seed(seed::SeedArgs),
    /// Make the database of a new store on this host, or take over the data of a server that there is
    Found(OfStore),
    /// Run the store's server on this host until told to end: a replica, begun from the newest seed, or the primary's
    Run(run::RunArgs),
    /// Have this host's server apply what it has received, and take writes
    Promote(order::PromoteArgs),
    /// Have this host's server follow the primary's
    Demote(order::DemoteArgs),
    /// End this host's server at once if it takes writes; or with --planned, have it refuse them and say its last one
    Fence(order::FenceArgs),
    /// Have the primary's server tell customers that a transaction is done only once a standby has it, or end that
    SemiSync(order::SwitchArgs),
    /// Have this host's replica acknowledge what it receives to the primary's server, or end that
    Acks(order::SwitchArgs),
    /// Wait until this host's server has applied a position
    Wait(order::WaitArgs),
    /// Archive what the primary's server commits, for a restore to any moment; run on its host until it is told to end
    Archive(OfStore),
    /// Restore the database to a transaction or a time: the newest seed before it, and what was archived since
    Restore(restore::RestoreArgs),
    /// List what only a former primary's database has committed, by transaction and table, or keep it in files
    Stranded(stranded::StrandedArgs),
    /// Have a former primary's server follow again: keep what only it has, and undo that, or begin from a seed
    Rejoin(rejoin::RejoinArgs),
    /// Have this host's replica stand exactly where the database was when a snapshot's scan began, or where it is now
    Hold(hold::HoldArgs),
    /// Have a replica that is held follow again
    Release(OfStore),
    /// Open a copy of this host's replica with a second server, check its tables and run the configured queries there
    Drill(drill::DrillArgs),
    /// Show where the primary and this host's server stand, what is wrong and what mends it
    Status(OfStore),
}

#[derive(Args)]
struct OfStore {
    #[arg(value_name = "STORE")]
    store: String,
}

impl DatabaseArgs {
    pub(super) fn ending(&self) -> Ending {
        match self.command {
            DatabaseCommand::Check(_) | DatabaseCommand::Status(_) => Ending::AT_ONCE,
            DatabaseCommand::Seed(_)
            | DatabaseCommand::Found(_)
            | DatabaseCommand::Rejoin(_)
            | DatabaseCommand::Restore(_)
            | DatabaseCommand::Drill(_) => Ending::within(30),
            // What was begun goes on in the supervisor, or is done by the next fence.
            DatabaseCommand::Promote(_)
            | DatabaseCommand::Demote(_)
            | DatabaseCommand::Fence(_)
            | DatabaseCommand::SemiSync(_)
            | DatabaseCommand::Acks(_)
            | DatabaseCommand::Stranded(_)
            | DatabaseCommand::Hold(_)
            | DatabaseCommand::Release(_)
            | DatabaseCommand::Wait(_) => Ending::AT_ONCE,
            // Its end is no failure: it was told to end.
            DatabaseCommand::Archive(_) | DatabaseCommand::Run(_) => {
                Ending { code: Some(Exit::Done), ..Ending::within(30) }
            }
        }
    }

    pub(super) fn only_prints(&self) -> bool {
        matches!(self.command, DatabaseCommand::Check(_) | DatabaseCommand::Status(_))
    }
}

pub(super) fn run(global: &Global, args: DatabaseArgs) -> Result<Exit> {
    match args.command {
        DatabaseCommand::Check(of) => check::check(global, &of.store),
        DatabaseCommand::Seed(args) => seed::seed(global, args),
        DatabaseCommand::Found(of) => found::found(global, &of),
        DatabaseCommand::Run(args) => run::run_server(global, &args),
        DatabaseCommand::Promote(args) => order::promote(global, &args),
        DatabaseCommand::Demote(args) => order::demote(global, &args),
        DatabaseCommand::Fence(args) => order::fence(global, &args),
        DatabaseCommand::SemiSync(args) => order::semi_sync(global, &args),
        DatabaseCommand::Acks(args) => order::acks(global, &args),
        DatabaseCommand::Wait(args) => order::wait(global, &args),
        DatabaseCommand::Archive(of) => archive::archive(global, &of),
        DatabaseCommand::Restore(args) => restore::restore(global, &args),
        DatabaseCommand::Stranded(args) => stranded::stranded(global, &args),
        DatabaseCommand::Rejoin(args) => rejoin::rejoin(global, &args),
        DatabaseCommand::Hold(args) => hold::hold(global, &args),
        DatabaseCommand::Release(of) => hold::release(global, &of),
        DatabaseCommand::Drill(args) => drill::drill_copy(global, &args),
        DatabaseCommand::Status(of) => status::status(global, &of),
    }
}

/// A configured store with a database.
struct Configured {
    context: Context,
    store: StoreConfig,
}

impl Configured {
    fn open(global: &Global, store: &str) -> Result<Self> {
        let (name, context) = (StoreName::parse(store)?, Context::new(global)?);
        let Some(store) = context.config.store(name.as_str()).cloned() else {
            let text = format!("store '{name}' is not in this host's configuration");
            return Err(UsageError(text).into());
        };
        Ok(Self { context, store })
    }

    fn here(&self) -> DatabaseHere<'_> {
        DatabaseHere { store: &self.store, env: self.context.env() }
    }

    /// Returns what asks the primary's server: this host's own, if it is that.
    fn primary(&self) -> Result<Client> {
        Ok(self.here().primary()?)
    }

    /// Returns what the store's log says of its primary.
    fn log_says(&self) -> Result<LogSays> {
        let name = &self.store.name;
        let state = self.context.repository_of(name)?.store(name).log().state()?;
        Ok(self.here().log_says(&state, &self.context.writer()))
    }

    /// Returns the store of the database's seeds and archive, as it is shipped from a directory.
    fn database_store(&self, directory: PathBuf) -> Result<StoreConfig> {
        Ok(self.here().database_store(directory)?)
    }

    /// Returns the repository in which that store is.
    fn database_repository(&self) -> Result<Repository> {
        Ok(self.context.repository(Some(&self.database_store(PathBuf::new())?))?)
    }

    /// Returns a point, and the position to which the database is brought for it.
    fn point(&self, moment: Moment) -> Result<(Point, GtidPosition)> {
        let name = &self.store.name;
        let files = self.context.repository_of(name)?.store(name);
        let database = self.database_repository()?.store(&store_name(name)?);
        Ok(Site { files: &files, database: &database }.reachable(moment)?)
    }

    /// Refuses to follow on the host that is the primary.
    fn check_stands_by(&self) -> Result<()> {
        let (name, own) = (&self.store.name, self.context.writer());
        match self.log_says()?.is_here {
            true => {
                let text = format!("store '{name}': this host ('{own}') is its primary, and follows nobody");
                Err(UsageError(text).into())
            }
            false => Ok(()),
        }
    }

    /// Refuses what the configured mode leaves out.
    fn check_mode(&self, does: fn(DatabaseMode) -> bool, wanted: DatabaseMode) -> Result<()> {
        let word = if wanted == DatabaseMode::Archive { "archive" } else { "replica" };
        match does(self.store.database.mode) {
            true => Ok(()),
            false => Err(UsageError(format!(
                "store '{}': its configuration says otherwise; set `mode = \"{word}\"` or `\"both\"` in [store.database]",
                self.store.name
            ))
            .into()),
        }
    }

    fn primary_server(&self) -> Result<Server> {
        Ok(Server::new(self.primary()?))
    }
}
