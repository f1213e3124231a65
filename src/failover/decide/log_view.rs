//! What failover needs of a store's log: who is the primary, and who may still serve.

use crate::model::id::{Epoch, Sequence, WriterId};
use std::collections::BTreeSet;

/// A host that may still serve, because it was the primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reign {
    pub host: WriterId,
    /// Record from which on it may serve: its promotion, or the cancellation of its handover.
    pub since: Sequence,
}

/// A handover that was neither cancelled nor followed by a promotion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PendingHandover {
    pub sequence: Sequence,
    pub to: WriterId,
}

/// A decision, as far as it concerns who serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `primary` is the primary from now on. The epoch grows by one.
    Promoted {
        primary: WriterId,
    },
    /// The primary is closed, and `to` may be promoted.
    HandedOver {
        to: WriterId,
    },
    /// The primary may serve again.
    Cancelled,
    /// The primary serves, and every earlier one is known to be closed.
    Completed,
    /// The members that may serve from now on. Only the primary changes them: it counts on their promises.
    Members {
        serving: BTreeSet<WriterId>,
    },
    /// The standbys whose acknowledgement the database waits for.
    Synced {
        standbys: BTreeSet<WriterId>,
    },
    /// Nothing is decided without a person until it is resumed.
    Paused,
    Resumed,
}

/// What failover needs of a store's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LogView {
    /// Number of the last record.
    pub head: Sequence,
    pub epoch: Epoch,
    /// None in a store without members.
    pub primary: Option<WriterId>,
    /// The members that may serve.
    pub serving: BTreeSet<WriterId>,
    /// The primaries since the last completed promotion, and that one.
    pub reigns: Vec<Reign>,
    pub handover: Option<PendingHandover>,
    pub synced: BTreeSet<WriterId>,
    pub is_paused: bool,
    /// Whether the last promotion is completed.
    pub is_completed: bool,
}

impl LogView {
    /// Returns whether `event` of `by` is admitted as the next record.
    pub fn admits(&self, by: &WriterId, event: &Event) -> bool {
        let is_primary = self.primary.as_ref() == Some(by);
        match event {
            Event::Promoted { primary } => {
                primary == by && !is_primary && self.serving.contains(by) && self.primary.is_some()
            }
            Event::HandedOver { to } => {
                is_primary && to != by && self.serving.contains(to) && self.handover.is_none()
            }
            Event::Members { serving } => is_primary && serving.contains(by),
            Event::Cancelled | Event::Completed | Event::Synced { .. } => is_primary,
            Event::Paused | Event::Resumed => true,
        }
    }

    /// Applies the next record; one that is not admitted changes nothing but the head.
    pub fn apply(&mut self, by: &WriterId, event: &Event) {
        let is_admitted = self.admits(by, event);
        self.head = self.head.next();
        if !is_admitted {
            return;
        }
        match event {
            Event::Promoted { primary } => {
                self.epoch.0 += 1;
                self.reigns.retain(|reign| reign.host != *primary);
                self.begin_reign(primary);
                self.primary = Some(primary.clone());
                self.handover = None;
                self.synced.clear();
                self.is_completed = false;
            }
            Event::HandedOver { to } => {
                self.handover = Some(PendingHandover { sequence: self.head, to: to.clone() });
            }
            Event::Cancelled => {
                self.handover = None;
                self.reigns.retain(|reign| reign.host != *by);
                self.begin_reign(by);
            }
            Event::Completed => {
                self.is_completed = true;
                self.reigns.retain(|reign| reign.host == *by);
            }
            Event::Members { serving } => self.serving.clone_from(serving),
            Event::Synced { standbys } => self.synced.clone_from(standbys),
            Event::Paused => self.is_paused = true,
            Event::Resumed => self.is_paused = false,
        }
    }

    fn begin_reign(&mut self, host: &WriterId) {
        self.reigns.push(Reign { host: host.clone(), since: self.head });
    }
}
