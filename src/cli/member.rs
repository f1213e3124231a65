//! `understudy member`.

use super::context::Context;
use super::desk::Desk;
use super::error::{Context as _, LocalError, Result, StoppedError, UsageError};
use super::exit::Exit;
use super::remote::Remote;
use super::{Ending, Global, ending, show, values};
use crate::api::failover::FailoverStatus;
use crate::format::join::{JoinToken, Joining, Told};
use crate::model::decision::Decision;
use crate::model::id::{StoreName, WriterId};
use crate::model::member::{May, Member};
use crate::model::record::StoreState;
use crate::model::role::Permission;
use crate::repository::error::RepositoryError;
use crate::service::config::MemberConfig;
use crate::support::failure::FailureKind;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::{BufRead, Read};
use std::time::Duration;
use zeroize::Zeroizing;

#[derive(Args)]
pub(super) struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Subcommand)]
enum MemberCommand {
    /// Make this host the primary of a store, and its only member: from then on, only members decide who the primary is
    Found {
        #[arg(value_name = "STORE")]
        store: String,
    },
    /// Print a one-time token, and wait for the host that joins with it
    Invite(InviteArgs),
    /// Join a store with a token that a member printed; run on the new host
    Join(JoinArgs),
    /// List a store's members
    List {
        #[arg(value_name = "STORE")]
        store: String,
    },
    /// Remove a member: its host can decide nothing any more
    Remove {
        #[arg(value_name = "STORE")]
        store: String,
        #[arg(value_name = "HOST")]
        host: String,
    },
}

#[derive(Args)]
struct InviteArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// How long the token is valid (90s, 15m, 2h)
    #[arg(long = "for", value_name = "TIME", default_value = "15m", value_parser = values::seconds)]
    time: u64,
    /// Let the host only vote about the primary, and never become it
    #[arg(long)]
    watch_only: bool,
}

#[derive(Args)]
struct JoinArgs {
    /// The token; `-` reads it from standard input, so that no other user sees it in the list of processes
    #[arg(value_name = "TOKEN")]
    token: String,
    /// How long to wait until the member that invited this host has added it (90s, 15m, 2h)
    #[arg(long = "for", value_name = "TIME", default_value = "15m", value_parser = values::seconds)]
    time: u64,
}

impl MemberArgs {
    pub(super) fn ending(&self) -> Ending {
        match self.command {
            MemberCommand::Found { .. } | MemberCommand::Remove { .. } => Ending::COMMITS_AT_ONCE,
            MemberCommand::Invite(_) | MemberCommand::Join(_) => Ending::within(10),
            MemberCommand::List { .. } => Ending::AT_ONCE,
        }
    }

    pub(super) fn only_prints(&self) -> bool {
        matches!(self.command, MemberCommand::List { .. })
    }
}

const TOKEN_MAX_BYTES: u64 = 4096;
/// Number of seconds that a daemon has to change the members.
const AGENT_SECONDS: u64 = 20;
/// Time between two looks for an answer.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global, args: MemberArgs) -> Result<Exit> {
    match args.command {
        MemberCommand::Found { store } => found(global, &StoreName::parse(&store)?)?,
        MemberCommand::Invite(args) => invite(global, &args)?,
        MemberCommand::Join(args) => join(global, &args)?,
        MemberCommand::List { store } => list(global, &StoreName::parse(&store)?)?,
        MemberCommand::Remove { store, host } => remove(global, &StoreName::parse(&store)?, WriterId(host))?,
    }
    Ok(Exit::Done)
}

fn say(global: &Global, text: &str) -> Result<()> {
    if global.quiet { Ok(()) } else { show::line(text) }
}

fn found(global: &Global, name: &StoreName) -> Result<()> {
    let desk = Desk::open(global, name)?;
    let config = desk.context.config.store(name.as_str());
    if config.is_some_and(|store| store.role != Permission::Primary) {
        return Err(UsageError(format!(
            "store '{name}': this host is configured as its standby or watcher; run this on its primary"
        ))
        .into());
    }
    let MemberConfig { address, customers, database, zone } = desk.told();
    let may = BTreeSet::from([May::Serve, May::Watch]);
    let member = Member {
        name: desk.name.clone(),
        key: desk.key.public(),
        address,
        customers: customers.map(|at| at.to_string()),
        database: database.map(|at| at.to_string()),
        zone,
        may,
    };
    let mut state = desk.state()?;
    desk.store.log().decide(&mut state, desk.maker(), |state| match state.authority.is_founded() {
        false => Ok::<_, super::error::Error>(Some(Decision::Members { members: vec![member.clone()] })),
        true => Err(UsageError(format!(
            "store '{name}' has members already; `understudy member list {name}` shows them, and one of them can invite this host"
        ))
        .into()),
    })?;
    say(
        global,
        &format!(
            "store '{name}' is founded: '{}' is its primary and only member; only members' keys decide from now on",
            desk.name
        ),
    )
}

