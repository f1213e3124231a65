//! Who serves a store, as it was told last: what of a failover is news. Pure.
//!
//! A failover is seen by its phases where this host takes part, and in any case by the log's epoch. One that begins
//! and ends between two looks is told as begun and ended. A daemon that starts where it left serves in the epoch that
//! is known, and tells nothing.

use super::trouble::{Seen, Sight};
use crate::api::failover::FailoverStatus;
use crate::model::id::WriterId;
use serde::{Deserialize, Serialize};

/// The primary of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reign {
    pub epoch: u64,
    pub primary: Option<WriterId>,
}

/// What is seen of a store's failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing is known, or nothing is new.
    None(Sight),
    /// Another host became the primary: who, and who was it.
    Settled { now: Reign, text: String },
}

fn name(host: Option<&WriterId>) -> String {
    host.map_or("nobody".to_owned(), |host| format!("'{host}'"))
}

/// Returns what is known now; none where no agent knows.
pub(crate) fn now(seen: &Seen) -> Option<Reign> {
    let failover = seen.failover.as_ref().filter(|failover| failover.no_agent.is_none())?;
    let is_known = failover.phase != "starting" && failover.primary.is_some();
    is_known.then(|| Reign { epoch: failover.epoch, primary: failover.primary.clone() })
}

/// Returns what is new since `told`.
pub(crate) fn change(seen: &Seen, told: &Reign) -> Change {
    let (Some(now), Some(failover)) = (now(seen), &seen.failover) else {
        return Change::None(Sight::Unknown);
    };
    let (is, was) = (name(now.primary.as_ref()), name(told.primary.as_ref()));
    let is_new = now.epoch > told.epoch;
    let why = || reasons(failover);
    match failover.phase.as_str() {
        "handing over" => {
            let to = name(failover.handover_to.as_ref());
            Change::None(Sight::Present(format!("{is} hands over to {to}{}", why())))
        }
        "promoting" => {
            let text = format!("'{}' is about to take over from {is}{}", failover.host, why());
            Change::None(Sight::Present(text))
        }
        "taking over" if is_new => {
            let text = format!("{is} takes over from {was} in epoch {}{}", now.epoch, why());
            Change::None(Sight::Present(text))
        }
        _ if is_new && failover.completed => {
            let text = format!("{is} is the primary in epoch {}, after {was}", now.epoch);
            Change::Settled { now, text }
        }
        _ if is_new => {
            let text = format!("{is} takes over from {was} in epoch {}", now.epoch);
            Change::None(Sight::Present(text))
        }
        _ => Change::None(Sight::Absent),
    }
}

fn reasons(failover: &FailoverStatus) -> String {
    match failover.failing.is_empty() {
        true => String::new(),
        false => format!("; what fails: {}", failover.failing.join("; ")),
    }
}

/// Returns how a failover ended that changed nothing.
pub(crate) fn ended_as_before(seen: &Seen, told: &Reign) -> String {
    let refused = seen.failover.iter().flat_map(|failover| failover.refused.iter().cloned());
    let refused: Vec<_> = refused.collect();
    let why = if refused.is_empty() { String::new() } else { format!(": {}", refused.join("; ")) };
    format!("{} is still the primary in epoch {}{why}", name(told.primary.as_ref()), told.epoch)
}
