//! The upkeep of a database's archive: segments that no seed needs are deleted, and the others are verified.
//!
//! A seed needs what was archived from its position on. A pruning deletes only what the seeds that existed before it
//! did not need, so that a restore from a seed that it drops can finish. The last segment stays: it says where the
//! archive goes on. Segments are deleted in order, a few at once; a pruning that is killed leaves a few of the first
//! ones, which the next one deletes.

use super::damage::{VerifyReport, plain};
use crate::format::binlog_segment::{Chain, Link, SegmentPlace};
use crate::model::gtid::{DomainId, Gtid, GtidPosition};
use crate::model::id::Epoch;
use crate::model::record::StoreState;
use crate::repository::binlog::{Ends, Listed, Stored, last_where};
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::support::failure::{Failure, FailureKind};
use std::collections::BTreeMap;

/// Number of segments that are deleted at once.
const AT_ONCE: usize = 16;
/// Maximum number of missing segments of one gap that are named.
const NAMED_MAX: u64 = 100;

/// Returns the position from which on every seed has what it needs; none if some snapshot does not say where it is.
pub(super) fn needed_from(state: &StoreState) -> Option<GtidPosition> {
    let mut least: Option<BTreeMap<DomainId, Gtid>> = None;
    for record in state.snapshots.values() {
        let position: GtidPosition = record.database_position.as_ref()?.parse().ok()?;
        let gtids = position.of_store().gtids().map(|gtid| (gtid.domain, gtid)).collect();
        least = Some(match least {
            None => gtids,
            // What one of them does not know at all, it needs from the beginning.
            Some(least) => least
                .into_iter()
                .filter_map(|(domain, other)| {
                    let gtid = gtids.get(&domain)?;
                    Some((domain, if gtid.number < other.number { *gtid } else { other }))
                })
                .collect(),
        });
    }
    least.map(|least| least.into_values().collect())
}

/// What a pruning of an archive did, or would do.
#[derive(Debug, Default)]
pub(super) struct ArchivePruned {
    pub segments: u64,
    /// The reason for which nothing more could be deleted, if the credentials do not allow it.
    pub refused: Option<String>,
}

/// Deletes the segments that end at or before a position.
pub(super) fn prune(
    store: &Store,
    needed: &GtidPosition,
    is_dry: bool,
) -> Result<ArchivePruned, RepositoryError> {
    let mut pruned = ArchivePruned::default();
    let binlog = store.binlog();
    let epochs = binlog.epochs()?;
    for epoch in &epochs {
        let Some(Ends { first, last, .. }) = binlog.ends(*epoch, 0)? else { continue };
        let is_unneeded = |number| is_covered(store, *epoch, number, needed);
        let Some(until) = last_where(first..=last, is_unneeded)? else { continue };
        let until = if Some(epoch) == epochs.last() { until.min(last - 1) } else { until };
        let numbers: Vec<u64> = (first..=until).collect();
        for numbers in numbers.chunks(AT_ONCE) {
            if !is_dry {
                let places: Vec<_> =
                    numbers.iter().map(|number| SegmentPlace { epoch: *epoch, number: *number }).collect();
                match binlog.delete_all(&places) {
                    Err(error) if error.kind() == FailureKind::Usage => {
                        pruned.refused = Some(error.to_string());
                        return Ok(pruned);
                    }
                    other => other?,
                }
            }
            pruned.segments += numbers.len() as u64;
        }
    }
    Ok(pruned)
}

/// Returns whether a segment ends at or before a position. One that is missing is judged by the next one.
fn is_covered(
    store: &Store,
    epoch: Epoch,
    number: u64,
    needed: &GtidPosition,
) -> Result<bool, RepositoryError> {
    match store.binlog().read(SegmentPlace { epoch, number }) {
        Ok(stored) => Ok(needed.covers(&stored.segment.header.after)),
        Err(RepositoryError::MissingObject { .. }) => match store.binlog().next(epoch, number)? {
            Some(next) => is_covered(store, epoch, next, needed),
            None => Ok(false),
        },
        Err(error) => Err(error),
    }
}

/// Verifies the archive: that no number is missing, and of the percentage that is to be read, all bytes; else the
/// last segment of each epoch.
pub(super) fn verify(
    store: &Store,
    state: &StoreState,
    read_percent: u8,
    is_over: &dyn Fn() -> bool,
    report: &mut VerifyReport,
) -> Result<(), RepositoryError> {
    // An archive begins with a seed.
    if state.snapshots.values().all(|record| record.database_position.is_none()) {
        return Ok(());
    }
    let needed = needed_from(state);
    for epoch in store.binlog().epochs()? {
        let Listed { numbers, others } = store.binlog().list(epoch)?;
        for other in others {
            report.problem(other, "is not a valid segment name");
        }
        report.archive_segments += numbers.len() as u64;
        find_gaps(store, epoch, &numbers, needed.as_ref(), report)?;
        let wanted = share(numbers.len(), read_percent, store.env().nonce());
        let mut reading = Reading { store, epoch, chain: None };
        for number in &numbers[wanted] {
            if is_over() {
                return Ok(());
            }
            reading.read(*number, report)?;
        }
    }
    Ok(())
}

