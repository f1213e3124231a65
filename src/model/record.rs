//! The records of a store's log and their fold. The log is the store's only source of truth.

use super::authority::{Authority, Irregularity, Regular, Scene};
use super::decision::{Decided, Decision, Place, Statement};
use super::diff::ChangeCounts;
use super::hold::FilesystemId;
use super::id::{ContentHash, DaemonId, Epoch, IndexId, PackId, Sequence, StoreName, WriterId};
pub use super::manifest_root::{ManifestRoot, ObjectRef};
use super::snapshot_ref::Moment;
use crate::support::clock::UnixNanos;
use crate::support::failure::{Failure, FailureKind};
use crate::support::signature::SigningKey;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Statistics of the run that made the snapshot, for display only: no decision relies on them. Readers of
/// earlier versions ignore fields that they do not know.
///
/// The position in it is no exception: it says how near the database's moment is to the files', and a restore
/// asks the archive whether a position is in its history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatistics {
    pub changes: ChangeCounts,
    pub read_bytes: u64,
    pub new_bytes: u64,
    pub shipped_bytes: u64,
    pub torn_files: u64,
    pub unreadable: u64,
    #[serde(default)]
    pub attributes_unreadable: u64,
    #[serde(default)]
    pub unsettled: u64,
    pub vanished: u64,
    /// The daemon that made it; none for a single command, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<DaemonId>,
    /// Position of the database's replication when the scan had ended; none without a database, where its server
    /// did not answer then, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_end: Option<String>,
}

/// A manifest, made permanent by a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    pub manifest: ManifestRoot,
    #[serde(rename = "scan_start_ns")]
    pub scan_start: UnixNanos,
    #[serde(rename = "scan_end_ns")]
    pub scan_end: UnixNanos,
    /// Path of the store on the primary; lossy where it is not UTF-8.
    pub source_path: String,
    pub filesystem: FilesystemId,
    pub statistics: SnapshotStatistics,
    pub new_packs: Vec<ObjectRef<PackId>>,
    /// Segments that are live from now on, in addition to the earlier ones.
    #[serde(default)]
    pub new_index: Vec<ObjectRef<IndexId>>,
    /// Every live segment, in records of the previous format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub index: Vec<ObjectRef<IndexId>>,
    /// Position of the database's replication before the scan began; none without a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_position: Option<String>,
    /// Segments whose entries are now in another one. They are doomed, as by a pruner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged_index: Vec<IndexId>,
    /// Start of the last full scan, unless this scan is one.
    #[serde(default, rename = "full_scan_start_ns", skip_serializing_if = "Option::is_none")]
    pub full_scan_start: Option<UnixNanos>,
}

#[cfg(test)]
impl SnapshotRecord {
    /// Returns a snapshot of an empty tree, for tests.
    pub(crate) fn sample() -> Self {
        Self {
            manifest: ManifestRoot {
                page: super::id::ChunkId([1; 32]),
                height: 0,
                entries: 1,
                size_bytes: 0,
            },
            scan_start: UnixNanos(1),
            scan_end: UnixNanos(2),
            source_path: "/".into(),
            filesystem: FilesystemId { magic: 0, id: 0, root_inode: 0, mounts: None },
            statistics: SnapshotStatistics::default(),
            new_packs: Vec::new(),
            new_index: Vec::new(),
            index: Vec::new(),
            database_position: None,
            merged_index: Vec::new(),
            full_scan_start: None,
        }
    }
}

/// Minimum number of records for which a dropped snapshot is remembered, whatever their kind.
const DROPPED_RECORDS: u64 = 64;

