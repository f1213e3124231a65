//! Prunes a store: drops snapshots that no rule keeps, and deletes what only they needed. Takes no locks.
//!
//! ```text
//! retention → marks → holds → deletion of what is due → plan → copies → index → record (dooms) → …
//! ```
//!
//! - A record dooms packs and segments, and only doomed objects are deleted. Names are random, so a doomed
//!   object never comes back. A writer that relied on one finds the record when it commits, and begins again.
//! - A pruning computes with one state of the log and commits directly after it. If another record was
//!   appended meanwhile, the pruning begins again, so that the references of a new snapshot are included.
//! - Deletion waits for some records and some time, so that running readers can finish: a reader looks up
//!   again any chunk that has moved. Only the store's clock, which dates every object (see `store_time`),
//!   decides when an object is deleted and how long a standby's snapshots are kept: a pruner whose clock is
//!   wrong deletes nothing early.
//! - Packs and segments that no record names belong to a run that is in progress or was interrupted. They are
//!   doomed when they are old, by the store's clock. If that run is still alive, it ships them again.
//! - A pruning is held if another record dropped snapshots that the rules keep, or if the remaining snapshots
//!   refer to missing chunks: then nothing is doomed or deleted. Credentials that can write to the log but
//!   not delete can therefore never cause a deletion (see `drops`).
//!
//! A pruning that is killed at any point leaves garbage for the next one, never a broken snapshot.

use super::binlog;
use super::drops::{self, Wrong};
use super::leftovers;
use super::mark::{Marks, mark};
use super::prune_plan::{self, Bounds, PackFact, PackPlan};
use super::repack;
use crate::api::requests::Requests;
use crate::model::id::{IndexId, PackId, Sequence, WriterId};
use crate::model::record::{Event, PruneRecord, StoreState};
use crate::model::retention::{self, Reason, Retention};
use crate::repository::append::Appended;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::object_key;
use crate::repository::objects::{Creation, modified};
use crate::repository::packer::Packer;
use crate::repository::session::until_won;
use crate::repository::store::Store;
use crate::repository::store_time;
use crate::support::clock::{DAY, HOUR, UnixNanos};
use crate::support::failure::{Failure, FailureKind};
use crate::support::mutant::{self, Mutant};
use object_store::PutPayload;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Maximum number of races that a pruning loses in a row before it gives up.
const RACES_MAX: u32 = 20;

/// Default time without a report after which a standby counts as gone.
pub(crate) const SILENCE: Duration = DAY.saturating_mul(30);
/// Multiple of that time after which the note of a silent standby is removed. Until then it is shown.
const SHOWN_SILENCES: u32 = 4;

/// The grace between dooming an object and deleting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// Minimum number of records after the one that doomed it.
    pub records: u64,
    /// Minimum time since that record was put, by the store's clock.
    pub time: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self { records: 2, time: 72 * HOUR }
    }
}

/// The parameters of a pruning.
#[derive(Clone, Debug)]
pub struct PruneRequest {
    pub retention: Retention,
    pub writer: WriterId,
    pub grace: Grace,
    pub bounds: Bounds,
    /// Time without a report after which nothing is kept for a standby.
    pub silence: Duration,
    /// Reports what would be done, and changes nothing.
    pub dry_run: bool,
    /// Deletes although another record dropped snapshots that the rules keep.
    pub accept: bool,
}

impl PruneRequest {
    pub fn new(retention: Retention, writer: WriterId) -> Self {
        let bounds = Bounds { unused_percent: 10, orphan_age: 7 * DAY, copied_max_bytes: 4 << 30 };
        let grace = Grace::default();
        Self { retention, writer, grace, bounds, silence: SILENCE, dry_run: false, accept: false }
    }
}

