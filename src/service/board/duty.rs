//! What a store's failover agent wants of the daemon's runs of it.

use crate::model::role::{Permission, Role};

/// The runs that a store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// This host serves the store, and resyncs it.
    Resync,
    /// Another host does, and this one follows.
    Follow,
    /// None, for this reason.
    Wait(String),
}

impl Duty {
    /// Returns the role of the runs, and what the log says; none while there are no runs.
    pub(super) fn role(&self) -> Option<(Permission, Role)> {
        match self {
            Self::Resync => Some((Permission::Primary, Role::Primary)),
            Self::Follow => Some((Permission::Standby, Role::Standby)),
            Self::Wait(_) => None,
        }
    }
}
