//! A plan: the limits that a store's owner pays for. The figures are in `schedules/`.

use super::retention::Retention;
use crate::support::clock::{DAY, HOUR};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Names of the plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum PlanName {
    #[default]
    Standard,
    Private,
    Continuous,
}

/// Party that starts a store's failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failover {
    Operator,
    Watcher,
}

/// Intervals of the maintenance done in addition to the runs; 0 hours turn a task off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upkeep {
    pub prune_hours: u32,
    /// Hours between verifications. Each reads a part of the packs, so that all are read within
    /// `verify_days`.
    pub verify_hours: u32,
    pub verify_days: u32,
    /// Hours between drills, which mount the last snapshot and read it.
    pub drill_hours: u32,
    /// Hours between drills of a failover.
    pub site_drill_hours: u32,
}

/// A plan's limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Times when a run is due: a schedule of five fields, in UTC.
    pub schedule: String,
    /// Spreads stores over this many minutes; each store keeps its own offset.
    pub jitter_minutes: u32,
    /// Promised age of the newest snapshot, counted from the start of its scan.
    pub objective_minutes: u32,
    /// Seconds between a change and the run it triggers; 0 disables.
    #[serde(default)]
    pub debounce_seconds: u32,
    /// Hours between full scans; the runs between them look only at what the hints report as changed.
    pub full_scan_hours: u32,
    pub failover: Failover,
    /// Share of the entries, in percent; a run that deletes more is held.
    pub max_deleted_percent: u8,
    /// Number of deletions up to which a run is not held, as long as no filesystem was lost or replaced.
    pub max_deleted_floor: u64,
    /// Days within which every file is read again; 0 disables.
    pub reread_days: u32,
    pub retention: Retention,
    /// Intervals of the tasks that keep a repository sound over years.
    pub upkeep: Upkeep,
}

impl PlanName {
    pub const ALL: [PlanName; 3] = [PlanName::Standard, PlanName::Private, PlanName::Continuous];

    /// Returns the name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            PlanName::Standard => "standard",
            PlanName::Private => "private",
            PlanName::Continuous => "continuous",
        }
    }

    /// Returns the text of the plan's file in `schedules/`.
    pub(crate) fn text(self) -> &'static str {
        match self {
            PlanName::Standard => include_str!("../../schedules/standard.toml"),
            PlanName::Private => include_str!("../../schedules/private.toml"),
            PlanName::Continuous => include_str!("../../schedules/continuous.toml"),
        }
    }

    /// Returns the plan's limits.
    pub fn plan(self) -> Plan {
        toml::from_str(self.text()).expect("the files in schedules/ are parsed by a test")
    }
}

impl Plan {
    pub(crate) fn reread_period(&self) -> Duration {
        self.reread_days * DAY
    }

    pub(crate) fn objective(&self) -> Duration {
        Duration::from_mins(self.objective_minutes.into())
    }

    pub(crate) fn debounce(&self) -> Duration {
        Duration::from_secs(self.debounce_seconds.into())
    }

    pub(crate) fn full_scan(&self) -> Duration {
        self.full_scan_hours * HOUR
    }

    pub(crate) fn jitter(&self) -> Duration {
        Duration::from_mins(self.jitter_minutes.into())
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
