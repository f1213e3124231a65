//! A store's log: read and folded, appended to by creating the next number.
//!
//! Races are settled by the object store alone: of two writers that create one number, one wins. A
//! writer whose reply was lost finds its own writer id and nonce in the record, and has won.

use super::error::{RepositoryError, RepositoryErrorKind};
use super::key;
use super::objects::Creation;
use super::store::Store;
use crate::format::record as format;
use crate::format::record::RECORD_MAX_BYTES;
use crate::model::id::{ContentHash, Epoch, Sequence, WriterId};
use crate::model::record::SnapshotRecord;
use crate::model::record::{Event, Record, StoreState};
use crate::model::snapshot_ref::Moment;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::PutPayload;

/// Records read at once.
const READ_AHEAD: usize = 16;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    Committed(Sequence),
    /// Another writer took this number: read the log again.
    Lost,
}

impl Store {
    /// The fold of the whole log.
    pub fn state(&self) -> Result<StoreState, RepositoryError> {
        let mut state = StoreState::default();
        self.refresh(&mut state)?;
        Ok(state)
    }

    /// Applies the records that are newer than `state`.
    pub fn refresh(&self, state: &mut StoreState) -> Result<(), RepositoryError> {
        let mut cached = state.clone();
        // The head is always fetched, and its chain holds what comes from the cache: anything else than this
        // log's records breaks it.
        match self.refresh_from(&mut cached, true) {
            Ok(()) => *state = cached,
            Err(error) if error.kind() == RepositoryErrorKind::Unavailable => return Err(error),
            Err(_) => self.refresh_from(state, false)?,
        }
        Ok(())
    }

    fn refresh_from(&self, state: &mut StoreState, from_cache: bool) -> Result<(), RepositoryError> {
        let records = self.repository.wait(async {
            let prefix = key::log_prefix(&self.name);
            let after = state.head.map(|(sequence, _)| key::record(&self.name, sequence));
            let listed = self.objects().list(Some(&prefix), after.as_ref()).await?;
            let mut next = state.next_sequence();
            let mut sequences = Vec::new();
            for object in listed {
                let Some(found) = key::parse_record(&object.location) else { continue };
                if found != next {
                    return Err(RepositoryError::MissingRecord { store: self.name.clone(), sequence: next });
                }
                sequences.push(found);
                next = next.next();
            }
            let head = sequences.last().copied();
            futures::stream::iter(sequences)
                .map(|sequence| async move {
                    let cached = (from_cache && Some(sequence) != head).then(|| self.cached_record(sequence));
                    match cached.flatten() {
                        Some(bytes) => Ok(bytes),
                        None => self.record_bytes(sequence).await,
                    }
                })
                .buffered(READ_AHEAD)
                .try_collect::<Vec<Bytes>>()
                .await
        })?;
        for bytes in records {
            let sequence = state.next_sequence();
            let at = key::record(&self.name, sequence);
            let (record, hash) = format::decode(&bytes).map_err(RepositoryError::format(at))?;
            state
                .apply(&self.name, record, hash)
                .map_err(|source| RepositoryError::Log { store: self.name.clone(), source })?;
        }
        Ok(())
    }

    async fn record_bytes(&self, sequence: Sequence) -> Result<Bytes, RepositoryError> {
        let at = key::record(&self.name, sequence);
        let missing = || RepositoryError::MissingRecord { store: self.name.clone(), sequence };
        let bytes = self.objects().get(&at, RECORD_MAX_BYTES as u64).await?.ok_or_else(missing)?;
        if format::decode(&bytes).is_ok() {
            self.cache_record(sequence, &bytes);
            return Ok(bytes);
        }
        // The transfer, not the object, may be at fault: one more look.
        self.objects().get(&at, RECORD_MAX_BYTES as u64).await?.ok_or_else(missing)
    }

    /// Tries to make `event` the record after `state`'s head.
    pub fn append(
        &self,
        state: &StoreState,
        epoch: Epoch,
        writer: &WriterId,
        nonce: u64,
        event: Event,
    ) -> Result<Appended, RepositoryError> {
        let record = Record {
            store: self.name.clone(),
            sequence: state.next_sequence(),
            epoch,
            writer: writer.clone(),
            nonce,
            previous: state.head.map(|(_, hash)| hash),
            event,
        };
        let bytes = Bytes::from(format::encode(&record));
        let ours = ContentHash::of(&bytes);
        let at = key::record(&self.name, record.sequence);
        self.repository.wait(async {
            match self.objects().create(&at, PutPayload::from(bytes.clone())).await {
                Ok(Creation::Created) => {
                    self.cache_record(record.sequence, &bytes);
                    Ok(Appended::Committed(record.sequence))
                }
                Ok(Creation::Existed) => {
                    let found = self.record_bytes(record.sequence).await?;
                    let (theirs, _) = format::decode(&found).map_err(RepositoryError::format(&at))?;
                    Ok(if theirs.writer == record.writer && theirs.nonce == record.nonce {
                        Appended::Committed(record.sequence)
                    } else {
                        Appended::Lost
                    })
                }
                Err(error) if error.kind() == RepositoryErrorKind::Unavailable => {
                    // It may have been applied all the same; if that cannot be seen, say what is known.
                    match self.objects().get(&at, RECORD_MAX_BYTES as u64).await {
                        Ok(Some(found)) if ContentHash::of(&found) == ours => {
                            Ok(Appended::Committed(record.sequence))
                        }
                        _ => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        })
    }

    /// The snapshot that a user means, or an error that says what there is.
    pub fn find(
        &self,
        state: &StoreState,
        moment: Moment,
    ) -> Result<(Sequence, SnapshotRecord), RepositoryError> {
        if let Some((sequence, record)) = state.find(moment) {
            return Ok((sequence, record.clone()));
        }
        let (Some((first, _)), Some((last, _))) = (state.snapshots.first_key_value(), state.latest()) else {
            return Err(RepositoryError::NoStore(self.name.clone()));
        };
        let wanted = match moment {
            Moment::At(sequence) => sequence.to_string(),
            Moment::AsOf(_) => "of that moment or before".to_owned(),
            Moment::Latest => "latest".to_owned(),
        };
        let count = state.snapshots.len();
        let available = format!("{count}, from {first} to {last}");
        Err(RepositoryError::NoSnapshot { store: self.name.clone(), wanted, available })
    }
}
