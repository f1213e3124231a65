//! The role of a host for a store.

use serde::{Deserialize, Serialize};

/// What a host may be for a store, by its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// The store's tree is here: it is resynced.
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
