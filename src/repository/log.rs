//! Reads and folds a store's log, and compares it with what this host saw of it.
//!
//! See `append` for how it grows.

use super::error::RepositoryError;
use super::memory::{Passed, Seen};
use super::object_key;
use super::parts::Log;
use super::reading::{Late, Reading, Start};
use crate::format::record as format;
use crate::format::record::RECORD_MAX_BYTES;
use crate::format::wire::FormatError;
use crate::model::escape;
use crate::model::id::{ContentHash, Sequence};
use crate::model::record::SnapshotRecord;
use crate::model::record::{Event, Record, StoreState};
use crate::model::snapshot_ref::Moment;
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;

fn is_of_another_version(record: &[u8]) -> bool {
    matches!(format::decode(record, None, 0), Err(FormatError::Version { .. }))
}

/// Returns whether a record is missing or unreadable.
///
/// A record of another log, or of a party that may not write, is neither.
fn is_unreadable(error: &RepositoryError) -> bool {
    match error {
        RepositoryError::MissingRecord { .. } => true,
        RepositoryError::Format { source, .. } => *source != FormatError::Maker,
        RepositoryError::MissingObject { .. } => true,
        RepositoryError::Request { kind, .. } => *kind == FailureKind::Damaged,
        _ => false,
    }
}

