//! The decision that an event of the machine is in the log, and the other way around. Pure.

use crate::failover::decide::log_view::Event;
use crate::failover::decide::view::Cause;
use crate::model::decision::{self, Decision, Loss, Promoted, StepTime};
use crate::model::gtid::GtidPosition;
use crate::model::id::{Incarnation, Sequence};
use crate::model::member::{Member, shortened};
use crate::model::record::StoreState;
use crate::model::vote::Vote;
use crate::support::clock::UnixNanos;
use std::collections::BTreeSet;

/// A moment of the database to which a person has a store go back, together with a snapshot of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Back {
    pub position: GtidPosition,
    /// Number of transactions behind it that were known when it was asked for: they are lost, or stranded.
    pub transactions: u64,
    /// The name of the restored database.
    pub id: String,
}

/// What the log wants to know of a decision beyond who serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub cause: Option<Cause>,
    /// The person that asked, and why.
    pub person: String,
    pub reason: String,
    /// Whether that person has said that the former primary is down.
    pub attested: bool,
    pub incarnation: Option<Incarnation>,
    /// The snapshot to begin with, in place of the latest one.
    pub at: Option<Sequence>,
    /// What the database is to go back to, with the files of that snapshot.
    pub back: Option<Back>,
    /// The last snapshot of a handover.
    pub drained: Option<Sequence>,
    /// The list of members that was asked for.
    pub members: Vec<Member>,
    pub steps: Vec<StepTime>,
    /// The position of the database that a handover ends at, or that a promotion begins with.
    pub database: Option<GtidPosition>,
    /// Why this host hands over by itself; none if a person wants it.
    pub hands_over_because: Option<String>,
    /// The watchers' votes for a promotion without a person.
    pub votes: Vec<Vote>,
}

/// Returns the decision that `event` is in the log after `state`, at the time `now`.
///
/// # Errors
/// The reason why there is none.
pub fn decision_of(
    event: &Event,
    state: &StoreState,
    terms: &Terms,
    now: UnixNanos,
) -> Result<Decision, &'static str> {
    let underway = state.authority.handover.as_ref().ok_or("no handover is in progress");
    Ok(match event {
        Event::Promoted { primary } => {
            let person = || terms.person.clone();
            let latest = state.latest().map(|(latest, _)| latest);
            let (cause, base, loss, reason) = match terms.cause.ok_or("its cause is not known any more")? {
                Cause::Handover => {
                    let underway = underway?;
                    let cause = decision::Cause::Handover { handover: underway.sequence };
                    let loss = Loss { seconds: Some(0), files: Some(0), transactions: None };
                    (cause, Some(underway.snapshot), loss, "handed over".to_owned())
                }
                Cause::Person => {
                    let cause = decision::Cause::Forced { person: person(), attested: terms.attested };
                    let base = terms.at.or(latest);
                    let mut loss = loss_since(base, state, now);
                    // A standby of the set has all that a customer was told.
                    loss.transactions = state.authority.synced.contains(primary).then_some(0);
                    let mut reason = terms.reason.clone();
                    if let Some(Back { position, transactions, .. }) = &terms.back {
                        loss.transactions = Some(*transactions);
                        let base = base.ok_or("it has no snapshot to go back to")?;
                        reason = shortened(format!("back to {base}, the database to {position}: {reason}"));
                    }
                    (cause, base, loss, reason)
                }
                Cause::Watchers => {
                    let cause = decision::Cause::Automatic { votes: terms.votes.clone() };
                    let mut loss = loss_since(latest, state, now);
                    loss.transactions = state.authority.synced.contains(primary).then_some(0);
                    (cause, latest, loss, terms.reason.clone())
                }
            };
            let (primary, incarnation) = (primary.clone(), terms.incarnation);
            Decision::Promoted(Promoted { primary, incarnation, cause, base, loss, reason })
        }
        Event::HandedOver { to } => {
            let snapshot = terms.drained.ok_or("the last snapshot is not known")?;
            let reason = terms.hands_over_because.clone();
            Decision::Handover { to: to.clone(), snapshot, database: terms.database.clone(), reason }
        }
        Event::Cancelled => {
            let reason = "the handover did not end in time, or the primary was asked to go on".to_owned();
            Decision::Cancelled { handover: underway?.sequence, reason }
        }
        Event::Completed => {
            let last = state.authority.promotion.as_ref().ok_or("nobody was promoted")?;
            let (steps, database) = (terms.steps.clone(), terms.database.clone());
            Decision::Completed { promotion: last.sequence, steps, database }
        }
        Event::Members { serving } => {
            let listed = terms.members.iter().filter(|member| member.may_serve());
            let listed: BTreeSet<_> = listed.map(|member| member.name.clone()).collect();
            if listed != *serving {
                return Err("the list of members is not known any more");
            }
            Decision::Members { members: terms.members.clone() }
        }
        Event::Paused => Decision::Paused { person: terms.person.clone(), reason: terms.reason.clone() },
        Event::Resumed => Decision::Resumed { person: terms.person.clone() },
        Event::Synced { standbys } => Decision::Synced { standbys: standbys.iter().cloned().collect() },
    })
}

/// Returns the loss that a promotion states which begins with `base`: whatever changed since its scan began.
fn loss_since(base: Option<Sequence>, state: &StoreState, now: UnixNanos) -> Loss {
    let scan_start = base.and_then(|base| Some(state.snapshots.get(&base)?.scan_start));
    let age = scan_start.and_then(|scan_start| scan_start.age_at(now));
    let seconds = age.map(|age| age.as_secs() + u64::from(age.subsec_nanos() > 0));
    Loss { seconds, ..Loss::default() }
}

/// Returns what the machine knows of a decision; none if it concerns nobody's serving.
pub fn event_of(decision: &Decision) -> Option<Event> {
    Some(match decision {
        Decision::Members { members } => {
            let serving = members.iter().filter(|member| member.may_serve());
            Event::Members { serving: serving.map(|member| member.name.clone()).collect() }
        }
        Decision::Promoted(promoted) => Event::Promoted { primary: promoted.primary.clone() },
        Decision::Handover { to, .. } => Event::HandedOver { to: to.clone() },
        Decision::Cancelled { .. } => Event::Cancelled,
        Decision::Completed { .. } => Event::Completed,
        Decision::Paused { .. } => Event::Paused,
        Decision::Resumed { .. } => Event::Resumed,
        Decision::Synced { standbys } => Event::Synced { standbys: standbys.iter().cloned().collect() },
        Decision::Stranded(_) | Decision::Settled { .. } => return None,
    })
}

/// Returns the word for an event in the log.
pub(crate) fn name(event: &Event) -> &'static str {
    match event {
        Event::Promoted { .. } => "promoted",
        Event::HandedOver { .. } => "handover",
        Event::Cancelled => "cancelled",
        Event::Completed => "completed",
        Event::Members { .. } => "members",
        Event::Synced { .. } => "synced",
        Event::Paused => "paused",
        Event::Resumed => "resumed",
    }
}
