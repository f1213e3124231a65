//! The records of a store's log and their fold. The log is the store's only source of truth.

use super::diff::ChangeCounts;
use super::hold::FilesystemId;
use super::id::{ChunkId, ContentHash, Epoch, IndexId, PackId, Sequence, StoreName, WriterId};
use super::snapshot_ref::Moment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// The root of a manifest's tree of pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRoot {
    pub page: ChunkId,
    /// 0: the root page is a leaf.
    pub height: u8,
    /// Entries, the root directory among them.
    pub entries: u64,
    /// Sum of the files' logical sizes.
    pub size_bytes: u64,
}

/// What one run did; shown by `snapshots`, never relied on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatistics {
    pub changes: ChangeCounts,
    pub read_bytes: u64,
    pub new_bytes: u64,
    pub shipped_bytes: u64,
    pub torn_files: u64,
    pub unreadable: u64,
    pub vanished: u64,
}

/// A pack or index segment that a record vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef<Id> {
    pub id: Id,
    pub size_bytes: u64,
}

/// A manifest, made permanent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    pub manifest: ManifestRoot,
    pub scan_start_ns: u64,
    pub scan_end_ns: u64,
    /// The directory on the primary; lossy where it is not UTF-8.
    pub source_path: String,
    pub filesystem: FilesystemId,
    pub statistics: SnapshotStatistics,
    pub new_packs: Vec<ObjectRef<PackId>>,
    /// Every live index segment: what a reader needs, without reading older records.
    pub index: Vec<ObjectRef<IndexId>>,
    /// Where the database's replication stood; none without a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_position: Option<String>,
    /// When the last scan that looked at everything began, unless it is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_scan_start_ns: Option<u64>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Event {
    Snapshot(Box<SnapshotRecord>),
    /// The record's epoch is one more than before, and `primary` the only host that may write.
    Promoted {
        primary: WriterId,
    },
    Pruned {
        snapshots: Vec<Sequence>,
        doomed_packs: Vec<PackId>,
    },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub store: StoreName,
    pub sequence: Sequence,
    pub epoch: Epoch,
    pub writer: WriterId,
    /// Drawn for this one attempt: tells a lost reply from a lost race.
    pub nonce: u64,
    /// BLAKE3 of the record before; none for the first.
    pub previous: Option<ContentHash>,
    pub event: Event,
}

/// Why records do not make a log.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FoldError {
    #[error("record {found} follows {after}")]
    Gap { after: Sequence, found: Sequence },
    #[error("record {0} does not name the record before it: the log was altered")]
    Chain(Sequence),
    #[error("record {0} belongs to store '{1}'")]
    Store(Sequence, StoreName),
    #[error("record {0} has an epoch that cannot follow the one before")]
    Epoch(Sequence),
}

/// A store's state: the fold of its log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreState {
    /// The last record's number and hash.
    pub head: Option<(Sequence, ContentHash)>,
    pub epoch: Epoch,
    /// The only host that may write; none before the first promotion.
    pub primary: Option<WriterId>,
    pub snapshots: BTreeMap<Sequence, SnapshotRecord>,
    pub doomed_packs: BTreeSet<PackId>,
}

impl StoreState {
    /// The state after one more record; `hash` is the BLAKE3 of its bytes.
    pub fn apply(&mut self, store: &StoreName, record: Record, hash: ContentHash) -> Result<(), FoldError> {
        let sequence = record.sequence;
        let after = self.head.map_or(Sequence(0), |(s, _)| s);
        if sequence != after.next() {
            return Err(FoldError::Gap { after, found: sequence });
        }
        if record.store != *store {
            return Err(FoldError::Store(sequence, record.store));
        }
        if record.previous != self.head.map(|(_, hash)| hash) {
            return Err(FoldError::Chain(sequence));
        }
        let promoted = u64::from(matches!(record.event, Event::Promoted { .. }));
        if record.epoch.0 != self.epoch.0 + promoted {
            return Err(FoldError::Epoch(sequence));
        }
        match record.event {
            Event::Snapshot(snapshot) => {
                // A pack that is vouched for again was shipped again.
                for pack in &snapshot.new_packs {
                    self.doomed_packs.remove(&pack.id);
                }
                self.snapshots.insert(sequence, *snapshot);
            }
            Event::Promoted { primary } => self.primary = Some(primary),
            Event::Pruned { snapshots, doomed_packs } => {
                for dropped in snapshots {
                    self.snapshots.remove(&dropped);
                }
                self.doomed_packs.extend(doomed_packs);
            }
        }
        self.epoch = record.epoch;
        self.head = Some((sequence, hash));
        Ok(())
    }

