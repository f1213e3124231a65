//! That a drill of a failover left nothing: what the world was like before it, and what it is like afterwards. The
//! comparison is pure.
//!
//! Others go on meanwhile: a primary commits, a replica applies, edges are told. Only what a drill of this host could
//! have done counts.

use super::dry::World;
use crate::database::minimal::Place;
use crate::database::report::Report;
use crate::database::role::RoleNote;
use crate::database::role_file;
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::model::record::{Event, StoreState};
use crate::repository::error::RepositoryError;
use crate::repository::leases::Lease;
use crate::support::mountinfo::unescape;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What a drill must not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// The log's end.
    head: Option<Sequence>,
    epoch: Epoch,
    /// The number with which this host broke the primary's lease; none if it did not.
    broken: Option<u64>,
    /// What the replica's last order was.
    role: Option<RoleNote>,
    /// Whether the replica's server runs.
    runs: Option<bool>,
    /// What the edges were given last; none where that is not known.
    edge: Option<Epoch>,
    /// Mount points, of all filesystems.
    mounts: BTreeSet<PathBuf>,
}

/// Returns the mount points of this process's namespace.
fn mounts() -> BTreeSet<PathBuf> {
    let list = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let dir = |line: &[u8]| {
        let dir = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescape(dir))))
    };
    list.split(|byte| *byte == b'\n').filter_map(dir).collect()
}

/// Returns the number with which this host broke the primary's lease.
fn broken(world: &World, state: &StoreState, me: &WriterId) -> Result<Option<u64>, RepositoryError> {
    let Some(primary) = state.primary.as_ref().filter(|_| state.authority.is_founded()) else {
        return Ok(None);
    };
    let mut lease = Lease::new(world.store, primary);
    let last = lease.look(&state.authority.members)?;
    Ok(last.filter(|last| last.maker == *me && me != primary).map(|last| last.number))
}

impl Trace {
    /// Looks at the world.
    pub fn take(
        world: &World,
        state: &StoreState,
        replica: Option<&Place>,
        me: &WriterId,
    ) -> Result<Self, RepositoryError> {
        Ok(Self {
            head: state.head.as_ref().map(|(head, _)| *head),
            epoch: state.epoch,
            broken: broken(world, state, me)?,
            role: replica.and_then(|place| role_file::read(place).ok()),
            runs: replica.map(|place| Report::read(place).is_some_and(|report| report.is_up())),
            edge: world.epoch_at_edges(),
            mounts: mounts(),
        })
    }

    /// Returns what a drill left, by what its store's path and its own places are. Pure.
    pub fn left(&self, after: &Self, own: &[PathBuf], records: &[String]) -> Vec<String> {
        let mut left: Vec<String> = records.to_vec();
        let mut changed = |is: bool, what: &str| left.extend(is.then(|| what.to_owned()));
        changed(self.broken != after.broken, "this host broke the primary's lease");
        changed(self.role != after.role, "the replica of the database was given an order");
        changed(
            self.runs == Some(true) && after.runs == Some(false),
            "the replica of the database has stopped",
        );
        let is_of_edge = self.edge.is_some() && after.edge.is_some() && self.epoch == after.epoch;
        changed(is_of_edge && self.edge != after.edge, "an edge was given another epoch");
        let is_own = |dir: &&PathBuf| own.iter().any(|own| dir.starts_with(own));
        for dir in after.mounts.difference(&self.mounts).filter(is_own) {
            left.push(format!("a mount at {}", dir.display()));
        }
        left
    }
}

/// Returns the decisions of this host in the log after a position, in words.
pub(super) fn records_of(
    world: &World,
    before: &Trace,
    state: &StoreState,
    me: &WriterId,
) -> Result<Vec<String>, RepositoryError> {
    let first = before.head.map_or(1, |head| head.0 + 1);
    let last = state.head.as_ref().map_or(0, |(head, _)| head.0);
    let mut found = Vec::new();
    for number in first..=last {
        let record = world.store.log().record_at(Sequence(number))?;
        let is_decision = matches!(record.event, Event::Promoted { .. } | Event::Decided(_));
        if record.writer == *me && is_decision {
            found.push(format!("record {number} in the log, of this host"));
        }
    }
    Ok(found)
}

/// Returns the processes of a process namespace, as `/proc` names it.
pub(super) fn processes(namespace: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_there = |id: &u32| {
        std::fs::read_link(format!("/proc/{id}/ns/pid")).is_ok_and(|link| link.as_os_str() == namespace)
    };
    ids.filter(is_there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_do_meanwhile_is_no_trace_and_what_a_drill_could_do_is() {
        let own = [PathBuf::from("/srv/shop")];
        let before = Trace { edge: Some(Epoch(2)), epoch: Epoch(2), runs: Some(true), ..Trace::default() };
        let mounts = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        let others =
            Trace { head: Some(Sequence(9)), mounts: mounts(&["/mnt", "/srv/shopping"]), ..before.clone() };
        assert_eq!(before.left(&others, &own, &[]), [""; 0]);
        // Another host became the primary, and told the edge.
        let moved = Trace { epoch: Epoch(3), edge: Some(Epoch(3)), ..before.clone() };
        assert_eq!(before.left(&moved, &own, &[]), [""; 0]);
        for after in [
            Trace { broken: Some(7), ..before.clone() },
            Trace { role: Some(RoleNote::default()), ..before.clone() },
            Trace { runs: Some(false), ..before.clone() },
            Trace { edge: Some(Epoch(3)), ..before.clone() },
            Trace { mounts: mounts(&["/srv/shop"]), ..before.clone() },
        ] {
            assert_eq!(before.left(&after, &own, &[]).len(), 1, "{after:?}");
        }
        assert_eq!(before.left(&before, &own, &["a record".to_owned()]), ["a record"]);
    }
}
