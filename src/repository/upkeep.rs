//! What a host did for a store's upkeep, and how far it came: a note in the repository, since a container begins with nothing.
//! Each host writes its own. Nothing depends on it but when the next is due, and what `status` shows.

use super::error::RepositoryError;
use super::object_key;
use super::store::Store;
use crate::format::seal::Place;
use crate::model::id::{PackId, Sequence, WriterId};
use serde::{Deserialize, Serialize};

/// A drill: a snapshot was mounted, and all of it read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub snapshot: Sequence,
    /// When that snapshot's scan began.
    pub scan_start_ns: u64,
    /// When it was proven.
    pub proven_ns: u64,
}

/// A host's note.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpkeepNote {
    pub host: String,
    pub pruned_ns: Option<u64>,
    pub verified_ns: Option<u64>,
    /// The last pack that was read.
    pub read_until: Option<PackId>,
    /// When the readings last came round, so that every pack had been read.
    pub round_ns: Option<u64>,
    /// What the last verification found.
    pub problems: u64,
    pub drilled_ns: Option<u64>,
    pub proof: Option<Proof>,
    /// Why the last drill failed.
    pub drill_error: Option<String>,
}

impl Store {
    /// This host's note; an empty one where there is none.
    pub fn upkeep_of(&self, host: &WriterId) -> Result<UpkeepNote, RepositoryError> {
        let found = self.upkeep()?.into_iter().find(|note| note.host == host.0);
        Ok(found.unwrap_or_else(|| UpkeepNote { host: host.0.clone(), ..Default::default() }))
    }

    /// All hosts' notes.
    pub fn upkeep(&self) -> Result<Vec<UpkeepNote>, RepositoryError> {
        self.notes(&object_key::upkeep_prefix(self.name()), |host| Place::Upkeep(host))
    }

    pub fn note_upkeep(&self, note: &UpkeepNote) -> Result<(), RepositoryError> {
        // A note keeps nobody from reading, so that one goes to a store that only readers go on with; under a keyring that was planted none goes.
        if let Some(loaded) = self.loaded()? {
            self.admit_keyring(&loaded, false)?;
        }
        let host = WriterId(note.host.clone());
        self.put_note(&object_key::upkeep(self.name(), &host), Place::Upkeep(&note.host), note)
    }
}

/// The last proof of all hosts.
pub fn last_proof(notes: &[UpkeepNote]) -> Option<&Proof> {
    notes.iter().filter_map(|note| note.proof.as_ref()).max_by_key(|proof| (proof.snapshot, proof.proven_ns))
}
