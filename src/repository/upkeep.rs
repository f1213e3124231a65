//! A host's note about a store's upkeep: what was done, and how far it came.
//!
//! It is stored in the repository, since a container begins without state. Each host writes its own. Only the
//! time of the next upkeep, and the output of `status`, depend on it.

use super::error::RepositoryError;
use super::object_key;
use super::parts::Notes;
use crate::format::seal::SealContext;
use crate::model::id::{PackId, Sequence, WriterId};
use serde::{Deserialize, Serialize};

/// The proof of a drill: a snapshot was mounted and read completely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub snapshot: Sequence,
    /// Time at which that snapshot's scan began.
    pub scan_start_ns: u64,
    /// Time at which it was proven.
    pub proven_ns: u64,
}

/// The note of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpkeepNote {
    pub host: String,
    pub pruned_ns: Option<u64>,
    pub verified_ns: Option<u64>,
    /// The last pack that was read.
    pub read_until: Option<PackId>,
    /// Time at which the readings last reached the end, so that every pack had been read.
    pub round_ns: Option<u64>,
    /// Number of problems that the last verification found.
    pub problems: u64,
    pub drilled_ns: Option<u64>,
    pub proof: Option<Proof>,
    /// The error of the last drill.
    pub drill_error: Option<String>,
}

impl Notes<'_> {
    /// Returns this host's note; an empty one if there is none.
    pub(crate) fn upkeep_of(&self, host: &WriterId) -> Result<UpkeepNote, RepositoryError> {
        let found = self.upkeep()?.into_iter().find(|note| note.host == host.0);
        Ok(found.unwrap_or_else(|| UpkeepNote { host: host.0.clone(), ..Default::default() }))
    }

    /// Returns the notes of all hosts.
    pub fn upkeep(&self) -> Result<Vec<UpkeepNote>, RepositoryError> {
        self.all(&object_key::upkeep_prefix(self.store.name()), |host| SealContext::Upkeep(host))
    }

    pub(crate) fn note_upkeep(&self, note: &UpkeepNote) -> Result<(), RepositoryError> {
        // A note is written even to an unencrypted store that may only be read, since it affects no reader.
        // Under a keyring that is not accepted, none is written.
        if let Some(loaded) = self.store.keyrings().loaded()? {
            self.store.keyrings().admit(&loaded, false)?;
        }
        let host = WriterId(note.host.clone());
        self.put(&object_key::upkeep(self.store.name(), &host), SealContext::Upkeep(&note.host), note)
    }
}

/// Returns the last proof of all hosts.
pub(crate) fn last_proof(notes: &[UpkeepNote]) -> Option<&Proof> {
    notes.iter().filter_map(|note| note.proof.as_ref()).max_by_key(|proof| (proof.snapshot, proof.proven_ns))
}
