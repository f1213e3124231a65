//! Detects two daemons that resync one store by turns, which is a mistake, in the log. Pure.
//!
//! A daemon draws a number when it starts, its incarnation, and writes it into each snapshot that it commits.
//! After a restart a host writes another number, and never the old one again. So an incarnation that commits
//! *after* another one did, and had committed before it, belongs to a process that runs at the same time: two
//! hosts have one name, or two hosts have the store as their primary's, or one host runs two daemons. Their
//! trees replace each other in the store, snapshot by snapshot.
//!
//! Both daemons and `status` report it, and nothing is refused: the log stays one line whichever daemon
//! writes, no program knows which of the two is right, and during an update an old process may commit once
//! more after the new one did. It is no longer reported once [`LOOK_BACK`] snapshots show one daemon alone.
//! After a promotion only what was committed since then is examined: the store's primary was another host before.
//!
//! Single commands (`resync` next to a daemon, a scheduled job's `resync --due`) have no incarnation and are
//! never taken for a daemon, since it is normal for them to end.

use super::id::{DaemonId, Sequence};
use super::record::StoreState;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Number of daemons' snapshots that are examined, from the newest on.
pub const LOOK_BACK: usize = 8;

/// The two daemons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rivals {
    /// The daemon that committed, and committed again after the other one.
    pub daemon: DaemonId,
    pub other: DaemonId,
    /// The snapshot that shows it: `daemon`'s, after `other`'s.
    pub snapshot: Sequence,
}

impl fmt::Display for Rivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { daemon, other, snapshot } = self;
        write!(
            f,
            "two daemons take turns at resyncing this store, most recently with snapshot {snapshot}: "
        )?;
        let (one, two) = (daemon.incarnation, other.incarnation);
        match daemon.host == other.host {
            true => write!(
                f,
                "both are host '{}' (incarnations {one} and {two}); give each host a `writer` of its own, and run one daemon on each",
                daemon.host
            ),
            false => write!(
                f,
                "host '{}' (incarnation {one}) and host '{}' (incarnation {two}); configure one of them as a standby",
                daemon.host, other.host
            ),
        }
    }
}

/// Returns the daemons that resync the store by turns, if the newest snapshots show any.
pub fn rivals(state: &StoreState) -> Option<Rivals> {
    let promoted = state.authority.promotion.as_ref().map_or(Sequence(0), |last| last.sequence);
    let made = state.snapshots.range(promoted..).rev();
    let made = made.filter_map(|(sequence, record)| Some((*sequence, record.statistics.daemon.as_ref()?)));
    let made: Vec<_> = made.take(LOOK_BACK).collect();
    (0..made.len()).find_map(|at| {
        let (snapshot, daemon) = made[at];
        let is_other = |(_, other): &(Sequence, &DaemonId)| other.incarnation != daemon.incarnation;
        let earlier = &made[at + 1..];
        let other = earlier.iter().position(is_other)?;
        let came_back = !earlier[other..].iter().all(is_other);
        came_back.then(|| Rivals { daemon: daemon.clone(), other: earlier[other].1.clone(), snapshot })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::authority::LastPromotion;
    use crate::model::decision::{Cause, Loss};
    use crate::model::id::{Incarnation, WriterId};
    use crate::model::record::{SnapshotRecord, SnapshotStatistics};
    use crate::support::clock::UnixNanos;

    fn promoted(sequence: Sequence) -> LastPromotion {
        let (cause, loss, at) = (Cause::Founding, Loss::default(), UnixNanos(0));
        LastPromotion { sequence, former: None, cause, base: None, loss, at, completed: true, database: None }
    }

    fn snapshot(daemon: Option<DaemonId>) -> SnapshotRecord {
        let statistics = SnapshotStatistics { daemon, ..Default::default() };
        SnapshotRecord { statistics, ..SnapshotRecord::sample() }
    }

    /// Returns the number of the snapshot that shows two daemons. `daemons` is the log of their snapshots,
    /// oldest first; `-` is a command's, and `!` a promotion.
    fn found(daemons: &str) -> Option<u64> {
        let mut state = StoreState::default();
        for (at, letter) in daemons.chars().enumerate() {
            if letter == '!' {
                state.authority.promotion = Some(promoted(Sequence(at as u64 + 1)));
                continue;
            }
            let incarnation = Incarnation(u64::from(u32::from(letter)));
            let daemon = (letter != '-').then(|| DaemonId { host: WriterId("web".into()), incarnation });
            state.snapshots.insert(Sequence(at as u64 + 1), snapshot(daemon));
        }
        rivals(&state).map(|rivals| rivals.snapshot.0)
    }

    #[test]
    fn a_restart_is_no_rival_and_a_daemon_that_comes_back_is_one() {
        for (daemons, expected) in [
            ("", None),
            ("aaaa", None),
            ("aab", None),
            ("abcd", None),
            ("aabbc", None),
            ("aba", Some(3)),
            ("abab", Some(4)),
            ("aaabaa", Some(6)),
            ("abc-a", Some(5)),
        ] {
            assert_eq!(found(daemons), expected, "{daemons}");
        }
    }

    #[test]
    fn commands_beside_a_daemon_are_no_rivals() {
        assert_eq!(found("-a-a--a-"), None);
        assert_eq!(found("a-b-b"), None);
    }

    #[test]
    fn hosts_that_were_promoted_in_turn_are_no_rivals() {
        assert_eq!(found("a!b!a"), None);
        assert_eq!(found("aba!"), None);
        assert_eq!(found("a!bab"), Some(5));
    }

    #[test]
    fn one_that_writes_alone_again_is_no_longer_told() {
        assert!(found("abaaaaaa").is_some());
        assert_eq!(found("abaaaaaaaa"), None);
    }
}
