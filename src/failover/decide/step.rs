//! The step: one input is absorbed, then the host settles on what follows from all that it knows.

use super::input::{Input, LeaseReply, Outcome};
use super::log_view::{Event, LogView};
use super::output::Output;
use super::reason::{Reason, why_not};
use super::settle::{append, settle};
use super::view::{Broken, DatabaseView, Held, Phase, Proof, View, Watched};
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::support::clock::BootNanos;
use crate::support::mutant::{self, Mutant};

/// Number of looks that a host makes at once for others who say so without a pause.
const LOOKS_MAX: u8 = 8;

/// Returns what a host knows after `input`, and what it has to do.
///
/// It is total: each input is allowed in each phase.
pub fn step(view: &View, input: Input, now: BootNanos) -> (View, Vec<Output>) {
    let mut next = view.clone();
    let mut outputs = Vec::new();
    absorb(&mut next, input, now, &mut outputs);
    settle(&mut next, now, &mut outputs);
    (next, outputs)
}

fn absorb(view: &mut View, input: Input, now: BootNanos, outputs: &mut Vec<Output>) {
    match input {
        Input::Tick => {}
        Input::Log { log, asked } => read_log(view, log, asked),
        Input::OwnNumber { number, is_mine } => own_number(view, number, is_mine, now),
        Input::Lease { number, reply } => lease_reply(view, number, reply, now),
        Input::Seen { host, number, renewed, closed_at } => {
            saw_number(view, &host, number, renewed, now);
            if let Some(at) = closed_at {
                know_closed(view, host, at, Proof::Statement);
            }
        }
        Input::Break { host, number, renewed, epoch, is_won } => {
            saw_number(view, &host, number, renewed, now);
            if let Some(watched) = view.watched.get_mut(&host).filter(|_| is_won) {
                watched.broken = Some(Broken { epoch, since: watched.since });
            }
        }
        Input::Promised { from, sent } => {
            let known = view.promised_to_me.entry(from).or_insert(sent);
            *known = sent.max(*known);
        }
        Input::PromiseAsked { by, epoch } => promise(view, by, epoch, now, outputs),
        Input::KnownClosed { host, at, proof } => know_closed(view, host, at, proof),
        Input::Stated { at } => {
            view.stated = view.stated.max(Some(at));
            outputs.extend(waits_for_statement(view).map(|of| Output::AskLook { of }));
        }
        Input::Appended { after, outcome } => appended(view, after, outcome, outputs),
        Input::Closed
        | Input::Prepared { .. }
        | Input::Verified { .. }
        | Input::Drained { .. }
        | Input::Applied { .. }
        | Input::Rejoined { .. } => done(view, &input),
        Input::TakeOver { cause } => match why_not(view, cause, now) {
            reasons if reasons.is_empty() => view.phase = Phase::Promoting { cause },
            reasons => outputs.push(Output::Refused { reasons }),
        },
        Input::HandOver { to } => hand_over(view, to, now, outputs),
        Input::KeepServing => {
            if let Phase::HandingOver { is_cancelled, .. } = &mut view.phase {
                *is_cancelled = true;
            }
        }
        Input::LookNow => told_to_look(view, now),
        Input::SetMembers { serving } => {
            if matches!(view.phase, Phase::Primary { .. }) && serving.contains(&view.me) {
                append(view, Event::Members { serving }, outputs);
            } else {
                outputs.push(Output::Refused { reasons: vec![Reason::NotPrimary] });
            }
        }
        Input::AcksStopped => view.database.acknowledges = false,
        Input::Standby { host, is_connected } => count_standby(&mut view.database, host, is_connected, now),
        Input::WaitsFor { standbys } => {
            view.database.confirmed.retain(|host| standbys.contains(host));
            view.database.waits_for = standbys;
        }
    }
}

/// Notes that something that this host was asked to do is done, as far as it still matters.
fn done(view: &mut View, input: &Input) {
    if *input == Input::Closed {
        // A database that was stopped waits for nobody, and acknowledges nothing.
        view.database = DatabaseView::default();
    }
    match (&mut view.phase, input) {
        (Phase::Fenced { is_closed }, Input::Closed) => *is_closed = true,
        (Phase::TakingOver { epoch, is_prepared }, Input::Prepared { epoch: of }) => {
            *is_prepared |= epoch == of
        }
        (Phase::Primary { epoch, is_verified }, Input::Verified { epoch: of }) => *is_verified |= epoch == of,
        (Phase::HandingOver { drained, .. }, Input::Drained { snapshot }) => *drained = Some(*snapshot),
        (_, Input::Applied { handover }) => view.applied = Some(*handover),
        (Phase::Rejoining, Input::Rejoined { epoch }) if *epoch == view.log.epoch => {
            view.joined = Some(*epoch);
            view.phase = Phase::Standby;
        }
        // It was asked for in an earlier phase.
        _ => {}
    }
}

fn own_number(view: &mut View, number: u64, is_mine: bool, now: BootNanos) {
    view.lease.number = Some(number.max(view.lease.number.unwrap_or(0)));
    view.lease.asked = view.lease.asked.filter(|(asked, _)| *asked > number);
    if !is_mine {
        view.lease.foreign_until = Some(now.plus(view.rules.timing.ttl));
    }
}

/// Takes a reading of the log, unless a later one is known.
fn read_log(view: &mut View, log: LogView, asked: BootNanos) {
    if log.head < view.log.head {
        return;
    }
    // A lost reply is found here: the record that this host wanted is there, or its place is taken.
    if view.appending.as_ref().is_some_and(|appending| log.head > appending.after) {
        view.appending = None;
    }
    if log.head > view.log.head {
        // What is new may ask for something at once.
        view.looked = None;
    }
    view.log = log;
    view.log_asked = view.log_asked.max(Some(asked));
}