/// The reason for which nothing was pruned.
#[derive(Debug, Error)]
pub enum PruneError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(
        "store '{store}': record {by} dropped {count} snapshots that the rules keep (the first is {first}); nothing was deleted. If that is right, run `understudy prune` with --accept; if not, `understudy restore --until-record {}` can still restore them", by.0.saturating_sub(1)
    )]
    Held { store: String, by: Sequence, count: usize, first: Sequence },
    #[error(
        "store '{store}': {count} references of kept snapshots point to missing content; nothing was doomed or deleted, since the content may still be there. Run `understudy verify {store}` to see which files are affected; if they are lost for good, run `understudy prune` with --accept"
    )]
    Missing { store: String, count: u64 },
}

impl Failure for PruneError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Held { .. } | Self::Missing { .. } => FailureKind::Held,
        }
    }
}

/// One snapshot's verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub snapshot: Sequence,
    #[serde(rename = "scan_start_ns")]
    pub scan_start: UnixNanos,
    /// The reasons for which it stays. Without one it is dropped.
    pub kept_for: Vec<Reason>,
}

/// A standby for which nothing is kept.
#[derive(Clone, Debug, Serialize)]
pub struct SilentStandby {
    pub host: String,
    pub silent_days: u64,
    /// Whether its note was removed, too.
    pub forgotten: bool,
}

/// The work that a pruning did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PruneReport {
    pub store: String,
    pub dry_run: bool,
    pub snapshots: Vec<Verdict>,
    pub snapshots_dropped: u64,
    pub packs: u64,
    pub packs_bytes: u64,
    pub alive_bytes: u64,
    pub packs_doomed: u64,
    pub doomed_bytes: u64,
    /// Number of doomed packs that no record named.
    pub orphans: u64,
    pub packs_repacked: u64,
    pub copied_bytes: u64,
    pub objects_deleted: u64,
    pub deleted_bytes: u64,
    /// Doomed packs that are not yet deleted.
    pub packs_waiting: u64,
    pub waiting_bytes: u64,
    pub segments_before: u64,
    pub segments_after: u64,
    /// References to chunks that were lost earlier.
    pub missing: u64,
    /// Standbys without a report for so long that nothing is kept for them.
    pub silent_standbys: Vec<SilentStandby>,
    /// Number of leftovers of interrupted uploads and probes that were deleted.
    pub leftovers_deleted: u64,
    /// Segments of the database's archive that no seed needed any more, or would need.
    pub archive_segments_deleted: u64,
    /// The reason for which nothing could be deleted, if the credentials do not allow it.
    pub deletion_refused: Option<String>,
    /// The record of the pruning; `None` if there was nothing to do.
    pub record: Option<Sequence>,
    pub requests: Requests,
}

/// A function that is called at each step of a pruning, with the step's name.
pub(crate) type OnStep<'a> = dyn Fn(&'static str) + 'a;

/// Prunes a store.
pub fn prune(store: &Store, request: &PruneRequest, on_step: &OnStep) -> Result<PruneReport, PruneError> {
    let before = store.repository().requests();
    let mut report = until_won(store, RACES_MAX, || attempt(store, request, on_step))?;
    report.requests = store.repository().requests().since(&before);
    Ok(report)
}

/// Prunes once. Returns `None` if another record came first, so that everything must be computed again.
fn attempt(
    store: &Store,
    request: &PruneRequest,
    on_step: &OnStep,
) -> Result<Option<PruneReport>, PruneError> {
    let mut state = store.log().state()?;
    if state.head.is_none() {
        return Err(RepositoryError::NoStore(store.name().clone()).into());
    }
    if !request.dry_run {
        store.keyrings().admit_writer()?;
    }
    let began = state.head;
    let needed = binlog::needed_from(&state);
    let pruned = Pruning::new(store, request, on_step, &state)
        .map_err(PruneError::from)
        .and_then(|mut pruning| Ok(pruning.run(&mut state)?.then_some(pruning)));
    let pruning = match pruned {
        // Another pruning may have deleted what was about to be read: then the log has moved on.
        Err(PruneError::Repository(error)) if error.kind() == FailureKind::Damaged => {
            return if store.log().state()?.head == began { Err(error.into()) } else { Ok(None) };
        }
        other => other?,
    };
    let Some(Pruning { mut report, index, store_now, .. }) = pruning else { return Ok(None) };
    if let Some(needed) = needed {
        let pruned = binlog::prune(store, &needed, request.dry_run)?;
        report.archive_segments_deleted = pruned.segments;
        report.deletion_refused = report.deletion_refused.or(pruned.refused);
    }
    if request.dry_run {
        return Ok(Some(report));
    }
    if let Some((head, _)) = state.head.filter(|_| request.accept) {
        drops::accept(store, head);
    }
    store.checkpoints().make_if_due(&mut state);
    let _ = store.checkpoints().drop_old();
    store.cache().trim(&state, || index.live_packs());
    report.leftovers_deleted = leftovers::remove(store, store_now, request.bounds.orphan_age);
    Ok(Some(report))
}

