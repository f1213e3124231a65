//! What a supervisor saw last of its server; kept for `status` and for the host's agent.

use super::decide::State;
use super::error::Trouble;
use super::minimal::Place;
use super::reporting::ReportsSeen;
use super::role::{FENCED, Hold, Role, RoleNote};
use super::role_file;
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
    /// Reports on this replica; none where the configuration wants none.
    #[serde(default)]
    pub reports: Option<ReportsSeen>,
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
            reports: None,
            at,
        }
    }

    /// Reads what a supervisor wrote; none if there was none.
    pub fn read(place: &Place) -> Option<Self> {
        let report: Self = serde_json::from_slice(&std::fs::read(place.report()).ok()?).ok()?;
        Some(match role_file::read(place) {
            Ok(note) => report.under(&note),
            Err(_) => report,
        })
    }

    /// Returns the report as the note of the role has it by now: a fence waits for no supervisor, and what it closed
    /// is closed before the supervisor looks again.
    fn under(self, note: &RoleNote) -> Self {
        let is_closed = match note.role {
            Role::Fenced => !note.is_open && self.state != State::Fenced,
            Role::Hand => self.state == State::Serving,
            Role::Follow | Role::Serve => false,
        };
        match is_closed {
            false => self,
            true => {
                let (epoch, branch) = (note.epoch, note.branch.clone());
                let error = (note.role == Role::Fenced).then(|| FENCED.to_owned());
                let (applied, received) = (self.applied, self.received);
                Self { applied, received, epoch, branch, ..Self::of(State::Fenced, error, self.at) }
            }
        }
    }

    /// Returns whether its server ran.
    pub(crate) fn is_up(&self) -> bool {
        self.state != State::Down
    }

    /// Returns whether its supervisor still runs, as far as its age says.
    pub fn is_fresh(&self, now: UnixNanos) -> bool {
        now.since(self.at) < STALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fenced_shows_as_fenced_before_its_supervisor_looks_again() {
        let report = |state| Report { behind: Some(3), ..Report::of(state, None, UnixNanos::EPOCH) };
        let note = |role, is_open| RoleNote { role, is_open, epoch: Epoch(4), ..RoleNote::default() };
        let fenced = report(State::Serving).under(&note(Role::Fenced, false));
        assert_eq!((fenced.state, fenced.epoch, fenced.behind), (State::Fenced, Epoch(4), None));
        assert!(fenced.error.is_some_and(|error| error.contains("no server runs")));
        assert_eq!(report(State::Down).under(&note(Role::Fenced, false)).state, State::Fenced);
        assert_eq!(report(State::Serving).under(&note(Role::Hand, true)).state, State::Fenced);
        // A fence that has not killed the server yet, a server that has failed, and a replica.
        for (state, role, is_open) in [
            (State::Serving, Role::Fenced, true),
            (State::Down, Role::Hand, true),
            (State::Following, Role::Follow, false),
            (State::Serving, Role::Serve, true),
        ] {
            assert_eq!(report(state).under(&note(role, is_open)), report(state), "{role:?}");
        }
    }
}
