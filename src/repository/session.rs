//! A writer's run, from the state that it continues from to its record.
//!
//! ```text
//! state → fence → keyring → index → orphans → base → the caller's chunks → close → merge → record
//! ```
//!
//! - Nothing is locked. Objects that a run relies on may be doomed and deleted during it. The record that
//!   does so moves the state; a run that finds that record when it commits does not commit, and begins again
//!   knowing it.
//! - Another snapshot that came first is no obstacle: its segments stay live next to this run's, and the
//!   run's record is tried again after it.
//! - A promotion fences the run. It is looked for at the beginning, and after each lost race.
//! - Packs exist completely before a segment names them, and segments before the record does. If the run is
//!   killed before its record, the head is the old snapshot, and the next run adopts the shipped chunks
//!   through their segments.

use super::append::{Appended, RACES_MAX};
use super::chunks::ChunkReader;
use super::decide::Maker;
use super::error::RepositoryError;
use super::index::Index;
use super::manifest::ManifestReader;
use super::packer::Packer;
use super::store::Store;
use crate::model::decision::{Decision, Stranded};
use crate::model::escape;
use crate::model::id::{IndexId, Sequence, StoreName, WriterId};
use crate::model::record::{Event, ObjectRef, SnapshotRecord, StoreState};
use crate::support::failure::{Failure, FailureKind};
use crate::support::mutant::{self, Mutant};
use std::sync::Arc;
use thiserror::Error;

/// The reason for which a run did not begin, or committed nothing.
#[derive(Debug, Error)]
pub enum SessionError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("store '{store}' was promoted to '{}': '{writer}' is fenced", escape::line(primary))]
    Fenced { store: StoreName, primary: String, writer: WriterId },
    #[error("store '{store}' is being handed over to '{to}': no snapshot is committed until that has ended")]
    HandingOver { store: StoreName, to: WriterId },
}

impl Failure for SessionError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Fenced { .. } => FailureKind::Fenced,
            Self::HandingOver { .. } => FailureKind::Held,
        }
    }
}

/// The result of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The snapshot has this number. `rebased` counts the other records that came first.
    Snapshot { sequence: Sequence, rebased: u32 },
    /// Data that the run may have relied on was moved, so it has to begin again.
    BeginAgain,
}

/// A writer's run.
pub struct WriteSession {
    store: Store,
    writer: WriterId,
    state: StoreState,
    /// The segments that were live when the run began.
    before: Vec<ObjectRef<IndexId>>,
    index: Arc<Index>,
    chunks: ChunkReader,
    base: Option<SnapshotRecord>,
    must_recheck: bool,
}

impl WriteSession {
    /// Begins a run of `writer`. A new store gets its keyring.
    ///
    /// # Errors
    /// Another host is the store's primary, or its keyring is not accepted.
    pub fn begin(store: &Store, writer: &WriterId) -> Result<Self, SessionError> {
        let state = store.log().state()?;
        admit(store, &state, writer)?;
        let base = state.latest().map(|(sequence, _)| sequence);
        Ok(Self::over(store, writer, state, base)?)
    }

    /// Begins a run that continues from the snapshot `base` of `state`, and ends with
    /// [`Self::commit_stranded`]: whether `writer` is the primary does not matter.
    pub(crate) fn over(
        store: &Store,
        writer: &WriterId,
        state: StoreState,
        base: Option<Sequence>,
    ) -> Result<Self, RepositoryError> {
        store.keyrings().begin_writing(state.head.is_none())?;
        let index = Arc::new(Index::open(store, &state)?);
        index.adopt_orphans(store, &state)?;
        let chunks = ChunkReader::new(store.clone(), index.clone()).cached();
        let (base, must_recheck) = usable(&state, base, &chunks)?;
        let before = state.index.clone();
        let (store, writer) = (store.clone(), writer.clone());
        Ok(Self { store, writer, state, before, index, chunks, base, must_recheck })
    }

    pub fn state(&self) -> &StoreState {
        &self.state
    }

    /// Returns the snapshot from which the run continues; `None` without one, or if its manifest is damaged.
    pub fn base(&self) -> Option<&SnapshotRecord> {
        self.base.as_ref()
    }

    /// Returns whether data that snapshots refer to was given up since the base was committed.
    ///
    /// Then no entry is taken over from it without checking its chunks.
    pub fn must_recheck(&self) -> bool {
        self.must_recheck
    }

    /// Returns the live segments, and those of interrupted runs.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Returns a reader of the store's chunks.
    pub(crate) fn chunks(&self) -> &ChunkReader {
        &self.chunks
    }

    /// Returns a packer for chunks that the store lacks.
    pub fn packer(&self) -> Packer {
        Packer::new(self.store.clone(), self.index.clone())
    }

