//! Looks at one store's primary from this host, every two seconds, and votes when it is dead.
//!
//! As long as customers are served, it asks the customers' address, the primary's gate and the probes that are
//! configured, and nothing else. Once something fails it also reads the primary's lease and asks its agent. So it
//! costs no requests to the repository in peace; the time for which the lease stands still counts from the first
//! reading.

use crate::edge::address::Address;
use crate::edge::context::EdgeContext;
use crate::edge::customer::{Customer, CustomerUrl};
use crate::failover::decide::timing::Timing;
use crate::failover::peers::client::PeerClient;
use crate::failover::peers::question::{Answer, Ask};
use crate::failover::watch::limits::DeadHosts;
use crate::failover::watch::probe::Prober;
use crate::failover::watch::settings::{ProbeSettings, TcpSettings};
use crate::failover::watch::tally::{Tally, TallyRules};
use crate::failover::watch::verdict::{AgentSight, LeaseSight, Sight, Verdict, conclude};
use crate::failover::watch::words::Words;
use crate::model::id::{Epoch, Incarnation, StoreName, WriterId};
use crate::model::member::{Member, shortened};
use crate::model::record::StoreState;
use crate::model::vote::{Finding, Vote, voters};
use crate::repository::leases::{LEASE_TIMEOUT, Lease};
use crate::repository::objects::Patience;
use crate::repository::store::Store;
use crate::service::agents::around::Daemon;
use crate::service::config::StoreConfig;
use crate::support::child::THIS;
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time that the customers' address and the gate have for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Time after which the log is read though nothing fails.
const READ_QUIET: Duration = Duration::from_secs(60);
const RULES: TallyRules = TallyRules { misses: 3, hits: 5 };
/// Maximum number of failures that a vote names.
const FAILED_MAX: usize = 8;

/// What a watcher is given.
#[derive(Clone)]
pub(crate) struct Post {
    pub daemon: Daemon,
    pub store: Store,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    pub words: Arc<Words>,
    /// Takes the log, as it was read last.
    pub shared: Arc<Mutex<Arc<StoreState>>>,
    /// The hosts that were found dead from here, for all stores.
    pub dead_hosts: Arc<Mutex<DeadHosts>>,
}

/// Watches on a thread of its own, as long as `goes_on` says so.
///
/// # Errors
/// There is no client, or no thread.
pub(crate) fn keep(post: Post, goes_on: impl Fn() -> bool + Send + 'static) -> Result<(), String> {
    let mut watcher = Watcher::new(post)?;
    let watch = move || {
        while goes_on() {
            watcher.look();
            watcher.post.store.env().sleep(LOOK_EVERY);
        }
    };
    let thread = std::thread::Builder::new().name("watcher".into()).spawn(watch);
    thread.map(drop).map_err(|error| error.to_string())
}

/// One thing to ask, by its name.
type Question<'a> = (String, Box<dyn Fn() -> Result<(), String> + Send + Sync + 'a>);

/// A lease as it is seen from here.
struct Followed {
    host: WriterId,
    lease: Lease,
    /// The last number of its holder, and when it was first seen.
    seen: Option<(u64, BootNanos)>,
}

struct Watcher {
    post: Post,
    /// The store, for requests that are not waited for long.
    store: Store,
    prober: Prober,
    peers: PeerClient,
    /// The log as it was read last, and when.
    state: StoreState,
    read: Option<BootNanos>,
    /// The epoch that everything below is about.
    epoch: Epoch,
    tallies: BTreeMap<String, Tally>,
    lease: Option<Followed>,
    is_in_doubt: bool,
    /// The lease's number of the last vote.
    voted: Option<u64>,
    /// The verdict, and why no vote follows from it, as they were last said.
    said: (&'static str, Option<String>),
}

impl Watcher {
    fn new(post: Post) -> Result<Self, String> {
        let host = post.daemon.host();
        let (env, runtime) = (host.env().clone(), host.runtime.clone());
        let prober = Prober::new(env.clone(), runtime.clone(), post.store.name().clone())?;
        let peers = PeerClient::new(runtime, env, post.me.clone(), post.key.clone());
        let patience = Patience { attempts: 1, backoff: Duration::ZERO, timeout: LEASE_TIMEOUT };
        Ok(Self {
            store: post.store.with_patience(patience),
            prober,
            peers: peers.map_err(|error| error.to_string())?,
            state: StoreState::default(),
            read: None,
            epoch: Epoch::default(),
            tallies: BTreeMap::new(),
            lease: None,
            is_in_doubt: false,
            voted: None,
            said: ("", None),
            post,
        })
    }

