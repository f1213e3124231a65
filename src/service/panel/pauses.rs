//! The ends of pauses. The log has a pause without an end; the daemon that was asked for one keeps it in a file,
//! and resumes then, also after a restart. It ends only the very pause that it was asked to: one that somebody
//! has resumed, or made anew, is not touched.

use super::PanelState;
use crate::model::decision::Decision;
use crate::model::id::{Sequence, StoreName};
use crate::model::record::StoreState;
use crate::service::config::state_dir;
use crate::service::failover_http;
use crate::support::clock::UnixNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::{durable, private, trusted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// Time between two looks whether a pause ends.
const LOOK: Duration = Duration::from_secs(2);
/// Who ends a pause, for the log.
const PERSON: &str = "the end that the pause was given";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PauseEnd {
    /// The record that paused.
    record: Sequence,
    until: UnixNanos,
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

    fn due(&self, now: UnixNanos) -> Vec<(StoreName, PauseEnd)> {
        let all = lock(&self.all);
        all.iter().filter(|(_, end)| end.until <= now).map(|(store, end)| (store.clone(), *end)).collect()
    }
}

/// Ends pauses when they are due, for ever.
pub(super) fn keep(state: PanelState) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            for (store, end) in state.pauses.due(state.site.daemon.env().wall()) {
                match resume(&state, &store, end).await {
                    Ok(()) => state.pauses.forget(&store),
                    Err(error) => tracing::warn!(%store, error, "a pause is over, and not resumed yet"),
                }
            }
        }
    });
}

async fn resume(state: &PanelState, store: &StoreName, end: PauseEnd) -> Result<(), String> {
    let site = &state.site;
    // A store that is gone from the configuration has no agent, and nobody waits for its end.
    let Ok((_, running)) = site.running(&store.to_string()) else {
        return match site.known(&store.to_string()) {
            Ok(_) => Err("its failover agent has not started".to_owned()),
            Err(_) => Ok(()),
        };
    };
    let paused = site.blocking(move |_| {
        let mut now = StoreState::default();
        running.parts.store.log().refresh(&mut now)?;
        Ok(now.authority.paused.map(|pause| pause.sequence))
    });
    if paused.await.map_err(|error| error.reason)? != Some(end.record) {
        return Ok(());
    }
    let decision = Decision::Resumed { person: PERSON.to_owned() };
    failover_http::decide(site, store, decision).await.map(drop).map_err(|error| error.reason)
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
