//! Finds where a reader of a log begins: the last checkpoint, and the record that this host saw last.
//!
//! Nothing depends on a checkpoint: it is computed from the log, its head is looked up in the log, and
//! without one a reader begins with the first record. It is only as trustworthy as the holders of the key
//! that sealed it, so only one sealed with the newest data key counts. The last seen record is a note in the
//! cache (see `memory`). A log that is shorter, or has another record there, was rolled back and is refused,
//! whatever remains of the cache and however the log is read. A checkpoint after the last seen record counts
//! only if the records in between form a chain; a host that was away for a long time reads these once.

use super::error::RepositoryError;
use super::memory::{Passed, Seen};
use super::object_key;
use super::parts::{Checkpoints, Log};
use crate::format::checkpoint as format;
use crate::format::checkpoint::CHECKPOINT_MAX_BYTES;
use crate::model::id::{ContentHash, Sequence};
use crate::model::record::StoreState;
use crate::support::files;
use object_store::PutPayload;
use std::io::Read;

/// Minimum number of records between two checkpoints.
const RECORDS: u64 = 128;
/// Number of snapshots per record of that interval, if this makes it longer.
///
/// Checkpoints thus stay small next to records.
const SNAPSHOTS_A_RECORD: u64 = 32;

/// Maximum number of checkpoints that are tried, from the last.
///
/// Two are kept; forged ones may follow, which do not open.
const LOOKED_AT: usize = 4;

/// Returns whether a log with this head is due for a checkpoint. Pure.
fn is_due(head: Option<(Sequence, ContentHash)>, snapshots: usize, last: Option<Sequence>) -> bool {
    let head = head.map_or(0, |(sequence, _)| sequence.0);
    let since = head - last.map_or(0, |sequence| sequence.0.min(head));
    since >= RECORDS.max(snapshots as u64 / SNAPSHOTS_A_RECORD)
}

impl Log<'_> {
    pub(crate) fn rolled_back(&self, seen: Seen, found: String) -> RepositoryError {
        let note = self.store.memory().file().unwrap_or_default();
        RepositoryError::RolledBack { store: self.store.name().clone(), seen: seen.sequence, found, note }
    }

    /// Checks that a fold went through the record that this host saw last.
    ///
    /// `before` is the state from which the fold continued, and `met` is the hash of the record that it met
    /// there. A fold that began with a checkpoint after that record was read from that record on: a record by
    /// itself says nothing about those that follow it.
    ///
    /// # Errors
    /// [`RepositoryError::RolledBack`] if it did not go through it.
    pub(crate) fn passed(
        &self,
        before: &StoreState,
        state: &StoreState,
        seen: Option<Seen>,
        met: Option<ContentHash>,
    ) -> Result<Passed, RepositoryError> {
        let Some(seen) = seen else { return Ok(Passed(())) };
        match state.head {
            None => return Err(self.rolled_back(seen, "is empty".into())),
            Some((head, _)) if head < seen.sequence => {
                return Err(self.rolled_back(seen, format!("ends with record {head}")));
            }
            _ => {}
        }
        let met = match (met, before.head) {
            (Some(met), _) => met,
            // This process folded it before, and that fold passed the check.
            (None, Some((head, _))) if head > seen.sequence => return Ok(Passed(())),
            (None, Some((head, hash))) if head == seen.sequence => hash,
            (None, _) => return Err(self.rolled_back(seen, "does not lead there".into())),
        };
        match met == seen.hash {
            true => Ok(Passed(())),
            false => Err(self.rolled_back(seen, "has another record there".into())),
        }
    }
}

