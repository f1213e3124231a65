//! What follows from all that a host knows, phase by phase.

use super::absence::Absence;
use super::log_view::Event;
use super::output::Output;
use super::reason::why_not;
use super::view::{Appending, Cause, Phase, View};
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::support::clock::BootNanos;
use crate::support::mutant::{self, Mutant};
use std::collections::BTreeSet;

/// Brings `view` to where it belongs, and lists what has to be done.
pub(super) fn settle(view: &mut View, now: BootNanos, outputs: &mut Vec<Output>) {
    let mut is_look = view.looked.is_none_or(|looked| now >= looked.plus(view.rules.timing.look_every));
    if is_look {
        view.looked = Some(now);
        if view.must_read_log(now) {
            outputs.push(Output::ReadLog);
        }
        append_again(view, outputs);
        if view.rules.has_lease && view.lease.number.is_none() {
            outputs.push(Output::ReadOwnNumber);
        }
    }
    // Each phase leads to another one a few times at most, and what the new one needs is asked for at once.
    while transition(view, now, outputs) {
        is_look = true;
    }
    match view.phase.clone() {
        Phase::Starting => {}
        Phase::Fenced { is_closed } => fenced(view, is_closed, is_look, now, outputs),
        Phase::Rejoining => {
            state_closed(view, is_look, outputs);
            if is_look {
                outputs.push(Output::Rejoin { epoch: view.log.epoch });
            }
        }
        Phase::Standby => standby(view, is_look, outputs),
        Phase::Promoting { cause } => promoting(view, cause, now, outputs),
        Phase::TakingOver { epoch, is_prepared } => {
            taking_over(view, epoch, is_prepared, is_look, now, outputs)
        }
        Phase::Primary { epoch, is_verified } => primary(view, epoch, is_verified, is_look, now, outputs),
        Phase::HandingOver { to, since, is_cancelled, drained } => {
            let is_over = view.gives_up(since, is_cancelled, now);
            handing_over(view, &to, drained, is_over, is_look, now, outputs)
        }
    }
}

/// Moves to the next phase, if what is known asks for it; returns whether it does.
fn transition(view: &mut View, now: BootNanos, outputs: &mut Vec<Output>) -> bool {
    let is_primary = view.is_primary();
    let next = match &view.phase {
        Phase::Starting if view.log_asked.is_none() => None,
        // What the process before this one served it may go on to serve: with a lease, no longer than its gate
        // was told. It becomes the primary as every other one does, and only does not close before.
        Phase::Starting => Some(match is_primary && is_settled(view) {
            true => Phase::TakingOver { epoch: view.log.epoch, is_prepared: false },
            false => Phase::Fenced { is_closed: false },
        }),
        Phase::Fenced { is_closed: false } => None,
        Phase::Fenced { is_closed: true } if view.log_asked.is_none() || view.log.primary.is_none() => None,
        Phase::Fenced { is_closed: true } if !is_primary => Some(Phase::Rejoining),
        Phase::Fenced { is_closed: true } => (view.log.handover.is_none() && view.appending.is_none())
            .then_some(Phase::TakingOver { epoch: view.log.epoch, is_prepared: false }),
        Phase::Rejoining | Phase::Standby | Phase::Promoting { .. } if is_primary => {
            Some(Phase::TakingOver { epoch: view.log.epoch, is_prepared: false })
        }
        // Another host than before is the primary: what is here may not be what is there.
        Phase::Standby | Phase::Promoting { .. } if view.joined != Some(view.log.epoch) => {
            Some(Phase::Rejoining)
        }
        Phase::Standby => why_not(view, Cause::Handover, now)
            .is_empty()
            .then_some(Phase::Promoting { cause: Cause::Handover }),
        Phase::Promoting { .. } => None,
        Phase::Rejoining => None,
        Phase::TakingOver { epoch, .. } if !is_primary || view.log.epoch != *epoch => {
            Some(Phase::Fenced { is_closed: false })
        }
        Phase::TakingOver { epoch, is_prepared } => (*is_prepared && may_open(view, now))
            .then_some(Phase::Primary { epoch: *epoch, is_verified: false }),
        Phase::Primary { epoch, .. } => {
            let may_go_on = is_primary && view.log.epoch == *epoch && view.may_serve_until().is_after(now);
            (!may_go_on).then_some(Phase::Fenced { is_closed: false })
        }
        Phase::HandingOver { since, is_cancelled, .. } => {
            if !is_primary || !view.may_serve_until().is_after(now) {
                Some(Phase::Fenced { is_closed: false })
            } else {
                // As long as the handover's record may exist, this host serves nothing.
                let is_over = view.gives_up(*since, *is_cancelled, now);
                (is_over && view.log.handover.is_none() && view.appending.is_none())
                    .then_some(Phase::Primary { epoch: view.log.epoch, is_verified: false })
            }
        }
    };
    let Some(next) = next else { return false };
    if next == (Phase::Fenced { is_closed: false }) {
        outputs.push(Output::Close);
    }
    view.phase = next;
    true
}

