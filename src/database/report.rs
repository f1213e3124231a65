//! What a supervisor saw last of its server; kept for `status` and for the host's agent.

use super::decide::State;
use super::error::Trouble;
use super::minimal::Place;
use super::role::Hold;
use super::server::Acks;
use crate::model::gtid::GtidPosition;
use crate::model::id::Epoch;
use crate::support::clock::UnixNanos;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Age from which a report says that its supervisor no longer runs.
pub const STALE: Duration = Duration::from_secs(30);

/// What a supervisor saw last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub state: State,
    pub trouble: Option<Trouble>,
    /// The error in the server's words.
    pub error: Option<String>,
    /// All up to here is applied.
    pub applied: GtidPosition,
    pub received: GtidPosition,
    /// The primary's last transaction, where it was asked.
    pub primary: Option<GtidPosition>,
    /// Number of the primary's transactions that are not applied.
    pub behind: Option<u64>,
    pub lag_seconds: Option<f64>,
    /// Memory that the server holds.
    pub resident_bytes: Option<u64>,
    /// The epoch of the last order.
    #[serde(default)]
    pub epoch: Epoch,
    /// All that was applied here when this server stopped being a replica; none while it is one.
    #[serde(default)]
    pub branch: Option<GtidPosition>,
    /// What is acknowledged: by this replica, or to this server by its standbys.
    #[serde(default)]
    pub acks: Option<Acks>,
    /// Where this replica is held, or is going to be.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// Number of transactions that only this server has, which a former primary's may.
    #[serde(default)]
    pub beyond: Option<u64>,
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
}

impl Report {
    pub(super) fn of(state: State, error: Option<String>, at: UnixNanos) -> Self {
        Self {
            state,
            trouble: None,
            error,
            applied: GtidPosition::default(),
            received: GtidPosition::default(),
            primary: None,
            behind: None,
            lag_seconds: None,
            resident_bytes: None,
            epoch: Epoch::default(),
            branch: None,
            acks: None,
            hold: None,
            beyond: None,
            at,
        }
    }

    /// Reads what a supervisor wrote; none if there was none.
    pub fn read(place: &Place) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(place.report()).ok()?).ok()
    }

    /// Returns whether its supervisor still runs, as far as its age says.
    pub fn is_fresh(&self, now: UnixNanos) -> bool {
        now.since(self.at) < STALE
    }
}
