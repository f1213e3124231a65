//! All stores of one host that died, several at a time.

use super::args::FailoverArgs;
use super::change::{Change, Word};
use super::link::{Link, daemon};
use crate::api::failover::FailoverStatus;
use crate::cli::context::Context;
use crate::cli::error::{RefusedError, Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::remote::Remote;
use crate::cli::{Global, show};
use crate::model::id::StoreName;
use crate::model::plan::PlanName;
use crate::support::lock::lock;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Number of stores that are taken over at a time: each starts services, which need this host's cores.
const AT_ONCE: usize = 4;

/// A store to take over.
struct Affected {
    name: StoreName,
    plan: PlanName,
    entries: u64,
    status: FailoverStatus,
}

pub(super) fn run(global: &Global, args: &FailoverArgs) -> Result<Exit> {
    let context = &Context::new(global)?;
    let remote = &daemon(context)?;
    let dead = args.all_of.as_deref().unwrap_or_default();
    let mut affected = affected(context, remote, dead)?;
    if affected.is_empty() {
        return Err(
            UsageError(format!("'{dead}' is the primary of no store that this host can take over")).into()
        );
    }
    affected.sort_by_key(|one| (one.plan == PlanName::Standard, std::cmp::Reverse(one.entries)));
    for one in &affected {
        let why =
            one.status.why_not.first().map(|why| format!(": not possible now: {why}")).unwrap_or_default();
        show::line(&format!(
            "{}  plan {}, {} entries{why}",
            one.name,
            one.plan.name(),
            show::count(one.entries)
        ))?;
    }
    if args.dry_run {
        return Ok(Exit::Done);
    }
    if !args.yes {
        return Err(UsageError(format!(
            "nothing was done; --yes takes over these {} stores",
            affected.len()
        ))
        .into());
    }
    let word = if args.is_down { Word::Down } else { Word::None };
    let (queue, worst) = (Mutex::new(VecDeque::from(affected)), Mutex::new(Exit::Done));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(one) = lock(&queue).pop_front() else { return };
                    let ended = one_store(global, context, remote, args, &one, word);
                    let exit = ended.unwrap_or_else(|error| {
                        complain!("understudy: {error}");
                        Exit::Failed
                    });
                    let mut worst = lock(&worst);
                    *worst = exit.max(*worst);
                }
            });
        }
    });
    Ok(worst.into_inner().unwrap_or(Exit::Failed))
}

/// Returns the stores of this host's configuration of which `dead` is the primary.
fn affected(context: &Context, remote: &Remote, dead: &str) -> Result<Vec<Affected>> {
    let mut affected = Vec::new();
    for config in context.config.store.iter().filter(|store| store.member.is_some()) {
        let status = Link::new(remote, &config.name).status()?;
        if status.no_agent.is_some() || status.primary.as_ref().is_none_or(|primary| primary.0 != dead) {
            continue;
        }
        let state = context.repository_of(&config.name)?.store(&config.name).log().state()?;
        let entries = state.latest().map_or(0, |(_, record)| record.manifest.entries);
        affected.push(Affected { name: config.name.clone(), plan: config.plan, entries, status });
    }
    Ok(affected)
}

fn one_store(
    global: &Global,
    context: &Context,
    remote: &Remote,
    args: &FailoverArgs,
    one: &Affected,
    word: Word,
) -> Result<Exit> {
    if let [why, ..] = one.status.why_not.as_slice() {
        return Err(RefusedError::held(format!("store '{}': not taken over: {why}", one.name)).into());
    }
    let mut change = Change::new(context, global, Link::new(remote, &one.name))?;
    change.steps.prefix = format!("{}: ", one.name);
    change.ask_to_take_over(args, None)?;
    change.follow(word)
}
