//! A host's note about a store's upkeep: what was done, and how far it came.
//!
//! It is stored in the repository, since a container begins without state. Each host writes its own. Only the
//! time of the next upkeep, and the output of `status`, depend on it.

use super::error::RepositoryError;
use super::object_key;
use super::parts::Notes;
use crate::format::seal::SealContext;
use crate::model::id::{PackId, Sequence, WriterId};
use crate::support::clock::UnixNanos;
use serde::{Deserialize, Serialize};

/// The proof of a drill: a snapshot was mounted and read completely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub snapshot: Sequence,
    /// Time at which that snapshot's scan began.
    #[serde(rename = "scan_start_ns")]
    pub scan_start: UnixNanos,
    /// Time at which it was proven.
    #[serde(rename = "proven_ns")]
    pub proven: UnixNanos,
}

/// The result of a drill of a failover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteNote {
    /// When the last one began that came to its end.
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
    /// Why it failed; none if it succeeded.
    #[serde(default)]
    pub error: Option<String>,
    /// The last one that succeeded.
    #[serde(default)]
    pub proven: Option<SiteProof>,
}

/// What a drill of a failover has proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteProof {
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
    /// From the decision to a store that serves.
    pub recovery_seconds: f64,
    pub snapshot: Option<Sequence>,
}

/// The note of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpkeepNote {
    pub host: String,
    #[serde(rename = "pruned_ns")]
    pub pruned: Option<UnixNanos>,
    #[serde(rename = "verified_ns")]
    pub verified: Option<UnixNanos>,
    /// The last pack that was read.
    pub read_until: Option<PackId>,
    /// Time at which the readings last reached the end, so that every pack had been read.
    #[serde(rename = "round_ns")]
    pub round: Option<UnixNanos>,
    /// Number of problems that the last verification found.
    pub problems: u64,
    #[serde(rename = "drilled_ns")]
    pub drilled: Option<UnixNanos>,
    pub proof: Option<Proof>,
    /// The error of the last drill.
    pub drill_error: Option<String>,
    /// The drills of a failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteNote>,
    /// The last proof of each snapshot that was drilled; the latest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proven_snapshots: Vec<Proof>,
}

/// Maximum number of snapshots whose proof a note keeps.
const PROOFS_MAX: usize = 64;

impl UpkeepNote {
    /// Notes a proof. That of an older snapshot says nothing about how recent a restore can be.
    pub(crate) fn prove(&mut self, proof: Proof) {
        self.proven_snapshots.retain(|other| other.snapshot != proof.snapshot);
        self.proven_snapshots.push(proof.clone());
        let excess = self.proven_snapshots.len().saturating_sub(PROOFS_MAX);
        self.proven_snapshots.drain(..excess);
        if self.proof.as_ref().is_none_or(|last| last.snapshot <= proof.snapshot) {
            self.proof = Some(proof);
        }
    }
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

/// Returns when a snapshot was last proven, by any host.
pub(crate) fn proven(notes: &[UpkeepNote], snapshot: Sequence) -> Option<UnixNanos> {
    let all = notes.iter().flat_map(|note| note.proof.iter().chain(&note.proven_snapshots));
    all.filter(|proof| proof.snapshot == snapshot).map(|proof| proof.proven).max()
}

/// Returns the last proof of all hosts.
pub(crate) fn last_proof(notes: &[UpkeepNote]) -> Option<&Proof> {
    notes.iter().filter_map(|note| note.proof.as_ref()).max_by_key(|proof| (proof.snapshot, proof.proven))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_written_as_other_versions_read_it() {
        let proof = Proof { snapshot: Sequence(3), scan_start: UnixNanos(4), proven: UnixNanos(5) };
        let note = UpkeepNote {
            host: "a".into(),
            pruned: Some(UnixNanos(1)),
            verified: Some(UnixNanos(2)),
            drilled: Some(UnixNanos(6)),
            proof: Some(proof),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&note).unwrap(),
            r#"{"host":"a","pruned_ns":1,"verified_ns":2,"read_until":null,"round_ns":null,"problems":0,"drilled_ns":6,"proof":{"snapshot":3,"scan_start_ns":4,"proven_ns":5},"drill_error":null}"#
        );
    }
}
