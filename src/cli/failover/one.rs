//! A failover of one store, to this host or to another one.

use super::args::FailoverArgs;
use super::at::At;
use super::back::Back;
use super::change::{Change, Word, confirm};
use super::elsewhere;
use super::link::{Link, daemon};
use super::triage::Triage;
use crate::cli::Global;
use crate::cli::context::Context;
use crate::cli::error::{RefusedError, Result, UsageError};
use crate::cli::exit::Exit;
use crate::model::id::{StoreName, WriterId};

pub(super) fn run_failover(global: &Global, args: &FailoverArgs, store: &str) -> Result<Exit> {
    let context = Context::new(global)?;
    let remote = daemon(&context)?;
    let name = StoreName::parse(store)?;
    let mut change = Change::new(&context, global, Link::new(&remote, &name))?;
    let status = change.link.agent_status()?;
    if let Some(to) = args.to.as_ref().filter(|to| **to != status.host.0) {
        if matches!(args.at, Some(At::Point(_))) {
            let text = format!(
                "store '{name}': the database of a point is restored on the host that takes over; run this on '{to}'"
            );
            return Err(UsageError(text).into());
        }
        return elsewhere::run(change, args, WriterId(to.clone()));
    }
    // It was asked for already, and waits for a person's word.
    let is_underway = !status.waits_for.is_empty();
    let back = if is_underway { None } else { Back::find(&context, args, &name)? };
    let triage = Triage::of(&context, &status, args, &status.host)?.with_back(back.as_ref());
    triage.show(global, args)?;
    if args.dry_run {
        return Ok(if triage.why_not.is_empty() || is_underway { Exit::Done } else { Exit::Held });
    }
    if !is_underway {
        if let [first, ..] = triage.why_not.as_slice() {
            let text = format!("store '{name}': this host does not take over: {first}");
            return Err(RefusedError::held(text).into());
        }
        confirm(args, &name)?;
        match back {
            Some(back) => {
                let restore = back.restore(&context, global)?;
                change.ask_to_go_back(args, &back, restore)?;
            }
            None => change.ask_to_take_over(args, None)?,
        }
    }
    change.follow(Word::of(args))
}