/// Returns whether nothing about who serves is under way in the log.
fn is_settled(view: &View) -> bool {
    view.log.handover.is_none() && view.log.reigns.iter().all(|reign| reign.host == view.me)
}

/// Returns whether the gate of a primary that is prepared may open.
fn may_open(view: &View, now: BootNanos) -> bool {
    view.has_read_log_since_lease()
        && view.log.handover.is_none()
        && view.may_serve_until().is_after(now)
        && view.lease.foreign_until.is_none_or(|until| now >= until)
        && !view.database.acknowledges
        && view.log.synced.is_subset(&view.database.waits_for)
        && view.open_reigns(now).next().is_none()
}

fn fenced(view: &mut View, is_closed: bool, is_look: bool, now: BootNanos, outputs: &mut Vec<Output>) {
    if !is_closed {
        if is_look {
            outputs.push(Output::Close);
        }
        return;
    }
    if view.is_primary() {
        keep_lease(view, is_look, now, outputs);
        cancel_handover(view, outputs);
    }
}

/// Cancels a handover that this process did not begin, or gave up; returns whether the log has one. The record
/// of an earlier process may arrive at any time, unless another one has its place.
fn cancel_handover(view: &mut View, outputs: &mut Vec<Output>) -> bool {
    let is_pending = view.log.handover.is_some();
    if is_pending {
        append(view, Event::Cancelled, outputs);
    }
    is_pending
}

fn standby(view: &mut View, is_look: bool, outputs: &mut Vec<Output>) {
    state_closed(view, is_look, outputs);
    if !view.database.acknowledges {
        outputs.push(Output::StartAcks);
        view.database.acknowledges = true;
    }
    if !is_look {
        return;
    }
    // Without a lease, there is nothing to see of a primary that does not hand over.
    let is_of_use = view.rules.has_lease || view.log.handover.is_some();
    if let Some(primary) = view.log.primary.clone().filter(|_| is_of_use) {
        outputs.push(Output::Look { host: primary });
    }
    if let Some(handover) = view.log.handover.as_ref().filter(|handover| handover.to == view.me) {
        outputs.push(Output::Apply { handover: handover.sequence });
    }
}

fn promoting(view: &mut View, cause: Cause, now: BootNanos, outputs: &mut Vec<Output>) {
    // Judged again for each attempt, with all that was learned meanwhile.
    let reasons = why_not(view, cause, now);
    if view.appending.is_none() && !reasons.is_empty() {
        outputs.push(Output::Refused { reasons });
        view.phase = Phase::Standby;
        return;
    }
    if view.database.acknowledges {
        outputs.push(Output::StopAcks);
    } else {
        append(view, Event::Promoted { primary: view.me.clone() }, outputs);
    }
}

fn taking_over(
    view: &mut View,
    epoch: Epoch,
    is_prepared: bool,
    is_look: bool,
    now: BootNanos,
    outputs: &mut Vec<Output>,
) {
    keep_lease(view, is_look, now, outputs);
    if view.database.acknowledges {
        outputs.push(Output::StopAcks);
    }
    if !view.log.synced.is_subset(&view.database.waits_for) {
        outputs.push(Output::WaitFor { standbys: view.log.synced.clone() });
    }
    cancel_handover(view, outputs);
    if !is_look {
        return;
    }
    if !is_prepared {
        outputs.push(Output::Prepare { epoch });
    }
    let open: Vec<WriterId> = view.open_reigns(now).map(|reign| reign.host.clone()).collect();
    for host in open {
        // It closes when it reads the log, and says so.
        outputs.push(Output::AskLook { of: host.clone() });
        outputs.push(Output::Look { host: host.clone() });
        let Some(watched) = view.watched.get(&host) else { continue };
        if view.rules.has_lease && watched.broken.is_none_or(|broken| broken.epoch != epoch) {
            outputs.push(Output::Break { host, number: watched.number + 1, epoch });
        }
    }
}

fn primary(
    view: &mut View,
    epoch: Epoch,
    is_verified: bool,
    is_look: bool,
    now: BootNanos,
    outputs: &mut Vec<Output>,
) {
    keep_lease(view, is_look, now, outputs);
    outputs.push(Output::Serve { epoch, until: view.may_serve_until() });
    if cancel_handover(view, outputs) {
        return;
    }
    if is_verified && !view.log.is_completed {
        append(view, Event::Completed, outputs);
    } else {
        keep_set(view, now, outputs);
    }
}