    /// Appends `record`, whose chunks are all shipped. Its segments are filled in here.
    ///
    /// # Errors
    /// This writer was fenced meanwhile, or lost more than [`RACES_MAX`] races. Nothing was committed.
    pub fn commit(&mut self, record: &SnapshotRecord) -> Result<Committed, SessionError> {
        let moved = self.state.moved;
        let new = self.index.added(&self.before, &self.state);
        let live: Vec<_> = self.state.index.iter().chain(&new).cloned().collect();
        let merged = self.store.segments().merge(&self.index, &live)?;
        for rebased in 0..=RACES_MAX {
            let mut record = record.clone();
            record.new_index = self.index.added(&self.before, &self.state);
            let is_live =
                |id: &IndexId| self.state.index.iter().chain(&record.new_index).any(|s| s.id == *id);
            if let Some((replaced, new)) = &merged
                && replaced.iter().all(is_live)
            {
                record.new_index.retain(|s| !replaced.contains(&s.id));
                record.new_index.push(new.clone());
                record.merged_index = replaced.clone();
            }
            let event = Event::Snapshot(Box::new(record));
            match self.store.log().append(&mut self.state, &self.writer, event)? {
                Appended::Committed(sequence) => {
                    self.store.checkpoints().make_if_due(&mut self.state);
                    self.store.cache().trim(&self.state, || self.index.live_packs());
                    return Ok(Committed::Snapshot { sequence, rebased });
                }
                Appended::Lost => {
                    self.store.log().refresh(&mut self.state)?;
                    admit(&self.store, &self.state, &self.writer)?;
                    if self.state.moved != moved && !mutant::is(Mutant::NoRestart) {
                        return Ok(Committed::BeginAgain);
                    }
                }
            }
        }
        Err(RepositoryError::lost_races(self.store.name(), RACES_MAX + 1).into())
    }

    /// Decides that `stranded` is what only this former primary has; its chunks are all shipped. Its segments
    /// are filled in here.
    ///
    /// Returns `None` if data that the run may have relied on was moved, so that it has to begin again.
    ///
    /// # Errors
    /// The decision would have no effect, or too many races were lost. Nothing was committed.
    pub(crate) fn commit_stranded(
        &mut self,
        maker: Maker,
        stranded: &Stranded,
    ) -> Result<Option<Sequence>, RepositoryError> {
        let (moved, store) = (self.state.moved, self.store.clone());
        let sequence = store.log().decide(&mut self.state, maker, |state| {
            if state.moved != moved {
                return Ok::<_, RepositoryError>(None);
            }
            let new_index = self.index.added(&self.before, state);
            Ok(Some(Decision::Stranded(Stranded { new_index, ..stranded.clone() })))
        })?;
        self.store.checkpoints().make_if_due(&mut self.state);
        Ok(sequence)
    }
}

/// Refuses a writer while another host is the primary.
fn admit(store: &Store, state: &StoreState, writer: &WriterId) -> Result<(), SessionError> {
    if state.admits(writer, state.epoch) {
        return Ok(());
    }
    if let Some(underway) =
        state.authority.handover.as_ref().filter(|_| state.primary.as_ref() == Some(writer))
    {
        return Err(SessionError::HandingOver { store: store.name().clone(), to: underway.to.clone() });
    }
    let primary = state.primary.as_ref().map_or_else(String::new, |primary| primary.0.clone());
    Err(SessionError::Fenced { store: store.name().clone(), primary, writer: writer.clone() })
}

/// Returns the snapshot from which a run continues, and whether chunks of it may be missing.
///
/// A snapshot whose manifest is damaged is no base.
fn usable(
    state: &StoreState,
    base: Option<Sequence>,
    chunks: &ChunkReader,
) -> Result<(Option<SnapshotRecord>, bool), RepositoryError> {
    let found = base.and_then(|sequence| Some((sequence, state.snapshots.get(&sequence)?)));
    let Some((sequence, record)) = found else { return Ok((None, false)) };
    if state.lost <= Some(sequence) || mutant::is(Mutant::NoRecheck) {
        return Ok((Some(record.clone()), false));
    }
    let mut entries = ManifestReader::new(chunks.clone()).entries(&record.manifest);
    match entries.try_for_each(|entry| entry.map(drop)) {
        Err(error) if error.kind() == FailureKind::Damaged => Ok((None, true)),
        read => read.map(|()| (Some(record.clone()), true)),
    }
}

/// Runs `attempt` until it wins its race. Each attempt begins with the current state.
///
/// # Errors
/// Those of `attempt`, and `Unavailable` after it lost `races_max` races and one more.
pub(crate) fn until_won<T, E: From<RepositoryError>>(
    store: &Store,
    races_max: u32,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T, E> {
    for _ in 0..=races_max {
        if let Some(won) = attempt()? {
            return Ok(won);
        }
    }
    Err(RepositoryError::lost_races(store.name(), races_max + 1).into())
}