    fn look(&mut self) {
        let config = self.post.daemon.host().config.store(self.post.store.name().as_str()).cloned();
        let Some(config) = config else { return };
        self.learn();
        let primary = self.state.primary.as_ref().and_then(|name| self.state.authority.member(name)).cloned();
        let Some(primary) = primary.filter(|primary| self.may_vote(&primary.name, &config)) else {
            return self.post.words.note_verdict(None);
        };
        if self.epoch != self.state.epoch {
            (self.epoch, self.lease, self.voted) = (self.state.epoch, None, None);
            self.tallies.clear();
        }
        let sight = self.see(&config, &primary);
        let now = self.post.store.env().boot();
        let verdict = conclude(&sight, Timing::DEFAULT.ttl, now);
        self.is_in_doubt = verdict != Verdict::Healthy;
        let held = match &verdict {
            Verdict::Dead { incarnation, lease, failed } => {
                self.vote(&primary.name, *incarnation, *lease, failed, now).err()
            }
            _ => None,
        };
        self.say(&primary.name, &verdict, held);
        self.post.words.note_verdict(Some(verdict));
    }

    fn may_vote(&self, primary: &WriterId, config: &StoreConfig) -> bool {
        let may = voters(&self.state.authority.members, primary).any(|member| member.name == self.post.me);
        may && config.watch.votes.unwrap_or(true)
    }

    /// Reads the log: at each look while something is in doubt, and now and then. A host that also serves knows it
    /// from its agent.
    fn learn(&mut self) {
        let now = self.post.store.env().boot();
        if let Some(agent) = self.post.daemon.failover_agent(self.post.store.name()) {
            self.state = (*agent.state()).clone();
            return;
        }
        let is_old = self.read.is_none_or(|read| now >= read.plus(READ_QUIET));
        if !is_old && !self.is_in_doubt {
            return;
        }
        match self.store.log().refresh(&mut self.state) {
            Ok(()) => {
                self.read = Some(now);
                *lock(&self.post.shared) = Arc::new(self.state.clone());
            }
            Err(error) => tracing::debug!(%error, "the log was not read"),
        }
    }

    /// Asks everything, at the same time.
    fn see(&mut self, config: &StoreConfig, primary: &Member) -> Sight {
        let context = EdgeContext {
            env: self.post.store.env().clone(),
            runtime: self.prober.runtime.clone(),
            this: THIS.into(),
        };
        let questions = self.questions(config, primary, &context);
        if questions.is_empty() {
            let nothing = "nothing shows from here whether customers are served: set `customer_url`, or tell `customers` or `address` in the primary's [store.member]";
            let (agent, lease) = (AgentSight::Unasked, LeaseSight::Unread);
            return Sight { down: Vec::new(), in_doubt: vec![nothing.into()], probes: 1, agent, lease };
        }
        let members = self.state.authority.members.clone();
        let (is_in_doubt, followed) = (self.is_in_doubt, &mut self.lease);
        let store = &self.store;
        let (answers, lease) = std::thread::scope(|scope| {
            let asked: Vec<_> =
                questions.iter().map(|(name, ask)| (name.clone(), scope.spawn(ask))).collect();
            let lease = is_in_doubt.then(|| scope.spawn(|| follow(followed, store, &primary.name, &members)));
            let panicked = || Err("asking it failed".to_owned());
            let answers: Vec<_> = asked
                .into_iter()
                .map(|(name, thread)| (name, thread.join().unwrap_or_else(|_| panicked())))
                .collect();
            let lease = lease.map_or(LeaseSight::Unread, |thread| {
                thread.join().unwrap_or_else(|_| LeaseSight::Unknown("reading it failed".into()))
            });
            (answers, lease)
        });
        drop(questions);
        let now = self.post.store.env().boot();
        let is_served = |(name, answer): &(String, Result<(), String>)| {
            answer.is_ok() && (name == CUSTOMERS || name == GATE)
        };
        if answers.iter().any(is_served) {
            self.post.words.note_served(self.epoch, now);
        }
        self.tallies.retain(|name, _| answers.iter().any(|(asked, _)| asked == name));
        for (name, answer) in answers {
            self.tallies.entry(name).or_default().note(RULES, answer, now);
        }
        let down: Vec<String> = self.tallies.values().filter(|tally| tally.is_down()).map(reason).collect();
        let in_doubt = self.tallies.values().filter(|tally| tally.is_in_doubt()).map(reason).collect();
        // Its agent hears of it only if nobody is served now.
        let agent = match down.len() == self.tallies.len() && !down.is_empty() {
            true => ask_agent(&self.peers, self.store.name(), primary, self.epoch, down.clone()),
            false => AgentSight::Unasked,
        };
        Sight { down, in_doubt, probes: self.tallies.len(), agent, lease }
    }

