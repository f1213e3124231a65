//! The reasons for which a host is not promoted.

use super::view::{Cause, Phase, View};
use crate::model::id::WriterId;
use crate::support::clock::BootNanos;
use std::fmt;
use std::time::Duration;

/// One reason for which a host does not become the primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The log was not read yet.
    LogUnknown,
    /// The store has no members.
    NoMembers,
    AlreadyPrimary,
    /// This host does not serve the store.
    NotPrimary,
    /// This host is not a member that may serve.
    MayNotServe,
    /// This host does not follow the primary at the moment.
    NotStandby,
    Paused,
    /// The store's plan has no lease: a person decides.
    NoLease,
    /// This host promised the primary to open nothing.
    Promised {
        wait: Duration,
    },
    /// The primary's lease moved lately, or was not watched for long enough.
    LeaseMoves {
        wait: Duration,
    },
    /// The database of this host is not in the set of those that have every acknowledged transaction.
    NotSynced,
    /// The primary has not handed over to this host, or is not closed yet.
    NoHandover,
    /// Another record was first.
    LostRace,
    /// This host could not serve: something that it needs is not there, or is taken.
    NotReady {
        how: String,
    },
    /// The member cannot take over.
    NoSuchCandidate {
        host: WriterId,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |wait: &Duration| wait.as_secs_f64().ceil();
        match self {
            Self::LogUnknown => write!(f, "the log was not read yet"),
            Self::NoMembers => write!(f, "the store has no members; found it with `understudy member found`"),
            Self::AlreadyPrimary => write!(f, "this host is the primary already"),
            Self::NotPrimary => write!(f, "this host does not serve the store"),
            Self::MayNotServe => write!(f, "this host is no member that may serve the store"),
            Self::NotStandby => write!(f, "this host does not follow the primary at the moment"),
            Self::Paused => write!(f, "failover is paused; `understudy resume` ends that"),
            Self::NoLease => write!(f, "the store's plan leaves failover to a person"),
            Self::Promised { wait } => {
                write!(f, "the primary reached this host, which promised to wait: {} s more", seconds(wait))
            }
            Self::LeaseMoves { wait } => {
                write!(f, "the primary renewed its lease lately: {} s more without a renewal", seconds(wait))
            }
            Self::NotSynced => {
                write!(f, "the database here may lack transactions that customers were told are done")
            }
            Self::NoHandover => write!(f, "the primary has not handed over to this host"),
            Self::LostRace => write!(f, "another record of the log came first"),
            Self::NotReady { how } => write!(f, "this host could not serve: {how}"),
            Self::NoSuchCandidate { host } => write!(f, "{} is no other member that may serve", host.0),
        }
    }
}

/// Returns the reasons for which this host would not become the primary now; none if it would.
pub fn why_not(view: &View, cause: Cause, now: BootNanos) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if view.log_asked.is_none() {
        return vec![Reason::LogUnknown];
    }
    let Some(primary) = &view.log.primary else { return vec![Reason::NoMembers] };
    if view.is_primary() {
        return vec![Reason::AlreadyPrimary];
    }
    if !view.log.serving.contains(&view.me) {
        reasons.push(Reason::MayNotServe);
    }
    if !matches!(view.phase, Phase::Standby | Phase::Promoting { .. }) {
        reasons.push(Reason::NotStandby);
    }
    match cause {
        Cause::Person => {}
        Cause::Handover => reasons.extend(not_handed_over(view, primary)),
        Cause::Watchers => reasons.extend(not_dead(view, primary, now)),
    }
    reasons
}

fn not_handed_over(view: &View, primary: &WriterId) -> Option<Reason> {
    let handover = view.log.handover.as_ref();
    let is_ready = handover.is_some_and(|handover| {
        let is_closed = view.proofs.get(primary).is_some_and(|(at, _)| *at >= handover.sequence);
        handover.to == view.me && view.applied == Some(handover.sequence) && is_closed
    });
    (!is_ready).then_some(Reason::NoHandover)
}

fn not_dead(view: &View, primary: &WriterId, now: BootNanos) -> Vec<Reason> {
    let ttl = view.rules.timing.ttl;
    let wait = |since: BootNanos| since.plus(ttl).since(now);
    if !view.rules.has_lease {
        return vec![Reason::NoLease];
    }
    let mut reasons = Vec::new();
    if view.log.is_paused {
        reasons.push(Reason::Paused);
    }
    if let Some(promised) = view.promised_by_me
        && now < promised.plus(ttl)
    {
        reasons.push(Reason::Promised { wait: wait(promised) });
    }
    let since = view.watched.get(primary).map_or(now, |watched| watched.since);
    if now < since.plus(ttl) {
        reasons.push(Reason::LeaseMoves { wait: wait(since) });
    }
    if view.rules.needs_set && !view.log.synced.contains(&view.me) {
        reasons.push(Reason::NotSynced);
    }
    reasons
}
