//! The upkeep status of a store: the last time of each duty, over all hosts that do upkeep.

use crate::api::upkeep::UpkeepStatus;
use crate::repository::upkeep::{UpkeepNote, last_proof};
use crate::support::clock::{self, seconds};

/// Returns the last time of each duty in the notes of all hosts.
///
/// A time that lies in the future, by a wrong clock, says nothing and must not hide another host's.
pub fn upkeep_status(notes: &[UpkeepNote], now_ns: u64) -> UpkeepStatus {
    let past = |ns: Option<u64>| ns.filter(|ns| clock::ahead_ns(now_ns, *ns).is_none());
    let known = |note: &UpkeepNote| UpkeepNote {
        pruned_ns: past(note.pruned_ns),
        verified_ns: past(note.verified_ns),
        round_ns: past(note.round_ns),
        drilled_ns: past(note.drilled_ns),
        proof: note.proof.clone().filter(|proof| past(Some(proof.proven_ns)).is_some()),
        ..note.clone()
    };
    let notes = &notes.iter().map(known).collect::<Vec<_>>()[..];
    let last = |of: fn(&UpkeepNote) -> Option<u64>| notes.iter().filter_map(of).max().map(seconds);
    let proof = last_proof(notes);
    let verified = notes.iter().max_by_key(|note| note.verified_ns);
    let drilled = notes.iter().max_by_key(|note| note.drilled_ns);
    UpkeepStatus {
        pruned: last(|note| note.pruned_ns),
        verified: last(|note| note.verified_ns),
        read_whole: last(|note| note.round_ns),
        problems: verified.map_or(0, |note| note.problems),
        proven_snapshot: proof.map(|proof| proof.snapshot),
        proven: proof.map(|proof| seconds(proof.proven_ns)),
        drill_error: drilled.and_then(|note| note.drill_error.clone()),
    }
}