struct Found {
    size_bytes: u64,
    modified: UnixNanos,
}

struct Pruning<'a> {
    store: &'a Store,
    request: &'a PruneRequest,
    on_step: &'a OnStep<'a>,
    /// Packs and segments that exist.
    packs: BTreeMap<PackId, Found>,
    segments: BTreeMap<IndexId, Found>,
    store_now: UnixNanos,
    index: Arc<Index>,
    report: PruneReport,
}

impl<'a> Pruning<'a> {
    fn new(
        store: &'a Store,
        request: &'a PruneRequest,
        on_step: &'a OnStep<'a>,
        state: &StoreState,
    ) -> Result<Self, RepositoryError> {
        let found =
            |meta: &object_store::ObjectMeta| Found { size_bytes: meta.size, modified: modified(meta) };
        let list = |prefix| store.wait(store.objects().list(Some(&prefix), None));
        let packs = list(object_key::pack_prefix(store.name()))?;
        let segments = list(object_key::index_prefix(store.name()))?;
        let packs =
            packs.iter().filter_map(|o| Some((object_key::parse_pack(&o.location)?, found(o)))).collect();
        let segments =
            segments.iter().filter_map(|o| Some((object_key::parse_index(&o.location)?, found(o)))).collect();
        let report =
            PruneReport { store: store.name().to_string(), dry_run: request.dry_run, ..Default::default() };
        let index = Arc::new(Index::open(store, state)?);
        let mut pruning =
            Self { store, request, on_step, packs, segments, store_now: UnixNanos::EPOCH, index, report };
        pruning.store_now = pruning.store_clock()?;
        Ok(pruning)
    }

    /// Returns the time of the clock that dates the store's objects.
    ///
    /// No other clock is compared with their times.
    ///
    /// If the store does not report a time, this returns 1970, and none of its objects is old.
    fn store_clock(&self) -> Result<UnixNanos, RepositoryError> {
        if self.request.dry_run {
            // Reading the clock takes a write.
            return Ok(self.store.env().wall());
        }
        let at = object_key::probe(self.store.env().nonce());
        let objects = self.store.objects();
        let now = self.store.wait(async {
            let created: Creation = objects.create(&at, PutPayload::from_static(b"what time is it")).await?;
            let meta = objects.modified(&at).await;
            // A probe that stays is harmless, and is removed when it is old.
            let _ = objects.delete(&at).await;
            match created {
                Creation::Created => meta,
                Creation::Existed => Ok(None),
            }
        })?;
        Ok(now.unwrap_or_default())
    }

    /// Prunes with one state. Returns false if another writer's record came first.
    fn run(&mut self, state: &mut StoreState) -> Result<bool, PruneError> {
        let (snapshots, marks) = self.mark(state)?;
        let due = self.due(state)?;
        let deleted = if self.request.dry_run { due } else { self.delete(due)? };
        (self.on_step)("deleted");

        let facts = self.facts(state, &marks)?;
        let plan = prune_plan::plan(&facts, &self.request.bounds);
        self.count(state, &facts, &plan);
        (self.on_step)("planned");
        if self.request.dry_run {
            self.report.segments_after = self.report.segments_before;
            return Ok(true);
        }
        let moved = self.move_chunks(state, &marks, &plan)?;
        let (deleted_packs, deleted_index) = deleted;
        let record = PruneRecord { snapshots, deleted_packs, deleted_index, ..moved };
        self.report.segments_after = record.index.as_ref().map_or(state.index.len(), Vec::len) as u64;
        (self.on_step)("indexed");
        self.append(state, record)
    }

