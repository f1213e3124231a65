//! What standbys say of themselves: which snapshots they have, and that they are there. What a standby has is kept, as long as it says so.
//!
//! The one kind of object that is replaced: each host writes its own, each day at least. How old a note is the store's clock says,
//! which dates it: hosts' clocks are not compared.

use super::error::RepositoryError;
use super::object_key;
use super::objects::modified_ns;
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
    /// When it said so, by the store's clock; 0 in what is about to be said.
    #[serde(skip)]
    pub noted_ns: u64,
}

impl StandbyReport {
    /// Whether it was not heard of for so long. By a clock that is behind the note it was.
    pub fn is_silent(&self, now_ns: u64, limit_ns: u64) -> bool {
        now_ns.saturating_sub(self.noted_ns) >= limit_ns
    }
}

impl Store {
    pub fn report_standby(&self, report: &StandbyReport) -> Result<(), RepositoryError> {
        self.confirm_keyring()?;
        self.put_note(&object_key::standby(self.name(), &report.host), Place::Standby(&report.host.0), report)
    }

    /// The standbys that ever reported, sorted by host. What cannot be read as a report is left out.
    pub fn standbys(&self) -> Result<Vec<StandbyReport>, RepositoryError> {
        let prefix = object_key::standby_prefix(self.name());
        let dated = self.dated_notes(&prefix, |host| Place::Standby(host))?;
        Ok(dated.into_iter().map(|(noted_ns, report)| StandbyReport { noted_ns, ..report }).collect())
    }

    /// Forgets a standby that is gone: nothing is kept for it any more.
    pub fn forget_standby(&self, host: &WriterId) -> Result<bool, RepositoryError> {
        let at = object_key::standby(self.name(), host);
        self.wait(async {
            let was_there = self.objects().head(&at).await?.is_some();
            self.objects().delete(&at).await?;
            Ok(was_there)
        })
    }

    /// Replaces what a host says of itself.
    pub(crate) fn put_note(
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
        self.wait(self.objects().mend(at, PutPayload::from(bytes)))
    }

    /// What hosts say of themselves, by host. What cannot be read is left out.
    pub(crate) fn notes<T: DeserializeOwned>(
        &self,
        prefix: &Path,
        place: impl for<'a> Fn(&'a str) -> Place<'a>,
    ) -> Result<Vec<T>, RepositoryError> {
        Ok(self.dated_notes(prefix, place)?.into_iter().map(|(_, note)| note).collect())
    }

    /// As `notes`, each with the time at which it was put, by the store's clock.
    fn dated_notes<T: DeserializeOwned>(
        &self,
        prefix: &Path,
        place: impl for<'a> Fn(&'a str) -> Place<'a>,
    ) -> Result<Vec<(u64, T)>, RepositoryError> {
        let keys = self.keys()?;
        let found = self.wait(async {
            let mut found = Vec::new();
            let listed = self.objects().list(Some(prefix), None).await?;
            // What is larger is no note: nobody's stops who asks for all of them.
            for object in listed.into_iter().filter(|object| object.size <= REPORT_MAX_BYTES) {
                if let Some(bytes) = self.objects().get(&object.location, REPORT_MAX_BYTES).await? {
                    found.push((object.location.clone(), modified_ns(&object), bytes));
                }
            }
            Ok::<_, RepositoryError>(found)
        })?;
        let read = |(at, noted_ns, bytes): (Path, u64, Bytes)| {
            let body = match &keys {
                None => bytes.to_vec(),
                Some(keys) => {
                    let host = object_key::host_of(&at);
                    let place = place(&host);
                    seal::open(&MAGIC, "a note", place, Some(keys), &bytes).ok()?
                }
            };
            Some((noted_ns, serde_json::from_slice(&body).ok()?))
        };
        Ok(found.into_iter().filter_map(read).collect())
    }
}
