//! The end of a run: its snapshot becomes the log's next record.
//!
//! Another snapshot that came first is no obstacle: its segments stay live beside ours. A promotion may fence us: the caller
//! decides. A pruning that moved something may have taken what this run relied on: it begins again, with that known.

use crate::model::id::{IndexId, Sequence, WriterId};
use crate::model::record::{Event, ObjectRef, SnapshotRecord, StoreState};
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::log::Appended;
use crate::repository::store::Store;

/// A run that loses so many races for the next number gives up.
const REBASES_MAX: u32 = 1000;

/// A run that shipped all that its snapshot needs.
pub struct Commit<'a> {
    pub store: &'a Store,
    pub index: &'a Index,
    /// The segments that were live when the run began.
    pub before: &'a [ObjectRef<IndexId>],
    pub writer: &'a WriterId,
}

impl Commit<'_> {
    /// Appends `record`. `admit` says whether this writer may, as things stand. Returns the snapshot's number and how often
    /// another record came first; none when the run has to begin again.
    pub fn run<E: From<RepositoryError>>(
        &self,
        state: &mut StoreState,
        record: &SnapshotRecord,
        admit: impl Fn(&StoreState) -> Result<(), E>,
    ) -> Result<Option<(Sequence, u32)>, E> {
        let moved = state.moved;
        let new = self.index.added(self.before, state);
        let live: Vec<_> = state.index.iter().chain(&new).cloned().collect();
        let merged = self.store.merge_segments(self.index, &live)?;
        let mut rebased = 0;
        loop {
            let mut record = record.clone();
            record.new_index = self.index.added(self.before, state);
            let is_live = |id: &IndexId| state.index.iter().chain(&record.new_index).any(|s| s.id == *id);
            if let Some((replaced, new)) = &merged
                && replaced.iter().all(is_live)
            {
                record.new_index.retain(|s| !replaced.contains(&s.id));
                record.new_index.push(new.clone());
                record.merged_index = replaced.clone();
            }
            let event = Event::Snapshot(Box::new(record));
            let epoch = state.epoch;
            match self.store.append(state, epoch, self.writer, self.store.env().nonce(), event)? {
                Appended::Committed(sequence) => {
                    self.store.checkpoint_if_due(state);
                    return Ok(Some((sequence, rebased)));
                }
                Appended::Lost => {
                    rebased += 1;
                    self.store.refresh(state)?;
                    admit(state)?;
                    if state.moved != moved {
                        return Ok(None);
                    }
                    if rebased > REBASES_MAX {
                        return Err(RepositoryError::lost_races(self.store.name(), rebased).into());
                    }
                }
            }
        }
    }
}
