//! A store's log: read and folded, appended to by creating the next number.
//!
//! Races are settled by the object store alone: of two writers that create one number, one wins. A
//! writer whose reply was lost finds its own writer id and nonce in the record, and has won.

use super::checkpoints::Seen;
use super::error::{RepositoryError, RepositoryErrorKind};
use super::key;
use super::objects::Creation;
use super::store::Store;
use crate::format::record as format;
use crate::format::record::RECORD_MAX_BYTES;
use crate::format::wire::FormatError;
use crate::model::id::{ContentHash, Epoch, Sequence, WriterId};
use crate::model::record::SnapshotRecord;
use crate::model::record::{Event, FoldError, Record, StoreState};
use crate::model::snapshot_ref::Moment;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::PutPayload;

/// Records read at once.
const READ_AHEAD: usize = 16;

/// How a log is read.
#[derive(Clone, Copy)]
struct Reading {
    from_cache: bool,
    from_checkpoint: bool,
    /// The last record to be read; none: all of them.
    last: Option<Sequence>,
    seen: Option<Seen>,
}

fn is_of_another_version(record: &[u8]) -> bool {
    matches!(format::decode(record, None, 0), Err(FormatError::Version { .. }))
}

/// A log of more records has a checkpoint.
const LONG_RECORDS: u64 = 512;

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

    /// The fold of the log up to a record: what it was before something happened to it.
    pub fn state_until(&self, last: Sequence) -> Result<StoreState, RepositoryError> {
        let mut state = StoreState::default();
        self.read_records(
            &mut state,
            &Reading { from_cache: false, from_checkpoint: false, last: Some(last), seen: None },
        )?;
        Ok(state)
    }

    /// Whether the store has no record. Needs no key.
    pub fn state_is_empty(&self) -> Result<bool, RepositoryError> {
        let prefix = key::log_prefix(&self.name);
        Ok(self.repository.wait(self.objects().list(Some(&prefix), None))?.is_empty())
    }

    /// Applies the records that are newer than `state`.
    pub fn refresh(&self, state: &mut StoreState) -> Result<(), RepositoryError> {
        let seen = self.seen();
        let mut cached = state.clone();
        let from_cache = Reading { from_cache: true, from_checkpoint: true, last: None, seen };
        // The head is always fetched, and its chain holds what comes from the cache: anything else than this
        // log's records breaks it.
        match self.read_records(&mut cached, &from_cache) {
            Ok(()) => *state = cached,
            Err(error) if error.kind() != RepositoryErrorKind::Damaged => return Err(error),
            Err(_) => {
                let afresh = Reading { from_cache: false, ..from_cache };
                let mut fresh = state.clone();
                match self.read_records(&mut fresh, &afresh) {
                    Ok(()) => {}
                    Err(error @ RepositoryError::RolledBack { .. }) => return Err(error),
                    Err(error) if error.kind() != RepositoryErrorKind::Damaged => return Err(error),
                    // Without the checkpoint: it may be what is wrong.
                    Err(_) => {
                        fresh = state.clone();
                        self.read_records(&mut fresh, &Reading { from_checkpoint: false, ..afresh })?;
                    }
                }
                *state = fresh;
            }
        }
        self.remember(state, seen)
    }

    fn read_records(&self, state: &mut StoreState, reading: &Reading) -> Result<(), RepositoryError> {
        let mut after = state.head.map(|(sequence, _)| sequence);
        if after.is_none()
            && reading.from_checkpoint
            && let Some(start) = self.last_checkpoint(reading.from_cache)?
        {
            // Its head is looked at once more.
            after = start.head.and_then(|(head, _)| head.0.checked_sub(1)).map(Sequence).filter(|s| s.0 > 0);
            *state = start;
        }
        let begins_at = after.map_or(Sequence(0), |after| after).next();
        let sequences = self.list_records(after, begins_at)?;
        if reading.from_cache && state.head.is_none() && sequences.len() as u64 > LONG_RECORDS {
            // Last seen when it was short: there are checkpoints by now.
            return self.read_records(state, &Reading { from_cache: false, ..*reading });
        }
        let sequences: Vec<_> =
            sequences.into_iter().filter(|s| reading.last.is_none_or(|last| *s <= last)).collect();
        let head = sequences.last().copied();
        let records = self.repository.wait(
            futures::stream::iter(sequences.iter().copied())
                .map(|sequence| async move {
                    let cached =
                        (reading.from_cache && Some(sequence) != head).then(|| self.cached_record(sequence));
                    match cached.flatten() {
                        Some(bytes) => Ok(bytes),
                        None => self.record_bytes(sequence).await,
                    }
                })
                .buffered(READ_AHEAD)
                .try_collect::<Vec<Bytes>>(),
        )?;
        let known = state.head;
        if let Some((head, _)) = known
            && begins_at <= head
            && sequences.is_empty()
        {
            return Err(RepositoryError::MissingRecord { store: self.name.clone(), sequence: head });
        }
        for (sequence, bytes) in sequences.into_iter().zip(records) {
            let (record, hash) = self.decode_record(sequence, &bytes)?;
            let seen = reading.seen.filter(|seen| seen.sequence == sequence && seen.hash != hash);
            if seen.is_some() && !reading.from_cache {
                self.remember(&StoreState { head: Some((sequence, hash)), ..Default::default() }, seen)?;
            }
            match known {
                // A checkpoint's head: it must be the same record.
                Some((head, known)) if head == sequence => {
                    if known != hash {
                        let source = FoldError::Chain(sequence);
                        return Err(RepositoryError::Log { store: self.name.clone(), source });
                    }
                }
                _ => state
                    .apply(&self.name, record, hash)
                    .map_err(|source| RepositoryError::Log { store: self.name.clone(), source })?,
            }
        }
        Ok(())
    }

    /// The numbers of the records behind `after`, which begin with `next` and have no gap.
    fn list_records(
        &self,
        after: Option<Sequence>,
        mut next: Sequence,
    ) -> Result<Vec<Sequence>, RepositoryError> {
        let prefix = key::log_prefix(&self.name);
        let after = after.map(|sequence| key::record(&self.name, sequence));
        let listed = self.repository.wait(self.objects().list(Some(&prefix), after.as_ref()))?;
        let mut sequences = Vec::with_capacity(listed.len());
        for found in listed.iter().filter_map(|object| key::parse_record(&object.location)) {
            if found != next {
                return Err(RepositoryError::MissingRecord { store: self.name.clone(), sequence: next });
            }
            sequences.push(found);
            next = next.next();
        }
        Ok(sequences)
    }

    /// What stands in the log under `sequence`, decoded. What was damaged on its way is fetched once more.
    fn decode_record(
        &self,
        sequence: Sequence,
        bytes: &Bytes,
    ) -> Result<(Record, ContentHash), RepositoryError> {
        let at = key::record(&self.name, sequence);
        let decode = |bytes: &Bytes| {
            let keys = match self.keys_for(format::generation(bytes)) {
                // Of a version that this program does not know, nor whether it is sealed.
                Err(RepositoryError::Keyring { generation: 0, .. }) if is_of_another_version(bytes) => None,
                keys => keys?,
            };
            format::decode(bytes, keys.as_deref(), sequence.0).map_err(RepositoryError::format(&at))
        };
        match decode(bytes) {
            Ok(decoded) => {
                self.cache_record(sequence, bytes);
                Ok(decoded)
            }
            Err(error) if error.kind() == RepositoryErrorKind::Damaged => {
                decode(&self.repository.wait(self.record_bytes(sequence))?)
            }
            Err(error) => Err(error),
        }
    }

    async fn record_bytes(&self, sequence: Sequence) -> Result<Bytes, RepositoryError> {
        let at = key::record(&self.name, sequence);
        let missing = || RepositoryError::MissingRecord { store: self.name.clone(), sequence };
        self.objects().get(&at, RECORD_MAX_BYTES as u64).await?.ok_or_else(missing)
    }

    /// Tries to make `event` the record after `state`'s head; then it is `state`'s head.
    pub fn append(
        &self,
        state: &mut StoreState,
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
        let at = key::record(&self.name, record.sequence);
        let (sealing, keys) = self.new_sealing()?;
        let bytes =
            format::encode(&record, &sealing, keys.as_deref()).map_err(RepositoryError::format(&at))?;
        let bytes = Bytes::from(bytes);
        let ours = ContentHash::of(&bytes);
        let created = self.repository.wait(async {
            match self.objects().create(&at, PutPayload::from(bytes.clone())).await {
                Ok(Creation::Created) => Ok(None),
                // Perhaps by this very request, before its reply was lost.
                Ok(Creation::Existed) => self.record_bytes(record.sequence).await.map(Some),
                Err(error) if error.kind() == RepositoryErrorKind::Unavailable => {
                    // It may have been applied all the same; if that cannot be seen, say what is known.
                    match self.objects().get(&at, RECORD_MAX_BYTES as u64).await {
                        Ok(Some(found)) if ContentHash::of(&found) == ours => Ok(Some(found)),
                        _ => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        })?;
        if let Some(found) = created {
            let (theirs, _) = self.decode_record(record.sequence, &found)?;
            if theirs.writer != record.writer || theirs.nonce != record.nonce {
                return Ok(Appended::Lost);
            }
        }
        let sequence = record.sequence;
        self.cache_record(sequence, &bytes);
        state
            .apply(&self.name, record, ours)
            .map_err(|source| RepositoryError::Log { store: self.name.clone(), source })?;
        // This host was there.
        self.remember(state, None)?;
        Ok(Appended::Committed(sequence))
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