/// Keeps the set of standbys that have every acknowledged transaction.
///
/// A standby is taken out of the log's set before the database stops waiting for it, and put in after the
/// database waits; one that left it joins again only after a while.
fn keep_set(view: &mut View, now: BootNanos, outputs: &mut Vec<Output>) {
    let timing = view.rules.timing;
    let gone = |host: &WriterId| {
        view.database.gone.get(host).copied().filter(|since| now >= since.plus(timing.loosen_after))
    };
    let leaving: Vec<(WriterId, BootNanos)> =
        view.log.synced.iter().filter_map(|host| Some((host.clone(), gone(host)?))).collect();
    if !leaving.is_empty() {
        let mut wanted = view.log.synced.clone();
        for (host, since) in leaving {
            let absence = Absence::begin(view.database.absent.get(&host).copied(), since, &timing);
            wanted.remove(&host);
            view.database.absent.insert(host, absence);
        }
        if mutant::is(Mutant::LoosenFirst) && view.database.waits_for != wanted {
            outputs.push(Output::WaitFor { standbys: wanted.clone() });
        }
        append(view, Event::Synced { standbys: wanted }, outputs);
        return;
    }
    let may_join =
        |host: &&WriterId| view.database.absent.get(*host).is_none_or(|absent| now >= absent.ends(&timing));
    // Those in the log's set, those that will be in it, and those that are if a record on its way arrives. What is
    // seen of a standby is seconds old: while there are writes, one that is waited for is not there at each look.
    let joining = view.database.caught_up.iter().filter(may_join);
    let waited_for = view.database.waits_for.iter().filter(may_join).filter(|host| gone(host).is_none());
    let mut more: BTreeSet<WriterId> =
        view.log.synced.iter().chain(joining).chain(waited_for).cloned().collect();
    if let Some(Event::Synced { standbys }) = view.appending.as_ref().map(|appending| &appending.event) {
        more.extend(standbys.iter().cloned());
    }
    let confirmed = view.database.confirmed.iter().filter(may_join);
    let confirmed: BTreeSet<WriterId> = view.log.synced.iter().chain(confirmed).cloned().collect();
    if view.database.waits_for != more {
        outputs.push(Output::WaitFor { standbys: more });
    } else if confirmed != view.log.synced {
        append(view, Event::Synced { standbys: confirmed }, outputs);
    }
}

fn handing_over(
    view: &mut View,
    to: &WriterId,
    drained: Option<Sequence>,
    is_over: bool,
    is_look: bool,
    now: BootNanos,
    outputs: &mut Vec<Output>,
) {
    keep_lease(view, is_look, now, outputs);
    outputs.push(Output::Hold { until: view.may_serve_until() });
    match (&view.log.handover, is_over) {
        (Some(_), true) => append(view, Event::Cancelled, outputs),
        (Some(_), false) => {
            state_closed(view, is_look, outputs);
            if is_look {
                outputs.push(Output::AskLook { of: to.clone() });
            }
        }
        (None, false) if drained.is_some() => append(view, Event::HandedOver { to: to.clone() }, outputs),
        (None, _) => {}
    }
}

/// States that this host is closed, where the log has a use for it: after a promotion of another host, and
/// after the own handover.
fn state_closed(view: &View, is_look: bool, outputs: &mut Vec<Output>) {
    let reign = view.log.reigns.iter().find(|reign| reign.host == view.me).map(|reign| reign.since);
    let handover = view.log.handover.as_ref().filter(|_| view.is_primary()).map(|handover| handover.sequence);
    let needed = reign.max(handover);
    if is_look && needed.is_some() && view.stated < needed {
        outputs.push(Output::State { at: view.log.head });
    }
}

/// Renews the lease when it is due, and asks for promises.
fn keep_lease(view: &mut View, is_look: bool, now: BootNanos, outputs: &mut Vec<Output>) {
    if !view.rules.has_lease {
        return;
    }
    let Some(number) = view.lease.number else { return };
    let is_due = view.lease.held.is_none_or(|held| now >= held.sent.plus(view.rules.timing.renew_every));
    match view.lease.asked {
        Some((asked, _)) if is_look => outputs.push(Output::Renew { number: asked }),
        None if is_due => {
            view.lease.asked = Some((number + 1, now));
            outputs.push(Output::Renew { number: number + 1 });
        }
        Some(_) | None => {}
    }
    if is_look && view.phase.serves() {
        let ask = |of: &WriterId| Output::AskPromise { of: of.clone(), epoch: view.log.epoch };
        outputs.extend(view.candidates().map(ask));
    }
}

/// Appends one record after the head that is known, unless one is on its way.
pub(super) fn append(view: &mut View, event: Event, outputs: &mut Vec<Output>) {
    if view.appending.is_none() {
        let after = view.log.head;
        view.appending = Some(Appending { after, event: event.clone() });
        outputs.push(Output::Append { after, event });
    }
}

/// Asks again for an append whose result is not known.
fn append_again(view: &View, outputs: &mut Vec<Output>) {
    if let Some(Appending { after, event }) = view.appending.clone() {
        outputs.push(Output::Append { after, event });
    }
}
