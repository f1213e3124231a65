//! What this host saw of a store: the last record of its log, its keyring, and whether it is encrypted.
//!
//! This is a note in the cache, which is on the disk before anything depends on it. It contains no secret. A
//! host without it trusts the store on first use. A note that cannot be decoded is an error, not a first use.
//! Two processes of one host may write the note at the same time: each reads and writes it under a lock of
//! its directory, and only continues from the note that it reads there.

use super::error::RepositoryError;
use super::parts::HostMemory;
use super::trust::{SeenEncryption, SeenRing};
use crate::model::id::{ContentHash, Sequence};
use crate::model::record::StoreState;
use crate::support::durable;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The last record that this host saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub sequence: Sequence,
    pub hash: ContentHash,
}

/// The note as it is stored. Earlier versions wrote only the first two fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<Sequence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<ContentHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<SeenEncryption>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ring: Option<SeenRing>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    confirmed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    founded: bool,
}

/// The facts that this host saw of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub head: Option<Seen>,
    pub encryption: Option<SeenEncryption>,
    pub ring: Option<SeenRing>,
    /// Whether the keyring is confirmed.
    ///
    /// A key of this host made it or one that it follows, the operator accepted it, or this host published a
    /// snapshot that it opens.
    pub confirmed: bool,
    /// Whether members decide about the store.
    pub founded: bool,
}

/// Proof that a fold went through the record that this host saw last: see `Log::passed`.
pub(crate) struct Passed(pub(crate) ());

impl Memory {
    /// Converts a note.
    ///
    /// A note of an earlier version does not say whether the store is encrypted. It then counts as
    /// unencrypted: the record that the host saw is sealed or not, and the log is compared with that record.
    fn of(note: Note) -> Self {
        let head = note.sequence.zip(note.hash).map(|(sequence, hash)| Seen { sequence, hash });
        let encryption = note.encryption.or(head.map(|_| SeenEncryption::Off));
        let Note { ring, confirmed, founded, .. } = note;
        Self { head, encryption, ring, confirmed, founded }
    }

    fn note(self) -> Note {
        let Self { head, encryption, ring, confirmed, founded } = self;
        let (sequence, hash) = (head.map(|h| h.sequence), head.map(|h| h.hash));
        Note { sequence, hash, encryption, ring, confirmed, founded }
    }
}

/// Creates a directory if needed and locks it against other processes of this host.
///
/// A failure to lock it is ignored.
fn lock(dir: &Path) -> std::io::Result<File> {
    durable::create_dirs(dir)?;
    let dir = File::open(dir)?;
    let _ = rustix::fs::flock(&dir, FlockOperation::LockExclusive);
    Ok(dir)
}

impl HostMemory<'_> {
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.store.cache().file("head")
    }

    /// Returns what this host saw; nothing if it has no cache, or an empty one.
    pub(crate) fn read(&self) -> Result<Memory, RepositoryError> {
        let Some(path) = self.file() else { return Ok(Memory::default()) };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            // The cache of another user is not this host's memory.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(Memory::default());
            }
            Err(error) => return Err(RepositoryError::local(path.display())(error)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(note) => Ok(Memory::of(note)),
            Err(_) => Err(RepositoryError::Memory { store: self.store.name().clone(), note: path }),
        }
    }

    /// Changes the memory of this host. If it cannot be stored, the host warns and continues.
    pub fn change(&self, change: impl FnOnce(&mut Memory)) -> Result<(), RepositoryError> {
        let Some(path) = self.file() else { return Ok(()) };
        let locked = path.parent().map(lock).transpose();
        let before = self.read()?;
        let mut memory = before.clone();
        change(&mut memory);
        if memory == before {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&memory.note()).unwrap_or_default();
        if let Err(error) = locked.and_then(|_held| durable::replace(self.store.env(), &path, 0o600, &bytes))
        {
            self.store.notice().say(&format!(
                "warning: {}: {error}; this host cannot remember what it saw of store '{}'",
                path.display(),
                self.store.name()
            ));
        }
        Ok(())
    }

    /// Remembers a state that continues from what was seen.
    pub(crate) fn remember(&self, state: &StoreState, _: Passed) -> Result<(), RepositoryError> {
        let Some((sequence, hash)) = state.head else { return Ok(()) };
        let ring = self.store.keyrings().known();
        let confirmed = self.store.keyrings().is_confirmed();
        let accepted = self.store.keyrings().is_plain_accepted()?;
        self.change(|memory| {
            memory.founded |= state.authority.is_founded();
            if memory.head.is_none_or(|seen| seen.sequence < sequence) {
                memory.head = Some(Seen { sequence, hash });
            }
            match ring {
                Some(Some(ring)) => {
                    memory.take_ring(ring);
                    memory.confirmed |= confirmed;
                }
                Some(None) if accepted => memory.encryption = Some(SeenEncryption::Off),
                Some(None) => memory.encryption = Some(SeenEncryption::Unconfirmed),
                None => {}
            }
        })
    }
}

impl Memory {
    pub(crate) fn take_ring(&mut self, ring: SeenRing) {
        self.encryption = Some(SeenEncryption::On);
        if self.ring.as_ref().is_none_or(|seen| seen.sequence < ring.sequence) {
            self.ring = Some(ring);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_an_earlier_version_says_what_it_said() {
        let text = format!("{{\"sequence\":7,\"hash\":\"{}\"}}", ContentHash::of(b"7"));
        let memory = Memory::of(serde_json::from_str(&text).unwrap());
        assert_eq!(memory.head, Some(Seen { sequence: Sequence(7), hash: ContentHash::of(b"7") }));
        assert_eq!((memory.encryption, memory.ring), (Some(SeenEncryption::Off), None));
    }

    #[test]
    fn a_newer_keyring_is_never_forgotten_for_an_older_one() {
        let ring = |sequence| SeenRing {
            version: 2,
            sequence,
            hash: ContentHash::of(&[sequence as u8]),
            keys: 1,
            commitment: ContentHash::of(b"k"),
            holders: Vec::new(),
        };
        let mut memory = Memory::default();
        for sequence in [3, 2, 4, 1] {
            memory.take_ring(ring(sequence));
        }
        assert_eq!(memory.ring, Some(ring(4)));
        let again =
            Memory::of(serde_json::from_slice(&serde_json::to_vec(&memory.clone().note()).unwrap()).unwrap());
        assert_eq!(again, memory);
    }
}
