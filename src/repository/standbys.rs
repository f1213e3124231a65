//! What standbys say of themselves: which snapshot they have. A hint for `status`; nothing depends on it.
//!
//! The one kind of object that is replaced: each host writes its own.

use super::error::RepositoryError;
use super::key;
use super::store::Store;
use crate::format::seal::{self, Place};
use crate::model::id::{Sequence, WriterId};
use bytes::Bytes;
use object_store::PutPayload;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Of notes in stores that are encrypted.
const MAGIC: [u8; 8] = *b"USNOTES\x01";

const REPORT_MAX_BYTES: u64 = 64 << 10;

/// The last snapshot that a standby published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyReport {
    pub host: WriterId,
    pub snapshot: Sequence,
    /// Nanoseconds since 1970, by the standby's clock.
    pub published_ns: u64,
    /// Those that are mounted writable there, or pinned for another reason: they stay in the repository, too.
    #[serde(default)]
    pub pinned: Vec<Sequence>,
}

impl Store {
    pub fn report_standby(&self, report: &StandbyReport) -> Result<(), RepositoryError> {
        self.put_note(&key::standby(&self.name, &report.host), Place::Standby(&report.host.0), report)
    }

    /// The standbys that ever reported, sorted by host. What cannot be read as a report is left out.
    pub fn standbys(&self) -> Result<Vec<StandbyReport>, RepositoryError> {
        let prefix = key::standby_prefix(&self.name);
        self.notes(&prefix, |host| Place::Standby(host))
    }

    /// Forgets a standby that is gone: nothing is kept for it any more.
    pub fn forget_standby(&self, host: &WriterId) -> Result<bool, RepositoryError> {
        let at = key::standby(&self.name, host);
        self.repository.wait(async {
            let was_there = self.objects().head(&at).await?.is_some();
            self.objects().delete(&at).await?;
            Ok(was_there)
        })
    }

    /// Replaces what a host says of itself.
    pub(super) fn put_note(
        &self,
        at: &Path,
        place: Place,
        note: &impl Serialize,
    ) -> Result<(), RepositoryError> {
        let body = serde_json::to_vec(note).unwrap_or_default();
        let bytes = match self.new_sealing()? {
            (_, None) => body,
            (sealing, keys) => seal::close(&MAGIC, &sealing, place, keys.as_deref(), &body)
                .map_err(RepositoryError::format(at))?,
        };
        self.repository.wait(self.objects().mend(at, PutPayload::from(bytes)))
    }

    /// What hosts say of themselves, by host. What cannot be read is left out.
    pub(super) fn notes<T: DeserializeOwned>(
        &self,
        prefix: &Path,
        place: impl for<'a> Fn(&'a str) -> Place<'a>,
    ) -> Result<Vec<T>, RepositoryError> {
        let keys = self.keys()?;
        let found = self.repository.wait(async {
            let mut found = Vec::new();
            for object in self.objects().list(Some(prefix), None).await? {
                if let Some(bytes) = self.objects().get(&object.location, REPORT_MAX_BYTES).await? {
                    found.push((object.location, bytes));
                }
            }
            Ok::<_, RepositoryError>(found)
        })?;
        let read = |(at, bytes): (Path, Bytes)| {
            let body = match &keys {
                None => bytes.to_vec(),
                Some(keys) => {
                    let place = place(at.filename().unwrap_or_default());
                    seal::open(&MAGIC, "a note", place, Some(keys), &bytes).ok()?
                }
            };
            serde_json::from_slice(&body).ok()
        };
        Ok(found.into_iter().filter_map(read).collect())
    }
}
