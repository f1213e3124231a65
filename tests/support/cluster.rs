//! Hosts with real agents over a real object store, and gates that keep what they are told.
//!
//! A gate outlives its agent, and closes by itself when its time is over, as a guard does. The agents ask each
//! other for promises, and to look, in this process.

use super::outage::Outage;
use super::rig::{self, name};
use super::wait::wait_until;
use object_store::ObjectStore;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use understudy::failover::agent::hands::AgentSettings;
use understudy::failover::agent::journal::Journal;
use understudy::failover::agent::lease_keeper::{LeaseKeeper, LeaseSettings};
use understudy::failover::agent::participants::{GateMode, GateOrder, GateOutcome, Participants, Report};
use understudy::failover::agent::run::Agent;
use understudy::failover::decide::timing::Timing;
use understudy::failover::decide::view::{Phase, Rules, Until};
use understudy::model::decision::Decision;
use understudy::model::id::{Epoch, Incarnation, Sequence, StoreName, WriterId};
use understudy::model::member::{May, Member};
use understudy::model::record::StoreState;
use understudy::replicate::resync::Request;
use understudy::repository::decide::Maker;
use understudy::repository::error::RepositoryError;
use understudy::repository::key_source::KeySource;
use understudy::repository::store::{Notice, Repository, RepositoryOptions, Store};
use understudy::support::clock::BootNanos;
use understudy::support::env::Env;
use understudy::support::signature::SigningKey;

/// The times that are used, divided by eight.
pub const TIMING: Timing = Timing {
    renew_every: Duration::from_millis(625),
    valid_for: Duration::from_millis(1500),
    close_within: Duration::from_millis(375),
    ttl: Duration::from_millis(2500),
    hand_over_within: Duration::from_millis(7500),
    loosen_after: Duration::from_millis(625),
    join_again: Duration::from_millis(1250),
    join_again_max: Duration::from_millis(37_500),
    look_every: Duration::from_millis(250),
    look_quiet: Duration::from_millis(1250),
};

/// One thing that a gate was told, and when.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub at: BootNanos,
    pub order: GateOrder,
}

/// What the hosts share beside the object store.
#[derive(Default)]
struct Network {
    agents: Mutex<BTreeMap<WriterId, Arc<Agent>>>,
    is_cut: AtomicBool,
}

struct Parts {
    me: WriterId,
    store: StoreName,
    network: Arc<Network>,
    gate: Arc<Mutex<Vec<Told>>>,
    reports: Arc<Mutex<Vec<Report>>>,
    repository: Repository,
    source: std::path::PathBuf,
}

impl Participants for Parts {
    fn gate(&self, order: GateOrder) -> GateOutcome {
        let mut gate = self.gate.lock().unwrap();
        let at = Env::system().now().boot;
        gate.push(Told { at, order });
        GateOutcome::Done
    }

    fn close(&self, _: Epoch) -> Result<(), String> {
        match self.gate.lock().unwrap().last() {
            Some(told) if told.order.mode == GateMode::Closed => Ok(()),
            _ => Err("the gate is open".into()),
        }
    }

    fn prepare(&self, _: Epoch, _: &dyn Fn() -> bool) -> Result<(), String> {
        Ok(())
    }

    fn drain(&self, _: Epoch, _: &dyn Fn() -> bool) -> Result<Sequence, String> {
        let request =
            Request { store: self.store.clone(), writer: self.me.clone(), ..rig::request(&self.source) };
        rig::run(&self.repository, &request).map(|report| report.snapshot).map_err(|error| error.to_string())
    }

    fn apply(&self, handover: Sequence) -> Result<(), String> {
        let state = self.repository.store(&self.store).log().state().map_err(|error| error.to_string())?;
        let underway = state.authority.handover.filter(|underway| underway.sequence == handover);
        underway.map(drop).ok_or_else(|| "no such handover".to_owned())
    }

    fn rejoin(&self, epoch: Epoch) -> Result<(), String> {
        let state = self.repository.store(&self.store).log().state().map_err(|error| error.to_string())?;
        (state.epoch == epoch).then_some(()).ok_or_else(|| "another epoch".to_owned())
    }

    fn show(&self, _: Epoch) -> Result<(), String> {
        Ok(())
    }

    fn start_last(&self, _: Epoch, _: &dyn Fn() -> bool) -> Result<(), String> {
        Ok(())
    }

    fn stop_acks(&self) -> Result<(), String> {
        Ok(())
    }

    fn start_acks(&self) -> Result<(), String> {
        Ok(())
    }

    fn wait_for(&self, _: &BTreeSet<WriterId>) -> Result<(), String> {
        Ok(())
    }

    fn ask_promise(&self, of: &WriterId, epoch: Epoch) -> bool {
        if self.network.is_cut.load(Ordering::SeqCst) {
            return false;
        }
        let agent = self.network.agents.lock().unwrap().get(of).cloned();
        agent.is_some_and(|agent| agent.promise(&self.me, epoch, Duration::from_secs(2)))
    }

