//! The watchers of stores that this host only watches (`role = "watcher"`): it has no files of them, follows
//! nothing, and can never be their primary.
//!
//! A watcher begins once the log lets this host watch, with this host's key. A thread looks for that every few
//! seconds.

use super::watcher::{self, Post};
use crate::failover::agent::terms::Terms;
use crate::failover::peers::answer::AskedAgent;
use crate::failover::watch::limits::DeadHosts;
use crate::failover::watch::words::Words;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, StoreName, WriterId};
use crate::model::member::Member;
use crate::model::record::StoreState;
use crate::model::role::Permission;
use crate::service::agents::around::Daemon;
use crate::service::config::StoreConfig;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why such a host does nothing else.
const ONLY_WATCHES: &str = "this host only watches the store";

/// One store that is only watched.
pub(crate) struct Watched {
    me: WriterId,
    key: Arc<SigningKey>,
    env: Env,
    pub words: Arc<Words>,
    /// The log, as the watcher read it last.
    state: Arc<Mutex<Arc<StoreState>>>,
}

/// The stores that this daemon only watches. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Watching(Arc<Inner>);

#[derive(Default)]
struct Inner {
    all: Mutex<BTreeMap<StoreName, Arc<Watched>>>,
    /// Why a store that should be watched is not.
    missing: Mutex<BTreeMap<StoreName, String>>,
    is_ended: Mutex<bool>,
    ended: Condvar,
}

impl Watching {
    pub(crate) fn get(&self, store: &StoreName) -> Option<Arc<Watched>> {
        lock(&self.0.all).get(store).cloned()
    }

    /// Returns why a store is not watched, if it should be.
    pub(crate) fn why_missing(&self, store: &StoreName) -> Option<String> {
        lock(&self.0.missing).get(store).cloned()
    }

    /// Looks for stores to watch, now and every few seconds, on a thread of its own.
    pub(crate) fn keep(&self, daemon: &Daemon, dead_hosts: Arc<Mutex<DeadHosts>>) {
        let (watching, daemon) = (self.clone(), daemon.clone());
        std::thread::spawn(move || {
            loop {
                watching.look(&daemon, &dead_hosts);
                let is_ended = lock(&watching.0.is_ended);
                let waited = watching.0.ended.wait_timeout_while(is_ended, LOOK_EVERY, |is_ended| !*is_ended);
                if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                    return;
                }
            }
        });
    }

    /// Ends all watchers.
    pub(crate) fn end(&self) {
        *lock(&self.0.is_ended) = true;
        self.0.ended.notify_all();
        lock(&self.0.all).clear();
    }

    fn look(&self, daemon: &Daemon, dead_hosts: &Arc<Mutex<DeadHosts>>) {
        let config = daemon.host().config;
        let is_wanted = |store: &StoreConfig| store.role == Permission::Watcher;
        lock(&self.0.all).retain(|name, _| config.store(name.as_str()).is_some_and(is_wanted));
        for store in config.store.iter().filter(|store| is_wanted(store)) {
            if *lock(&self.0.is_ended) || self.get(&store.name).is_some() {
                continue;
            }
            match self.begin(daemon, store, dead_hosts) {
                Ok(()) => drop(lock(&self.0.missing).remove(&store.name)),
                Err(why) => {
                    let before = lock(&self.0.missing).insert(store.name.clone(), why.clone());
                    if before.as_ref() != Some(&why) {
                        tracing::warn!(store = %store.name, "not watched: {why}");
                    }
                }
            }
        }
    }

    /// Begins to watch a store.
    ///
    /// # Errors
    /// The reason why it is not watched.
    fn begin(
        &self,
        daemon: &Daemon,
        config: &StoreConfig,
        dead_hosts: &Arc<Mutex<DeadHosts>>,
    ) -> Result<(), String> {
        let (host, name) = (daemon.host(), &config.name);
        let key = Arc::new(host.member_key().map_err(|error| error.to_string())?);
        let repository = daemon.repository(config).map_err(|error| error.to_string())?;
        let store = repository.store(name);
        let state = store.log().state().map_err(|error| error.to_string())?;
        let me = host.writer();
        let is_member = |member: &&Member| member.key == key.public() && member.may_watch();
        if state.authority.member(&me).filter(is_member).is_none() {
            return Err(format!(
                "this host, '{me}', is no member that may watch the store; on its primary: `understudy member invite {name} --watch-only`, and here: `understudy member join`"
            ));
        }
        let state = Arc::new(Mutex::new(Arc::new(state)));
        let words = Arc::<Words>::default();
        let watched = Arc::new(Watched {
            me: me.clone(),
            key: key.clone(),
            env: host.env().clone(),
            words: words.clone(),
            state: state.clone(),
        });
        let (daemon, dead_hosts) = (daemon.clone(), dead_hosts.clone());
        let post = Post { daemon, store, me, key, words, shared: state, dead_hosts };
        let still = Arc::downgrade(&watched);
        watcher::keep(post, move || still.strong_count() > 0)?;
        lock(&self.0.all).insert(name.clone(), watched);
        Ok(())
    }
}

impl AskedAgent for Watched {
    fn me(&self) -> &WriterId {
        &self.me
    }

    fn key(&self) -> &SigningKey {
        &self.key
    }

    fn members(&self) -> Vec<Member> {
        lock(&self.state).authority.members.clone()
    }

    fn promise(&self, _: &WriterId, _: Epoch) -> bool {
        false
    }

    fn look(&self) {}

    fn may_serve(&self) -> Result<(), String> {
        Err(ONLY_WATCHES.into())
    }

    fn has_received(&self, _: &GtidPosition) -> Result<(), String> {
        Err(ONLY_WATCHES.into())
    }

    fn why_not(&self) -> Vec<String> {
        vec![ONLY_WATCHES.into()]
    }

    fn why_not_serving(&self, _: &WriterId, _: Epoch, _: &[String]) -> Vec<String> {
        vec![ONLY_WATCHES.into()]
    }

    fn saw_served(&self, epoch: Epoch) -> Option<String> {
        self.words.saw_served(&self.me, epoch, self.env.boot())
    }

    fn hand_over(&self, _: &WriterId) -> Option<Vec<String>> {
        Some(vec![ONLY_WATCHES.into()])
    }

    fn why_not_handing_over(&self, _: &WriterId) -> Vec<String> {
        vec![ONLY_WATCHES.into()]
    }

    fn keep_serving(&self) {}

    fn take_over(&self, _: Terms) -> Option<Vec<String>> {
        Some(vec![ONLY_WATCHES.into()])
    }

    fn attest(&self, _: &WriterId) -> Option<bool> {
        Some(false)
    }
}