/// Returns which of so many segments are read: a stretch at a random place, and without any share the last one. Pure.
fn share(count: usize, percent: u8, random: u64) -> std::ops::Range<usize> {
    match (count * usize::from(percent)).div_ceil(100) {
        0 => count.saturating_sub(1)..count,
        wanted => {
            let first = (random % (count - wanted + 1) as u64) as usize;
            first..first + wanted
        }
    }
}

fn find_gaps(
    store: &Store,
    epoch: Epoch,
    numbers: &[u64],
    needed: Option<&GtidPosition>,
    report: &mut VerifyReport,
) -> Result<(), RepositoryError> {
    for pair in numbers.windows(2) {
        let missing = pair[0] + 1..pair[1];
        if missing.is_empty() {
            continue;
        }
        // A pruning that was killed left those before it.
        if let Some(needed) = needed
            && is_covered(store, epoch, pair[1], needed).unwrap_or(false)
        {
            continue;
        }
        for number in missing.clone().take(NAMED_MAX as usize) {
            report.problem(store.binlog().key(SegmentPlace { epoch, number }), "is missing");
        }
        if missing.end - missing.start > NAMED_MAX {
            let unnamed = missing.end - missing.start - NAMED_MAX;
            let key = store.binlog().key(SegmentPlace { epoch, number: missing.end - 1 });
            report.problem(key, format!("is missing, and {unnamed} before it that are not named"));
        }
    }
    Ok(())
}

/// The reading of an epoch's segments in order.
struct Reading<'a> {
    store: &'a Store,
    epoch: Epoch,
    /// The state after the last segment; none if that was not read.
    chain: Option<(u64, Chain, u32)>,
}

impl Reading<'_> {
    fn read(&mut self, number: u64, report: &mut VerifyReport) -> Result<(), RepositoryError> {
        let place = SegmentPlace { epoch: self.epoch, number };
        let key = self.store.binlog().key(place);
        let stored = match self.store.binlog().read(place) {
            Ok(stored) => stored,
            Err(error)
                if error.kind() == FailureKind::Damaged
                    || matches!(error, RepositoryError::Keyring { .. }) =>
            {
                self.chain = None;
                report.problem(key, plain(&error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        report.archive_read += 1;
        report.read_bytes += stored.size_bytes;
        let before = self.chain.take().filter(|(last, ..)| last + 1 == number);
        let (mut chain, generation) = match before {
            Some((_, chain, generation)) => (chain, generation),
            None => (self.enter(place, &stored), 0),
        };
        if let Err(error) = chain.read(stored.this, &stored.segment, &mut |_| {}) {
            report.problem(&key, error);
            return Ok(());
        }
        if stored.generation < generation {
            report.problem(
                &key,
                format!(
                    "is sealed with data key {}, and the one before it with {generation}",
                    stored.generation
                ),
            );
        }
        self.chain = Some((number, chain, stored.generation));
        Ok(())
    }

    /// Returns the state before a segment, from the one that it names, if that is there.
    fn enter(&self, place: SegmentPlace, stored: &Stored) -> Chain {
        let header = &stored.segment.header;
        let named = match header.link {
            Link::After(previous) => Some(previous),
            _ => None,
        };
        let carried = named.and_then(|named| {
            let before = SegmentPlace { epoch: named.epoch, number: named.number };
            if before.epoch == place.epoch && before.number + 1 != place.number {
                return None;
            }
            self.store.binlog().read(before).ok()
        });
        match carried {
            Some(before) => Chain::after(before.this, &before.segment.header),
            None => Chain::before(header, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::Sequence;
    use crate::model::record::SnapshotRecord;

    #[test]
    fn the_oldest_seed_decides_and_one_without_a_position_keeps_all() {
        let state = |positions: &[Option<&str>]| {
            let mut state = StoreState::default();
            for (at, position) in positions.iter().enumerate() {
                let record = SnapshotRecord {
                    database_position: position.map(str::to_owned),
                    ..SnapshotRecord::sample()
                };
                state.snapshots.insert(Sequence(at as u64 + 1), record);
            }
            state
        };
        let needed = |positions: &[Option<&str>]| needed_from(&state(positions)).map(|at| at.to_string());
        assert_eq!(
            needed(&[Some("1-11-9,2-1-4"), Some("1-11-5,2-1-6"), Some("1-12-20,2-1-9")]),
            Some("1-11-5,2-1-4".into())
        );
        assert_eq!(needed(&[Some("1-11-9,2-1-4"), Some("1-11-12")]), Some("1-11-9".into()));
        assert_eq!(needed(&[Some("1-11-9"), None]), None);
        assert_eq!(needed(&[]), None);
    }

    #[test]
    fn a_share_is_a_stretch_of_the_segments_and_without_one_the_last_is_read() {
        for random in [0, 1, 5, u64::MAX] {
            assert_eq!(share(10, 100, random), 0..10);
            assert_eq!(share(10, 0, random), 9..10);
            let some = share(10, 25, random);
            assert!(some.len() == 3 && some.end <= 10);
            assert!(share(0, 100, random).is_empty() && share(0, 0, random).is_empty());
        }
    }
}