    /// The number that the next record takes.
    pub fn next_sequence(&self) -> Sequence {
        self.head.map_or(Sequence(0), |(s, _)| s).next()
    }

    pub fn latest(&self) -> Option<(Sequence, &SnapshotRecord)> {
        self.snapshots.last_key_value().map(|(s, r)| (*s, r))
    }

    /// The snapshot that a user means.
    pub fn find(&self, moment: Moment) -> Option<(Sequence, &SnapshotRecord)> {
        match moment {
            Moment::Latest => self.latest(),
            Moment::At(sequence) => self.snapshots.get(&sequence).map(|r| (sequence, r)),
            Moment::AsOf(ns) => {
                self.snapshots.iter().rev().find(|(_, r)| r.scan_start_ns <= ns).map(|(s, r)| (*s, r))
            }
        }
    }

    /// Whether `writer`, which began at `epoch`, may still write.
    pub fn admits(&self, writer: &WriterId, epoch: Epoch) -> bool {
        epoch == self.epoch && self.primary.as_ref().is_none_or(|p| p == writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: &StoreState, epoch: u64, event: Event) -> Record {
        Record {
            store: StoreName::parse("acme").unwrap(),
            sequence: state.next_sequence(),
            epoch: Epoch(epoch),
            writer: WriterId("a".into()),
            nonce: 0,
            previous: state.head.map(|(_, h)| h),
            event,
        }
    }

    #[test]
    fn a_promotion_fences_the_old_primary() {
        let store = StoreName::parse("acme").unwrap();
        let mut state = StoreState::default();
        let (a, b) = (WriterId("a".into()), WriterId("b".into()));
        assert!(state.admits(&a, Epoch(0)));
        let promotion = record(&state, 1, Event::Promoted { primary: b.clone() });
        state.apply(&store, promotion, ContentHash::of(b"1")).unwrap();
        assert!(!state.admits(&a, Epoch(0)));
        assert!(!state.admits(&a, Epoch(1)));
        assert!(state.admits(&b, Epoch(1)));
    }

    #[test]
    fn a_log_with_a_gap_a_foreign_or_an_exchanged_record_is_refused() {
        let store = StoreName::parse("acme").unwrap();
        let mut state = StoreState::default();
        let pruned = || Event::Pruned { snapshots: vec![], doomed_packs: vec![] };
        state.apply(&store, record(&StoreState::default(), 0, pruned()), ContentHash::of(b"1")).unwrap();
        let good = record(&state, 0, pruned());
        let apply = |r: Record| state.clone().apply(&store, r, ContentHash::of(b"2"));
        assert!(matches!(
            apply(Record { sequence: Sequence(3), ..good.clone() }),
            Err(FoldError::Gap { .. })
        ));
        assert!(matches!(apply(Record { previous: None, ..good.clone() }), Err(FoldError::Chain(_))));
        assert!(matches!(apply(Record { epoch: Epoch(1), ..good.clone() }), Err(FoldError::Epoch(_))));
        let foreign = Record { store: StoreName::parse("other").unwrap(), ..good.clone() };
        assert!(matches!(apply(foreign), Err(FoldError::Store(..))));
        assert_eq!(apply(good), Ok(()));
    }
}
