//! A store's log: read and folded, appended to by creating the next number.
//!
//! Races are settled by the object store alone: of two writers that create one number, one wins. A
//! writer whose reply was lost finds its own writer id and nonce in the record, and has won.

use super::error::{RepositoryError, RepositoryErrorKind};
use super::key;
use super::keyrings::Loaded;
use super::memory::{Passed, Seen};
use super::objects::Creation;
use super::store::Store;
use crate::format::record as format;
use crate::format::record::RECORD_MAX_BYTES;
use crate::format::wire::FormatError;
use crate::model::escape;
use crate::model::id::{ContentHash, Epoch, Sequence, WriterId};
use crate::model::record::SnapshotRecord;
use crate::model::record::{Event, FoldError, Record, StoreState};
use crate::model::snapshot_ref::Moment;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::PutPayload;
use std::sync::Arc;

/// Records read at once.
const READ_AHEAD: usize = 16;
/// Records are held until so many were read, or so many bytes of them.
const HELD_RECORDS: usize = 512;
const HELD_MAX_BYTES: u64 = 32 << 20;

/// A record as it is listed.
#[derive(Clone, Copy)]
struct Listed {
    sequence: Sequence,
    size_bytes: u64,
}

/// How many of the first records are read and held together: one at least.
fn held_together(records: &[Listed]) -> usize {
    let mut held_bytes = 0u64;
    let fitting = records.iter().take(HELD_RECORDS).take_while(|record| {
        held_bytes = held_bytes.saturating_add(record.size_bytes);
        held_bytes <= HELD_MAX_BYTES
    });
    fitting.count().max(1).min(records.len())
}

/// How a log is read.
#[derive(Clone, Copy)]
struct Reading {
    from_cache: bool,
    from_checkpoint: bool,
    seen: Option<Seen>,
    /// The number of the keyring that this host took; none where records name none.
    ring: Option<u32>,
}

/// What a reading came across.
#[derive(Default)]
struct Met {
    /// The hash of the record that this host saw last.
    seen: Option<ContentHash>,
    /// The first record behind that one which names an older keyring than this host took.
    late: Option<Late>,
}

struct Late {
    sequence: Sequence,
    writer: WriterId,
    ring: u32,
}

fn is_of_another_version(record: &[u8]) -> bool {
    matches!(format::decode(record, None, 0), Err(FormatError::Version { .. }))
}

