//! When a store's runs are due, by its configuration.

use crate::model::role::Permission;
use crate::service::config::StoreConfig;
use crate::service::schedule::{Schedule, slot};
use crate::service::scheduler::{Job, WatchTimes};
use std::time::Duration;

/// Default number of seconds between a standby's looks.
const LOOK_SECONDS: u64 = 30;
/// Maximum wait before a standby that fails looks again.
const STANDBY_BACKOFF_MAX: Duration = Duration::from_secs(120);

/// Returns when a store's runs are due. A standby looks every few seconds, whatever its plan.
pub fn job(store: &StoreConfig, look_seconds: Option<u64>) -> Job {
    let plan = store.plan.plan();
    let objective = plan.objective();
    let watch =
        store.is_watched().then(|| WatchTimes { debounce: plan.debounce(), full_scan: plan.full_scan() });
    match store.role {
        Permission::Primary => {
            let text = store.schedule.as_deref().unwrap_or(&plan.schedule);
            // Both were parsed earlier: the plans' schedules by a test, a store's with its configuration.
            let schedule = Schedule::parse(text).or_else(|_| Schedule::parse("0 * * * *"));
            Job {
                schedule: schedule.unwrap_or_else(|error| panic!("a schedule: {error}")),
                slot: slot(store.name.as_str(), plan.jitter()),
                objective,
                // A store that fails is tried often enough to meet its objective once the cause is removed.
                backoff_max: objective / 10,
                due_at_once: false,
                watch,
            }
        }
        // A watcher has no runs.
        Permission::Standby | Permission::Watcher => Job {
            schedule: Schedule::every(look_seconds.unwrap_or(LOOK_SECONDS)),
            slot: Duration::ZERO,
            objective,
            backoff_max: STANDBY_BACKOFF_MAX,
            due_at_once: false,
            watch,
        },
    }
}
