//! A plan: what a store's owner pays for, as limits. The figures are in `schedules/`.

use super::retention::Retention;
use serde::{Deserialize, Serialize};

/// The plans by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum PlanName {
    #[default]
    Standard,
    Private,
    Continuous,
}

/// Who fails a store over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failover {
    Operator,
    Watcher,
}

/// What is done beside the runs, and how often; 0 hours turn each off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upkeep {
    pub prune_hours: u32,
    /// Packs are read and checked: some, so that all were within `verify_days`.
    pub verify_hours: u32,
    pub verify_days: u32,
    /// The last snapshot is mounted, and read.
    pub drill_hours: u32,
}

/// A plan's limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// When a run is due: five fields, in UTC.
    pub schedule: String,
    /// Each store's runs begin at a fixed place within so many minutes behind that.
    pub jitter_minutes: u32,
    /// The age of the newest snapshot, counted from the start of its scan, that is promised.
    pub objective_minutes: u32,
    /// A change makes a run due after so many seconds; 0: a change makes none due.
    #[serde(default)]
    pub debounce_seconds: u32,
    /// A run by hints looks at what changed; one that looks at everything is made once in so many hours.
    pub full_scan_hours: u32,
    pub failover: Failover,
    /// A run that deletes a larger share of the entries is held.
    pub max_deleted_percent: u8,
    /// Fewer deletions are never held.
    pub max_deleted_floor: u64,
    /// Every file is read again within so many days; 0 turns it off.
    pub reread_days: u32,
    pub retention: Retention,
    /// What keeps a repository sound over years.
    pub upkeep: Upkeep,
}

impl PlanName {
    pub const ALL: [PlanName; 3] = [PlanName::Standard, PlanName::Private, PlanName::Continuous];

    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            PlanName::Standard => "standard",
            PlanName::Private => "private",
            PlanName::Continuous => "continuous",
        }
    }

    /// The text of the plan's file in `schedules/`.
    pub fn text(self) -> &'static str {
        match self {
            PlanName::Standard => include_str!("../../schedules/standard.toml"),
            PlanName::Private => include_str!("../../schedules/private.toml"),
            PlanName::Continuous => include_str!("../../schedules/continuous.toml"),
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

    pub fn objective_ns(&self) -> u64 {
        u64::from(self.objective_minutes) * 60_000_000_000
    }

    pub fn debounce_ns(&self) -> u64 {
        u64::from(self.debounce_seconds) * 1_000_000_000
    }

    pub fn full_scan_ns(&self) -> u64 {
        u64::from(self.full_scan_hours) * 3_600_000_000_000
    }

    pub fn jitter_ns(&self) -> u64 {
        u64::from(self.jitter_minutes) * 60_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plans_parse() {
        for name in PlanName::ALL {
            let plan = name.plan();
            assert!(plan.max_deleted_percent > 0 && plan.objective_minutes > plan.jitter_minutes);
        }
    }
}
