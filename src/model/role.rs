//! The role of a host for a store: what the log says, within what the host's configuration allows. Pure.
//!
//! The log decides, never a configuration: a promotion names the one host that may write, by its name. A configuration says what a host *may*
//! be, so that a host without the store's tree never becomes its primary. A log without a promotion names nobody; then each host is what it may
//! be, as it was before there were promotions.
//!
//! A host is its name here, not a process: restarted, it is the same primary. Two processes of one name are told apart by what they commit (see
//! [`super::rivals`]).

use super::id::WriterId;
use super::record::StoreState;
use serde::{Deserialize, Serialize};

/// What a host may be for a store, by its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// The store's tree is here: it is resynced, as long as the log names no other host.
    #[default]
    Primary,
    /// The store could take over here: it is followed.
    Standby,
}

impl Permission {
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
}

/// What a host is for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It resyncs the store.
    Primary,
    /// It follows the store.
    #[default]
    Standby,
    /// It has the store's tree, and the log names another host as the primary: it must not write. Its tree may hold what no other host has, so
    /// that it does not become a standby by itself.
    Fenced,
    /// The log names it as the primary, and its configuration lets it follow only: no host resyncs the store. It goes on following.
    Unassigned,
}

impl Role {
    /// What is said of a store that no host resyncs.
    pub const UNASSIGNED: &str = "the log names this host as the primary, and its configuration lets it follow only: no host resyncs the store; set `role = \"primary\"` and its `path` here, or promote another host";

    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Fenced => "fenced",
            Self::Unassigned => "unassigned",
        }
    }
}

/// What a host is taken for until the log was read.
impl From<Permission> for Role {
    fn from(may_be: Permission) -> Self {
        match may_be {
            Permission::Primary => Self::Primary,
            Permission::Standby => Self::Standby,
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
    }
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
}
