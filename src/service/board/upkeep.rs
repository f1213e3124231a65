//! The upkeep status of a store: the last time of each duty, over all hosts that do upkeep.

use crate::api::upkeep::UpkeepStatus;
use crate::repository::upkeep::{UpkeepNote, last_proof};
use crate::support::clock::UnixNanos;

/// Returns the last time of each duty in the notes of all hosts.
///
/// A time that lies in the future, by a wrong clock, says nothing and must not hide another host's.
pub fn upkeep_status(notes: &[UpkeepNote], now: UnixNanos) -> UpkeepStatus {
    let past = |time: Option<UnixNanos>| time.filter(|time| time.ahead_of(now).is_none());
    let known = |note: &UpkeepNote| UpkeepNote {
        pruned: past(note.pruned),
        verified: past(note.verified),
        round: past(note.round),
        drilled: past(note.drilled),
        site: note.site.clone().filter(|site| past(Some(site.at)).is_some()),
        proof: note.proof.clone().filter(|proof| past(Some(proof.proven)).is_some()),
        ..note.clone()
    };
    let notes = &notes.iter().map(known).collect::<Vec<_>>()[..];
    let last =
        |of: fn(&UpkeepNote) -> Option<UnixNanos>| notes.iter().filter_map(of).max().map(UnixNanos::seconds);
    let proof = last_proof(notes);
    let verified = notes.iter().max_by_key(|note| note.verified);
    let drilled = notes.iter().max_by_key(|note| note.drilled);
    let sites = || notes.iter().filter_map(|note| note.site.as_ref());
    let site = sites().max_by_key(|site| site.at);
    let recovery = sites().filter_map(|site| site.proven.as_ref()).max_by_key(|proven| proven.at);
    UpkeepStatus {
        pruned: last(|note| note.pruned),
        verified: last(|note| note.verified),
        read_whole: last(|note| note.round),
        problems: verified.map_or(0, |note| note.problems),
        proven_snapshot: proof.map(|proof| proof.snapshot),
        proven: proof.map(|proof| proof.proven.seconds()),
        drill_error: drilled.and_then(|note| note.drill_error.clone()),
        recovery_proven: recovery.map(|proven| proven.at.seconds()),
        recovery_seconds: recovery.map(|proven| proven.recovery_seconds),
        site_drill_error: site.and_then(|site| site.error.clone()),
    }
}
