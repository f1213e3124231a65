//! When a store's runs are due, by its configuration.

use crate::model::role::Permission;
use crate::service::config::StoreConfig;
use crate::service::schedule::{Schedule, slot_ns};
use crate::service::scheduler::{Job, WatchTimes};

/// Default number of seconds between a standby's looks.
const LOOK_SECONDS: u64 = 30;
/// Maximum wait before a standby that fails looks again.
const STANDBY_BACKOFF_MAX_NS: u64 = 120 * 1_000_000_000;

/// Returns when a store's runs are due. A standby looks every few seconds, whatever its plan.
pub fn job(store: &StoreConfig, look_seconds: Option<u64>) -> Job {
    let plan = store.plan.plan();
    let objective_ns = plan.objective_ns();
    let watch = store
        .is_watched()
        .then(|| WatchTimes { debounce_ns: plan.debounce_ns(), full_scan_ns: plan.full_scan_ns() });
    match store.role {
        Permission::Primary => {
            let text = store.schedule.as_deref().unwrap_or(&plan.schedule);
            // Both were parsed earlier: the plans' schedules by a test, a store's with its configuration.
            let schedule = Schedule::parse(text).or_else(|_| Schedule::parse("0 * * * *"));
            Job {
                schedule: schedule.unwrap_or_else(|error| panic!("a schedule: {error}")),
                slot_ns: slot_ns(store.name.as_str(), plan.jitter_ns()),
                objective_ns,
                // A store that fails is tried often enough to meet its objective once the cause is removed.
                backoff_max_ns: objective_ns / 10,
                due_at_once: false,
                watch,
            }
        }
        Permission::Standby => Job {
            schedule: Schedule::every(look_seconds.unwrap_or(LOOK_SECONDS)),
            slot_ns: 0,
            objective_ns,
            backoff_max_ns: STANDBY_BACKOFF_MAX_NS,
            due_at_once: false,
            watch,
        },
    }
}
