//! While this host stands by: counts the watchers' votes about the primary, and takes over once they are enough.
//!
//! It reads no votes before the primary's lease has stood still for longer than it is valid.

use crate::failover::agent::run::Agent;
use crate::failover::agent::terms::Terms;
use crate::failover::decide::reason::{Reason, why_not};
use crate::failover::decide::view::{Cause, Phase};
use crate::failover::peers::question::{Answer, Ask};
use crate::failover::watch::limits::may_fail_over;
use crate::failover::watch::readiness::{WATCHERS, reds};
use crate::model::escape;
use crate::model::id::WriterId;
use crate::model::member::shortened;
use crate::model::record::StoreState;
use crate::model::vote::{Vote, counted, is_enough, voters};
use crate::service::agents::parts::HostParts;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What fails here, for messages.
const AUTOMATIC: &str = "automatic failover";

/// Counts votes as long as the agent lives, on a thread of its own.
pub(crate) fn keep(agent: Weak<Agent>, parts: Arc<HostParts>) {
    std::thread::spawn(move || {
        while let Some(agent) = agent.upgrade() {
            match look(&agent, &parts) {
                Ok(()) => parts.note_working(AUTOMATIC),
                Err(how) => parts.note_failing(AUTOMATIC, how),
            }
            drop(agent);
            parts.store.env().sleep(LOOK_EVERY);
        }
    });
}

/// Looks once, and takes over if that is due.
///
/// # Errors
/// The reason why this host does not take over, though the watchers want it.
fn look(agent: &Agent, parts: &HostParts) -> Result<(), String> {
    let view = agent.view();
    let (env, state) = (parts.store.env(), agent.state());
    let Some(primary) = view.log.primary.clone().filter(|_| view.phase == Phase::Standby) else {
        return Ok(());
    };
    let now = env.boot();
    let Some(watched) = view.watched.get(&primary).filter(|_| view.rules.has_lease) else { return Ok(()) };
    if now < watched.since.plus(view.rules.timing.valid_for) {
        return Ok(());
    }
    let lease = watched.renewed;
    let votes = parts.store.notes().votes(&primary, lease).map_err(|error| error.to_string())?;
    let (members, name) = (&state.authority.members, parts.store.name());
    let votes = counted(votes, members, name, state.epoch, (&primary, lease));
    if !is_enough(&votes, members, name, state.epoch, &primary) {
        return Ok(());
    }
    let reasons = why_not(&view, Cause::Watchers, now);
    let only_waits = |reason: &Reason| matches!(reason, Reason::LeaseMoves { .. } | Reason::Promised { .. });
    if !reasons.is_empty() && reasons.iter().all(only_waits) {
        return Ok(());
    }
    if !reasons.is_empty() {
        return Err(reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    may_fail_over(&state.authority.automatic, env.wall())?;
    // How many watchers answer does not matter any more: enough of them have voted.
    let items: Vec<_> = agent.words().items().into_iter().filter(|item| item.item != WATCHERS).collect();
    let reds = reds(&items);
    if !reds.is_empty() {
        return Err(format!("this host is not ready: {}", reds.join("; ")));
    }
    if let Some(veto) = veto(agent, parts, &state, &primary, &votes) {
        return Err(veto);
    }
    let reason = shortened(reason(&votes, &state, &primary, parts));
    agent.take_over(Cause::Watchers, Terms { reason, votes, ..Terms::default() });
    Ok(())
}

/// Asks the watchers that did not vote whether they have seen customers served; returns what the first says that
/// has. One that does not answer says nothing: a majority has voted.
fn veto(
    agent: &Agent,
    parts: &HostParts,
    state: &StoreState,
    primary: &WriterId,
    votes: &[Vote],
) -> Option<String> {
    if let Some(seen) = agent.saw_served(state.epoch) {
        return Some(seen);
    }
    let voted: BTreeSet<_> = votes.iter().map(|vote| &vote.member).collect();
    let others = voters(&state.authority.members, primary);
    let others: Vec<_> =
        others.filter(|member| member.name != parts.me && !voted.contains(&member.name)).collect();
    let epoch = state.epoch;
    std::thread::scope(|scope| {
        let asked: Vec<_> = others
            .into_iter()
            .map(|member| scope.spawn(move || parts.peers.ask(&member.name, Ask::SawNobodyServed { epoch })))
            .collect();
        let answers = asked.into_iter().filter_map(|thread| thread.join().ok().flatten());
        answers
            .filter_map(|answer| match answer {
                Answer::Refused { reasons } => reasons.into_iter().next(),
                Answer::Done => None,
            })
            .next()
    })
}

/// Returns the reason that the log names.
fn reason(votes: &[Vote], state: &StoreState, primary: &WriterId, parts: &HostParts) -> String {
    let members = &state.authority.members;
    let all = voters(members, primary).count();
    let first = votes.first().and_then(|vote| {
        let member = members.iter().find(|member| member.name == vote.member)?;
        vote.finding(&member.key, parts.store.name(), state.epoch)?.failed.into_iter().next()
    });
    let why = first.map(|why| format!(": {why}")).unwrap_or_default();
    escape::line(&format!("{} of {all} watchers found '{primary}' dead{why}", votes.len())).into_owned()
}
