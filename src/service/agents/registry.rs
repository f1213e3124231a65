//! Starts and ends the failover agents of this daemon's stores.
//!
//! A store has an agent if its configuration has `[store.member]` and its log says that this host is a member
//! that may serve, with this host's key. Until then its runs go by its configuration, as without members. A
//! thread looks every few seconds whether that has changed, for example since `member found` was run.
//!
//! What can race: a configuration that is read anew while agents run. What an agent's parts do, they read
//! from the configuration in force; an agent ends only when its store has gone, or another plan changes
//! whether it needs a lease.

use super::around::Daemon;
use super::attested;
use super::incarnations::Ended;
use super::parts::HostParts;
use super::replica;
use crate::failover::agent::hands::AgentSettings;
use crate::failover::agent::journal::Journal;
use crate::failover::agent::lease_keeper::{LeaseKeeper, LeaseSettings};
use crate::failover::agent::run::Agent;
use crate::failover::decide::timing::Timing;
use crate::failover::decide::view::Rules;
use crate::failover::watch::limits::DeadHosts;
use crate::model::id::{Incarnation, StoreName};
use crate::model::plan::Failover;
use crate::model::role::Permission;
use crate::repository::store::Store;
use crate::service::board::Duty;
use crate::service::config::{StoreConfig, state_dir};
use crate::service::host::Host;
use crate::service::watching::watcher::{self, Post};
use crate::service::watching::{attendant, candidate, ready};
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Time between two looks for stores that need an agent.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Maximum number of logs that are read at the same time.
const QUESTIONS_MAX: usize = 16;

/// The agent of one store, and what it directs.
#[derive(Clone)]
pub(crate) struct Running {
    pub agent: Arc<Agent>,
    pub parts: Arc<HostParts>,
    has_lease: bool,
}

/// The agents of a daemon. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Agents(Arc<Inner>);

#[derive(Default)]
struct Inner {
    all: Mutex<BTreeMap<StoreName, Running>>,
    /// Why a store that should have an agent has none.
    missing: Mutex<BTreeMap<StoreName, String>>,
    /// The earlier daemons of this host; none before the first agent starts.
    earlier: Mutex<Option<Ended>>,
    /// The keepers of this host's lease, by repository. They stay as long as the daemon: two of them would be
    /// each other's rivals.
    keepers: Mutex<BTreeMap<String, Arc<LeaseKeeper>>>,
    /// The hosts that were found dead from here.
    dead_hosts: Arc<Mutex<DeadHosts>>,
    is_ended: Mutex<bool>,
    ended: Condvar,
}

/// Returns whether a store's primary needs a lease.
fn has_lease(config: &StoreConfig) -> bool {
    config.plan.plan().failover == Failover::Watcher
}

impl Agents {
    /// Returns the agent of a store; none if it has none.
    pub(crate) fn get(&self, store: &StoreName) -> Option<Running> {
        lock(&self.0.all).get(store).cloned()
    }

    /// Returns why a store has no agent, if it should have one.
    pub(crate) fn why_missing(&self, store: &StoreName) -> Option<String> {
        lock(&self.0.missing).get(store).cloned()
    }

    /// Returns the hosts that were found dead from here, which all watchers of the daemon share.
    pub(crate) fn dead_hosts(&self) -> Arc<Mutex<DeadHosts>> {
        self.0.dead_hosts.clone()
    }

    /// Looks for stores that need an agent, now and every few seconds, on a thread of its own.
    pub(crate) fn keep(&self, daemon: &Daemon) {
        self.look(daemon);
        let (agents, daemon) = (self.clone(), daemon.clone());
        std::thread::spawn(move || {
            while agents.wait() {
                agents.look(&daemon);
            }
        });
    }

    /// Waits for the next look; returns false once there will be none.
    fn wait(&self) -> bool {
        let is_ended = lock(&self.0.is_ended);
        let waited = self.0.ended.wait_timeout_while(is_ended, LOOK_EVERY, |is_ended| !*is_ended);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Ends all agents. Gates and services stay as they are.
    pub(crate) fn end(&self) {
        *lock(&self.0.is_ended) = true;
        self.0.ended.notify_all();
        lock(&self.0.all).clear();
    }

    /// Looks once.
    pub(crate) fn look(&self, daemon: &Daemon) {
        let config = daemon.host().config;
        let wanted = |store: &&StoreConfig| store.member.is_some() && store.role != Permission::Watcher;
        let wanted: BTreeMap<_, _> =
            config.store.iter().filter(wanted).map(|s| (s.name.clone(), s)).collect();
        let is_kept = |name: &StoreName, running: &Running| {
            wanted.get(name).is_some_and(|store| has_lease(store) == running.has_lease)
        };
        let gone: Vec<StoreName> = {
            let mut all = lock(&self.0.all);
            let gone = all.iter().filter(|(name, running)| !is_kept(name, running));
            let gone = gone.map(|(name, _)| name.clone()).collect();
            all.retain(|name, running| is_kept(name, running));
            gone
        };
        gone.iter().for_each(|name| daemon.set_duty(name, None));
        lock(&self.0.missing).retain(|name, _| wanted.contains_key(name));
        let missing = |name: &StoreName| !lock(&self.0.all).contains_key(name);
        let queue: Mutex<VecDeque<_>> =
            Mutex::new(wanted.into_iter().filter(|(name, _)| missing(name)).collect());
        std::thread::scope(|scope| {
            for _ in 0..QUESTIONS_MAX.min(lock(&queue).len()) {
                scope.spawn(|| {
                    loop {
                        let Some((_, store)) = lock(&queue).pop_front() else { return };
                        self.begin(daemon, store);
                    }
                });
            }
        });
    }

    /// Starts the agent of a store, or notes why it has none.
    fn begin(&self, daemon: &Daemon, config: &StoreConfig) {
        let name = &config.name;
        if *lock(&self.0.is_ended) {
            return;
        }
        match self.start(daemon, config) {
            Ok(()) => drop(lock(&self.0.missing).remove(name)),
            Err(why) => {
                if lock(&self.0.missing).insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                    tracing::warn!(store = %name, "no failover here: {why}");
                }
            }
        }
    }