impl Checkpoints<'_> {
    /// Returns the state at the last checkpoint, from this host's cache or from the repository.
    pub(crate) fn last(&self, from_cache: bool) -> Result<Option<StoreState>, RepositoryError> {
        if from_cache {
            if let Some(state) = self.cached() {
                return Ok(Some(state));
            }
            // A log that was short when it was last seen has no checkpoint, and a reader with its records
            // needs none.
            if self.store.memory().read()?.head.is_some_and(|seen| seen.sequence.0 < RECORDS) {
                return Ok(None);
            }
        }
        let prefix = object_key::checkpoint_prefix(self.store.name());
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), None))?;
        let listed = listed.iter().rev().filter(|at| at.size <= CHECKPOINT_MAX_BYTES as u64);
        let found = listed.filter_map(|at| Some((object_key::parse_record(&at.location)?, at)));
        // A checkpoint that cannot be read is skipped: the one before it serves as well.
        for (sequence, object) in found.take(LOOKED_AT) {
            let get = self.store.objects().get(&object.location, CHECKPOINT_MAX_BYTES as u64);
            let Some(bytes) = self.store.wait(get)? else { continue };
            let keys = match self.store.keyrings().keys_for_unnamed(format::generation(&bytes)) {
                // It is sealed with an older data key, so a removed holder could have made it up.
                Err(RepositoryError::Keyring { .. }) => continue,
                keys => keys?,
            };
            if let Ok(mut state) = format::decode(&bytes, keys.as_deref(), sequence.0) {
                state.checkpoint = Some(sequence);
                // Where members decide, a host that knows the store keeps only what it folded itself.
                if state.authority.is_blank() || self.store.memory().read()?.head.is_none() {
                    self.put_in_cache(sequence, &bytes);
                }
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    pub(crate) fn cached(&self) -> Option<StoreState> {
        let bytes = std::fs::read(self.store.cache().file("checkpoint")?).ok()?;
        let (sequence, bytes) = bytes.split_first_chunk::<8>()?;
        let sequence = u64::from_le_bytes(*sequence);
        let keys = self.store.keyrings().keys_for_unnamed(format::generation(bytes)).ok()?;
        let mut state = format::decode(bytes, keys.as_deref(), sequence).ok()?;
        state.checkpoint = Some(Sequence(sequence));
        Some(state)
    }

    fn put_in_cache(&self, sequence: Sequence, bytes: &[u8]) {
        let Some(path) = self.store.cache().file("checkpoint") else { return };
        if files::replace(&path, &[&sequence.0.to_le_bytes(), bytes].concat()).is_ok() {
            self.store.cache().drop_records_before(sequence);
        }
    }

    /// Makes a checkpoint of `state` if one is due. Errors are ignored, since nothing depends on it.
    pub fn make_if_due(&self, state: &mut StoreState) {
        if is_due(state.head, state.snapshots.len(), state.checkpoint) {
            let _ = self.make(state);
        }
    }

    /// Keeps the state in this host's cache alone, in place of the checkpoint that is there. Errors are
    /// ignored, since nothing depends on it.
    pub(crate) fn keep(&self, state: &StoreState) {
        let Some((sequence, _)) = state.head else { return };
        let sealed = self.store.keyrings().new_sealing().ok();
        let bytes = sealed
            .and_then(|(sealing, keys)| format::encode(state, sequence.0, &sealing, keys.as_deref()).ok());
        if let Some(bytes) = bytes {
            self.put_in_cache(sequence, &bytes);
        }
    }

    /// Keeps the state as [`Self::keep`] does, once the log has grown by as much as a checkpoint is for.
    ///
    /// Where members decide, a host begins with no checkpoint of another host's.
    pub(crate) fn keep_if_due(&self, state: &StoreState) {
        let file = self.store.cache().file("checkpoint").and_then(|path| std::fs::File::open(path).ok());
        let mut sequence = [0; 8];
        let kept = file.and_then(|mut file| file.read_exact(&mut sequence).ok());
        let checkpoint = kept.map(|()| Sequence(u64::from_le_bytes(sequence)));
        if self.store.cache().file("checkpoint").is_some()
            && is_due(state.head, state.snapshots.len(), checkpoint)
        {
            self.keep(state);
        }
    }

    /// Makes a checkpoint after a change of keys has invalidated the others, if the log is long enough.
    pub(crate) fn make_again(&self, state: &mut StoreState) {
        if state.head.is_some_and(|(head, _)| head.0 >= RECORDS) {
            let _ = self.make(state);
        }
    }

    fn make(&self, state: &mut StoreState) -> Result<(), RepositoryError> {
        let Some((sequence, _)) = state.head else { return Ok(()) };
        let at = object_key::checkpoint(self.store.name(), sequence);
        let (sealing, keys) = self.store.keyrings().new_sealing()?;
        let bytes = format::encode(state, sequence.0, &sealing, keys.as_deref());
        let bytes = bytes.map_err(RepositoryError::format(&at))?;
        self.store.wait(self.store.objects().create(&at, PutPayload::from(bytes.clone())))?;
        self.put_in_cache(sequence, &bytes);
        state.checkpoint = Some(sequence);
        Ok(())
    }

    /// Deletes all checkpoints except the last two.
    pub(crate) fn drop_old(&self) -> Result<(), RepositoryError> {
        let prefix = object_key::checkpoint_prefix(self.store.name());
        self.store.wait(async {
            let listed = self.store.objects().list(Some(&prefix), None).await?;
            let old = &listed[..listed.len().saturating_sub(2)];
            for object in old {
                self.store.objects().delete(&object.location).await?;
            }
            Ok(())
        })
    }
}