/// Decisions of a pruner.
///
/// An object is deleted only after an earlier record doomed it, a name never comes back, and nothing refers
/// again to a doomed object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRecord {
    /// Time of the pruning, by the pruner's clock.
    #[serde(default, rename = "pruned_ns")]
    pub at: UnixNanos,
    /// Snapshots dropped by this record.
    pub snapshots: Vec<Sequence>,
    pub doomed_packs: Vec<PackId>,
    #[serde(default)]
    pub doomed_index: Vec<IndexId>,
    /// Packs that an earlier record doomed, now deleted.
    #[serde(default)]
    pub deleted_packs: Vec<PackId>,
    #[serde(default)]
    pub deleted_index: Vec<IndexId>,
    /// Packs that hold copies of the chunks still needed from doomed packs.
    #[serde(default)]
    pub new_packs: Vec<ObjectRef<PackId>>,
    /// The live segments from now on; none if they do not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Vec<ObjectRef<IndexId>>>,
    /// Some data that snapshots refer to is lost for good: the next resync checks all that it takes over.
    #[serde(default)]
    pub lost: bool,
}

impl PruneRecord {
    /// Returns whether objects that a writer relied on may be gone.
    pub(crate) fn moves(&self) -> bool {
        self.lost || self.index.is_some() || !self.doomed_packs.is_empty() || !self.doomed_index.is_empty()
    }
}

/// Reference to a keyring: its number and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingRef {
    pub sequence: u32,
    pub hash: ContentHash,
}

/// Change that a record makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Event {
    Snapshot(Box<SnapshotRecord>),
    /// Another host is primary. The record's epoch is one more than before, and only `primary` may write. In a
    /// store with members, this has no effect: nobody signed it.
    Promoted {
        primary: WriterId,
    },
    Pruned(Box<PruneRecord>),
    /// An operator wants this snapshot to stay, whatever the plan says.
    Pinned {
        snapshot: Sequence,
        note: String,
    },
    Unpinned {
        snapshot: Sequence,
    },
    /// The keyring that the record names is now in force.
    Rekeyed,
    /// A member of the store decided something, and signed it.
    Decided(Box<Decided>),
}

impl Event {
    pub(crate) fn is_decision(&self) -> bool {
        matches!(self, Self::Decided(_))
    }

    pub(crate) fn is_promotion(&self) -> bool {
        matches!(self, Self::Promoted { .. })
    }
}

/// One numbered object of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub store: StoreName,
    pub sequence: Sequence,
    pub epoch: Epoch,
    pub writer: WriterId,
    /// Random number of this one attempt. It distinguishes a lost reply from a lost race.
    pub nonce: u64,
    /// BLAKE3 of the previous record; none in the first.
    pub previous: Option<ContentHash>,
    /// The keyring in force; none in stores without a keyring that proves its maker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingRef>,
    pub event: Event,
}

/// Reason why records do not make a log.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FoldError {
    #[error("record {found} follows record {after}: records are missing between them")]
    Gap { after: Sequence, found: Sequence },
    #[error("record {0} does not name the record before it: the log was altered")]
    Chain(Sequence),
    #[error("record {0} belongs to store '{1}'")]
    Store(Sequence, StoreName),
    #[error("record {0} has an epoch that cannot follow the previous record's")]
    Epoch(Sequence),
    #[error("record {0} does not name the current keyring: its writer has only old keys")]
    Ring(Sequence),
    #[error("record {0} has a decision of which a later checkpoint knows nothing")]
    Decision(Sequence),
}

impl Failure for FoldError {
    fn kind(&self) -> FailureKind {
        FailureKind::Damaged
    }
}

/// When an object was doomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    pub sequence: Sequence,
    #[serde(rename = "ns")]
    pub at: UnixNanos,
}

/// A dropped snapshot, remembered as long as objects that only it needed may still exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    #[serde(rename = "scan_start_ns")]
    pub scan_start: UnixNanos,
    /// Number of the record that dropped it.
    pub by: Sequence,
}

