//! The ends of pauses. The log has a pause without an end; the daemon that was asked for one keeps it in a file,
//! and resumes then, also after a restart. It ends only the very pause that it was asked to: one that somebody
//! has resumed, or made anew, is not touched.

use crate::model::id::{Sequence, StoreName};
use crate::service::config::state_dir;
use crate::support::clock::UnixNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::{durable, private, trusted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

/// The end of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PauseEnd {
    /// The record that paused.
    pub record: Sequence,
    pub until: UnixNanos,
}

/// The ends of all pauses that have one.
pub(super) struct PauseEnds {
    path: Option<PathBuf>,
    env: Env,
    all: Mutex<BTreeMap<StoreName, PauseEnd>>,
}

impl PauseEnds {
    pub(super) fn new(env: &Env) -> Self {
        Self::at(state_dir().ok().flatten().map(|dir| dir.join("pauses.json")), env)
    }

    fn at(path: Option<PathBuf>, env: &Env) -> Self {
        let text = path.as_ref().and_then(|path| trusted::read_to_string(path).ok()).unwrap_or_default();
        let all = serde_json::from_str(&text).unwrap_or_default();
        Self { path, env: env.clone(), all: Mutex::new(all) }
    }

    fn change(&self, work: impl FnOnce(&mut BTreeMap<StoreName, PauseEnd>)) -> io::Result<()> {
        let mut all = lock(&self.all);
        work(&mut all);
        let path = self.path.as_ref().ok_or_else(|| io::Error::other("there is no directory for it"))?;
        path.parent().map_or(Ok(()), |dir| private::own(dir).map(drop))?;
        durable::replace(&self.env, path, 0o600, &serde_json::to_vec(&*all)?)
    }

    pub(super) fn set(&self, store: &StoreName, record: Sequence, until: UnixNanos) -> io::Result<()> {
        self.change(|all| {
            all.insert(store.clone(), PauseEnd { record, until });
        })
    }

    pub(super) fn forget(&self, store: &StoreName) {
        if lock(&self.all).contains_key(store)
            && let Err(error) = self.change(|all| {
                all.remove(store);
            })
        {
            tracing::warn!(%store, %error, "the end of a pause is still kept");
        }
    }

    /// Returns when a store's pause ends; none if it has no end.
    pub(super) fn end_of(&self, store: &StoreName) -> Option<UnixNanos> {
        lock(&self.all).get(store).map(|end| end.until)
    }

    pub(super) fn due(&self, now: UnixNanos) -> Vec<(StoreName, PauseEnd)> {
        let all = lock(&self.all);
        all.iter().filter(|(_, end)| end.until <= now).map(|(store, end)| (store.clone(), *end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_kept_over_a_restart_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/pauses.json");
        let new = || PauseEnds::at(Some(path.clone()), &Env::system());
        let store = StoreName::parse("acme").unwrap();
        let until = UnixNanos(5_000_000_000);
        new().set(&store, Sequence(7), until).unwrap();
        let ends = new();
        assert_eq!((ends.end_of(&store), ends.due(UnixNanos(4_999_999_999)).len()), (Some(until), 0));
        assert_eq!(ends.due(until), [(store.clone(), PauseEnd { record: Sequence(7), until })]);
        ends.forget(&store);
        assert_eq!((ends.end_of(&store), new().end_of(&store)), (None, None));
        assert!(PauseEnds::at(None, &Env::system()).set(&store, Sequence(7), until).is_err());
    }
}
