//! The reports of standbys: which snapshots they have, and that they are alive.
//!
//! A snapshot that a standby uses is kept as long as the standby reports. These notes are the one kind of
//! object that is overwritten: each host writes its own, at least once a day. The store's clock, which dates
//! a note, determines its age; hosts' clocks are not compared.

use super::error::RepositoryError;
use super::object_key;
use super::objects::modified;
use super::parts::Notes;
use crate::format::seal::{self, SealContext};
use crate::model::id::{Sequence, WriterId};
use crate::support::clock::UnixNanos;
use bytes::Bytes;
use object_store::PutPayload;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Magic of notes in encrypted stores.
const MAGIC: [u8; 8] = *b"USNOTES\x01";

const REPORT_MAX_BYTES: u64 = 64 << 10;

/// The last snapshot that a standby published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyReport {
    pub host: WriterId,
    pub snapshot: Sequence,
    /// Time of the report by the standby's clock.
    #[serde(rename = "published_ns")]
    pub published: UnixNanos,
    /// Snapshots that are mounted writable there, or pinned for another reason.
    ///
    /// They stay in the repository, too.
    #[serde(default)]
    pub pinned: Vec<Sequence>,
    /// Time of the report by the store's clock; 1970 in a report that is about to be written.
    #[serde(skip)]
    pub noted: UnixNanos,
}

impl StandbyReport {
    /// Returns whether its last report is at least that old. A report later than `now` is not old.
    pub(crate) fn is_silent(&self, now: UnixNanos, limit: Duration) -> bool {
        now.since(self.noted) >= limit
    }
}

impl Notes<'_> {
    pub fn report_standby(&self, report: &StandbyReport) -> Result<(), RepositoryError> {
        self.store.keyrings().confirm_keyring()?;
        self.put(
            &object_key::standby(self.store.name(), &report.host),
            SealContext::Standby(&report.host.0),
            report,
        )
    }

    /// Returns the reports of all standbys, sorted by host. Unreadable ones are left out.
    pub fn standbys(&self) -> Result<Vec<StandbyReport>, RepositoryError> {
        let prefix = object_key::standby_prefix(self.store.name());
        let dated = self.dated(&prefix, |host| SealContext::Standby(host))?;
        Ok(dated.into_iter().map(|(noted, report)| StandbyReport { noted, ..report }).collect())
    }

    /// Removes the report of a standby, so that nothing is kept for it. Returns whether it existed.
    pub fn forget_standby(&self, host: &WriterId) -> Result<bool, RepositoryError> {
        let at = object_key::standby(self.store.name(), host);
        self.store.wait(async {
            let was_there = self.store.objects().head(&at).await?.is_some();
            self.store.objects().delete(&at).await?;
            Ok(was_there)
        })
    }

    /// Overwrites a host's note.
    pub(crate) fn put(
        &self,
        at: &Path,
        place: SealContext,
        note: &impl Serialize,
    ) -> Result<(), RepositoryError> {
        let body = serde_json::to_vec(note).unwrap_or_default();
        let bytes = match self.store.keyrings().new_sealing()? {
            (_, None) => body,
            (sealing, keys) => seal::close(&MAGIC, &sealing, place, keys.as_deref(), &body)
                .map_err(RepositoryError::format(at))?,
        };
        self.store.wait(self.store.objects().overwrite(at, PutPayload::from(bytes)))
    }

    /// Returns one note; none if it does not exist or cannot be read.
    pub(crate) fn one<T: DeserializeOwned>(
        &self,
        at: &Path,
        place: SealContext,
    ) -> Result<Option<T>, RepositoryError> {
        let keys = self.store.keyrings().keys()?;
        let size = self.store.wait(self.store.objects().head(at))?;
        // A larger object is no note.
        if size.is_none_or(|size| size > REPORT_MAX_BYTES) {
            return Ok(None);
        }
        let Some(bytes) = self.store.wait(self.store.objects().get(at, REPORT_MAX_BYTES))? else {
            return Ok(None);
        };
        let body = match &keys {
            None => Some(bytes.to_vec()),
            Some(keys) => seal::open(&MAGIC, "a note", place, Some(keys), &bytes).ok(),
        };
        Ok(body.and_then(|body| serde_json::from_slice(&body).ok()))
    }

    /// Returns the notes of all hosts. Unreadable ones are left out.
    pub(crate) fn all<T: DeserializeOwned>(
        &self,
        prefix: &Path,
        place: impl for<'a> Fn(&'a str) -> SealContext<'a>,
    ) -> Result<Vec<T>, RepositoryError> {
        Ok(self.dated(prefix, place)?.into_iter().map(|(_, note)| note).collect())
    }

    /// Returns the notes as `all` does, each with the time at which it was put, by the store's clock.
    fn dated<T: DeserializeOwned>(
        &self,
        prefix: &Path,
        place: impl for<'a> Fn(&'a str) -> SealContext<'a>,
    ) -> Result<Vec<(UnixNanos, T)>, RepositoryError> {
        let keys = self.store.keyrings().keys()?;
        let found = self.store.wait(async {
            let mut found = Vec::new();
            let listed = self.store.objects().list(Some(prefix), None).await?;
            // A larger object is no note. It must not stop a reader of all notes.
            for object in listed.into_iter().filter(|object| object.size <= REPORT_MAX_BYTES) {
                if let Some(bytes) = self.store.objects().get(&object.location, REPORT_MAX_BYTES).await? {
                    found.push((object.location.clone(), modified(&object), bytes));
                }
            }
            Ok::<_, RepositoryError>(found)
        })?;
        let read = |(at, noted, bytes): (Path, UnixNanos, Bytes)| {
            let body = match &keys {
                None => bytes.to_vec(),
                Some(keys) => {
                    let host = object_key::host_of(&at);
                    let place = place(&host);
                    seal::open(&MAGIC, "a note", place, Some(keys), &bytes).ok()?
                }
            };
            Some((noted, serde_json::from_slice(&body).ok()?))
        };
        Ok(found.into_iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_as_other_versions_read_it() {
        let report = StandbyReport {
            host: WriterId("a".into()),
            snapshot: Sequence(3),
            published: UnixNanos(4),
            pinned: vec![Sequence(2)],
            noted: UnixNanos(5),
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"host":"a","snapshot":3,"published_ns":4,"pinned":[2]}"#
        );
    }
}
