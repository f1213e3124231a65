//! `understudy database stranded`.

use super::Configured;
use super::run::{place, settings};
use crate::cli::error::{Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, show as out};
use crate::database::decide::State;
use crate::database::desk::{Settings, local};
use crate::database::error::DatabaseError;
use crate::database::minimal::{Identity, Place};
use crate::database::report::Report;
use crate::database::seed::{SeedNote, data_dir};
use crate::database::server::Server;
use crate::database::stranded::columns::{Columns, columns};
use crate::database::stranded::find::{Found, Logs, Promotion, find_newest};
use crate::database::stranded::keep::{keep, keep_all};
use crate::database::stranded::kept::KeptNote;
use crate::database::stranded::rejoin::names;
use crate::database::stranded::summary::{Summary, summary};
use crate::model::decision::Decision;
use crate::model::gtid::{GtidPosition, ServerId};
use crate::model::id::{Sequence, StoreName, WriterId};
use crate::model::record::Event;
use crate::support::clock::UnixNanos;
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Maximum number of transactions that are shown to a person.
const SHOWN_MAX: usize = 100;

#[derive(Args)]
pub(super) struct StrandedArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Keep them in a new directory: as binary logs that `mariadb-binlog` reads, and as rows in JSON
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    branch: BranchArgs,
}

#[derive(Args)]
pub(super) struct BranchArgs {
    /// The position at which the new primary stopped being a replica, where the log does not say it: `database status` on the new primary does
    #[arg(long, value_name = "GTID")]
    branch: Option<String>,
}

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    /// None where nobody knows: the branch is not in the binary logs.
    stranded: Option<&'a Summary>,
    kept: Option<&'a KeptNote>,
    into: Option<&'a PathBuf>,
}

/// Returns the promotions of other hosts that the log knows, the newest first.
pub(super) fn promotions(configured: &Configured, branch: &BranchArgs) -> Result<Vec<Promotion>> {
    let name = &configured.store.name;
    let own = configured.context.writer();
    let log_says = configured.log_says()?;
    if log_says.is_here {
        let text = format!("store '{name}': this host is its primary, and nothing is stranded here");
        return Err(UsageError(text).into());
    }
    let store = configured.context.repository_of(name)?.store(name);
    let mut promoted: BTreeMap<Sequence, WriterId> = BTreeMap::new();
    let mut found: Vec<(WriterId, Option<GtidPosition>)> = Vec::new();
    for happened in store.log().history()? {
        let Event::Decided(decided) = &happened.record.event else { continue };
        let Some(statement) = decided.statement().filter(|_| happened.irregular.is_none()) else { continue };
        match statement.decision {
            Decision::Promoted(change) => {
                promoted.insert(happened.record.sequence, change.primary);
            }
            Decision::Completed { promotion, database, .. } => {
                if let Some(host) = promoted.get(&promotion).filter(|host| **host != own) {
                    found.push((host.clone(), database));
                }
            }
            _ => {}
        }
    }
    let mut servers: BTreeSet<ServerId> =
        log_says.primary.iter().flat_map(|host| Identity::numbers(name.as_str(), &host.0)).collect();
    if let Ok(client) = configured.primary() {
        servers.extend(Server::new(client).server_id().ok());
    }
    if let Some(given) = &branch.branch {
        return Ok(vec![Promotion { branch: given.parse()?, servers }]);
    }
    let mut promotions = Vec::new();
    for (host, branch) in found.into_iter().rev() {
        servers.extend(Identity::numbers(name.as_str(), &host.0));
        promotions.extend(branch.map(|branch| Promotion { branch, servers: servers.clone() }));
    }
    Ok(promotions)
}

/// Returns this host's server, if it answers.
fn running(configured: &Configured, place: &Place) -> Option<Server> {
    let server = Server::new(local(place, configured.context.env()));
    (place.socket().exists() && server.ping().is_ok()).then_some(server)
}

/// Looks for what is stranded on this host; none where the branch is not in the binary logs.
fn look(
    settings: &Settings,
    server: Option<&Server>,
    promotions: &[Promotion],
) -> Result<(Logs, Option<Found>)> {
    let note = SeedNote::read(&settings.root)?.ok_or_else(|| {
        DatabaseError::Settings(format!("{}: there is no database in it", settings.root.display()))
    })?;
    let logs = match server {
        Some(server) => Logs::of_server(server)?,
        None => Logs::of_data(&data_dir(&settings.root), note.log_bin.as_deref())?,
    };
    let found = find_newest(&logs, promotions)?;
    Ok((logs, found))
}