/// Whether a record is gone or is no record: not whether it is one of another log, or of somebody who may write none.
fn is_unreadable(error: &RepositoryError) -> bool {
    match error {
        RepositoryError::MissingRecord { .. } => true,
        RepositoryError::Format { source, .. } => *source != FormatError::Maker,
        RepositoryError::Request { kind, .. } => *kind == RepositoryErrorKind::Damaged,
        _ => false,
    }
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

    /// The fold of the log up to a record: what it was before something happened to it. What follows is read all the same, since
    /// it holds what comes before it; where it cannot be, that is said.
    pub fn state_until(&self, last: Sequence) -> Result<StoreState, RepositoryError> {
        let reading = self.reading(false, false)?;
        let seen = reading.seen;
        let (mut state, mut until) = (StoreState::default(), None);
        let read = self.read_records(&mut state, &reading, &mut |state| {
            if state.head.is_some_and(|(head, _)| head == last) {
                until = Some(state.clone());
            }
        });
        let passed =
            read.and_then(|met| Ok((self.passed(&StoreState::default(), &state, seen, met.seen)?, met.late)));
        match passed {
            Ok((passed, late)) => {
                self.tell(late);
                self.remember(&state, passed)?;
            }
            // Only that later records cannot be read. What can be, and does not go on from these, was read with them.
            Err(error)
                if is_unreadable(&error)
                    && until.is_some()
                    && seen.is_none_or(|seen| seen.sequence > last) =>
            {
                self.repository.notice.say(&format!(
                    "warning: {error}; nothing holds the records up to {last} to what this host saw"
                ));
            }
            Err(error) => return Err(error),
        }
        Ok(until.unwrap_or(state))
    }

    /// Whether the store has no record. Needs no key.
    pub fn state_is_empty(&self) -> Result<bool, RepositoryError> {
        let prefix = key::log_prefix(&self.name);
        Ok(self.repository.wait(self.objects().list(Some(&prefix), None))?.is_empty())
    }

    /// Applies the records that are newer than `state`.
    ///
    /// # Errors
    /// [`RepositoryError::RolledBack`] when the log does not go on from what this host saw of it.
    pub fn refresh(&self, state: &mut StoreState) -> Result<(), RepositoryError> {
        let first = self.reading(true, true)?;
        let is_damaged = |error: &RepositoryError| error.kind() == RepositoryErrorKind::Damaged;
        let reading = |from_cache, from_checkpoint| Reading { from_cache, from_checkpoint, ..first };
        // The head is always fetched, and its chain holds what comes from the cache: anything else than this log's records
        // breaks it, and all is fetched.
        let pass = match self.pass(state, &reading(true, true)) {
            Err(error) if is_damaged(&error) => match self.pass(state, &reading(false, true)) {
                Err(error @ RepositoryError::RolledBack { .. }) => Err(error),
                // Without the checkpoint: it may be what is wrong.
                Err(error) if is_damaged(&error) => self.pass(state, &reading(false, false)),
                pass => pass,
            },
            pass => pass,
        };
        let (fresh, passed, late) = pass?;
        *state = fresh;
        self.tell(late);
        self.remember(state, passed)
    }

    fn reading(&self, from_cache: bool, from_checkpoint: bool) -> Result<Reading, RepositoryError> {
        let memory = self.memory()?;
        let ring = memory.ring.filter(|ring| ring.version > 1).map(|ring| ring.sequence);
        Ok(Reading { from_cache, from_checkpoint, seen: memory.head, ring })
    }

    /// Says that a record does not name the keyring that this host knows: an honest writer's who had not looked since, or that of
    /// somebody who was removed, before the removal had its record. Nothing tells the two apart.
    fn tell(&self, late: Option<Late>) {
        if let Some(Late { sequence, writer, ring }) = late {
            self.repository.notice.say(&format!(
                "warning: record {sequence} of store '{}', of {}, names keyring {ring}, and this host knows a newer one: whoever wrote it had not seen that the keys were changed, or was removed by it",
                self.name,
                escape::line(&writer.0)
            ));
        }
    }

    /// `state` after one way of reading, if that goes through what this host saw.
    fn pass(
        &self,
        state: &StoreState,
        reading: &Reading,
    ) -> Result<(StoreState, Passed, Option<Late>), RepositoryError> {
        let mut fresh = state.clone();
        let met = self.read_records(&mut fresh, reading, &mut |_| {})?;
        let passed = self.passed(state, &fresh, reading.seen, met.seen)?;
        Ok((fresh, passed, met.late))
    }

    /// Folds records into `state`, and calls `each` after every one.
    fn read_records(
        &self,
        state: &mut StoreState,
        reading: &Reading,
        each: &mut dyn FnMut(&StoreState),
    ) -> Result<Met, RepositoryError> {
        let mut after = state.head.map(|(sequence, _)| sequence);
        if after.is_none()
            && reading.from_checkpoint
            && let Some(start) = self.last_checkpoint(reading.from_cache)?
        {
            // Its head is looked at once more, and what leads to it from the record that this host saw.
            let begins_at =
                start.head.map(|(head, _)| head.min(reading.seen.map_or(head, |seen| seen.sequence)));
            after = begins_at.and_then(|begin| begin.0.checked_sub(1)).map(Sequence).filter(|s| s.0 > 0);
            *state = start;
        }
        let begins_at = after.map_or(Sequence(0), |after| after).next();
        let listed = self.list_records(after, begins_at)?;
        if reading.from_cache && state.head.is_none() && listed.len() as u64 > LONG_RECORDS {
            // Last seen when it was short: there are checkpoints by now.
            return self.read_records(state, &Reading { from_cache: false, ..*reading }, each);
        }
        let known = state.head;
        if let Some((head, _)) = known
            && begins_at <= head
            && listed.last().is_none_or(|last| last.sequence < head)
        {
            return Err(RepositoryError::MissingRecord { store: self.name.clone(), sequence: head });
        }
        let (newest, mut rest) = (listed.last().map(|listed| listed.sequence), &listed[..]);
        let mut met = Met::default();
        // The last record before a checkpoint's head that was looked at: its hash, and the keyring that it names.
        let mut way: Option<(ContentHash, StoreState)> = None;
        while !rest.is_empty() {
            let (some, behind) = rest.split_at(held_together(rest));
            rest = behind;
            for (Listed { sequence, .. }, bytes) in some.iter().zip(self.fetch(some, newest, reading)?) {
                let (record, hash) = self.decode_record(*sequence, &bytes)?;
                if reading.seen.is_some_and(|seen| seen.sequence == *sequence) {
                    met.seen = Some(hash);
                }
                let named = record.ring.map_or(0, |ring| ring.sequence);
                if reading.seen.is_some_and(|seen| seen.sequence < *sequence)
                    && reading.ring.is_some_and(|known| named < known)
                    && met.late.is_none()
                {
                    met.late = Some(Late { sequence: *sequence, writer: record.writer.clone(), ring: named });
                }
                let wrong = |source| RepositoryError::Log { store: self.name.clone(), source };
                if let Some((head, _)) = known
                    && *sequence <= head
                {
                    if let Some((before, named)) = &way {
                        if record.previous != Some(*before) {
                            return Err(wrong(FoldError::Chain(*sequence)));
                        }
                        if !named.admits_ring(record.ring) {
                            return Err(wrong(FoldError::Ring(*sequence)));
                        }
                    }
                    way = Some((hash, StoreState { ring: record.ring, ..StoreState::default() }));
                }
                match known {
                    // Folded into the checkpoint.
                    Some((head, _)) if *sequence < head => continue,
                    // A checkpoint's head: it must be the same record, and of the same keyring.
                    Some((head, known)) if head == *sequence => {
                        if known != hash {
                            return Err(wrong(FoldError::Chain(*sequence)));
                        }
                        if record.ring != state.ring {
                            return Err(wrong(FoldError::Ring(*sequence)));
                        }
                    }
                    _ => state.apply(&self.name, record, hash).map_err(wrong)?,
                }
                each(state);
            }
        }
        Ok(met)
    }

    /// The bytes of some records, in order; the newest is always the repository's.
    fn fetch(
        &self,
        some: &[Listed],
        newest: Option<Sequence>,
        reading: &Reading,
    ) -> Result<Vec<Bytes>, RepositoryError> {
        let one = |listed: Listed| async move {
            let Listed { sequence, size_bytes } = listed;
            let is_cached = reading.from_cache && Some(sequence) != newest;
            match is_cached.then(|| self.cached_record(sequence)).flatten() {
                Some(bytes) => Ok(bytes),
                // It never changes: whoever serves more than was listed has something else.
                None => self.record_of(sequence, size_bytes.min(RECORD_MAX_BYTES as u64)).await,
            }
        };
        let fetched = futures::stream::iter(some.iter().copied()).map(one).buffered(READ_AHEAD).try_collect();
        self.repository.wait(fetched)
    }

    /// The records behind `after`, whose numbers begin with `next` and have no gap.
    fn list_records(
        &self,
        after: Option<Sequence>,
        mut next: Sequence,
    ) -> Result<Vec<Listed>, RepositoryError> {
        let prefix = key::log_prefix(&self.name);
        let after = after.map(|sequence| key::record(&self.name, sequence));
        let listed = self.repository.wait(self.objects().list(Some(&prefix), after.as_ref()))?;
        let mut records = Vec::with_capacity(listed.len());
        let found = listed.iter().filter_map(|object| {
            let sequence = key::parse_record(&object.location)?;
            Some(Listed { sequence, size_bytes: object.size })
        });
        for record in found {
            if record.sequence != next {
                return Err(RepositoryError::MissingRecord { store: self.name.clone(), sequence: next });
            }
            records.push(record);
            next = next.next();
        }
        Ok(records)
    }

    /// What stands in the log under `sequence`, decoded. What was damaged on its way is fetched once more.
    fn decode_record(
        &self,
        sequence: Sequence,
        bytes: &Bytes,
    ) -> Result<(Record, ContentHash), RepositoryError> {
        let at = key::record(&self.name, sequence);
        let decode = |bytes: &Bytes| -> Result<_, RepositoryError> {
            let keys = match self.keys_for(format::generation(bytes)) {
                // Of a version that this program does not know, nor whether it is sealed.
                Err(RepositoryError::Keyring { generation: 0, .. }) if is_of_another_version(bytes) => None,
                keys => keys?,
            };
            let decoded =
                format::decode(bytes, keys.as_deref(), sequence.0).map_err(RepositoryError::format(&at))?;
            self.check_ring(&decoded.0, format::generation(bytes))?;
            Ok(decoded)
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
        self.record_of(sequence, RECORD_MAX_BYTES as u64).await
    }

    async fn record_of(&self, sequence: Sequence, limit_bytes: u64) -> Result<Bytes, RepositoryError> {
        let at = key::record(&self.name, sequence);
        let missing = || RepositoryError::MissingRecord { store: self.name.clone(), sequence };
        self.objects().get(&at, limit_bytes).await?.ok_or_else(missing)
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
        self.admit_writer()?;
        let mut loaded = self.loaded()?;
        let named = |loaded: &Option<Arc<Loaded>>| loaded.as_ref().and_then(|loaded| loaded.named());
        if !state.admits_ring(named(&loaded)) {
            // Looked for before somebody changed the keys.
            self.forget_keys();
            loaded = self.loaded()?;
        }
        let sequence = state.next_sequence();
        let ring = named(&loaded);
        if !state.admits_ring(ring) {
            let source = FoldError::Ring(sequence);
            return Err(RepositoryError::Log { store: self.name.clone(), source });
        }
        let record = Record {
            store: self.name.clone(),
            sequence,
            epoch,
            writer: writer.clone(),
            nonce,
            previous: state.head.map(|(_, hash)| hash),
            ring,
            event,
        };
        let at = key::record(&self.name, record.sequence);
        let keys = loaded.as_ref().map(|loaded| &*loaded.keys);
        let sealing = self.sealing(keys);
        let bytes = format::encode(&record, &sealing, keys).map_err(RepositoryError::format(&at))?;
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
        self.cache_record(sequence, &bytes);
        state
            .apply(&self.name, record, ours)
            .map_err(|source| RepositoryError::Log { store: self.name.clone(), source })?;
        // This host was there.
        self.remember(state, Passed(()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_held_by_number_and_bytes_and_one_at_least() {
        let of = |sizes: &[u64]| {
            let listed = |size: &u64| Listed { sequence: Sequence(1), size_bytes: *size };
            held_together(&sizes.iter().map(listed).collect::<Vec<_>>())
        };
        assert_eq!(of(&[1, 2, 3]), 3);
        assert_eq!(of(&[HELD_MAX_BYTES, 1]), 1);
        assert_eq!(of(&[HELD_MAX_BYTES - 1, 1, 1]), 2);
        assert_eq!(of(&[u64::MAX, u64::MAX]), 1);
        assert_eq!(of(&vec![1; 2 * HELD_RECORDS]), HELD_RECORDS);
    }
}
