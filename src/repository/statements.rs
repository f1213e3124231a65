//! The statements of hosts that they are closed: `STORE/statements/<host>/<20 digits>`, the number of the last
//! record of the log when it was said. Created once, signed by the host's member key.
//!
//! A reader takes the last one that is signed by the member's key in force and names a record of this very log.
//! Any other object is passed over and told to the operator.

use super::error::RepositoryError;
use super::object_key;
use super::objects::Creation;
use super::parts::Log;
use crate::format::record::RECORD_MAX_BYTES;
use crate::model::closed::Closed;
use crate::model::id::{ContentHash, Sequence, WriterId};
use crate::model::record::StoreState;
use crate::model::signed::{SIGNED_MAX_BYTES, Signed};
use crate::support::failure::{Failure, FailureKind};
use object_store::PutPayload;
use object_store::path::Path;

/// Maximum number of statements that one look reads, from the last.
const READ_MAX: usize = 8;
/// Number of earlier statements that stay.
const KEPT: usize = 4;

impl Log<'_> {
    /// Puts a host's statement that it is closed at the record `at`.
    ///
    /// What is there already is this statement, or somebody else put it there to keep it out: that is replaced.
    /// Earlier ones are deleted, as far as that is allowed, and nothing by a number that others may have made up.
    pub fn put_statement(
        &self,
        host: &WriterId,
        at: Sequence,
        signed: &Signed,
    ) -> Result<(), RepositoryError> {
        let key = object_key::statement(self.store.name(), host, at);
        let payload = PutPayload::from(signed.encode());
        let store = self.store.objects();
        self.store.wait(async {
            if store.create(&key, payload.clone()).await? == Creation::Existed {
                let there = match store.get(&key, SIGNED_MAX_BYTES as u64).await {
                    Err(error) if error.kind() == FailureKind::Damaged => None,
                    there => there?,
                };
                if there.is_none_or(|there| there != *signed.encode()) {
                    store.overwrite(&key, payload).await?;
                }
            }
            let prefix = object_key::statement_prefix(self.store.name(), host);
            let listed = store.list(Some(&prefix), None).await?;
            let is_earlier = |key: &Path| object_key::parse_record(key).is_some_and(|number| number < at);
            let earlier: Vec<_> = listed.iter().filter(|object| is_earlier(&object.location)).collect();
            for old in &earlier[..earlier.len().saturating_sub(KEPT)] {
                if let Err(error) = store.delete(&old.location).await {
                    // It is said all the same, and the next one tries it again.
                    tracing::debug!(%error, "an earlier statement stays");
                    break;
                }
            }
            Ok(())
        })
    }

    /// Returns the last record at which `host` stated to be closed; none if it did not.
    pub fn stated(&self, state: &StoreState, host: &WriterId) -> Result<Option<Sequence>, RepositoryError> {
        let head = state.head.map_or(Sequence(0), |(head, _)| head);
        let prefix = object_key::statement_prefix(self.store.name(), host);
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), None))?;
        let numbered = listed.iter().rev().filter_map(|object| {
            // One that names a record which is not known here says nothing yet.
            let at = object_key::parse_record(&object.location).filter(|at| *at <= head)?;
            Some((at, object))
        });
        for (at, object) in numbered.take(READ_MAX) {
            let get = self.store.objects().get(&object.location, SIGNED_MAX_BYTES as u64);
            let bytes = match self.store.wait(get) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if error.kind() == FailureKind::Damaged => Default::default(),
                Err(error) => return Err(error),
            };
            let members = &state.authority.members;
            let closed = Closed::read(&bytes, self.store.name(), host, at, members);
            if closed.is_some_and(|closed| self.is_record(state, at, closed.record)) {
                return Ok(Some(at));
            }
            self.store.notice().say(&format!(
                "warning: {}: this statement counts for nothing: the member's key did not sign it for this log",
                object.location
            ));
        }
        Ok(None)
    }

    fn is_record(&self, state: &StoreState, at: Sequence, hash: ContentHash) -> bool {
        if let Some((head, known)) = state.head
            && head == at
        {
            return known == hash;
        }
        // What the cache holds was read as a part of this log.
        let bytes = match self.store.cache().record(at) {
            Some(bytes) => Ok(bytes),
            None => self.store.wait(self.record_of(at, RECORD_MAX_BYTES as u64)),
        };
        bytes.is_ok_and(|bytes| ContentHash::of(&bytes) == hash)
    }
}
