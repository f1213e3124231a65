//! A plan: what a store's owner pays for, as limits. The figures are in `schedules/`.

use serde::{Deserialize, Serialize};

/// The plans by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum PlanName {
    #[default]
    Standard,
    Private,
}

/// A plan's limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// A run that deletes a larger share of the entries is held.
    pub max_deleted_percent: u8,
    /// Fewer deletions are never held.
    pub max_deleted_floor: u64,
    /// Every file is read again within so many days; 0 turns it off.
    pub reread_days: u32,
}

impl PlanName {
    /// The text of the plan's file in `schedules/`.
    pub fn text(self) -> &'static str {
        match self {
            PlanName::Standard => include_str!("../../schedules/standard.toml"),
            PlanName::Private => include_str!("../../schedules/private.toml"),
        }
    }

    /// The plan's limits.
    pub fn plan(self) -> Plan {
        toml::from_str(self.text()).expect("the files in schedules/ are parsed by a test")
    }
}

impl Plan {
    pub fn reread_period_ns(&self) -> u64 {
        u64::from(self.reread_days) * 86_400_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plans_parse() {
        for name in [PlanName::Standard, PlanName::Private] {
            assert!(name.plan().max_deleted_percent > 0);
        }
    }
}
