//! Appends to a store's log by creating its next record.
//!
//! The object store alone settles races: of two writers that create one number, one wins. A writer whose
//! reply was lost finds its own writer id and nonce in the record, and has won.

use super::error::RepositoryError;
use super::key_cache::Loaded;
use super::memory::Passed;
use super::object_key;
use super::objects::Creation;
use super::parts::Log;
use crate::format::record as format;
use crate::format::record::RECORD_MAX_BYTES;
use crate::model::id::{ContentHash, Sequence, WriterId};
use crate::model::record::{Event, FoldError, Record, StoreState, may_follow};
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;
use object_store::PutPayload;
use std::sync::Arc;

/// Maximum number of races for the next record that a writer loses before it gives up.
pub const RACES_MAX: u32 = 1000;

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    Committed(Sequence),
    /// Another writer took this number; the log must be read again.
    Lost,
}

impl Log<'_> {
    /// Tries once to append `event` after `state`'s head. On success the new record is `state`'s head.
    pub fn append(
        &self,
        state: &mut StoreState,
        writer: &WriterId,
        event: Event,
    ) -> Result<Appended, RepositoryError> {
        self.store.keyrings().admit_writer()?;
        let mut loaded = self.store.keyrings().loaded()?;
        let named = |loaded: &Option<Arc<Loaded>>| loaded.as_ref().and_then(|loaded| loaded.named());
        if !may_follow(state.ring, named(&loaded)) {
            // The keys were loaded before another host changed them.
            self.store.keyrings().forget();
            loaded = self.store.keyrings().loaded()?;
        }
        let sequence = state.next_sequence();
        let ring = named(&loaded);
        if !may_follow(state.ring, ring) {
            let source = FoldError::Ring(sequence);
            return Err(RepositoryError::Log { store: self.store.name().clone(), source });
        }
        let record = Record {
            store: self.store.name().clone(),
            sequence,
            epoch: state.epoch_with(&event),
            writer: writer.clone(),
            nonce: self.store.env().nonce(),
            previous: state.head.map(|(_, hash)| hash),
            ring,
            event,
        };
        let at = object_key::record(self.store.name(), record.sequence);
        let keys = loaded.as_ref().map(|loaded| &*loaded.keys);
        let sealing = self.store.keyrings().sealing(keys);
        let bytes = format::encode(&record, &sealing, keys).map_err(RepositoryError::format(&at))?;
        let bytes = Bytes::from(bytes);
        let ours = ContentHash::of(&bytes);
        let created = self.store.wait(async {
            match self.store.objects().create(&at, PutPayload::from(bytes.clone())).await {
                Ok(Creation::Created) => Ok(None),
                // Perhaps this very request created it, and its reply was lost.
                Ok(Creation::Existed) => self.record_bytes(record.sequence).await.map(Some),
                Err(error) if error.kind() == FailureKind::Unavailable => {
                    // It may have been applied all the same; if that cannot be seen, say what is known.
                    match self.store.objects().get(&at, RECORD_MAX_BYTES as u64).await {
                        Ok(Some(found)) if ContentHash::of(&found) == ours => Ok(Some(found)),
                        _ => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        })?;
        if let Some(found) = created {
            let (theirs, _) = self.decode(record.sequence, &found)?;
            if theirs.writer != record.writer || theirs.nonce != record.nonce {
                return Ok(Appended::Lost);
            }
        }
        self.store.cache().put_record(sequence, &bytes);
        state
            .apply(self.store.name(), record, ours)
            .map_err(|source| RepositoryError::Log { store: self.store.name().clone(), source })?;
        // This host appended the record, so it has seen it.
        self.store.memory().remember(state, Passed(()))?;
        Ok(Appended::Committed(sequence))
    }

    /// Appends the event that `next` makes of the state, again after each lost race.
    ///
    /// Each attempt uses the state that the winner left.
    ///
    /// Returns the record's number, or `None` if `next` has nothing to append.
    ///
    /// # Errors
    /// Those of `next`, and `Unavailable` after [`RACES_MAX`] lost races.
    pub fn append_until_won<E: From<RepositoryError>>(
        &self,
        state: &mut StoreState,
        writer: &WriterId,
        mut next: impl FnMut(&StoreState) -> Result<Option<Event>, E>,
    ) -> Result<Option<Sequence>, E> {
        for _ in 0..=RACES_MAX {
            let Some(event) = next(state)? else { return Ok(None) };
            match self.append(state, writer, event)? {
                Appended::Committed(sequence) => return Ok(Some(sequence)),
                Appended::Lost => self.refresh(state)?,
            }
        }
        Err(RepositoryError::lost_races(self.store.name(), RACES_MAX + 1).into())
    }
}
