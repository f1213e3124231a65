//! The daemons of this host that are known to have ended.
//!
//! A daemon that starts again finds its host's lease held by the process before it. If that one has ended for
//! sure, nobody has to wait until its lease runs out. It is known by a lock that each daemon holds as long as it
//! lives: whoever gets it is alone, and all that noted their number in the file before have ended. The lock and
//! the file are this host's: a second machine with the same name shares neither.

use crate::model::id::Incarnation;
use crate::support::durable;
use crate::support::env::Env;
use rustix::fs::{FlockOperation, flock};
use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Number of numbers that are kept.
const KEPT: usize = 64;

/// The daemons that have ended, as long as no other one runs.
pub(crate) struct Ended {
    pub incarnations: BTreeSet<Incarnation>,
    _lock: File,
}

impl Ended {
    /// Notes that `own` runs now. Returns the daemons before it; none while another one runs.
    ///
    /// # Errors
    /// The directory cannot be used. Then nobody is known to have ended.
    pub(crate) fn begin(env: &Env, dir: &Path, own: Incarnation) -> io::Result<Option<Self>> {
        durable::create_dirs(dir)?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join("daemons.lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let path = dir.join("daemons");
        let mut noted: VecDeque<Incarnation> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => VecDeque::new(),
            Err(error) => return Err(error),
        };
        let incarnations = noted.iter().copied().collect();
        noted.push_back(own);
        noted.drain(..noted.len().saturating_sub(KEPT));
        durable::replace(env, &path, 0o600, &serde_json::to_vec(&noted)?)?;
        Ok(Some(Self { incarnations, _lock: lock }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_knows_which_ones_have_ended_and_none_while_another_one_runs() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::system());
        let begin = |own| Ended::begin(&env, dir.path(), Incarnation(own)).unwrap();
        let first = begin(1).unwrap();
        assert!(first.incarnations.is_empty());
        assert!(begin(2).is_none(), "the first one runs");
        drop(first);
        let third = begin(3).unwrap();
        assert_eq!(third.incarnations, BTreeSet::from([Incarnation(1)]));
        drop(third);
        assert_eq!(begin(4).unwrap().incarnations, BTreeSet::from([Incarnation(1), Incarnation(3)]));
    }
}