fn invite(global: &Global, args: &InviteArgs) -> Result<()> {
    let name = StoreName::parse(&args.store)?;
    let desk = Desk::open(global, &name)?;
    let mut state = desk.state()?;
    desk.check_may_decide(&state)?;
    if let Some(primary) = state.primary.as_ref().filter(|primary| **primary != desk.name) {
        return Err(UsageError(format!(
            "store '{name}': only its primary, '{primary}', changes the members; run this there"
        ))
        .into());
    }
    let token = JoinToken::new(&name, desk.context.env().random());
    #[derive(Serialize)]
    struct Shown<'a> {
        token: &'a str,
        seconds: u64,
    }
    let text = token.text();
    match global.json {
        true => show::json(&Shown { token: &text, seconds: args.time })?,
        false => show::line(&text)?,
    }
    if !global.quiet {
        complain!(
            "understudy: on the host that joins: understudy member join TOKEN; it is valid once, for {}",
            show::age(args.time as f64)
        );
    }
    let joining = wait_for(&desk, args.time, || Ok(desk.store.notes().joining(&token)?))?;
    let Some(joining) = joining else {
        return Err(LocalError::new(format!("store '{name}': no host has joined in time")).into());
    };
    let added = add(&desk, &mut state, &joining, args.watch_only);
    // The answer has served, whatever became of it. Only its own invitation ever reads it.
    if let Err(error) = desk.store.notes().delete_joining(&token) {
        complain!("understudy: warning: {error}; what the host answered stays there, without effect");
    }
    added?;
    if !global.quiet && !global.json {
        show::line(&format!(
            "'{}' is a member of store '{name}' now; its key: {}",
            joining.name,
            joining.key.fingerprint()
        ))?;
    }
    Ok(())
}

/// Looks until there is something, for this many seconds at most.
fn wait_for<T>(desk: &Desk, seconds: u64, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let env = desk.context.env();
    let begun = env.stopwatch();
    loop {
        match look() {
            // A repository that is away for a moment ends no invitation.
            Err(error) if error.kind() == FailureKind::Unavailable => {}
            Ok(None) => {}
            found => return found,
        }
        if ending::is_asked() {
            return Err(StoppedError(format!("store '{}': stopped", desk.store.name())).into());
        }
        if begun.elapsed().as_secs() >= seconds {
            return Ok(None);
        }
        env.sleep(LOOK);
    }
}

/// Adds a host that has answered.
fn add(desk: &Desk, state: &mut StoreState, joining: &Joining, watch_only: bool) -> Result<()> {
    let may = if watch_only { vec![May::Watch] } else { vec![May::Serve, May::Watch] };
    let new = Member {
        name: joining.name.clone(),
        key: joining.key,
        address: joining.address.clone(),
        customers: joining.customers.clone(),
        database: joining.database.clone(),
        zone: joining.zone.clone(),
        may: may.into_iter().collect(),
    };
    desk.store.log().refresh(state)?;
    change(desk, state, |state| {
        if state.authority.member(&new.name).is_some() {
            return Err(super::error::Error::from(UsageError(format!(
                "store '{}' has a member '{}' already: remove it first, or give the new host another name (`writer`)",
                desk.store.name(),
                new.name
            ))));
        }
        Ok(state.authority.members.iter().chain([&new]).cloned().collect())
    })
}

/// Changes the list of members.
///
/// Where this host's daemon has the store's failover agent, that one does it: it counts on the promises of the
/// members that could replace this host, so it must know of a new one before the log does.
fn change(
    desk: &Desk,
    state: &mut StoreState,
    list: impl Fn(&StoreState) -> Result<Vec<Member>>,
) -> Result<()> {
    let name = desk.store.name();
    let Some(remote) = Remote::find(&desk.context).filter(|remote| remote.knows(name)) else {
        return decide(desk, state, list);
    };
    let path = format!("/api/v1/stores/{name}/failover");
    let status: FailoverStatus = remote.get(&path)?;
    if status.no_agent.is_some() {
        return decide(desk, state, list);
    }
    let wanted = list(state)?;
    let _: FailoverStatus = remote.put(&format!("/api/v1/stores/{name}/members"), &wanted)?;
    let done = wait_for(desk, AGENT_SECONDS, || {
        desk.store.log().refresh(state)?;
        let status: FailoverStatus = remote.get(&path)?;
        let refused = status.refused.first().cloned();
        Ok((state.authority.members == wanted).then_some(Ok(())).or(refused.map(Err)))
    })?;
    let text = match done {
        Some(Ok(())) => return Ok(()),
        Some(Err(refused)) => format!("store '{name}': the members were not changed: {refused}"),
        None => format!(
            "store '{name}': the daemon has not changed the members within {AGENT_SECONDS} s; `understudy why {name}` says where it stands"
        ),
    };
    Err(LocalError::new(text).into())
}

