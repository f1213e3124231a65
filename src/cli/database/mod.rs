//! `understudy database`: the replica of a store's database.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Ending, Global};
use crate::database::client::Client;
use crate::database::server::Server;
use crate::model::id::{StoreName, WriterId};
use crate::service::config::StoreConfig;
use clap::{Args, Subcommand};

mod check;
mod replica;
mod seed;
mod status;

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
    /// Run the replica of the database on this host until it is told to end; begins from the newest seed
    Replica(replica::ReplicaArgs),
    /// Show where the primary and this host's replica stand, what is wrong and what mends it
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
            DatabaseCommand::Seed(_) => Ending::within(30),
            // Its end is no failure: it was told to end.
            DatabaseCommand::Replica(_) => Ending { code: Some(Exit::Done), ..Ending::within(30) },
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
        DatabaseCommand::Replica(args) => replica::replica(global, &args),
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

    /// Returns what asks the primary's server.
    fn primary(&self) -> Result<Client> {
        self.store.database.primary(self.context.env()).ok_or_else(|| {
            let name = &self.store.name;
            UsageError(format!(
                "store '{name}': the configuration does not say where the primary's server is; set `socket` or `host` in [store.database]"
            ))
            .into()
        })
    }

    /// Returns the host that the store's log names as its primary; none where nothing was committed yet.
    fn log_primary(&self) -> Result<Option<WriterId>> {
        let name = &self.store.name;
        Ok(self.context.repository_of(name)?.store(name).log().state()?.primary)
    }

    /// Refuses to follow on the host that is the primary.
    fn check_stands_by(&self) -> Result<()> {
        let (name, own) = (&self.store.name, self.context.writer());
        match self.log_primary()? {
            Some(primary) if primary == own => {
                let text = format!("store '{name}': this host ('{own}') is its primary, and follows nobody");
                Err(UsageError(text).into())
            }
            _ => Ok(()),
        }
    }

    fn primary_server(&self) -> Result<Server> {
        Ok(Server::new(self.primary()?))
    }
}