pub(super) fn stranded(global: &Global, args: &StrandedArgs) -> Result<Exit> {
    let configured = Configured::open(global, &args.store)?;
    let (settings, name) = (settings(&configured)?, &configured.store.name);
    let promotions = promotions(&configured, &args.branch)?;
    let server = running(&configured, &settings.place);
    let (logs, found) = look(&settings, server.as_ref(), &promotions)?;
    let summary = found.as_ref().map(summary).transpose()?;
    let kept = match (&args.into, &found, &summary) {
        (None, _, _) => None,
        (Some(into), Some(found), Some(summary)) => {
            let named = server.as_ref().map(|server| columns(server, &names(summary))).transpose()?;
            let named = named.unwrap_or_else(Columns::new);
            Some(keep(name.as_str(), found, summary, &named, into)?)
        }
        (Some(into), _, _) => Some(keep_all(name.as_str(), &logs, into)?),
    };
    let output =
        Output { store: name, stranded: summary.as_ref(), kept: kept.as_ref(), into: args.into.as_ref() };
    match global.json {
        true => out::json(&output)?,
        false => say(&output, promotions.is_empty())?,
    }
    Ok(if summary.is_some() { Exit::Done } else { Exit::Held })
}

fn say(output: &Output, is_unknown: bool) -> Result<()> {
    let name = output.store;
    match output.stranded {
        None if is_unknown => out::line(&format!(
            "store '{name}': the log does not say where the new primary's history begins; give it with --branch, as `understudy database status {name}` on the new primary shows it"
        ))?,
        None => out::line(&format!(
            "store '{name}': the position at which the new primary began is not in this server's binary logs any more, so that nobody knows what is stranded"
        ))?,
        Some(summary) if summary.transactions.is_empty() => out::line(&format!(
            "store '{name}': nothing is stranded in this host's database behind {}",
            summary.branch
        ))?,
        Some(summary) => say_summary(name, summary)?,
    }
    if let (Some(kept), Some(into)) = (output.kept, output.into) {
        out::line(&format!(
            "kept in {}: {} binary logs, {}",
            into.display(),
            kept.files.len(),
            out::bytes(kept.bytes)
        ))?;
        if !kept.names_columns {
            out::line(
                "  the rows are without the names of columns: the server that knows them does not run, or the tables were changed",
            )?;
        }
    }
    Ok(())
}

fn say_summary(name: &StoreName, summary: &Summary) -> Result<()> {
    for told in summary.transactions.iter().take(SHOWN_MAX) {
        let time = out::time(UnixNanos::EPOCH.plus(Duration::from_secs(told.committed_s.into())));
        let mut what: Vec<String> = told.tables.iter().map(|touched| touched.said()).collect();
        what.extend(told.statements.iter().cloned());
        out::line(&format!("{}  {time}  {}", told.gtid, what.join("; ")))?;
    }
    let more = summary.transactions.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        out::line(&format!("and {} more; --json shows all", out::count(more as u64)))?;
    }
    totals(name, summary)
}

/// Says how much is stranded, by table.
pub(super) fn totals(name: &StoreName, summary: &Summary) -> Result<()> {
    out::line(&format!(
        "store '{name}': {} transactions ({}) are stranded behind {}",
        out::count(summary.transactions.len() as u64),
        out::bytes(summary.bytes),
        summary.branch
    ))?;
    for touched in &summary.tables {
        out::line(&format!("  {}", touched.said()))?;
    }
    match summary.statements {
        0 => Ok(()),
        count => out::line(&format!("  {} that are no rows", out::count(count))),
    }
}

/// Says on a status what is stranded, where the server is diverged; what cannot be read is said by the command itself.
pub(super) fn say_in_status(configured: &Configured, report: &Report) -> Result<()> {
    let read = || -> Result<Summary> {
        let settings = settings(configured)?;
        let promotions = promotions(configured, &BranchArgs { branch: None })?;
        let server = running(configured, &settings.place);
        let (_, found) = look(&settings, server.as_ref(), &promotions)?;
        let found = found.ok_or_else(|| DatabaseError::Missing("the branch".into()))?;
        Ok(summary(&found)?)
    };
    if report.state != State::Broken {
        return Ok(());
    }
    match read() {
        Ok(summary) => totals(&configured.store.name, &summary),
        Err(_) => Ok(()),
    }
}

/// Returns where what a rejoin keeps is kept, unless a person says.
pub(super) fn default_dir(configured: &Configured) -> Result<PathBuf> {
    let now = out::time(configured.context.env().wall());
    let name: String = now.chars().map(|c| if c.is_ascii_digit() { c } else { '-' }).collect();
    Ok(place(configured)?.dir.join("stranded").join(name))
}
