//! `understudy token`.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Ending, Global, show};
use crate::model::access::UserRole;
use crate::model::escape::is_steering;
use crate::model::id::StoreName;
use crate::service::tokens::{NewToken, TokenRow, Tokens};
use crate::support::clock::UnixNanos;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token for the panel and the API, and print it once
    Add(AddArgs),
    /// List the tokens: whose, for what, until when, and when last used
    List,
    /// Revoke a token: it is refused from its next request on, and its sessions end
    Revoke {
        /// The token's id, as `list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Args)]
struct AddArgs {
    /// What its holder may do: admin, operator, customer, auditor or viewer
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: UserRole,
    /// A store that it is for, once for each; without it, all stores
    #[arg(long = "store", value_name = "STORE")]
    stores: Vec<String>,
    /// Whose it is, for the list and the audit
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Number of days until it expires; without it, it does not
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: Option<u64>,
}

/// Maximum length of a name, which is shown in a line of a table.
const NAME_MAX_CHARS: usize = 80;

fn role(text: &str) -> std::result::Result<UserRole, String> {
    let names = UserRole::ALL.map(UserRole::name).join(", ");
    UserRole::parse(text).ok_or_else(|| format!("give one of {names}"))
}

impl TokenArgs {
    pub(super) fn ending(&self) -> Ending {
        match self.command {
            TokenCommand::List => Ending::AT_ONCE,
            TokenCommand::Add(_) | TokenCommand::Revoke { .. } => Ending::COMMITS_AT_ONCE,
        }
    }

    pub(super) fn only_prints(&self) -> bool {
        matches!(self.command, TokenCommand::List)
    }
}

/// A token as it is listed.
#[derive(Serialize)]
struct Listed {
    id: String,
    role: &'static str,
    stores: Option<BTreeSet<StoreName>>,
    name: String,
    /// Seconds since 1970, as all times here.
    created: u64,
    expires: Option<u64>,
    last_used: Option<u64>,
    valid: bool,
}

pub(super) fn run(global: &Global, args: TokenArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let tokens = Tokens::of_user(context.env())?;
    match args.command {
        TokenCommand::Add(args) => add(global, &context, &tokens, args)?,
        TokenCommand::List => list(global, &tokens, context.env().wall())?,
        TokenCommand::Revoke { id } => {
            tokens.revoke(&id)?;
            if !global.quiet {
                show::line(&format!("token {id} is revoked"))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn add(global: &Global, context: &Context, tokens: &Tokens, args: AddArgs) -> Result<()> {
    let stores: BTreeSet<_> =
        args.stores.iter().map(|name| StoreName::parse(name)).collect::<Result<_, _>>()?;
    match args.role {
        UserRole::Customer if stores.is_empty() => {
            return Err(
                UsageError("a customer's token needs the customer's stores: --store STORE".into()).into()
            );
        }
        UserRole::Admin if !stores.is_empty() => {
            return Err(UsageError(
                "an admin's token is for all stores: remove --store, or use another role".into(),
            )
            .into());
        }
        _ => {}
    }
    if args.name.chars().count() > NAME_MAX_CHARS || args.name.chars().any(is_steering) {
        let text = format!("a name has at most {NAME_MAX_CHARS} characters, and none that steer a terminal");
        return Err(UsageError(text).into());
    }
    for store in stores.iter().filter(|store| context.config.store(store.as_str()).is_none()) {
        complain!("understudy: store '{store}' is not configured here yet");
    }
    let stores = (!stores.is_empty()).then_some(stores);
    let (row, shown) = tokens.add(NewToken { role: args.role, stores, name: args.name, days: args.days })?;
    if global.json {
        return show::json(&serde_json::json!({ "id": row.id, "token": shown, "expires": row.expires }));
    }
    show::line(&shown)
}

fn listed(row: TokenRow, last_used: Option<u64>, now: UnixNanos) -> Listed {
    let valid = row.is_valid(now);
    let TokenRow { id, role, stores, name, created, expires, .. } = row;
    Listed { id, role: role.name(), stores, name, created, expires, last_used, valid }
}

fn list(global: &Global, tokens: &Tokens, now: UnixNanos) -> Result<()> {
    let used = tokens.used();
    let rows = tokens.all()?.into_iter();
    let rows: Vec<_> = rows
        .map(|row| {
            let last_used = used.get(&row.id).copied();
            listed(row, last_used, now)
        })
        .collect();
    if global.json {
        return show::json(&rows);
    }
    if rows.is_empty() {
        return show::line("there is no token but the daemon's own");
    }
    let head = ["id", "role", "stores", "name", "made (UTC)", "expires (UTC)", "last used (UTC)"];
    let time = |seconds: u64| show::time(UnixNanos(seconds.saturating_mul(1_000_000_000)));
    let mut table = vec![head.map(String::from).to_vec()];
    for row in rows {
        let names = |stores: BTreeSet<StoreName>| {
            stores.iter().map(StoreName::to_string).collect::<Vec<_>>().join(" ")
        };
        let expires = row.expires.map_or("never".to_owned(), time);
        table.push(vec![
            row.id,
            row.role.to_owned(),
            row.stores.map_or("all".to_owned(), names),
            row.name,
            time(row.created),
            if row.valid { expires } else { format!("EXPIRED {expires}") },
            row.last_used.map_or("never".to_owned(), time),
        ]);
    }
    show::table(&table)
}
