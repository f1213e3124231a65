//! `understudy media`.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Global, ending, show};
use crate::database::client::{Address, Client};
use crate::database::error::DatabaseError;
use crate::database::media::compare::{Listed, MediaReport, What};
use crate::model::id::StoreName;
use crate::model::snapshot_ref::Moment;
use crate::service::databases::here::DatabaseHere;
use crate::service::media::compare;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct MediaArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// The snapshot whose files are compared, such as @42; default: the latest
    #[arg(long, value_name = "@SNAPSHOT", value_parser = super::values::point)]
    at: Option<Moment>,
    /// The socket of a server to ask, such as that of a restored database; default: this host's, or the primary's
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// An option file of MariaDB's with the account for --socket
    #[arg(long, value_name = "FILE", requires = "socket")]
    account_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Line<'a> {
    what: What,
    path: &'a str,
}

pub(super) fn run(global: &Global, args: MediaArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let Some(config) = context.config.store(name.as_str()) else {
        return Err(UsageError(format!("store '{name}' is not in this host's configuration")).into());
    };
    let env = context.env();
    let client = match args.socket {
        Some(socket) => {
            Client { address: Address::Socket(socket), account_file: args.account_file, env: env.clone() }
        }
        None => DatabaseHere { store: config, env }.any()?,
    };
    let files = context.repository_of(&name)?.store(&name);
    let moment = args.at.unwrap_or(Moment::Latest);
    let json = global.json;
    let mut tell = |what: What, path: &str| match json {
        true => show::json(&Line { what, path }).map_err(|error| DatabaseError::Settings(error.to_string())),
        false => Ok(()),
    };
    let report = compare(config, &files, moment, &client, env, &ending::is_asked, &mut tell)?;
    if json {
        show::json(&report)?;
    } else if !global.quiet {
        say(&name, &report)?;
    }
    Ok(if report.is_clean() { Exit::Done } else { Exit::Warnings })
}

/// Prints what was found.
pub(super) fn say(name: &StoreName, report: &MediaReport) -> Result<()> {
    show::line(&format!(
        "store '{name}': {} rows name {} files; {name}@{} has {} ({:.1} s)",
        show::count(report.rows),
        show::count(report.named),
        report.snapshot,
        show::count(report.files),
        report.seconds
    ))?;
    for directory in &report.absent {
        show::line(&format!("  there is no directory {directory}"))?;
    }
    list("named by the database and not there", &report.missing)?;
    list("there and named by no row", &report.unnamed)?;
    list("values that name no file of the store", &report.refused)
}

fn list(what: &str, listed: &Listed) -> Result<()> {
    if listed.count == 0 {
        return Ok(());
    }
    show::line(&format!("  {what}: {}", show::count(listed.count)))?;
    for path in &listed.first {
        show::line(&format!("    {path}"))?;
    }
    match listed.count - listed.first.len() as u64 {
        0 => Ok(()),
        more => show::line(&format!("    and {} more; --json lists them all", show::count(more))),
    }
}
