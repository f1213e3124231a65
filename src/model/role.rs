//! The role of a host for a store: what the log says, within what the host's configuration allows. Pure.
//!
//! The log decides, not a configuration: a promotion names the one host that may write. A configuration says
//! which role a host *may* have, so that a host without the store's tree never becomes its primary. A log
//! without a promotion names no primary; then each host has the role that its configuration allows, as before
//! there were promotions. In a store with members only a member's signed decision promotes (see
//! [`super::authority`]).
//!
//! A host is identified by its name, not by a process: after a restart it is the same primary. Two processes
//! with one name are distinguished by what they commit (see [`super::rivals`]).

use super::id::WriterId;
use super::record::StoreState;
use serde::{Deserialize, Serialize};

/// The role that a host may have for a store, by its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// The store's tree is on this host, which resyncs it as long as the log names no other host.
    #[default]
    Primary,
    /// This host follows the store, and could take it over.
    Standby,
    /// This host only watches the store's primary, and votes.
    Watcher,
}

impl Permission {
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Watcher => "watcher",
        }
    }
}

/// The role of a host for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The host resyncs the store.
    Primary,
    /// The host follows the store.
    #[default]
    Standby,
    /// The host has the store's tree, and the log names another host as the primary, so it must not write. It
    /// does not become a standby by itself, since its tree may hold data that no other host has.
    Fenced,
    /// The log names the host as the primary, but its configuration only allows it to follow, so no host
    /// resyncs the store. It continues to follow.
    Unassigned,
    /// The host only watches the store's primary.
    Watcher,
}

impl Role {
    /// The message for a store that no host resyncs.
    pub(crate) const UNASSIGNED: &str = "the log names this host as the primary, but its configuration only lets it follow, so no host resyncs the store; set `role = \"primary\"` and its `path` here, or promote another host";

    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Fenced => "fenced",
            Self::Unassigned => "unassigned",
            Self::Watcher => "watcher",
        }
    }
}

/// The role that is assumed until the log was read.
impl From<Permission> for Role {
    fn from(may_be: Permission) -> Self {
        match may_be {
            Permission::Primary => Self::Primary,
            Permission::Standby => Self::Standby,
            Permission::Watcher => Self::Watcher,
        }
    }
}

/// Returns the role of `host`, which may be what `may_be` says, in a store whose log folds to `state`.
pub fn role(state: &StoreState, host: &WriterId, may_be: Permission) -> Role {
    match (may_be, &state.primary) {
        (Permission::Primary, Some(primary)) if primary != host => Role::Fenced,
        (Permission::Primary, _) => Role::Primary,
        (Permission::Standby, Some(primary)) if primary == host => Role::Unassigned,
        (Permission::Standby, _) => Role::Standby,
        (Permission::Watcher, _) => Role::Watcher,
    }
}

/// Returns the role of `host` where it takes part in the store's failover: the log alone decides, whatever the
/// configuration says. None in a store without members.
pub fn member_role(state: &StoreState, host: &WriterId) -> Option<Role> {
    let is_primary = state.primary.as_ref() == Some(host);
    state.authority.is_founded().then_some(if is_primary { Role::Primary } else { Role::Standby })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_decides_within_what_a_host_may_be() {
        let (here, there) = (WriterId("a".into()), WriterId("b".into()));
        let of = |primary: Option<&WriterId>, may_be| {
            let state = StoreState { primary: primary.cloned(), ..Default::default() };
            role(&state, &here, may_be)
        };
        for (primary, may_be, expected) in [
            (None, Permission::Primary, Role::Primary),
            (Some(&here), Permission::Primary, Role::Primary),
            (Some(&there), Permission::Primary, Role::Fenced),
            (None, Permission::Standby, Role::Standby),
            (Some(&there), Permission::Standby, Role::Standby),
            (Some(&here), Permission::Standby, Role::Unassigned),
        ] {
            assert_eq!(of(primary, may_be), expected, "{primary:?} {may_be:?}");
        }
    }

    #[test]
    fn a_host_that_is_the_primary_is_one_that_the_log_admits_and_a_fenced_one_is_not() {
        let here = WriterId("a".into());
        for primary in [None, Some(here.clone()), Some(WriterId("b".into()))] {
            let state = StoreState { primary, ..Default::default() };
            let is_primary = role(&state, &here, Permission::Primary) == Role::Primary;
            assert_eq!(is_primary, state.admits(&here, state.epoch));
        }
    }

    #[test]
    fn a_primary_that_hands_over_stays_the_primary_and_commits_no_snapshot() {
        use crate::model::authority::Underway;
        use crate::model::id::Sequence;
        let here = WriterId("a".into());
        let mut state = StoreState { primary: Some(here.clone()), ..Default::default() };
        let (sequence, snapshot, to) = (Sequence(2), Sequence(1), WriterId("b".into()));
        state.authority.handover =
            Some(Underway { sequence, to, snapshot, database: None, reason: None, at: Default::default() });
        assert_eq!(role(&state, &here, Permission::Primary), Role::Primary);
        assert!(!state.admits(&here, state.epoch));
    }
}
