//! Asks the other members of a store, for its agent: at the addresses and with the keys that the log has.

use super::around::Daemon;
use crate::failover::peers::client::{PeerClient, Seen};
use crate::failover::peers::question::{Answer, Ask};
use crate::failover::watch::surroundings::Other;
use crate::model::id::{StoreName, WriterId};
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time for which a member that did not answer counts as silent: longer than the rarest questions are apart.
const SILENT_LIMIT: Duration = Duration::from_mins(1);

/// What asks the members of one store.
pub(crate) struct Peers {
    pub daemon: Daemon,
    pub store: StoreName,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    /// None before it is first needed.
    pub client: Mutex<Option<PeerClient>>,
    /// The members that did not answer when they were asked last, why, and when.
    pub silent: Mutex<BTreeMap<WriterId, (String, BootNanos)>>,
}

impl Peers {
    /// Asks another member; returns none without its answer.
    pub(crate) fn ask(&self, of: &WriterId, ask: Ask) -> Option<Answer> {
        let is_hint = matches!(ask, Ask::Look);
        match self.try_ask(of, ask) {
            Ok(answer) => {
                lock(&self.silent).remove(of);
                Some(answer)
            }
            // Nobody says it again: the other host reads the log by itself, only later.
            Err(how) if is_hint => {
                tracing::debug!(store = %self.store, how, "a member was not told that the log has news");
                None
            }
            Err(how) => {
                // It is asked again every few seconds; it is said once.
                let now = self.daemon.host().env().boot();
                let before = lock(&self.silent).insert(of.clone(), (how.clone(), now));
                if before.is_none_or(|(before, _)| before != how) {
                    tracing::warn!(store = %self.store, how, "a member does not answer; it is asked again");
                }
                None
            }
        }
    }

    /// Asks another member what a person wants.
    ///
    /// # Errors
    /// The reason, for the person. Nobody asks again, so it is not kept as failing.
    pub(crate) fn ask_for_person(&self, of: &WriterId, ask: Ask) -> Result<Answer, String> {
        self.try_ask(of, ask).inspect(|_| drop(lock(&self.silent).remove(of)))
    }

    fn try_ask(&self, of: &WriterId, ask: Ask) -> Result<Answer, String> {
        let state = self.daemon.failover_agent(&self.store).ok_or("this host's agent is starting")?.state();
        let member = state.authority.member(of).ok_or_else(|| format!("'{of}' is no member any more"))?;
        self.client()?.ask(&self.store, member, ask).map_err(|error| error.to_string())
    }

    fn client(&self) -> Result<PeerClient, String> {
        let mut client = lock(&self.client);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let host = self.daemon.host();
        let new =
            PeerClient::new(host.runtime.clone(), host.env().clone(), self.me.clone(), self.key.clone());
        Ok(client.insert(new.map_err(|error| error.to_string())?).clone())
    }

    /// Tells all other members that may serve that the log has news.
    pub(crate) fn tell_all(&self) {
        let Some(agent) = self.daemon.failover_agent(&self.store) else { return };
        for host in agent.view().log.serving.iter().filter(|host| **host != self.me) {
            self.ask(host, Ask::Look);
        }
    }

    /// Returns what the members that answered have told of their clocks and versions.
    pub(crate) fn others(&self) -> Vec<Other> {
        let seen = lock(&self.client).as_ref().map(PeerClient::seen).unwrap_or_default();
        let other = |(host, seen): (_, Seen)| {
            let Seen { clock_ahead_seconds, version } = seen;
            Other { host, clock_ahead_seconds, version }
        };
        seen.into_iter().map(other).collect()
    }

    /// Returns why members do not answer. One that is not asked any more is no trouble.
    pub(crate) fn failing(&self) -> Vec<String> {
        let now = self.daemon.host().env().boot();
        let mut silent = lock(&self.silent);
        silent.retain(|_, (_, asked)| now.since(*asked) < SILENT_LIMIT);
        silent.values().map(|(how, _)| how.clone()).collect()
    }
}