fn decide(
    desk: &Desk,
    state: &mut StoreState,
    list: impl Fn(&StoreState) -> Result<Vec<Member>>,
) -> Result<()> {
    desk.store.log().decide(state, desk.maker(), |state| {
        Ok::<_, super::error::Error>(Some(Decision::Members { members: list(state)? }))
    })?;
    Ok(())
}

fn join(global: &Global, args: &JoinArgs) -> Result<()> {
    let token = match args.token.as_str() {
        "-" => {
            let mut line = Zeroizing::new(String::new());
            let limited = std::io::stdin().take(TOKEN_MAX_BYTES);
            std::io::BufReader::new(limited).read_line(&mut line).context("reading the token")?;
            line
        }
        given => Zeroizing::new(given.to_owned()),
    };
    let token = JoinToken::parse(&token).map_err(|error| UsageError(error.to_string()))?;
    let name = token.store.clone();
    let desk = Desk::open(global, &name)?;
    let mut state = desk.state()?;
    let own = desk.key.public();
    let is_in = |state: &StoreState| state.authority.member(&desk.name).is_some_and(|m| m.key == own);
    if !is_in(&state) {
        let MemberConfig { address, customers, database, zone } = desk.told();
        let [customers, database] = [customers, database].map(|at| at.map(|at| at.to_string()));
        let told = Told { address, customers, database, zone };
        let joining = token.answer(desk.name.clone(), own, told);
        desk.store.notes().put_joining(&token, &joining)?;
        let answered = wait_for(&desk, args.time, || {
            // In this order: the answer is deleted only after the host was added.
            let is_there = desk.store.notes().has_joining(&token)?;
            desk.store.log().refresh(&mut state)?;
            Ok((is_in(&state) || !is_there).then(|| is_in(&state)))
        });
        if !matches!(answered, Ok(Some(_))) {
            let _ = desk.store.notes().delete_joining(&token);
        }
        let why = match answered? {
            Some(true) => None,
            Some(false) => Some("the member that invited this host has refused it; it says why"),
            None => Some("no member has added this host in time; ask for another invitation"),
        };
        if let Some(why) = why {
            return Err(LocalError::new(format!("store '{name}': {why}")).into());
        }
    }
    say(global, &format!("'{}' is a member of store '{name}' now; its key: {}", desk.name, own.fingerprint()))
}

fn remove(global: &Global, name: &StoreName, host: WriterId) -> Result<()> {
    let desk = Desk::open(global, name)?;
    let mut state = desk.state()?;
    desk.check_may_decide(&state)?;
    change(&desk, &mut state, |state| {
        if state.authority.member(&host).is_none() {
            let text = format!("store '{name}' has no member '{host}'");
            return Err(super::error::Error::from(UsageError(text)));
        }
        let stay = state.authority.members.iter().filter(|member| member.name != host);
        Ok(stay.cloned().collect())
    })?;
    say(
        global,
        &format!(
            "'{host}' is no member of store '{name}' any more; if it has a key of the store, remove that as well: understudy key list {name}"
        ),
    )
}

/// A member, as it is listed.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    member: &'a Member,
    fingerprint: String,
    primary: bool,
    this_host: bool,
}

fn list(global: &Global, name: &StoreName) -> Result<()> {
    let context = Context::new(global)?;
    let store = context.repository_of(name)?.store(name);
    let state = store.log().state()?;
    if state.head.is_none() {
        return Err(RepositoryError::NoStore(name.clone()).into());
    }
    let here = context.writer();
    let listed = state.authority.members.iter().map(|member| Listed {
        member,
        fingerprint: member.key.fingerprint(),
        primary: state.primary.as_ref() == Some(&member.name),
        this_host: member.name == here,
    });
    let listed: Vec<_> = listed.collect();
    if global.json {
        return show::json(&listed);
    }
    if listed.is_empty() {
        return show::line(&format!(
            "store '{name}' has no members; whoever can append to its log can promote a host"
        ));
    }
    let mut rows = vec![["host", "may", "address", "zone", "key", ""].map(String::from).to_vec()];
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for Listed { member, fingerprint, primary, this_host } in listed {
        let notes = [(primary, "primary"), (this_host, "this host")];
        let notes: Vec<_> = notes.into_iter().filter_map(|(is_so, note)| is_so.then_some(note)).collect();
        rows.push(vec![
            member.name.0.clone(),
            member.may.iter().map(|may| may.name()).collect::<Vec<_>>().join(", "),
            or_none(&member.address),
            or_none(&member.zone),
            fingerprint,
            notes.join(", "),
        ]);
    }
    show::table(&rows)
}