    fn ask_look(&self, of: &WriterId) {
        if !self.network.is_cut.load(Ordering::SeqCst)
            && let Some(agent) = self.network.agents.lock().unwrap().get(of)
        {
            agent.look();
        }
    }

    fn report(&self, report: Report) {
        if !matches!(report, Report::Works { .. }) {
            self.reports.lock().unwrap().push(report);
        }
    }
}

/// A host: its gate stays when its agent ends.
pub struct Host {
    pub me: WriterId,
    pub seed: u8,
    pub store: Store,
    pub gate: Arc<Mutex<Vec<Told>>>,
    pub reports: Arc<Mutex<Vec<Report>>>,
    /// What its operator was told.
    pub said: Arc<Mutex<Vec<String>>>,
    parts: Arc<Parts>,
    incarnations: u64,
    keeper: Option<Arc<LeaseKeeper>>,
}

impl Host {
    /// Starts the agent of this host's store, which shares the host's keeper.
    fn start_agent(&self, keeper: &Arc<LeaseKeeper>) -> Agent {
        let settings = AgentSettings {
            store: self.store.clone(),
            me: self.me.clone(),
            key: self.key(),
            rules: Rules { timing: TIMING, has_lease: true, needs_set: true },
            incarnation: keeper.incarnation(),
            lease: keeper.clone(),
            journal: Arc::new(Journal::new(Env::system())),
            is_serving: false,
        };
        Agent::start(settings, self.parts.clone()).unwrap()
    }

    /// Appends a decision of this host's.
    fn decide(&self, decision: &Decision) {
        let (mut state, key) = (StoreState::default(), self.key());
        self.store.log().refresh(&mut state).unwrap();
        let maker = Maker { name: &self.me, key: &key };
        let next = |_: &StoreState| Ok::<_, RepositoryError>(Some(decision.clone()));
        self.store.log().decide(&mut state, maker, next).unwrap().unwrap();
    }

    pub fn key(&self) -> Arc<SigningKey> {
        Arc::new(SigningKey::of(&[self.seed; 32]))
    }

    pub fn member(&self) -> Member {
        let may = BTreeSet::from([May::Serve, May::Watch]);
        Member {
            name: self.me.clone(),
            key: self.key().public(),
            address: None,
            customers: None,
            database: None,
            zone: None,
            may,
        }
    }

    /// Returns the modes of the gate, each change once.
    pub fn modes(&self) -> Vec<GateMode> {
        let mut modes: Vec<_> = self.gate.lock().unwrap().iter().map(|told| told.order.mode).collect();
        modes.dedup();
        modes
    }

    /// Returns the spans in which the gate was open.
    pub fn open_spans(&self) -> Vec<(BootNanos, BootNanos)> {
        let gate = self.gate.lock().unwrap();
        let mut spans = Vec::new();
        for (at, told) in gate.iter().enumerate() {
            if told.order.mode == GateMode::Open {
                let until = match told.order.until {
                    Until::Never => BootNanos(0),
                    Until::Time(until) => until,
                    Until::Forever => BootNanos::MAX,
                };
                let next = gate.get(at + 1).map_or(BootNanos::MAX, |next| next.at);
                spans.push((told.at, until.min(next)));
            }
        }
        spans
    }

    pub fn is_open(&self) -> bool {
        let now = Env::system().now().boot;
        self.open_spans().last().is_some_and(|(_, until)| now < *until)
    }
}

pub struct Cluster {
    pub hosts: Vec<Host>,
    pub objects: Arc<dyn ObjectStore>,
    pub is_out: Arc<AtomicBool>,
    network: Arc<Network>,
    _dir: TempDir,
}

