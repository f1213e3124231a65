//! `understudy notify`: try who is told when something of a store is wrong.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Global, show};
use crate::model::escape;
use crate::service::notify::deliver::Sender;
use crate::service::notify::message::Message;
use clap::{Args, Subcommand};
use serde::Serialize;

#[derive(Args)]
pub(super) struct NotifyArgs {
    #[command(subcommand)]
    command: NotifyCommand,
}

#[derive(Subcommand)]
enum NotifyCommand {
    /// Send a test message to each receiver, and say whether it took it
    Test {
        /// Only this receiver
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}

/// How an attempt ended.
#[derive(Serialize)]
struct Tried {
    name: String,
    kind: &'static str,
    /// Why it did not take the message; none if it did.
    error: Option<String>,
}

pub(super) fn run(global: &Global, args: &NotifyArgs) -> Result<Exit> {
    let NotifyCommand::Test { name } = &args.command;
    let context = Context::new(global)?;
    let all = &context.config.notify;
    let chosen: Vec<_> =
        all.iter().filter(|one| name.as_ref().is_none_or(|name| one.name() == name)).collect();
    if chosen.is_empty() {
        let what = name.as_ref().map(|name| format!("no [[notify]] named '{}'", escape::line(name)));
        let what = what.unwrap_or_else(|| "no [[notify]]".to_owned());
        return Err(UsageError(format!("the configuration has {what}")).into());
    }
    let env = context.env();
    let sender = Sender::new().map_err(UsageError)?;
    let host = context.host().writer().to_string();
    let mut exit = Exit::Done;
    let mut tried = Vec::new();
    for receiver in chosen {
        let id = format!("msg_{:016x}{:016x}", env.nonce(), env.nonce());
        let message = Message::test(id, &host, env.wall());
        let result = match receiver.is_ping() {
            // A ping would say that a run succeeded.
            true => receiver.try_secrets().map(|()| Vec::new()).map_err(Into::into),
            false => sender.message(receiver, &message, env.wall()),
        };
        exit = exit.max(match &result {
            Ok(refused) if refused.is_empty() => Exit::Done,
            Ok(_) => Exit::Warnings,
            Err(failure) if failure.is_usage => Exit::Usage,
            Err(_) => Exit::Unavailable,
        });
        let error = match result {
            Ok(refused) => (!refused.is_empty()).then(|| format!("not taken for {}", refused.join("; "))),
            Err(failure) => Some(failure.reason),
        };
        let one = Tried { name: receiver.name().to_owned(), kind: receiver.kind(), error };
        if !(global.json || global.quiet && one.error.is_none()) {
            let how = match (&one.error, receiver.is_ping()) {
                (Some(error), _) => error,
                (None, true) => "its address can be used; it is told of runs only",
                (None, false) => "has taken a test message",
            };
            show::line(&format!("{} ({}): {how}", one.name, one.kind))?;
        }
        tried.push(one);
    }
    if global.json {
        show::json(&tried)?;
    }
    Ok(exit)
}