    /// Returns the processes of this host's name that are known to have ended.
    fn ended(&self, env: &Env, own: Incarnation) -> BTreeSet<Incarnation> {
        let mut earlier = lock(&self.0.earlier);
        if earlier.is_none() {
            let dir = state_dir().ok().flatten();
            let begun = dir.map(|dir| Ended::begin(env, &dir, own)).transpose();
            *earlier = begun.unwrap_or_else(|error| {
                tracing::warn!(%error, "it is not known which earlier daemons of this host have ended; a lease of theirs has to run out");
                None
            }).flatten();
        }
        earlier.as_ref().map(|earlier| earlier.incarnations.clone()).unwrap_or_default()
    }

    /// Returns the keeper of this host's lease in the repository of a store.
    fn keeper(&self, host: &Host, store: &Store, key: &Arc<SigningKey>) -> Result<Arc<LeaseKeeper>, String> {
        let mut keepers = lock(&self.0.keepers);
        let location = store.repository().location().to_owned();
        if let Some(keeper) = keepers.get(&location) {
            return Ok(keeper.clone());
        }
        let env = host.env();
        let incarnation = host.incarnation().unwrap_or_else(|| Incarnation(env.nonce()));
        let (me, ended) = (host.writer(), self.ended(env, incarnation));
        let disk = state_dir().ok().flatten();
        let settings = LeaseSettings { store: store.clone(), me, key: key.clone(), incarnation, ended, disk };
        let keeper = LeaseKeeper::start(settings).map_err(|error| error.to_string())?;
        keepers.insert(location, keeper.clone());
        Ok(keeper)
    }

    /// Starts the agent of a store.
    ///
    /// # Errors
    /// The reason why it has none.
    fn start(&self, daemon: &Daemon, config: &StoreConfig) -> Result<(), String> {
        if has_lease(config) && config.gate.is_none() {
            return Err("its plan wants a lease, and without [store.gate] nothing closes the store when the lease ends; configure its gate".into());
        }
        let host = daemon.host();
        let key = host.member_key().map_err(|error| error.to_string())?;
        let repository = daemon.repository(config).map_err(|error| error.to_string())?;
        let store = repository.store(&config.name);
        let state = store.log().state().map_err(|error| error.to_string())?;
        let may_decide = state.authority.check_decider(&config.name, &host.writer(), &key.public());
        may_decide.map_err(|error| error.to_string())?;
        daemon.set_duty(&config.name, Some(Duty::Wait("the failover agent starts".into())));
        let (key, env) = (Arc::new(key), host.env().clone());
        let journal = Arc::new(Journal::new(env.clone()));
        let parts = Arc::new(HostParts::new(daemon, store.clone(), key.clone(), journal.clone()));
        let has_lease = has_lease(config);
        let lease = self.keeper(&host, &store, &key)?;
        let is_serving = parts.is_serving(&state)?;
        let settings = AgentSettings {
            store,
            me: host.writer(),
            key,
            rules: Rules { timing: Timing::DEFAULT, has_lease, needs_set: parts.has_semi_sync() },
            incarnation: lease.incarnation(),
            lease,
            journal,
            is_serving,
        };
        let agent = Agent::start(settings, parts.clone()).map_err(|error| error.to_string())?;
        let agent = Arc::new(agent);
        for word in attested::words(&config.name) {
            agent.was_attested(&word.host, word.at);
        }
        if has_lease {
            attendant::keep(daemon, Arc::downgrade(&agent), parts.clone());
            candidate::keep(Arc::downgrade(&agent), parts.clone());
            ready::keep(daemon, Arc::downgrade(&agent), parts.clone());
            let post = Post {
                daemon: daemon.clone(),
                store: parts.store.clone(),
                me: parts.me.clone(),
                key: parts.key.clone(),
                words: agent.words().clone(),
                shared: Arc::default(),
                dead_hosts: self.0.dead_hosts.clone(),
            };
            let still = Arc::downgrade(&agent);
            watcher::keep(post, move || still.strong_count() > 0)?;
        }
        if config.replica.is_some() {
            replica::keep(daemon, Arc::downgrade(&agent), parts.clone());
        }
        let running = Running { agent, parts, has_lease };
        lock(&self.0.all).insert(config.name.clone(), running);
        Ok(())
    }
}