impl Cluster {
    /// Returns three hosts, `a` of which is the primary of a founded store with one snapshot, and whose agents
    /// run.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "content").unwrap();
        let (network, is_out) = (Arc::new(Network::default()), Arc::new(AtomicBool::new(false)));
        let host = |at: u8| {
            let said = Arc::new(Mutex::new(Vec::new()));
            let heard = said.clone();
            let notice = Notice::new(move |text| heard.lock().unwrap().push(text.to_owned()));
            let (keys, patience) = (KeySource::none(), rig::disk_patience(1));
            let options = RepositoryOptions { patience, keys, notice, ..Default::default() };
            let inner = Outage::new(objects.clone(), is_out.clone());
            let repository = Repository::over(inner, "test", options, rig::runtime());
            let me = WriterId(["a", "b", "c"][usize::from(at)].into());
            let (gate, reports) = (Arc::default(), Arc::default());
            let parts = Parts {
                me: me.clone(),
                store: name(),
                network: network.clone(),
                gate: Arc::clone(&gate),
                reports: Arc::clone(&reports),
                repository: repository.clone(),
                source: source.clone(),
            };
            let store = repository.store(&name());
            let (parts, incarnations, keeper) = (Arc::new(parts), 0, None);
            Host { me, seed: at + 1, store, gate, reports, said, parts, incarnations, keeper }
        };
        let hosts = (0..3).map(host).collect();
        let mut cluster = Self { hosts, objects, is_out, network, _dir: dir };
        cluster.hosts[0].parts.drain(Epoch(0), &|| false).unwrap();
        let list: Vec<Member> = cluster.hosts.iter().map(Host::member).collect();
        cluster.decide(0, Decision::Members { members: list[..1].to_vec() });
        cluster.decide(0, Decision::Members { members: list });
        (0..3).for_each(|host| cluster.start(host));
        cluster
    }

    pub fn decide(&self, host: usize, decision: Decision) {
        self.hosts[host].decide(&decision);
    }

    /// Starts an agent of a second store on the host `a`, of which `a` and `b` are the members. Returns its
    /// gate, and the agent.
    pub fn add_store(&self, name: &StoreName) -> (Host, Agent) {
        let first = &self.hosts[0];
        let (gate, reports) = (Arc::default(), Arc::default());
        let parts = Parts {
            me: first.me.clone(),
            store: name.clone(),
            network: self.network.clone(),
            gate: Arc::clone(&gate),
            reports: Arc::clone(&reports),
            repository: first.parts.repository.clone(),
            source: first.parts.source.clone(),
        };
        let (store, said) = (first.parts.repository.store(name), first.said.clone());
        let (me, seed, parts, keeper) = (first.me.clone(), first.seed, Arc::new(parts), first.keeper.clone());
        let second = Host { me, seed, store, gate, reports, said, parts, incarnations: 1, keeper };
        second.parts.drain(Epoch(0), &|| false).unwrap();
        let list: Vec<Member> = self.hosts[..2].iter().map(Host::member).collect();
        second.decide(&Decision::Members { members: list[..1].to_vec() });
        second.decide(&Decision::Members { members: list });
        let agent = second.start_agent(second.keeper.as_ref().unwrap());
        (second, agent)
    }

    /// Starts an agent. The one before it is known to have ended.
    pub fn start(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        let ended = (0..host.incarnations).map(Incarnation).collect();
        let settings = LeaseSettings {
            store: host.store.clone(),
            me: host.me.clone(),
            key: host.key(),
            incarnation: Incarnation(host.incarnations),
            ended,
            disk: None,
        };
        host.incarnations += 1;
        let keeper = LeaseKeeper::start(settings).unwrap();
        host.keeper = Some(keeper.clone());
        let agent = host.start_agent(&keeper);
        self.network.agents.lock().unwrap().insert(host.me.clone(), Arc::new(agent));
    }

    /// Ends an agent as a kill does: nothing is closed.
    pub fn kill(&self, host: usize) {
        self.network.agents.lock().unwrap().remove(&self.hosts[host].me);
    }

    pub fn agent(&self, host: usize) -> Arc<Agent> {
        self.network.agents.lock().unwrap()[&self.hosts[host].me].clone()
    }

    /// Lets the hosts reach each other, or not.
    pub fn cut(&self, is_cut: bool) {
        self.network.is_cut.store(is_cut, Ordering::SeqCst);
    }

    pub fn state(&self) -> StoreState {
        self.hosts[0].store.log().state().unwrap()
    }

    /// Waits until a host serves, the log says that its promotion is complete, and the others that run follow.
    pub fn wait_for_primary(&self, host: usize) {
        let runs = |at: &usize| self.network.agents.lock().unwrap().contains_key(&self.hosts[*at].me);
        wait_until("no host is the primary", || {
            let others: Vec<usize> = (0..3).filter(|at| *at != host).filter(runs).collect();
            let view = self.agent(host).view();
            matches!(view.phase, Phase::Primary { .. })
                && view.log.is_completed
                && self.hosts[host].is_open()
                && others.iter().all(|at| {
                    let other = self.agent(*at).view();
                    // One that has not read the last record would lose the race for the next one.
                    other.phase == Phase::Standby && other.log.head == view.log.head
                })
        });
    }

    /// Checks that at no moment two gates were open.
    pub fn assert_one_gate_was_open(&self) {
        let mut spans = Vec::new();
        for host in &self.hosts {
            spans.extend(host.open_spans().into_iter().map(|(from, until)| (from, until, &host.me.0)));
        }
        spans.sort();
        for (at, (from, until, host)) in spans.iter().enumerate() {
            for (later, _, other) in &spans[at + 1..] {
                let both = host != other && later < until;
                assert!(!both, "{host} was open from {from:?} until {until:?}, and {other} at {later:?}");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.network.agents.lock().unwrap().clear();
    }
}