    /// Finds the snapshots to drop, and marks the chunks that the others need.
    ///
    /// It fails if an operator has to look first.
    fn mark(&mut self, state: &StoreState) -> Result<(Vec<Sequence>, Marks), PruneError> {
        let verdicts = self.decide(state)?;
        let (kept, dropped): (Vec<_>, Vec<_>) = verdicts.iter().partition(|v| !v.kept_for.is_empty());
        let dropped: Vec<Sequence> = dropped.iter().map(|v| v.snapshot).collect();
        self.report.snapshots_dropped = dropped.len() as u64;
        let mut marks = Marks::none(self.index.clone());
        for record in kept.iter().filter_map(|verdict| state.snapshots.get(&verdict.snapshot)) {
            mark(self.store, &mut marks, &record.manifest, state.lost.is_some())?;
        }
        // What only a former primary has stays until a person has settled it.
        for stranded in state.authority.stranded.values() {
            mark(self.store, &mut marks, &stranded.manifest, state.lost.is_some())?;
        }
        self.report.snapshots = verdicts;
        self.report.missing = marks.missing;
        if !self.request.accept {
            let drops = drops::find(self.store, state, self.request.grace.time, self.store_now)?;
            if let Some(Wrong { by, count, first }) = drops::judge(state, &drops, &self.request.retention) {
                let store = self.store.name().to_string();
                return Err(PruneError::Held { store, by, count, first });
            }
            if marks.missing > 0 {
                let store = self.store.name().to_string();
                return Err(PruneError::Missing { store, count: marks.missing });
            }
        }
        Ok((dropped, marks))
    }

    /// Copies needed chunks out of packs that will be doomed, and writes the index without these packs.
    ///
    /// Returns the record's part about them.
    fn move_chunks(
        &mut self,
        state: &StoreState,
        marks: &Marks,
        plan: &PackPlan,
    ) -> Result<PruneRecord, RepositoryError> {
        let gone: BTreeSet<PackId> = plan.doom.iter().chain(&plan.repack).copied().collect();
        let repacked: BTreeSet<PackId> = plan.repack.iter().copied().collect();
        // From here on the index finds no chunk in these packs, so that the needed ones are copied.
        self.index.doom(gone.iter().copied());
        let packer = Packer::new(self.store.clone(), self.index.clone()).in_order();
        let before = self.index.segments();
        repack::copy_marked(self.store, &before, &repacked, marks, &packer)?;
        let shipped = packer.close()?;
        self.report.copied_bytes = shipped.bytes;
        (self.on_step)("copied");

        let (index, replaced) = self.store.segments().rewrite(&before, &gone, &shipped.segments)?;
        let mut doomed_index = self.orphan_segments(state);
        doomed_index.extend(&replaced);
        Ok(PruneRecord {
            at: self.store.env().wall(),
            doomed_packs: gone.into_iter().collect(),
            doomed_index,
            new_packs: shipped.packs,
            index: (index != state.index).then_some(index),
            ..Default::default()
        })
    }

    /// Appends the record, unless it is empty. Returns false if another writer's record came first.
    fn append(&mut self, state: &mut StoreState, record: PruneRecord) -> Result<bool, PruneError> {
        let is_empty = !record.moves()
            && record.snapshots.is_empty()
            && record.deleted_packs.is_empty()
            && record.deleted_index.is_empty();
        if is_empty {
            return Ok(true);
        }
        let event = Event::Pruned(Box::new(record));
        let appended = match mutant::is(Mutant::NoReplan) {
            false => self.store.log().append(state, &self.request.writer, event)?,
            true => {
                let again = |_: &StoreState| Ok::<_, RepositoryError>(Some(event.clone()));
                let won = self.store.log().append_until_won(state, &self.request.writer, again)?;
                won.map_or(Appended::Lost, Appended::Committed)
            }
        };
        let Appended::Committed(sequence) = appended else { return Ok(false) };
        self.report.record = Some(sequence);
        (self.on_step)("committed");
        Ok(true)
    }