/// A store's state: the fold of its log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreState {
    /// Number and hash of the last record.
    pub head: Option<(Sequence, ContentHash)>,
    pub epoch: Epoch,
    /// The only host that may write; none before the first promotion.
    pub primary: Option<WriterId>,
    /// Snapshots not dropped. Their pack and index lists are empty; see `index`.
    pub snapshots: BTreeMap<Sequence, SnapshotRecord>,
    /// The live segments, which locate the chunks of every snapshot.
    pub index: Vec<ObjectRef<IndexId>>,
    pub doomed_packs: BTreeMap<PackId, Doom>,
    pub doomed_index: BTreeMap<IndexId, Doom>,
    pub pins: BTreeMap<Sequence, String>,
    pub dropped: BTreeMap<Sequence, Dropped>,
    /// The last record after which objects that a writer relied on may be gone.
    pub moved: Option<Sequence>,
    /// The last record that gave up data which snapshots refer to.
    pub lost: Option<Sequence>,
    /// Time of the last pruning, by its own clock.
    #[serde(rename = "pruned_ns")]
    pub pruned: Option<UnixNanos>,
    /// The keyring that the last record names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingRef>,
    /// Who may decide about the store, and what was decided.
    #[serde(default, skip_serializing_if = "Authority::is_blank")]
    pub authority: Authority,
    /// Checkpoint from which a reader may begin; not part of the fold.
    #[serde(skip)]
    pub checkpoint: Option<Sequence>,
}

/// Returns whether a record may name the keyring `next` after one that names `before`.
pub(crate) fn may_follow(before: Option<RingRef>, next: Option<RingRef>) -> bool {
    match (before, next) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(before), Some(next)) => next.sequence > before.sequence || next == before,
    }
}

/// Returns the host that a record names as its maker.
fn maker(record: &Record) -> &WriterId {
    match &record.event {
        Event::Decided(decided) => &decided.member,
        _ => &record.writer,
    }
}

impl StoreState {
    /// Checks one more record and applies it; `hash` is the BLAKE3 of its bytes.
    pub(crate) fn apply(
        &mut self,
        store: &StoreName,
        record: Record,
        hash: ContentHash,
    ) -> Result<(), FoldError> {
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
        if !may_follow(self.ring, record.ring) {
            return Err(FoldError::Ring(sequence));
        }
        match self.verdict(store, &record) {
            Some(Ok(regular)) => {
                self.decide(sequence, record.epoch, regular);
                self.epoch = record.epoch;
            }
            Some(Err(why)) => self.authority.irregular.note(sequence, maker(&record), &why),
            None => {
                let promoted = u64::from(matches!(record.event, Event::Promoted { .. }));
                if record.epoch.0 != self.epoch.0 + promoted {
                    return Err(FoldError::Epoch(sequence));
                }
                if self.authority.is_founded() && !self.is_admitted(&record) {
                    // What it refers to is in the repository, so it stays: but people must hear of it.
                    self.authority.irregular.note(sequence, maker(&record), &Irregularity::Snapshot);
                }
                self.take(sequence, record.event);
                self.epoch = record.epoch;
            }
        }
        self.ring = record.ring;
        self.head = Some((sequence, hash));
        Ok(())
    }

    fn is_admitted(&self, record: &Record) -> bool {
        !matches!(record.event, Event::Snapshot(_)) || self.admits(&record.writer, self.epoch)
    }

    /// Judges a record that decides about the primary; `None` for any other record.
    fn verdict(&self, store: &StoreName, record: &Record) -> Option<Result<Regular, Irregularity>> {
        match &record.event {
            Event::Decided(decided) => Some(self.judge(store, decided, record.epoch)),
            Event::Promoted { .. } if self.authority.is_founded() => Some(Err(Irregularity::Unsigned)),
            _ => None,
        }
    }

    /// Judges a decision in the next record, which has this epoch.
    fn judge(&self, store: &StoreName, decided: &Decided, epoch: Epoch) -> Result<Regular, Irregularity> {
        let previous = self.head.map(|(_, hash)| hash);
        let place = Place { store, sequence: self.next_sequence(), previous, epoch };
        let scene = Scene {
            epoch: self.epoch,
            primary: self.primary.as_ref(),
            latest: self.latest().map(|(sequence, _)| sequence),
            has_snapshot: &|sequence| self.snapshots.contains_key(&sequence),
        };
        self.authority.judge(&scene, decided, &place)
    }

