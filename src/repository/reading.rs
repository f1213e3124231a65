//! Reads a log in order: from its first record, from a checkpoint, or from where the reader stopped.
//!
//! Wherever a reading begins, it goes through the record that this host saw last: a checkpoint after that
//! record counts only with the records that lead to it. Nothing else is checked here: `checkpoints` decides
//! whether the result is accepted.

use super::error::RepositoryError;
use super::memory::Seen;
use super::object_key;
use super::parts::Log;
use crate::format::record::RECORD_MAX_BYTES;
use crate::model::id::{ContentHash, Sequence, WriterId};
use crate::model::record::{FoldError, Record, RingRef, StoreState, may_follow};
use crate::support::part;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

/// Number of records that are fetched at the same time.
const READ_AHEAD: usize = 16;
/// Maximum number and size of records that are held together.
const HELD_RECORDS: usize = 512;
const HELD_MAX_BYTES: u64 = 32 << 20;

/// A record as it is listed.
#[derive(Clone, Copy)]
pub(crate) struct Listed {
    pub sequence: Sequence,
    pub size_bytes: u64,
}

/// Returns how many of the first records are read and held together: at least one.
fn held_together(records: &[Listed]) -> usize {
    part::fitting(records.iter().take(HELD_RECORDS).map(|record| record.size_bytes), HELD_MAX_BYTES)
}

/// The copies of a log that a reading may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Cached records and checkpoints, and those of the repository.
    Cache,
    /// The repository's last checkpoint, and its records.
    Checkpoint,
    /// The repository's records alone.
    Records,
}

/// The way a log is read.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub start: Start,
    pub seen: Option<Seen>,
    /// Number of the keyring that this host took; `None` if records name none.
    pub ring: Option<u32>,
    /// Whether this host knows that members decide about the store.
    pub founded: bool,
}

/// The records of interest that a reading met.
#[derive(Default)]
pub struct Met {
    /// The hash of the record that this host saw last.
    pub seen: Option<ContentHash>,
    /// The first later record that names an older keyring than this host took.
    pub late: Option<Late>,
}

pub struct Late {
    pub sequence: Sequence,
    pub writer: WriterId,
    pub ring: u32,
}

impl Met {
    fn note(&mut self, sequence: Sequence, record: &Record, hash: ContentHash, reading: &Reading) {
        let Some(seen) = reading.seen else { return };
        if seen.sequence == sequence {
            self.seen = Some(hash);
        }
        let ring = record.ring.map_or(0, |ring| ring.sequence);
        if seen.sequence < sequence && reading.ring.is_some_and(|known| ring < known) && self.late.is_none() {
            self.late = Some(Late { sequence, writer: record.writer.clone(), ring });
        }
    }
}

/// The records up to the head of a checkpoint. Each must lead to the next, and the last must be that head.
struct Way {
    head: Option<(Sequence, ContentHash)>,
    /// The hash of the previous record, and the keyring that it names.
    last: Option<(ContentHash, Option<RingRef>)>,
}

/// The position of a record.
#[derive(PartialEq, Eq)]
enum Step {
    /// Before the checkpoint's head: the checkpoint includes it.
    Folded,
    /// The head, or after it.
    Further,
}

impl Way {
    /// Checks one record. `ring` is the keyring that the checkpoint names.
    fn step(
        &mut self,
        sequence: Sequence,
        record: &Record,
        hash: ContentHash,
        ring: Option<RingRef>,
    ) -> Result<Step, FoldError> {
        let Some((head, head_hash)) = self.head.filter(|(head, _)| sequence <= *head) else {
            return Ok(Step::Further);
        };
        if let Some((before, named)) = self.last {
            if record.previous != Some(before) {
                return Err(FoldError::Chain(sequence));
            }
            if !may_follow(named, record.ring) {
                return Err(FoldError::Ring(sequence));
            }
        }
        self.last = Some((hash, record.ring));
        if sequence < head {
            return Ok(Step::Folded);
        }
        if head_hash != hash {
            return Err(FoldError::Chain(sequence));
        }
        if record.ring != ring {
            return Err(FoldError::Ring(sequence));
        }
        Ok(Step::Further)
    }
}

/// Number of records above which a log has a checkpoint.
const LONG_RECORDS: u64 = 512;