    fn decide(&mut self, state: &StoreState) -> Result<Vec<Verdict>, RepositoryError> {
        let times = state.snapshots.iter().map(|(s, r)| (*s, r.scan_start)).collect();
        let also = self.in_use(state)?;
        let verdicts = retention::decide(&self.request.retention, &times, &also);
        Ok(verdicts
            .into_iter()
            .map(|(snapshot, kept_for)| Verdict { snapshot, scan_start: times[&snapshot], kept_for })
            .collect())
    }

    /// Returns the snapshots that stay for reasons other than the rules.
    ///
    /// They are pinned, or used by a standby that reports.
    fn in_use(&mut self, state: &StoreState) -> Result<BTreeMap<Sequence, Vec<Reason>>, RepositoryError> {
        let mut also: BTreeMap<Sequence, Vec<Reason>> = BTreeMap::new();
        for (sequence, note) in &state.pins {
            also.entry(*sequence).or_default().push(Reason::Pinned(note.clone()));
        }
        let silence = self.request.silence;
        for (sequence, why) in state.authority.needed() {
            also.entry(sequence).or_default().push(Reason::Failover(why));
        }
        for report in self.store.notes().standbys()? {
            if report.is_silent(self.store_now, silence) {
                let forgotten = !self.request.dry_run
                    && report.is_silent(self.store_now, silence.saturating_mul(SHOWN_SILENCES))
                    && self.store.notes().forget_standby(&report.host).is_ok();
                let silent_days = self.store_now.since(report.noted).as_secs() / DAY.as_secs();
                self.report.silent_standbys.push(SilentStandby {
                    host: report.host.0,
                    silent_days,
                    forgotten,
                });
                continue;
            }
            for sequence in report.pinned.iter().chain([&report.snapshot]) {
                let reasons = also.entry(*sequence).or_default();
                let reason = Reason::Standby(report.host.0.clone());
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
        }
        Ok(also)
    }

    /// Returns the packs and segments whose grace has ended.
    fn due(&self, state: &StoreState) -> Result<(Vec<PackId>, Vec<IndexId>), RepositoryError> {
        let head = state.head.map_or(0, |(sequence, _)| sequence.0);
        let Grace { records, time } = self.request.grace;
        let dooms = state.doomed_packs.values().chain(state.doomed_index.values());
        let times = match dooms.map(|doom| doom.sequence).min() {
            // Without a grace in time there is nothing to look up.
            Some(first) if !time.is_zero() => self.store.log().record_times(first)?,
            _ => BTreeMap::new(),
        };
        let is_due = |doom: &crate::model::record::Doom| {
            let age = store_time::age(&times, doom.sequence, self.store_now);
            head.saturating_sub(doom.sequence.0) >= records && (time.is_zero() || age >= time)
        };
        let packs = state.doomed_packs.iter().filter(|(_, doom)| is_due(doom)).map(|(id, _)| *id);
        let segments = state.doomed_index.iter().filter(|(_, doom)| is_due(doom)).map(|(id, _)| *id);
        Ok((packs.collect(), segments.collect()))
    }

    /// Deletes packs and segments.
    ///
    /// If the credentials do not allow it, this is reported and the pruning continues.
    fn delete(
        &mut self,
        (packs, segments): (Vec<PackId>, Vec<IndexId>),
    ) -> Result<(Vec<PackId>, Vec<IndexId>), RepositoryError> {
        let name = self.store.name();
        let objects = self.store.objects();
        let mut deleted = (Vec::new(), Vec::new());
        let keys =
            packs.iter().map(|id| (object_key::pack(name, *id), self.packs.get(id).map(|f| f.size_bytes)));
        let keys = keys.chain(
            segments
                .iter()
                .map(|id| (object_key::index(name, *id), self.segments.get(id).map(|f| f.size_bytes))),
        );
        for (number, (at, size)) in keys.enumerate() {
            if let Some(size_bytes) = size {
                match self.store.wait(objects.delete(&at)) {
                    Err(error) if error.kind() == FailureKind::Usage => {
                        self.report.deletion_refused = Some(error.to_string());
                        break;
                    }
                    other => other?,
                }
                self.report.objects_deleted += 1;
                self.report.deleted_bytes += size_bytes;
            }
            match packs.get(number) {
                Some(id) => deleted.0.push(*id),
                None => deleted.1.push(segments[number - packs.len()]),
            }
        }
        for id in &deleted.0 {
            self.packs.remove(id);
        }
        for id in &deleted.1 {
            self.segments.remove(id);
        }
        Ok(deleted)
    }

    /// Collects the facts about each pack that is not doomed.
    fn facts(&self, state: &StoreState, marks: &Marks) -> Result<Vec<PackFact>, RepositoryError> {
        let mut alive: HashMap<PackId, u64> = HashMap::new();
        let mut indexed: BTreeMap<PackId, u64> = BTreeMap::new();
        for (number, segment) in self.index.segments().iter().enumerate() {
            indexed.extend(segment.header.packs.iter().map(|p| (p.id, p.size_bytes)));
            for (entry, found) in segment.entries().enumerate() {
                let (_, location) = found?;
                if marks.contains((number, entry as u32)) {
                    *alive.entry(location.pack).or_default() += u64::from(location.length_bytes);
                }
            }
        }
        let mut facts = Vec::new();
        for (id, size_bytes) in &indexed {
            // A named pack that does not exist is reported by `verify`.
            if !state.doomed_packs.contains_key(id) {
                facts.push(PackFact {
                    id: *id,
                    size_bytes: *size_bytes,
                    alive_bytes: alive.get(id).copied().unwrap_or(0),
                    is_indexed: true,
                    age: Duration::ZERO,
                });
            }
        }
        for (id, found) in &self.packs {
            if !indexed.contains_key(id) && !state.doomed_packs.contains_key(id) {
                facts.push(PackFact {
                    id: *id,
                    size_bytes: found.size_bytes,
                    alive_bytes: 0,
                    is_indexed: false,
                    age: self.store_now.since(found.modified),
                });
            }
        }
        Ok(facts)
    }

    fn count(&mut self, state: &StoreState, facts: &[PackFact], plan: &PackPlan) {
        let report = &mut self.report;
        let doom: BTreeSet<_> = plan.doom.iter().copied().collect();
        let repack: BTreeSet<_> = plan.repack.iter().copied().collect();
        report.packs = facts.len() as u64;
        for fact in facts {
            report.packs_bytes += fact.size_bytes;
            report.alive_bytes += fact.alive_bytes;
            if doom.contains(&fact.id) || repack.contains(&fact.id) {
                report.packs_doomed += 1;
                report.doomed_bytes += fact.size_bytes;
                report.orphans += u64::from(!fact.is_indexed);
            }
        }
        report.packs_repacked = plan.repack.len() as u64;
        if self.request.dry_run {
            let repacked = facts.iter().filter(|f| repack.contains(&f.id));
            report.copied_bytes = repacked.map(|f| f.alive_bytes).sum();
        }
        report.segments_before = state.index.len() as u64;
        for id in state.doomed_packs.keys() {
            if let Some(found) = self.packs.get(id) {
                report.packs_waiting += 1;
                report.waiting_bytes += found.size_bytes;
            }
        }
    }

    /// Returns old segments that no record names.
    fn orphan_segments(&self, state: &StoreState) -> Vec<IndexId> {
        let named =
            |id: &IndexId| state.index.iter().any(|s| s.id == *id) || state.doomed_index.contains_key(id);
        let is_old = |found: &Found| self.store_now.since(found.modified) >= self.request.bounds.orphan_age;
        let orphans = self.segments.iter().filter(|(id, found)| !named(id) && is_old(found));
        orphans.map(|(id, _)| *id).collect()
    }
}
