//! `understudy database`: the replica of a store's database.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Ending, Global};
use crate::database::client::Client;
use crate::database::server::Server;
use crate::model::id::StoreName;
use crate::service::config::StoreConfig;
use clap::{Args, Subcommand};

mod check;

#[derive(Args)]
pub(super) struct DatabaseArgs {
    #[command(subcommand)]
    command: DatabaseCommand,
}

#[derive(Subcommand)]
enum DatabaseCommand {
    /// Say all at once what the primary's server lacks for a replica, and what mends each
    Check(OfStore),
}

#[derive(Args)]
struct OfStore {
    #[arg(value_name = "STORE")]
    store: String,
}

impl DatabaseArgs {
    pub(super) fn ending(&self) -> Ending {
        match self.command {
            DatabaseCommand::Check(_) => Ending::AT_ONCE,
        }
    }

    pub(super) fn only_prints(&self) -> bool {
        matches!(self.command, DatabaseCommand::Check(_))
    }
}

pub(super) fn run(global: &Global, args: DatabaseArgs) -> Result<Exit> {
    match args.command {
        DatabaseCommand::Check(of) => check::check(global, &of.store),
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

    fn primary_server(&self) -> Result<Server> {
        Ok(Server::new(self.primary()?))
    }
}
