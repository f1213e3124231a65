//! `understudy database promote`, `demote`, `fence`, `semi-sync`, `acks` and `wait`.
//!
//! They need nothing of the configuration but the supervisor's directory, and not even that if `--directory` is
//! given: so an agent's or a guard's command does not fail because of a configuration, a key or a repository. An
//! agent gives the epoch; a person's order is judged by the log, which the supervisor reads.

use super::Configured;
use super::run::{no_place, place};
use crate::cli::error::{Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, show};
use crate::database::desk::local;
use crate::database::error::DatabaseError;
use crate::database::fence::{self, Found};
use crate::database::minimal::Place;
use crate::database::orders::{What, give};
use crate::database::promote;
use crate::database::restored::{GoBack, Restored, aside_dir};
use crate::database::role_file;
use crate::database::server::Server;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, StoreName};
use crate::service::config::database_dir;
use crate::support::env::Env;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Time for an order to be done; the supervisor goes on with it.
pub(super) const LIMIT: Duration = Duration::from_secs(300);
/// The epoch of an agent's order.
const EPOCH: &str = "UNDERSTUDY_EPOCH";
/// What an agent's fence is for: `planned` for a handover.
const FENCE: &str = "UNDERSTUDY_FENCE";
/// Time for semi-synchronous replication to begin or to end.
const SWITCH_LIMIT: Duration = Duration::from_secs(20);
/// Time for a position to be applied.
const WAIT_LIMIT: Duration = Duration::from_secs(120);

#[derive(Args)]
struct Target {
    #[arg(value_name = "STORE")]
    store: String,
    /// Directory of the server's supervisor; default: the one in the configuration
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct PromoteArgs {
    #[command(flatten)]
    target: Target,
    /// Promote a replica that is broken, with what it lacks
    #[arg(long)]
    accept_loss: bool,
    /// Promote it only once it has applied this position, which a fence with --planned has printed
    #[arg(long, value_name = "GTID")]
    position: Option<String>,
    /// Have a database that `failover --at @SNAPSHOT` restored take the place of the replica's data, which is kept beside it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["accept_loss", "position"])]
    restored: Option<PathBuf>,
    /// Where the replica's data is kept
    #[arg(long, value_name = "DIR", requires = "restored")]
    aside: Option<PathBuf>,
    /// The restore's name, and the position that it has
    #[arg(long, value_name = "ID@GTID", requires = "aside", hide = true)]
    restore: Option<String>,
}

#[derive(Args)]
pub(super) struct DemoteArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Args)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    target: Target,
    /// The position, such as 1-11-4711
    #[arg(value_name = "GTID")]
    position: String,
}

#[derive(Args)]
pub(super) struct SwitchArgs {
    #[command(flatten)]
    target: Target,
    #[arg(value_name = "SWITCH")]
    switch: Switch,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Args)]
pub(super) struct FenceArgs {
    #[command(flatten)]
    target: Target,
    /// Refuse writes and end sessions, for a handover; replicas go on reading
    #[arg(long)]
    planned: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    done: &'static str,
    position: Option<GtidPosition>,
    note: Option<String>,
}

impl Target {
    fn find(&self, global: &Global) -> Result<(StoreName, Place)> {
        let store = StoreName::parse(&self.store)?;
        let place = match &self.directory {
            Some(dir) => Place { dir: dir.clone() },
            None => place(&Configured::open(global, &self.store)?)?,
        };
        Ok((store, place))
    }

