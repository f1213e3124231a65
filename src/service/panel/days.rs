//! The last day of a store, from its log, for the drawing. A log is read at most every few seconds, however many
//! look, and a page does not wait long for a slow repository.

use crate::api::store::StoreStatus;
use crate::failover::told;
use crate::model::id::StoreName;
use crate::model::record::StoreState;
use crate::panel::sentence::Reader;
use crate::panel::timeline::{Mark, MarkKind, Taken, Timeline};
use crate::panel::words::at_seconds;
use crate::repository::history::Happened;
use crate::service::app_state::AppState;
use crate::support::clock::{BootNanos, DAY, UnixNanos};
use crate::support::failure::FailureKind;
use crate::support::lock::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time for which what was read is shown.
const KEPT: Duration = Duration::from_secs(15);
/// Maximum time that a page waits.
const WAIT: Duration = Duration::from_secs(3);

/// What a log says of a day.
struct Day {
    snapshots: Vec<Taken>,
    /// Each with its words for operators.
    decisions: Vec<Mark>,
}

/// The days of all stores that somebody looked at.
#[derive(Default)]
pub(super) struct Days(Mutex<HashMap<StoreName, (BootNanos, Arc<Day>)>>);

impl Days {
    /// Returns the day of a store as somebody may see it; none if the log could not be read in time.
    pub(super) async fn get(
        &self,
        site: &AppState,
        status: &StoreStatus,
        reader: Reader,
    ) -> Option<Timeline> {
        let (name, now) = (&status.store, site.daemon.now());
        let known = lock(&self.0).get(name).cloned();
        let fresh = known.as_ref().filter(|(at, _)| now.boot.since(*at) < KEPT).map(|(_, day)| day.clone());
        let day = match fresh {
            Some(day) => Some(day),
            None => match tokio::time::timeout(WAIT, read(site, name, now.wall)).await {
                Ok(Some(day)) => {
                    let day = Arc::new(day);
                    lock(&self.0).insert(name.clone(), (now.boot, day.clone()));
                    Some(day)
                }
                _ => known.map(|(_, day)| day),
            },
        };
        day.map(|day| timeline(&day, status, reader))
    }
}

async fn read(site: &AppState, name: &StoreName, now: UnixNanos) -> Option<Day> {
    let (name, config) = site.known(&name.to_string()).ok()?;
    let read = site.blocking(move |daemon| {
        let store = daemon.repository(&config)?.store(&name);
        let log = store.log();
        let state = log.state()?;
        Ok(Day { snapshots: snapshots(&state, now), decisions: decisions(&log.history()?) })
    });
    read.await.ok()
}

/// Returns the snapshots of the day, and the one before them.
fn snapshots(state: &StoreState, now: UnixNanos) -> Vec<Taken> {
    let start = now.minus(DAY);
    let mut taken: Vec<Taken> = Vec::new();
    for (number, record) in state.snapshots.iter().rev() {
        let changes = &record.statistics.changes;
        let changed = changes.added + changes.removed + changes.modified + changes.metadata;
        taken.push(Taken { number: number.0, begun: record.scan_start, there: record.scan_end, changed });
        if record.scan_end < start {
            break;
        }
    }
    taken.reverse();
    taken
}

fn decisions(history: &[Happened]) -> Vec<Mark> {
    let rows = history.iter().map(told::row).filter(|row| row.irregular.is_none());
    let mark = |row: crate::api::history::HistoryRow| {
        let kind = match row.kind.as_str() {
            "promoted" | "handover" => MarkKind::Failover,
            "paused" | "resumed" => MarkKind::Pause,
            _ => MarkKind::Decision,
        };
        Some(Mark { at: at_seconds(row.at?), kind, what: row.what })
    };
    rows.filter_map(mark).collect()
}

/// Returns a day as somebody may see it: a customer, without hosts and persons.
fn timeline(day: &Day, status: &StoreStatus, reader: Reader) -> Timeline {
    let mut marks = match reader {
        Reader::Operator => day.decisions.clone(),
        Reader::Customer => {
            let moves = day.decisions.iter().filter(|mark| mark.kind == MarkKind::Failover);
            moves.map(|mark| Mark { what: "moved to another server".to_owned(), ..mark.clone() }).collect()
        }
    };
    let upkeep = status.upkeep.as_ref();
    if let Some((at, number)) = upkeep.and_then(|upkeep| Some((upkeep.proven?, upkeep.proven_snapshot?))) {
        let what = format!("snapshot {number} was mounted and read");
        marks.push(Mark { at: at_seconds(at), kind: MarkKind::Drill, what });
    }
    let is_held = status.last_error_kind == Some(FailureKind::Held) && status.held.is_some();
    if let Some(at) = status.last_run.filter(|_| is_held) {
        let what = match reader {
            Reader::Operator => status.held.clone().unwrap_or_default(),
            Reader::Customer => "an unusual change waits for a look".to_owned(),
        };
        marks.push(Mark { at: at_seconds(at), kind: MarkKind::Hold, what });
    }
    Timeline { snapshots: day.snapshots.clone(), marks }
}