    /// Signs a decision for the next record, and judges it there.
    ///
    /// # Errors
    /// The reason why it would have no effect.
    pub(crate) fn sign(
        &self,
        store: &StoreName,
        statement: &Statement,
        member: &WriterId,
        key: &SigningKey,
    ) -> Result<Event, Irregularity> {
        let epoch = Epoch(self.epoch.0 + u64::from(self.authority.promotes(&statement.decision)));
        let previous = self.head.map(|(_, hash)| hash);
        let place = Place { store, sequence: self.next_sequence(), previous, epoch };
        let decided = Decided::sign(statement, member, key, &place).map_err(|_| Irregularity::Statement)?;
        self.judge(store, &decided, epoch)?;
        Ok(Event::Decided(Box::new(decided)))
    }

    /// Returns the epoch of the next record, if it has this event.
    pub(crate) fn epoch_with(&self, event: &Event) -> Epoch {
        let promotes = match event {
            Event::Promoted { .. } => true,
            Event::Decided(decided) => {
                decided.statement().is_some_and(|statement| self.authority.promotes(&statement.decision))
            }
            _ => false,
        };
        Epoch(self.epoch.0 + u64::from(promotes))
    }

    /// Takes a decision that has effect.
    fn decide(&mut self, sequence: Sequence, epoch: Epoch, regular: Regular) {
        if let Decision::Stranded(stranded) = &regular.decision {
            self.add_index(stranded.new_index.clone());
        }
        let former = self.primary.clone();
        self.authority.take(sequence, epoch, former, &regular);
        if regular.promotes {
            self.primary = Some(regular.maker);
        }
    }

    /// Applies the event of record `sequence`, whichever records came before. For a log with gaps, this gives
    /// all that is known.
    pub(crate) fn take(&mut self, sequence: Sequence, event: Event) {
        match event {
            Event::Snapshot(mut snapshot) => {
                self.take_index(&mut snapshot);
                let doom = Doom { sequence, at: snapshot.scan_end };
                let merged = std::mem::take(&mut snapshot.merged_index);
                self.doomed_index.extend(merged.into_iter().map(|id| (id, doom)));
                snapshot.new_packs = Vec::new();
                self.snapshots.insert(sequence, *snapshot);
            }
            Event::Promoted { primary } => self.primary = Some(primary),
            Event::Pruned(pruned) => self.prune(sequence, *pruned),
            Event::Pinned { snapshot, note } => {
                self.pins.insert(snapshot, note);
            }
            Event::Unpinned { snapshot } => {
                self.pins.remove(&snapshot);
            }
            Event::Rekeyed => {}
            // Without the records before it, nobody can say whether a decision holds. What it may refer to
            // counts as referred to.
            Event::Decided(decided) => {
                let decision = decided.statement().map(|statement| statement.decision);
                if let Some(Decision::Stranded(stranded)) = decision {
                    self.add_index(stranded.new_index.clone());
                    self.authority.stranded.insert(sequence, stranded);
                }
            }
        }
    }

    fn take_index(&mut self, snapshot: &mut SnapshotRecord) {
        let all = std::mem::take(&mut snapshot.index);
        if !all.is_empty() {
            self.index = all;
        }
        self.index.retain(|segment| !snapshot.merged_index.contains(&segment.id));
        self.add_index(std::mem::take(&mut snapshot.new_index));
    }

    fn add_index(&mut self, segments: Vec<ObjectRef<IndexId>>) {
        for new in segments {
            if !self.index.contains(&new) {
                self.index.push(new);
            }
        }
    }