    /// Like [`Self::find`], where nobody may depend on the configuration being readable.
    fn find_anyway(&self, global: &Global) -> Result<(StoreName, Place)> {
        self.find(global).or_else(|_| {
            let store = StoreName::parse(&self.store)?;
            let dir = database_dir(&store)?.ok_or_else(no_place)?;
            Ok((store, Place { dir }))
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(super) fn epoch() -> Result<Option<Epoch>> {
    let Some(text) = variable(EPOCH) else { return Ok(None) };
    let number = text.parse().map_err(|_| UsageError(format!("{EPOCH}: '{text}' is no epoch")))?;
    Ok(Some(Epoch(number)))
}

/// Prints what was done. The position has a line of its own, which agents read.
pub(super) fn said(
    global: &Global,
    store: &StoreName,
    done: &'static str,
    position: Option<GtidPosition>,
    note: Option<String>,
) -> Result<Exit> {
    if global.json {
        show::json(&Output { store, done, position, note })?;
    } else if !global.quiet {
        show::line(&format!("store '{store}': this host's server {done}"))?;
        if let Some(note) = note {
            show::line(&format!("  {note}"))?;
        }
        if let Some(position) = position.filter(|position| !position.is_empty()) {
            show::line(&format!("position {position}"))?;
        }
    }
    Ok(Exit::Done)
}

pub(super) fn promote(global: &Global, args: &PromoteArgs) -> Result<Exit> {
    let (store, place) = args.target.find(global)?;
    let position = args.position.as_deref().map(str::parse::<GtidPosition>).transpose()?;
    let what = What::Serve { position, accept_loss: args.accept_loss, back: back(args)?.map(Box::new) };
    let (position, note) = give(&place, what, epoch()?, LIMIT)?;
    said(global, &store, "takes writes", position, note)
}

/// Returns what is to take the place of the replica's data.
fn back(args: &PromoteArgs) -> Result<Option<GoBack>> {
    let Some(restored) = &args.restored else { return Ok(None) };
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let restored = absolute(restored);
    let (id, position) = match &args.restore {
        // An agent says what it was told; the directory may have changed places already.
        Some(text) => match text.split_once('@') {
            Some((id, position)) => (id.to_owned(), position.parse::<GtidPosition>()?),
            None => return Err(UsageError(format!("'{text}' is no ID@GTID")).into()),
        },
        None => match Restored::read(&restored)? {
            Some(Restored { id, position }) => (id, position),
            None => {
                let text = format!("{}: there is no restored database in it", restored.display());
                return Err(UsageError(text).into());
            }
        },
    };
    let aside = args.aside.as_ref().map_or_else(|| aside_dir(&restored, &id), absolute);
    Ok(Some(GoBack { id, position, restored, aside }))
}

pub(super) fn demote(global: &Global, args: &DemoteArgs) -> Result<Exit> {
    let (store, place) = args.target.find(global)?;
    let (position, note) = give(&place, What::Follow, epoch()?, LIMIT)?;
    said(global, &store, "is a replica", position, note)
}

/// Has commits of the primary's server wait for a standby.
pub(super) fn semi_sync(global: &Global, args: &SwitchArgs) -> Result<Exit> {
    let (store, place) = args.target.find(global)?;
    let on = matches!(args.switch, Switch::On);
    let (position, note) = give(&place, What::Wait { on }, epoch()?, SWITCH_LIMIT)?;
    let done = if on { "waits for a standby" } else { "waits for nobody" };
    said(global, &store, done, position, note)
}

/// Has this host's replica acknowledge what it receives.
pub(super) fn acks(global: &Global, args: &SwitchArgs) -> Result<Exit> {
    let (store, place) = args.target.find(global)?;
    let on = matches!(args.switch, Switch::On);
    match give(&place, What::Acknowledge { on }, epoch()?, SWITCH_LIMIT) {
        Ok(_) => {}
        // Its server has ended with it, or does what the note says when it starts.
        Err(DatabaseError::NoSupervisor(_)) if place.dir.exists() => {
            role_file::change(&place, &Env::system(), |note| note.acks = on)?;
        }
        Err(error) => return Err(error.into()),
    }
    let done = if on { "acknowledges what it receives" } else { "acknowledges nothing" };
    said(global, &store, done, None, None)
}

/// Waits until this host's server has applied a position.
pub(super) fn wait(global: &Global, args: &WaitArgs) -> Result<Exit> {
    let (store, place) = args.target.find(global)?;
    let (env, wanted) = (Env::system(), args.position.parse::<GtidPosition>()?);
    let server = Server::new(local(&place, &env));
    promote::wait_until_applied(&server, &wanted, &env, WAIT_LIMIT, store.as_str())?;
    said(global, &store, "has applied it", Some(wanted), None)
}

pub(super) fn fence(global: &Global, args: &FenceArgs) -> Result<Exit> {
    let (store, place) = args.target.find_anyway(global)?;
    if args.planned || variable(FENCE).as_deref() == Some("planned") {
        let (position, note) = give(&place, What::Hand, epoch()?, LIMIT)?;
        return said(global, &store, "refuses writes", position, note);
    }
    let done = match fence::fence(&place, &Env::system(), epoch()?)? {
        Found::Open => "was ended, and stays so",
        Found::Closed => "takes no writes",
    };
    said(global, &store, done, None, None)
}