impl Log<'_> {
    /// Returns the fold of the whole log.
    pub fn state(&self) -> Result<StoreState, RepositoryError> {
        let mut state = StoreState::default();
        self.refresh(&mut state)?;
        Ok(state)
    }

    /// Returns the fold of the log up to a record.
    ///
    /// Later records are read as well, since they authenticate the ones before. If they cannot be read, this
    /// is reported.
    pub fn state_until(&self, last: Sequence) -> Result<StoreState, RepositoryError> {
        let reading = self.reading(Start::Records)?;
        let seen = reading.seen;
        let (mut state, mut until) = (StoreState::default(), None);
        let read = self.read_records(&mut state, &reading, &mut |state, _| {
            if state.head.is_some_and(|(head, _)| head == last) {
                until = Some(state.clone());
            }
        });
        let passed =
            read.and_then(|met| Ok((self.passed(&StoreState::default(), &state, seen, met.seen)?, met.late)));
        match passed {
            Ok((passed, late)) => {
                self.tell(late);
                self.store.memory().remember(&state, passed)?;
            }
            // The only failure is a later record that cannot be read. The readable ones were checked.
            Err(error)
                if is_unreadable(&error)
                    && until.is_some()
                    && seen.is_none_or(|seen| seen.sequence > last) =>
            {
                let held =
                    until.as_ref().zip(seen).and_then(|(until, seen)| self.leads_by_cache(until, seen));
                if let (Some(false), Some(seen)) = (held, seen) {
                    return Err(self.rolled_back(seen, format!("has another record {last}")));
                }
                let so = match held {
                    Some(_) => format!("the records up to {last} are those that this host saw"),
                    None => {
                        format!("the records up to {last} cannot be compared with those that this host saw")
                    }
                };
                self.store.notice().say(&format!("warning: {error}; {so}"));
            }
            Err(error) => return Err(error),
        }
        Ok(until.unwrap_or(state))
    }

    /// Returns whether this host's cached records lead from `state` to the last one that it saw.
    ///
    /// Returns `None` if some are missing.
    fn leads_by_cache(&self, state: &StoreState, seen: Seen) -> Option<bool> {
        let (head, hash) = state.head?;
        let mut wanted = seen.hash;
        for number in (head.next().0..=seen.sequence.0).rev() {
            let bytes = self
                .store
                .cache()
                .record(Sequence(number))
                .filter(|bytes| ContentHash::of(bytes) == wanted)?;
            let keys = self.store.keyrings().keys_for(format::generation(&bytes)).ok()?;
            wanted = format::decode(&bytes, keys.as_deref(), number).ok()?.0.previous?;
        }
        Some(wanted == hash)
    }

    /// Returns whether the store has no record. This needs no key.
    pub(crate) fn is_empty(&self) -> Result<bool, RepositoryError> {
        let prefix = object_key::log_prefix(self.store.name());
        Ok(self.store.wait(self.store.objects().list(Some(&prefix), None))?.is_empty())
    }

    /// Applies the records that are newer than `state`.
    ///
    /// # Errors
    /// [`RepositoryError::RolledBack`] if the log does not continue from what this host saw of it.
    pub fn refresh(&self, state: &mut StoreState) -> Result<(), RepositoryError> {
        let first = self.reading(Start::Cache)?;
        let is_damaged = |error: &RepositoryError| error.kind() == FailureKind::Damaged;
        let reading = |start| Reading { start, ..first };
        // The head is always fetched, and its chain verifies cached records: any record of another log breaks
        // it, and then all are fetched.
        let pass = match self.pass(state, &reading(Start::Cache)) {
            Err(error) if is_damaged(&error) => match self.pass(state, &reading(Start::Checkpoint)) {
                Err(error @ RepositoryError::RolledBack { .. }) => Err(error),
                // Read without the checkpoint, which may be the damaged part.
                Err(error) if is_damaged(&error) => {
                    let pass = self.pass(state, &reading(Start::Records));
                    if let Ok((fresh, ..)) = &pass {
                        self.store.checkpoints().keep(fresh);
                    }
                    pass
                }
                pass => pass,
            },
            pass => pass,
        };
        let (fresh, passed, late) = pass?;
        if fresh.authority.is_founded() {
            self.store.checkpoints().keep_if_due(&fresh);
        }
        *state = fresh;
        self.tell(late);
        self.store.memory().remember(state, passed)
    }

    /// Returns whether there is a record after the last one of `state`.
    ///
    /// A repository charges less for this than for [`Self::refresh`], which lists. It sees no gap.
    pub fn has_news(&self, state: &StoreState) -> Result<bool, RepositoryError> {
        let next = object_key::record(self.store.name(), state.next_sequence());
        Ok(self.store.wait(self.store.objects().head(&next))?.is_some())
    }

    pub(crate) fn reading(&self, start: Start) -> Result<Reading, RepositoryError> {
        let memory = self.store.memory().read()?;
        let ring = memory.ring.filter(|ring| ring.version > 1).map(|ring| ring.sequence);
        Ok(Reading { start, seen: memory.head, ring, founded: memory.founded })
    }

    /// Warns of a record that names an older keyring than this host knows.
    ///
    /// It comes from an honest writer that had not read the log again, or from a removed holder before the
    /// record of the removal existed. These cannot be distinguished.
    fn tell(&self, late: Option<Late>) {
        if let Some(Late { sequence, writer, ring }) = late {
            self.store.notice().say(&format!(
                "warning: record {sequence} of store '{}', written by {}, names keyring {ring}, but this host knows a newer one: the writer had not seen that the keys were changed, or was removed by that change",
                self.store.name(),
                escape::line(&writer.0)
            ));
        }
    }

    /// Reads the log in one way; returns the new state if it goes through the record that this host saw last.
    fn pass(
        &self,
        state: &StoreState,
        reading: &Reading,
    ) -> Result<(StoreState, Passed, Option<Late>), RepositoryError> {
        let mut fresh = state.clone();
        let met = self.read_records(&mut fresh, reading, &mut |_, _| {})?;
        let passed = self.passed(state, &fresh, reading.seen, met.seen)?;
        Ok((fresh, passed, met.late))
    }

    /// Decodes the record `sequence`. If its bytes are damaged, they are fetched once more.
    pub fn decode(
        &self,
        sequence: Sequence,
        bytes: &Bytes,
    ) -> Result<(Record, ContentHash), RepositoryError> {
        let at = object_key::record(self.store.name(), sequence);
        let decode = |bytes: &Bytes| -> Result<_, RepositoryError> {
            let keys = match self.store.keyrings().keys_for(format::generation(bytes)) {
                // The record has a version that this program does not know, so it cannot determine whether it
                // is sealed.
                Err(RepositoryError::Keyring { generation: 0, .. }) if is_of_another_version(bytes) => None,
                keys => keys?,
            };
            let decoded =
                format::decode(bytes, keys.as_deref(), sequence.0).map_err(RepositoryError::format(&at))?;
            self.store.keyrings().check_ring(&decoded.0, format::generation(bytes))?;
            Ok(decoded)
        };
        match decode(bytes) {
            Ok(decoded) => {
                self.store.cache().put_record(sequence, bytes);
                Ok(decoded)
            }
            Err(error) if error.kind() == FailureKind::Damaged => {
                decode(&self.store.wait(self.record_bytes(sequence))?)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the event of a record, from the cache or the repository.
    pub(crate) fn event_of(&self, sequence: Sequence) -> Result<Event, RepositoryError> {
        Ok(self.record_at(sequence)?.event)
    }

    /// Returns a record, from the cache or the repository.
    pub(crate) fn record_at(&self, sequence: Sequence) -> Result<Record, RepositoryError> {
        let bytes = match self.store.cache().record(sequence) {
            Some(bytes) => bytes,
            None => self.store.wait(self.record_bytes(sequence))?,
        };
        Ok(self.decode(sequence, &bytes)?.0)
    }

    pub(crate) async fn record_bytes(self, sequence: Sequence) -> Result<Bytes, RepositoryError> {
        self.record_of(sequence, RECORD_MAX_BYTES as u64).await
    }

    pub(crate) async fn record_of(
        self,
        sequence: Sequence,
        limit_bytes: u64,
    ) -> Result<Bytes, RepositoryError> {
        let at = object_key::record(self.store.name(), sequence);
        let missing = || RepositoryError::MissingRecord { store: self.store.name().clone(), sequence };
        self.store.objects().get(&at, limit_bytes).await?.ok_or_else(missing)
    }

    /// Returns the snapshot that a user asks for, or an error that lists the existing ones.
    pub fn find(
        &self,
        state: &StoreState,
        moment: Moment,
    ) -> Result<(Sequence, SnapshotRecord), RepositoryError> {
        if let Some((sequence, record)) = state.find(moment) {
            return Ok((sequence, record.clone()));
        }
        let (Some((first, _)), Some((last, _))) = (state.snapshots.first_key_value(), state.latest()) else {
            return Err(RepositoryError::NoStore(self.store.name().clone()));
        };
        let wanted = match moment {
            Moment::At(sequence) => sequence.to_string(),
            Moment::AsOf(_) => "at or before that time".to_owned(),
            Moment::Latest => "latest".to_owned(),
        };
        let count = state.snapshots.len();
        let available = format!("{count} snapshots, from {first} to {last}");
        Err(RepositoryError::NoSnapshot { store: self.store.name().clone(), wanted, available })
    }
}