    /// Returns what is asked of this primary.
    fn questions<'a>(
        &self,
        config: &StoreConfig,
        primary: &Member,
        context: &'a EdgeContext,
    ) -> Vec<Question<'a>> {
        let epoch = self.epoch;
        let mut questions: Vec<Question<'a>> = Vec::new();
        let mut ask = |name: &str, customer: Result<Customer, String>| {
            questions.push((
                name.to_owned(),
                Box::new(move || customer.as_ref().map_err(Clone::clone)?.check(epoch, ANSWER_LIMIT)),
            ));
        };
        let url: Option<&CustomerUrl> = config.customer_url.as_ref();
        if let Some(url) = url {
            ask(CUSTOMERS, Customer::new(url, context).map_err(|error| error.to_string()));
        }
        if let Some(customers) = &primary.customers {
            let gate = customers.parse::<Address>().map_err(|error| error.to_string());
            let gate = gate
                .and_then(|gate| Customer::at_gate(url, &gate, context).map_err(|error| error.to_string()));
            ask(GATE, gate);
        }
        for probe in &config.watch.probe {
            let (prober, of, name) =
                (self.prober.clone(), probe.of(primary.customers.as_deref()), primary.name.clone());
            let asked = move || prober.ask(of.as_ref().map_err(Clone::clone)?, &name);
            questions.push((probe.name(), Box::new(asked)));
        }
        // A host that tells nothing but where its daemon is may still be seen to die.
        if let (true, Some(address)) = (questions.is_empty(), primary.address.clone()) {
            let (prober, name) = (self.prober.clone(), primary.name.clone());
            let daemon = ProbeSettings::Tcp(TcpSettings { address, timeout_seconds: None });
            questions.push((daemon.name(), Box::new(move || prober.ask(&daemon, &name))));
        }
        questions
    }

    /// Votes, once about each number of the lease.
    ///
    /// # Errors
    /// The reason why there is no vote.
    fn vote(
        &mut self,
        primary: &WriterId,
        incarnation: Incarnation,
        lease: u64,
        failed: &[String],
        now: BootNanos,
    ) -> Result<(), String> {
        if self.state.authority.paused.is_some() {
            return Err("automatic failover is paused; `understudy resume` ends that".into());
        }
        lock(&self.post.dead_hosts).may_vote(primary, now)?;
        if self.voted == Some(lease) {
            return Ok(());
        }
        let (Post { me, key, .. }, store) = (&self.post, &self.store);
        let failed = failed.iter().take(FAILED_MAX).cloned().map(shortened).collect();
        let finding =
            Finding { at: store.env().wall(), primary: primary.clone(), incarnation, lease, failed };
        let vote = Vote::sign(&finding, me, key, store.name(), self.epoch);
        let vote = vote.map_err(|error| error.to_string())?;
        store.notes().put_vote(primary, lease, &vote).map_err(|error| error.to_string())?;
        self.voted = Some(lease);
        Ok(())
    }

    /// Says what changed.
    fn say(&mut self, primary: &WriterId, verdict: &Verdict, held: Option<String>) {
        let now = (verdict.name(), held);
        if self.said == now {
            return;
        }
        let (store, why) = (self.post.store.name(), verdict.reasons().join("; "));
        match (verdict, &now.1) {
            (Verdict::Healthy, _) if self.said.0.is_empty() => {}
            (Verdict::Healthy, _) => tracing::info!(%store, %primary, "the primary is healthy again"),
            (_, Some(held)) => {
                tracing::error!(%store, %primary, why, held, "the primary is dead, and nobody votes here");
            }
            (Verdict::Dead { .. }, None) => {
                tracing::error!(%store, %primary, why, "the primary is dead; this host votes for a failover");
            }
            (verdict, None) => tracing::warn!(%store, %primary, why, "the primary is {}", verdict.name()),
        }
        self.said = now;
    }
}

/// The name of the question to the customers' address, and of that to the gate.
const CUSTOMERS: &str = "customers";
const GATE: &str = "gate";

fn reason(tally: &Tally) -> String {
    tally.failure.clone().unwrap_or_else(|| "it was down until a moment ago".into())
}

/// Asks the primary's agent, which learns by it that nobody is seen to be served.
fn ask_agent(
    peers: &PeerClient,
    store: &StoreName,
    primary: &Member,
    epoch: Epoch,
    failed: Vec<String>,
) -> AgentSight {
    let failed = failed.into_iter().take(FAILED_MAX).map(shortened).collect();
    match peers.ask(store, primary, Ask::Serves { epoch, failed }) {
        Ok(Answer::Done) => AgentSight::Serves,
        Ok(Answer::Refused { reasons }) => AgentSight::NotReady(reasons),
        Err(error) => AgentSight::Silent(error.to_string()),
    }
}

/// Reads the lease of `host`.
fn follow(followed: &mut Option<Followed>, store: &Store, host: &WriterId, members: &[Member]) -> LeaseSight {
    if followed.as_ref().is_none_or(|followed| followed.host != *host) {
        *followed = Some(Followed { host: host.clone(), lease: Lease::new(store, host), seen: None });
    }
    let Some(Followed { lease, seen, .. }) = followed else { return LeaseSight::Unread };
    if let Err(error) = lease.follow(members) {
        // What happened meanwhile is not known: the time counts anew.
        *seen = None;
        return LeaseSight::Unknown(error.to_string());
    }
    let (number, now) = (lease.renewed(), store.env().boot());
    let Some(incarnation) = lease.holder() else {
        return LeaseSight::Unknown("it was never held".into());
    };
    let since = match seen {
        Some((seen, since)) if *seen == number => *since,
        _ => now,
    };
    *seen = Some((number, since));
    LeaseSight::Seen { number, incarnation, since }
}
