//! Drills of the databases' replicas on this host: as a person asks for one, and as the daemon makes them by their
//! schedule.
//!
//! One thread drills all stores, one after the other, since each copies and reads a whole database. What hinders a
//! drill, such as customers who would have to wait, is no fault of the data: it shows, and is tried again.

use super::caught::caught;
use super::due::is_seed_due;
use super::here::{DatabaseHere, no_place, settings};
use crate::database::decide::State;
use crate::database::drill::{Drill, Drilled, drill, is_by_reference};
use crate::database::drill_at::{At, From};
use crate::database::drill_command::DrillCommand;
use crate::database::drill_note::DrillNote;
use crate::database::error::DatabaseError;
use crate::database::report::Report;
use crate::model::id::StoreName;
use crate::service::config::StoreConfig;
use crate::service::database::DrillWhen;
use crate::service::host::Host;
use crate::service::schedule::Schedule;
use crate::support::clock::{BootNanos, UnixNanos};
use crate::support::lock::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

/// Default memory of the pool of the copy's server.
const MEMORY_MIB: u32 = 64;
/// Time until it is looked again whether a drill is due.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Time until what was hindered is tried again.
const AGAIN: Duration = Duration::from_hours(1);

/// A drill that is asked for.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    pub table_time: Option<Duration>,
    pub customers_wait: bool,
    pub at: Option<At<'a>>,
}

/// Drills the replica of a store on this host, and notes what was found.
///
/// # Errors
/// There is no copy, or no server on it.
pub(crate) fn drill_here(
    here: DatabaseHere,
    wanted: Wanted,
    stop: &dyn Fn() -> bool,
    on_step: &dyn Fn(&'static str),
) -> Result<Drilled, DatabaseError> {
    let (store, config) = (here.store, &here.store.database.drill);
    let place = store.database_place().map_err(settings)?.ok_or_else(no_place)?;
    let root = store.database.datadir.clone().ok_or_else(|| {
        DatabaseError::Settings(format!(
            "store '{}': there is no place for the replica; set `datadir` in [store.database]",
            store.name
        ))
    })?;
    let how = config.confinement().map_err(|error| DatabaseError::Settings(error.to_string()))?;
    let command = DrillCommand { command: config.command.clone(), how };
    let begun = here.env.wall();
    let from_archive = wanted.at.as_ref().is_some_and(|at| at.from != From::Replica);
    let ended = drill(&Drill {
        store: store.name.as_str(),
        supervisor: &place,
        root: &root,
        memory_mib: config.memory_mib.unwrap_or(MEMORY_MIB),
        queries: &config.queries,
        command: &command,
        query_limit: config.timeout_seconds.map(Duration::from_secs),
        at: wanted.at,
        table_time: wanted.table_time,
        customers_wait: wanted.customers_wait || config.customers_wait,
        env: here.env,
        stop,
        on_step,
    });
    // What hinders a restore says nothing about the replica.
    if !from_archive || ended.is_ok() {
        DrillNote::write(&place, begun, &ended);
    }
    ended
}

/// The drills that the daemon makes.
#[derive(Default)]
pub(super) struct Drills(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// When this process began to look.
    since: Option<UnixNanos>,
    again: BTreeMap<StoreName, BootNanos>,
    running: BTreeSet<StoreName>,
}

impl Drills {
    pub fn is_running(&self, store: &StoreName) -> bool {
        lock(&self.0).running.contains(store)
    }

    pub fn is_busy(&self) -> bool {
        !lock(&self.0).running.is_empty()
    }

    /// Looks at each store in turn, and drills those that are due.
    pub fn attend(&self, host: &Host, stop: &dyn Fn() -> bool) {
        let env = host.env();
        let since = *lock(&self.0).since.get_or_insert(env.wall());
        for store in &host.config.store {
            let is_waiting = lock(&self.0).again.get(&store.name).is_some_and(|again| *again > env.boot());
            if is_waiting || stop() {
                continue;
            }
            let wait = match is_due(store, env.wall(), since) {
                false => LOOK_EVERY,
                true => {
                    lock(&self.0).running.insert(store.name.clone());
                    let here = DatabaseHere { store, env };
                    let done = caught(|| {
                        drill_here(here, Wanted::default(), stop, &crate::support::kill_point::reached)
                    });
                    lock(&self.0).running.remove(&store.name);
                    tell(&store.name, &done)
                }
            };
            lock(&self.0).again.insert(store.name.clone(), env.boot().plus(wait));
        }
    }
}

/// Says how a drill ended. Returns the time until the next look.
fn tell(store: &StoreName, done: &Result<Drilled, String>) -> Duration {
    match done {
        Ok(drilled) if drilled.faults.is_empty() => {
            let position = &drilled.position;
            tracing::info!(%store, %position, seconds = drilled.seconds.all, "the database's replica is proven to open");
            LOOK_EVERY
        }
        Ok(drilled) => {
            let faults = drilled.faults.len();
            tracing::error!(%store, faults, first = ?drilled.faults.first(), "the database's replica is not sound");
            LOOK_EVERY
        }
        Err(error) => {
            tracing::warn!(%store, %error, "no drill of the database; it is tried again");
            AGAIN
        }
    }
}

/// Returns whether a drill of a store's replica is due, and can be made. `since` is when it was first looked.
fn is_due(store: &StoreConfig, now: UnixNanos, since: UnixNanos) -> bool {
    let database = &store.database;
    let (Some(root), Ok(Some(place))) = (&database.datadir, store.database_place()) else { return false };
    let is_replica = Report::read(&place)
        .is_some_and(|report| report.is_fresh(now) && matches!(report.state, State::Following | State::Held));
    let schedule = match database.drill_when() {
        DrillWhen::By(schedule) => schedule,
        DrillWhen::IfByReference(schedule) if is_replica && is_by_reference(root) => schedule,
        DrillWhen::IfByReference(_) | DrillWhen::Never => return false,
    };
    is_replica && is_drill_due(DrillNote::read(&place).last.map(|last| last.at), &schedule, now, since)
}

/// Decides whether a drill is due: the first one by the calendar waits for its time. Pure.
fn is_drill_due(last: Option<UnixNanos>, schedule: &Schedule, now: UnixNanos, since: UnixNanos) -> bool {
    let last = last.or_else(|| schedule.interval().is_none().then_some(since));
    is_seed_due(last, schedule, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::{DAY, HOUR};

    #[test]
    fn a_first_drill_is_due_at_once_by_an_interval_and_at_its_time_by_the_calendar() {
        let (weekly, nightly) = (Schedule::every(7 * 86_400), Schedule::parse("0 3 * * *").unwrap());
        let since = UnixNanos::EPOCH.plus(20_000 * DAY);
        assert!(is_drill_due(None, &weekly, since, since));
        assert!(!is_drill_due(Some(since), &weekly, since.plus(6 * DAY), since));
        assert!(!is_drill_due(None, &nightly, since.plus(2 * HOUR), since));
        assert!(is_drill_due(None, &nightly, since.plus(3 * HOUR), since));
    }
}
