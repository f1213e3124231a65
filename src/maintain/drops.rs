//! Snapshots that records dropped although the rules keep them: before a pruner dooms or deletes anything, somebody has to say that it is right.
//!
//! Whoever may append, and not delete, gets nothing deleted by that: neither by a record that drops and dooms at once, nor by one that drops and
//! leaves the dooming to the pruner, takes dooms back and makes them again, or takes segments out of the index. Records can say anything, so
//! nothing that a record says ends the hold: a drop counts as long as the state remembers it, and as long as its record is younger than the
//! grace, by the store's clock. What was accepted is noted in this host's cache alone; a host without it asks again.

use crate::model::id::Sequence;
use crate::model::record::{Dropped, Event, StoreState};
use crate::model::retention::{self, Retention};
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::repository::store_time;
use crate::support::durable;
use std::collections::BTreeMap;

/// The end of a log that is looked through for drops; longer, if all of that is younger than the grace.
const LOOKED_RECORDS: u64 = 1_000;
const NOTE: &str = "accepted-drops";

impl Store {
    /// What was dropped, and not accepted here: as the state remembers it, and by records that were put within the last `grace_ns`.
    pub(crate) fn drops(
        &self,
        state: &StoreState,
        grace_ns: u64,
        store_now_ns: u64,
    ) -> Result<BTreeMap<Sequence, Dropped>, RepositoryError> {
        let accepted = self.accepted_drops();
        let mut drops = state.dropped.clone();
        for by in self.young_records(state, grace_ns, store_now_ns)?.into_iter().filter(|by| *by > accepted) {
            let Event::Pruned(pruned) = self.event_of(by)? else { continue };
            for number in pruned.snapshots.into_iter().filter(|number| *number < by) {
                if drops.contains_key(&number) {
                    continue;
                }
                if let Event::Snapshot(snapshot) = self.event_of(number)? {
                    drops.insert(number, Dropped { scan_start_ns: snapshot.scan_start_ns, by });
                }
            }
        }
        drops.retain(|_, dropped| dropped.by > accepted);
        Ok(drops)
    }

    /// The records that were put within the last `grace_ns`.
    fn young_records(
        &self,
        state: &StoreState,
        grace_ns: u64,
        store_now_ns: u64,
    ) -> Result<Vec<Sequence>, RepositoryError> {
        let Some((head, _)) = state.head.filter(|_| grace_ns > 0) else { return Ok(Vec::new()) };
        let mut looked = LOOKED_RECORDS;
        loop {
            let first = Sequence(head.0.saturating_sub(looked).max(1));
            let times = self.record_times(first)?;
            let is_young = |sequence: Sequence| store_time::age_ns(&times, sequence, store_now_ns) < grace_ns;
            if first.0 > 1 && is_young(first) {
                looked = looked.saturating_mul(8);
                continue;
            }
            return Ok(times.range(first..=head).map(|(at, _)| *at).filter(|at| is_young(*at)).collect());
        }
    }

    /// Up to which record somebody said here that its drops are right. A note that is lost or cannot be read is none.
    fn accepted_drops(&self) -> Sequence {
        let note = self.cache_file(NOTE).and_then(|path| std::fs::read_to_string(path).ok());
        Sequence(note.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    }

    pub(crate) fn accept_drops(&self, through: Sequence) {
        if let Some(path) = self.cache_file(NOTE) {
            // Where it cannot be kept, it is asked again.
            let _ = durable::replace(self.env(), &path, 0o600, format!("{through}\n").as_bytes());
        }
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

/// Finds what was dropped although the rules keep it. Pure.
pub(crate) fn judge(
    state: &StoreState,
    drops: &BTreeMap<Sequence, Dropped>,
    rules: &Retention,
) -> Option<Wrong> {
    let mut times: BTreeMap<_, _> = state.snapshots.iter().map(|(s, r)| (*s, r.scan_start_ns)).collect();
    times.extend(drops.iter().map(|(s, dropped)| (*s, dropped.scan_start_ns)));
    let verdicts = retention::decide(rules, &times, &BTreeMap::new());
    let mut wrong = drops.iter().filter(|(s, _)| !verdicts[s].is_empty());
    let (first, dropped) = wrong.next()?;
    Some(Wrong { by: dropped.by, count: 1 + wrong.count(), first: *first })
}