impl Log<'_> {
    /// Folds records into `state`, and calls `each` after every one, with whether it is about the primary or
    /// the members.
    pub(crate) fn read_records(
        &self,
        state: &mut StoreState,
        reading: &Reading,
        each: &mut dyn FnMut(&StoreState, bool),
    ) -> Result<Met, RepositoryError> {
        let after = self.begin_reading(state, reading)?;
        let begins_at = after.map_or(Sequence(0), |after| after).next();
        let listed = self.list_records(after, begins_at)?;
        if reading.start == Start::Cache && state.head.is_none() && listed.len() as u64 > LONG_RECORDS {
            // The log was short when it was last seen. It has checkpoints by now.
            return self.read_records(state, &Reading { start: Start::Checkpoint, ..*reading }, each);
        }
        let known = state.head;
        if let Some((head, _)) = known
            && begins_at <= head
            && listed.last().is_none_or(|last| last.sequence < head)
        {
            return Err(RepositoryError::MissingRecord { store: self.store.name().clone(), sequence: head });
        }
        let (newest, mut rest) = (listed.last().map(|listed| listed.sequence), &listed[..]);
        let mut met = Met::default();
        let mut way = Way { head: known, last: None };
        while !rest.is_empty() {
            let (some, behind) = rest.split_at(held_together(rest));
            rest = behind;
            for (Listed { sequence, .. }, bytes) in some.iter().zip(self.fetch(some, newest, reading)?) {
                let (record, hash) = self.decode(*sequence, &bytes)?;
                met.note(*sequence, &record, hash, reading);
                let wrong = |source| RepositoryError::Log { store: self.store.name().clone(), source };
                if way.step(*sequence, &record, hash, state.ring).map_err(wrong)? == Step::Folded {
                    if reading.seen.is_some() && record.event.is_decision() && state.authority.is_blank() {
                        // The checkpoint passes over a decision: it is read how the store got members.
                        return Err(wrong(FoldError::Decision(*sequence)));
                    }
                    continue;
                }
                let decides = record.event.is_decision() || record.event.is_promotion();
                if known.is_none_or(|(head, _)| *sequence > head) {
                    state.apply(self.store.name(), record, hash).map_err(wrong)?;
                }
                each(state, decides);
            }
        }
        Ok(met)
    }

    /// Takes a checkpoint if allowed. Returns the record after which the reading begins.
    fn begin_reading(
        &self,
        state: &mut StoreState,
        reading: &Reading,
    ) -> Result<Option<Sequence>, RepositoryError> {
        if let Some((head, _)) = state.head {
            return Ok(Some(head));
        }
        let checkpoints = self.store.checkpoints();
        let checkpoint = match reading.start {
            Start::Records => None,
            // A checkpoint of another host's is worth the store's key, and a decision a member's: where
            // members decide, only what this host folded itself counts.
            Start::Cache if reading.founded => checkpoints.cached(),
            Start::Checkpoint if reading.founded => None,
            _ if reading.seen.is_none() && self.store.is_member() => None,
            start => {
                let checkpoint = checkpoints.last(start == Start::Cache)?;
                // So a host that knows the store from before it had members reads how it got them.
                checkpoint.filter(|found| reading.seen.is_none() || found.authority.is_blank())
            }
        };
        let Some(checkpoint) = checkpoint else { return Ok(None) };
        // Read its head again, and the records that lead to it from the last one that this host saw.
        let begins_at =
            checkpoint.head.map(|(head, _)| head.min(reading.seen.map_or(head, |seen| seen.sequence)));
        *state = checkpoint;
        Ok(begins_at.and_then(|begin| begin.0.checked_sub(1)).map(Sequence).filter(|s| s.0 > 0))
    }

    /// Fetches the bytes of some records, in order. The newest always comes from the repository.
    fn fetch(
        &self,
        some: &[Listed],
        newest: Option<Sequence>,
        reading: &Reading,
    ) -> Result<Vec<Bytes>, RepositoryError> {
        let one = |listed: Listed| async move {
            let Listed { sequence, size_bytes } = listed;
            let is_cached = reading.start == Start::Cache && Some(sequence) != newest;
            match is_cached.then(|| self.store.cache().record(sequence)).flatten() {
                Some(bytes) => Ok(bytes),
                // A record never changes, so if more bytes are served than were listed, it is another one.
                None => self.record_of(sequence, size_bytes.min(RECORD_MAX_BYTES as u64)).await,
            }
        };
        let fetched = futures::stream::iter(some.iter().copied()).map(one).buffered(READ_AHEAD).try_collect();
        self.store.wait(fetched)
    }

    /// Lists the records after `after`, whose numbers begin with `next` and have no gap.
    fn list_records(
        &self,
        after: Option<Sequence>,
        mut next: Sequence,
    ) -> Result<Vec<Listed>, RepositoryError> {
        let prefix = object_key::log_prefix(self.store.name());
        let after = after.map(|sequence| object_key::record(self.store.name(), sequence));
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), after.as_ref()))?;
        let mut records = Vec::with_capacity(listed.len());
        let found = listed.iter().filter_map(|object| {
            let sequence = object_key::parse_record(&object.location)?;
            Some(Listed { sequence, size_bytes: object.size })
        });
        for record in found {
            if record.sequence != next {
                return Err(RepositoryError::MissingRecord {
                    store: self.store.name().clone(),
                    sequence: next,
                });
            }
            records.push(record);
            next = next.next();
        }
        Ok(records)
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
