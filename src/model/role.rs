//! What a host does with a store.

use serde::{Deserialize, Serialize};

/// Role of a host for one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The store runs here: it is resynced.
    #[default]
    Primary,
    /// It could take over here: it is followed.
    Standby,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
        }
    }
}