    fn prune(&mut self, sequence: Sequence, pruned: PruneRecord) {
        if pruned.moves() {
            self.moved = Some(sequence);
        }
        if pruned.lost {
            self.lost = Some(sequence);
        }
        for number in &pruned.snapshots {
            if let Some(snapshot) = self.snapshots.remove(number) {
                let dropped = Dropped { scan_start: snapshot.scan_start, by: sequence };
                self.dropped.insert(*number, dropped);
            }
            self.pins.remove(number);
        }
        let doom = Doom { sequence, at: pruned.at };
        self.doomed_packs.extend(pruned.doomed_packs.into_iter().map(|id| (id, doom)));
        self.doomed_index.extend(pruned.doomed_index.into_iter().map(|id| (id, doom)));
        for id in &pruned.deleted_packs {
            self.doomed_packs.remove(id);
        }
        for id in &pruned.deleted_index {
            self.doomed_index.remove(id);
        }
        let waiting: BTreeSet<_> = self.doomed_packs.values().map(|doom| doom.sequence).collect();
        let is_young = |dropped: &Dropped| dropped.by.0 + DROPPED_RECORDS >= sequence.0;
        self.dropped.retain(|_, dropped| is_young(dropped) || waiting.contains(&dropped.by));
        if let Some(index) = pruned.index {
            self.index = index;
        }
        self.pruned = Some(pruned.at);
    }

    /// Returns the number of the next record.
    pub fn next_sequence(&self) -> Sequence {
        self.head.map_or(Sequence(0), |(s, _)| s).next()
    }

    /// Returns every tree that must be restorable, by its record: those of the snapshots, and those of former
    /// primaries.
    pub(crate) fn trees(&self) -> BTreeMap<Sequence, ManifestRoot> {
        let snapshots = self.snapshots.iter().map(|(sequence, record)| (*sequence, &record.manifest));
        let stranded = self.authority.stranded.iter();
        let stranded = stranded.map(|(sequence, stranded)| (*sequence, &stranded.manifest));
        snapshots.chain(stranded).map(|(sequence, manifest)| (sequence, manifest.clone())).collect()
    }

    pub fn latest(&self) -> Option<(Sequence, &SnapshotRecord)> {
        self.snapshots.last_key_value().map(|(s, r)| (*s, r))
    }

    /// Returns the snapshot that a user means.
    pub fn find(&self, moment: Moment) -> Option<(Sequence, &SnapshotRecord)> {
        match moment {
            Moment::Latest => self.latest(),
            Moment::At(sequence) => self.snapshots.get(&sequence).map(|r| (sequence, r)),
            Moment::AsOf(time) => {
                self.snapshots.iter().rev().find(|(_, r)| r.scan_start <= time).map(|(s, r)| (*s, r))
            }
        }
    }

    /// Returns whether `writer`, which began at `epoch`, may still write. A host is identified by its name,
    /// so a restart needs no promotion. During a handover nobody may: the target begins with what is there.
    pub(crate) fn admits(&self, writer: &WriterId, epoch: Epoch) -> bool {
        epoch == self.epoch
            && self.primary.as_ref().is_none_or(|p| p == writer)
            && self.authority.handover.is_none()
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
            ring: state.ring,
            event,
        }
    }

    #[test]
    fn behind_a_record_of_one_keyring_none_is_taken_of_an_older_one() {
        let store = StoreName::parse("acme").unwrap();
        let ring = |sequence, hash: &[u8]| Some(RingRef { sequence, hash: ContentHash::of(hash) });
        let mut state = StoreState::default();
        let named = |state: &StoreState, ring| Record { ring, ..record(state, 0, Event::Rekeyed) };
        let before = named(&state, None);
        state.apply(&store, before, ContentHash::of(b"1")).unwrap();
        let second = named(&state, ring(2, b"b"));
        state.apply(&store, second, ContentHash::of(b"2")).unwrap();
        for (next, is_taken) in [
            (None, false),
            (ring(1, b"a"), false),
            (ring(2, b"other"), false),
            (ring(2, b"b"), true),
            (ring(3, b"c"), true),
        ] {
            let applied = state.clone().apply(&store, named(&state, next), ContentHash::of(b"3"));
            assert_eq!(applied, if is_taken { Ok(()) } else { Err(FoldError::Ring(Sequence(3))) });
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
        let pruned = || Event::Pruned(Box::default());
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
