//! `understudy database`: the server of a store's database on this host.

use super::context::Context;
use super::error::{LocalError, Result, UsageError};
use super::exit::Exit;
use super::{Ending, Global, show};
use crate::database::client::Client;
use crate::database::decide::State;
use crate::database::desk::local;
use crate::database::report::Report;
use crate::database::role::LogSays;
use crate::database::seed::store_name;
use crate::database::server::Server;
use crate::model::id::StoreName;
use crate::model::role::Permission;
use crate::repository::store::Repository;
use crate::service::config::StoreConfig;
use crate::service::database::DatabaseMode;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Display;
use std::path::PathBuf;

mod archive;
mod check;
mod found;
mod order;
mod restore;
mod run;
mod seed;
mod status;

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
            DatabaseCommand::Seed(_) | DatabaseCommand::Found(_) | DatabaseCommand::Restore(_) => {
                Ending::within(30)
            }
            // What was begun goes on in the supervisor, or is done by the next fence.
            DatabaseCommand::Promote(_)
            | DatabaseCommand::Demote(_)
            | DatabaseCommand::Fence(_)
            | DatabaseCommand::SemiSync(_)
            | DatabaseCommand::Acks(_)
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

    /// Returns what asks the primary's server: this host's own, if it is that.
    fn primary(&self) -> Result<Client> {
        if let Some(place) = self.store.database_place()?
            && Report::read(&place).is_some_and(|report| report.state == State::Serving)
        {
            return Ok(local(&place, self.context.env()));
        }
        self.store.database.primary(self.context.env()).ok_or_else(|| {
            let name = &self.store.name;
            UsageError(format!(
                "store '{name}': the configuration does not say where the primary's server is; set `socket` or `host` in [store.database]"
            ))
            .into()
        })
    }

    /// Returns what the store's log says of its primary.
    fn log_says(&self) -> Result<LogSays> {
        let name = &self.store.name;
        let state = self.context.repository_of(name)?.store(name).log().state()?;
        let primary = state.primary.clone();
        let is_here = primary.as_ref() == Some(&self.context.writer());
        let only_follows = self.store.role == Permission::Standby;
        let member = primary.as_ref().and_then(|primary| state.authority.member(primary));
        let database = member.and_then(|member| member.database.clone());
        let branch = state.authority.promotion.as_ref().and_then(|last| last.database.clone());
        let (epoch, lossless_since) = (state.epoch, state.authority.lossless_since);
        let has_synced = !state.authority.synced.is_empty();
        Ok(LogSays { epoch, primary, is_here, only_follows, database, branch, has_synced, lossless_since })
    }

    /// Returns the store of the database's seeds and archive, as it is shipped from a directory.
    fn database_store(&self, directory: PathBuf) -> Result<StoreConfig> {
        Ok(StoreConfig {
            plan: self.store.plan,
            repository: self.store.repository.clone(),
            encryption: self.store.encryption,
            ..StoreConfig::of(store_name(&self.store.name)?, directory)
        })
    }

    /// Returns the repository in which that store is.
    fn database_repository(&self) -> Result<Repository> {
        Ok(self.context.repository(Some(&self.database_store(PathBuf::new())?))?)
    }

    /// Returns a directory for this process's own files.
    fn state_dir(&self, what: &str) -> Result<PathBuf> {
        let dir = crate::service::config::state_dir()?;
        let dir = dir.ok_or_else(|| {
            LocalError::new("no place for this process's files; set XDG_STATE_HOME or HOME")
        })?;
        Ok(dir.join(format!("{what}-{}", self.store.name)))
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