/// Returns the host that opens only once this one has stated that it is closed.
fn waits_for_statement(view: &View) -> Option<WriterId> {
    match &view.phase {
        Phase::HandingOver { to, .. } => view.log.handover.as_ref().map(|_| to.clone()),
        _ => {
            let reigned = view.log.reigns.iter().any(|reign| reign.host == view.me);
            view.log.primary.clone().filter(|primary| reigned && *primary != view.me)
        }
    }
}

/// Looks at once: at the log, and for a statement, which is not in it. For somebody who never stops saying so
/// while nothing is under way, it looks as always.
fn told_to_look(view: &mut View, now: BootNanos) {
    let pause = view.rules.timing.look_every;
    view.told_often = match view.told_to_look {
        Some(told) if now < told.plus(pause) => (view.told_often + 1).min(LOOKS_MAX),
        _ => 0,
    };
    let is_awaited = view.log.handover.is_some() || matches!(view.phase, Phase::TakingOver { .. });
    if is_awaited || view.told_often < LOOKS_MAX {
        view.looked = None;
    }
    view.told_to_look = Some(now);
}

fn lease_reply(view: &mut View, number: u64, reply: LeaseReply, now: BootNanos) {
    let lease = &mut view.lease;
    let Some((_, sent)) = lease.asked.filter(|(asked, _)| *asked == number) else { return };
    match reply {
        LeaseReply::Created => {
            let is_unbroken = lease.held.is_some() && lease.number == Some(number - 1);
            let confirmed = lease.held.filter(|_| is_unbroken).map_or(now, |held| held.confirmed);
            (lease.number, lease.held, lease.asked) = (Some(number), Some(Held { sent, confirmed }), None);
        }
        // The same number is asked for again; its validity still counts from the first request.
        LeaseReply::Unknown => {}
        LeaseReply::Broken => {
            (lease.number, lease.held, lease.asked) = (Some(number), None, None);
            if view.phase.serves() {
                view.phase = Phase::Fenced { is_closed: false };
            }
        }
        LeaseReply::Rival => {
            (lease.number, lease.held, lease.asked) = (Some(number), None, None);
            lease.foreign_until = Some(now.plus(view.rules.timing.ttl));
            view.phase = Phase::Fenced { is_closed: false };
        }
    }
}

fn saw_number(view: &mut View, host: &WriterId, number: u64, renewed: u64, now: BootNanos) {
    let since = if mutant::is(Mutant::NoStartWait) { BootNanos(0) } else { now };
    let first = Watched { number, renewed, since, broken: None };
    let known = view.watched.entry(host.clone()).or_insert(first);
    known.number = number.max(known.number);
    if renewed > known.renewed {
        (known.renewed, known.since) = (renewed, now);
    }
}

fn know_closed(view: &mut View, host: WriterId, at: Sequence, proof: Proof) {
    let known = view.proofs.entry(host).or_insert((at, proof));
    if (at, proof == Proof::Statement) > (known.0, known.1 == Proof::Statement) {
        *known = (at, proof);
    }
}

/// Promises only while this host follows the very primary that asks.
fn promise(view: &mut View, by: WriterId, epoch: Epoch, now: BootNanos, outputs: &mut Vec<Output>) {
    let follows = matches!(view.phase, Phase::Standby | Phase::Rejoining);
    if follows && view.log.epoch == epoch && view.log.primary.as_ref() == Some(&by) {
        view.promised_by_me = Some(now);
        outputs.push(Output::Promise { to: by });
    }
}

fn appended(view: &mut View, after: Sequence, outcome: Outcome, outputs: &mut Vec<Output>) {
    if view.appending.as_ref().is_none_or(|appending| appending.after != after) {
        return;
    }
    match outcome {
        Outcome::Won => {
            let event = view.appending.take().map(|appending| appending.event);
            if let Some(event) = event.filter(|_| view.log.head == after) {
                let me = view.me.clone();
                view.log.apply(&me, &event);
                // What it asks for is done at once.
                view.looked = None;
            }
        }
        Outcome::Lost => {
            view.appending = None;
            if matches!(view.phase, Phase::Promoting { .. }) {
                view.phase = Phase::Standby;
                outputs.push(Output::Refused { reasons: vec![Reason::LostRace] });
            }
            outputs.push(Output::ReadLog);
        }
        // The number has a record, or will have: nothing else is appended before that is known.
        Outcome::Unknown => outputs.push(Output::ReadLog),
    }
}

fn count_standby(database: &mut DatabaseView, host: WriterId, is_connected: bool, now: BootNanos) {
    if is_connected {
        database.gone.remove(&host);
        if database.waits_for.contains(&host) {
            database.confirmed.insert(host.clone());
        }
        database.caught_up.insert(host);
    } else {
        database.caught_up.remove(&host);
        database.confirmed.remove(&host);
        database.gone.entry(host).or_insert(now);
    }
}

fn hand_over(view: &mut View, to: WriterId, now: BootNanos, outputs: &mut Vec<Output>) {
    if !matches!(view.phase, Phase::Primary { .. }) || view.log.handover.is_some() {
        outputs.push(Output::Refused { reasons: vec![Reason::NotPrimary] });
    } else if !view.candidates().any(|candidate| *candidate == to) {
        outputs.push(Output::Refused { reasons: vec![Reason::NoSuchCandidate { host: to }] });
    } else {
        view.phase = Phase::HandingOver { to, since: now, is_cancelled: false, drained: None };
        outputs.push(Output::Hold { until: view.may_serve_until() });
    }
}
