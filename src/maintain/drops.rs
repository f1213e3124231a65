//! Finds snapshots that records dropped although the rules keep them.
//!
//! A pruning that finds one is held until an operator accepts it.
//!
//! A writer that can append but not delete can therefore cause no deletion: neither by a record that drops
//! and dooms at once, nor by one that drops and leaves the dooming to the pruner, takes dooms back and
//! repeats them, or takes segments out of the index. Records can contain anything, so nothing in a record
//! ends the hold: a drop counts as long as the state remembers it, and as long as its record is younger than
//! the grace, by the store's clock. An acceptance is recorded only in this host's cache; a host without it
//! asks again.

use crate::model::id::Sequence;
use crate::model::record::{Dropped, Event, StoreState};
use crate::model::retention::{self, Retention};
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::repository::store_time;
use crate::support::clock::UnixNanos;
use crate::support::durable;
use std::collections::BTreeMap;
use std::time::Duration;

/// Number of records at the end of a log that are searched for drops.
///
/// More are searched if all of them are younger than the grace.
const LOOKED_RECORDS: u64 = 1_000;
const NOTE: &str = "accepted-drops";

/// Returns the drops that were not accepted on this host.
///
/// These are the drops in the state, and those of records put within the grace.
pub fn find(
    store: &Store,
    state: &StoreState,
    grace: Duration,
    store_now: UnixNanos,
) -> Result<BTreeMap<Sequence, Dropped>, RepositoryError> {
    let accepted = accepted(store);
    let mut drops = state.dropped.clone();
    for by in young_records(store, state, grace, store_now)?.into_iter().filter(|by| *by > accepted) {
        let Event::Pruned(pruned) = store.log().event_of(by)? else { continue };
        for number in pruned.snapshots.into_iter().filter(|number| *number < by) {
            if drops.contains_key(&number) {
                continue;
            }
            if let Event::Snapshot(snapshot) = store.log().event_of(number)? {
                drops.insert(number, Dropped { scan_start: snapshot.scan_start, by });
            }
        }
    }
    drops.retain(|_, dropped| dropped.by > accepted);
    Ok(drops)
}

/// Returns the records that were put within the grace.
fn young_records(
    store: &Store,
    state: &StoreState,
    grace: Duration,
    store_now: UnixNanos,
) -> Result<Vec<Sequence>, RepositoryError> {
    let Some((head, _)) = state.head.filter(|_| !grace.is_zero()) else { return Ok(Vec::new()) };
    let mut looked = LOOKED_RECORDS;
    loop {
        let first = Sequence(head.0.saturating_sub(looked).max(1));
        let times = store.log().record_times(first)?;
        let is_young = |sequence: Sequence| store_time::age(&times, sequence, store_now) < grace;
        if first.0 > 1 && is_young(first) {
            looked = looked.saturating_mul(8);
            continue;
        }
        return Ok(times.range(first..=head).map(|(at, _)| *at).filter(|at| is_young(*at)).collect());
    }
}

/// Returns the record up to which drops were accepted on this host.
///
/// A note that is lost or cannot be read accepts none.
fn accepted(store: &Store) -> Sequence {
    let note = store.cache().file(NOTE).and_then(|path| std::fs::read_to_string(path).ok());
    Sequence(note.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
}

pub(crate) fn accept(store: &Store, through: Sequence) {
    if let Some(path) = store.cache().file(NOTE) {
        // If the note cannot be stored, the next pruning asks again.
        let _ = durable::replace(store.env(), &path, 0o600, format!("{through}\n").as_bytes());
    }
}

/// Snapshots that were dropped although the rules keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The record that dropped the first of them.
    pub by: Sequence,
    pub count: usize,
    pub first: Sequence,
}

/// Finds dropped snapshots that the rules keep. Pure.
pub(crate) fn judge(
    state: &StoreState,
    drops: &BTreeMap<Sequence, Dropped>,
    rules: &Retention,
) -> Option<Wrong> {
    let mut times: BTreeMap<_, _> = state.snapshots.iter().map(|(s, r)| (*s, r.scan_start)).collect();
    times.extend(drops.iter().map(|(s, dropped)| (*s, dropped.scan_start)));
    let verdicts = retention::decide(rules, &times, &BTreeMap::new());
    let mut wrong = drops.iter().filter(|(s, _)| !verdicts[s].is_empty());
    let (first, dropped) = wrong.next()?;
    Some(Wrong { by: dropped.by, count: 1 + wrong.count(), first: *first })
}
