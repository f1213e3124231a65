//! The threads that carry outputs out.

use super::journal::Journal;
use super::lease_keeper::{LeaseKeeper, LeaseLine, LineDesk};
use super::log_desk::{LogDesk, LogJob};
use super::message::Message;
use super::participants::{GateMode, GateOrder, GateOutcome, Participants, Report, Standbys};
use super::watch_desk::{WatchDesk, WatchJob};
use super::worker::Worker;
use crate::failover::decide::input::Input;
use crate::failover::decide::view::{Proof, Rules, Until};
use crate::model::id::{Epoch, Incarnation, Sequence, WriterId};
use crate::model::record::StoreState;
use crate::repository::objects::Patience;
use crate::repository::store::Store;
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What may fail here, for messages.
const FENCING: &str = "stopping the former primary's host";
/// Time and attempts of a request that concerns the log.
const LOG_PATIENCE: Patience =
    Patience { attempts: 2, backoff: Duration::from_millis(100), timeout: Duration::from_secs(5) };

/// What an agent is and works with.
pub struct AgentSettings {
    pub store: Store,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    pub rules: Rules,
    pub incarnation: Incarnation,
    pub journal: Arc<Journal>,
    /// Whether an earlier process of this agent left the gate open.
    pub is_serving: bool,
    /// The keeper of this host's lease in the store's repository, the same one for all stores.
    pub lease: Arc<LeaseKeeper>,
}

/// A gate, told by several threads. An order that is older than one that was given is not given any more.
struct Gate {
    participants: Arc<dyn Participants>,
    last: Mutex<u64>,
}

impl Gate {
    fn tell(&self, number: u64, order: GateOrder) -> GateOutcome {
        let mut last = lock(&self.last);
        if number < *last {
            return GateOutcome::Done;
        }
        *last = number;
        self.participants.gate(order)
    }
}

#[derive(Clone, PartialEq)]
pub(crate) struct GateJob {
    pub number: u64,
    pub order: GateOrder,
}

/// A part of the host's that may take long. Equal ones are not queued twice, whatever their number.
#[derive(Clone)]
pub(crate) struct HostJob {
    pub number: u64,
    pub what: HostWork,
}

impl PartialEq for HostJob {
    fn eq(&self, other: &Self) -> bool {
        self.what == other.what
    }
}

#[derive(Clone, PartialEq)]
pub(crate) enum HostWork {
    Close { epoch: Epoch },
    Prepare { epoch: Epoch },
    CatchUp { to: WriterId },
    Drain { epoch: Epoch },
    Apply { handover: Sequence },
    Rejoin { epoch: Epoch },
    Show { epoch: Epoch },
    StartLast { epoch: Epoch },
    StopAcks,
    StartAcks,
    WaitFor { standbys: BTreeSet<WriterId> },
    Standbys { waits_for: BTreeSet<WriterId> },
}

/// Does the host's parts, on whichever thread.
#[derive(Clone)]
struct HostDesk {
    participants: Arc<dyn Participants>,
    gate: Arc<Gate>,
    messages: Sender<Message>,
    /// Number of the last output that closes: what was asked for before is given up.
    closed: Arc<AtomicU64>,
    is_ended: Arc<AtomicBool>,
}

impl HostDesk {
    fn run(&self, job: HostJob) -> bool {
        let HostJob { number, what } = job;
        let stop = || self.closed.load(Ordering::SeqCst) > number || self.is_ended.load(Ordering::SeqCst);
        if stop() && !matches!(what, HostWork::Close { .. }) {
            return false;
        }
        let part = &self.participants;
        let (name, result) = match what {
            HostWork::Standbys { waits_for } => {
                self.see(number, part.standbys(&waits_for));
                return false;
            }
            HostWork::Close { epoch } => ("closing", self.close(number, epoch).map(|()| Input::Closed)),
            HostWork::Prepare { epoch } => {
                ("preparing", part.prepare(epoch, &stop).map(|()| Input::Prepared { epoch }))
            }
            HostWork::CatchUp { to } => {
                ("catching up before a handover", part.catch_up(&to, &stop).map(|()| Input::HandOver { to }))
            }
            HostWork::Drain { epoch } => {
                ("the last snapshot", part.drain(epoch, &stop).map(|snapshot| Input::Drained { snapshot }))
            }
            HostWork::Apply { handover } => {
                ("fetching a handover", part.apply(handover).map(|()| Input::Applied { handover }))
            }
            HostWork::Rejoin { epoch } => {
                ("rejoining", part.rejoin(epoch).map(|()| Input::Rejoined { epoch }))
            }
            HostWork::Show { epoch } => ("the edge", part.show(epoch).map(|()| Input::Verified { epoch })),
            HostWork::StartLast { epoch } => (
                "starting what acts without customers",
                part.start_last(epoch, &stop).map(|()| Input::Verified { epoch }),
            ),
            HostWork::StopAcks => ("the database", part.stop_acks().map(|()| Input::AcksStopped)),
            HostWork::StartAcks => ("the database", part.start_acks().map(|()| Input::Tick)),
            HostWork::WaitFor { standbys } => {
                ("the database", part.wait_for(&standbys).map(|()| Input::WaitsFor { standbys }))
            }
        };
        if result.is_ok() {
            part.report(Report::Works { what: name });
        }
        match result {
            // The customers' address shows the epoch: what acts without customers begins.
            Ok(Input::Verified { .. }) if name == "the edge" => return true,
            Ok(input) => drop(self.messages.send(Message::Done { input, order: number })),
            Err(_) if stop() => {}
            Err(how) => part.report(Report::Failed { what: name, how }),
        }
        false
    }

    /// Tells the machine of the standbys' databases.
    fn see(&self, order: u64, standbys: Standbys) {
        let waits = standbys.waits_for.map(|host| Input::WaitsFor { standbys: [host].into() });
        let seen =
            standbys.seen.into_iter().map(|(host, is_connected)| Input::Standby { host, is_connected });
        for input in waits.into_iter().chain(seen) {
            // A machine that has ended hears nothing.
            let _ = self.messages.send(Message::Done { input, order });
        }
    }

    /// The gate comes first, behind whatever it is being told.
    fn close(&self, number: u64, epoch: Epoch) -> Result<(), String> {
        let order = GateOrder { epoch, mode: GateMode::Closed, until: Until::Never };
        match self.gate.tell(number, order) {
            GateOutcome::Done | GateOutcome::Fenced(_) => self.participants.close(epoch),
            // A gate that does not answer may be open.
            GateOutcome::Failed(how) => self.participants.close(epoch).and(Err(how)),
        }
    }
}

/// Stop another host. `at` is a position of the log after the own promotion.
#[derive(Clone, PartialEq)]
pub(crate) struct FenceJob {
    pub host: WriterId,
    pub at: Sequence,
}

#[derive(Clone, PartialEq)]
enum AskJob {
    Promise { epoch: Epoch, sent: BootNanos },
    Look,
}

/// The threads that carry outputs out.
pub(crate) struct Hands {
    pub log: Arc<Worker<LogJob>>,
    pub lease: LeaseLine,
    pub watch: Worker<WatchJob>,
    pub gate: Worker<GateJob>,
    /// Closing, preparing, and all that changes services and files here: one after the other.
    pub host: Arc<Worker<HostJob>>,
    pub database: Worker<HostJob>,
    pub edge: Worker<HostJob>,
    pub fence: Worker<FenceJob>,
    peers: BTreeMap<WriterId, Worker<AskJob>>,
    /// The log as it was read last.
    pub state: Arc<Mutex<Arc<StoreState>>>,
    /// Number of the last output that closes.
    pub closed: Arc<AtomicU64>,
    messages: Sender<Message>,
    participants: Arc<dyn Participants>,
}

impl Hands {
    pub(crate) fn start(
        settings: &AgentSettings,
        participants: &Arc<dyn Participants>,
        messages: &Sender<Message>,
        is_ended: &Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let AgentSettings { me, key, rules, .. } = settings;
        let shared = Arc::new(Mutex::new(Arc::new(StoreState::default())));
        let lease = settings.lease.join(rules.timing);
        let log = start_log(settings, &shared, &lease, messages, participants)?;
        let mut watching = WatchDesk {
            store: settings.store.with_patience(LOG_PATIENCE),
            me: me.clone(),
            key: key.clone(),
            leases: BTreeMap::new(),
            has_lease: rules.has_lease,
            shared: shared.clone(),
            inputs: messages.clone(),
            participants: participants.clone(),
        };
        let watch = Worker::start("failover-watch", move |job| watching.run(job))?;
        let told = Arc::new(Gate { participants: participants.clone(), last: Mutex::new(0) });
        let closed = Arc::new(AtomicU64::new(0));
        let desk = HostDesk {
            participants: participants.clone(),
            gate: told.clone(),
            messages: messages.clone(),
            closed: closed.clone(),
            is_ended: is_ended.clone(),
        };
        let gate = start_gate(told, participants.clone(), messages.clone(), is_ended.clone())?;
        let (of_host, of_database, of_edge) = (desk.clone(), desk.clone(), desk);
        let host = Arc::new(Worker::start("failover-host", move |job| {
            of_host.run(job);
        })?);
        let database = Worker::start("failover-database", move |job| {
            of_database.run(job);
        })?;
        let edge = start_edge(of_edge, host.clone())?;
        let fence = start_fence(participants.clone(), messages.clone())?;
        let (peers, state) = (BTreeMap::new(), shared);
        let (messages, participants) = (messages.clone(), participants.clone());
        Ok(Self {
            log,
            lease,
            watch,
            gate,
            host,
            database,
            edge,
            fence,
            peers,
            state,
            closed,
            messages,
            participants,
        })
    }

    pub(crate) fn ask_promise(&mut self, of: WriterId, epoch: Epoch, sent: BootNanos) {
        if let Some(worker) = self.peer(of) {
            worker.put_if_idle(AskJob::Promise { epoch, sent });
        }
    }

    pub(crate) fn ask_look(&mut self, of: WriterId) {
        if let Some(worker) = self.peer(of) {
            worker.put(AskJob::Look);
        }
    }

    /// Returns what asks a host. Without a thread nobody is asked, and asked again at the next look.
    fn peer(&mut self, of: WriterId) -> Option<&Worker<AskJob>> {
        let entry = match self.peers.entry(of) {
            Entry::Occupied(entry) => return Some(entry.into_mut()),
            Entry::Vacant(entry) => entry,
        };
        let (participants, messages, from) =
            (self.participants.clone(), self.messages.clone(), entry.key().clone());
        let ask = move |job| match job {
            AskJob::Promise { epoch, sent } => {
                if participants.ask_promise(&from, epoch) {
                    let _ = messages.send(Message::Input(Input::Promised { from: from.clone(), sent }));
                }
            }
            AskJob::Look => participants.ask_look(&from),
        };
        let worker = Worker::start("failover-ask", ask).ok()?;
        Some(entry.insert(worker))
    }
}

fn start_fence(
    participants: Arc<dyn Participants>,
    messages: Sender<Message>,
) -> io::Result<Worker<FenceJob>> {
    Worker::start("failover-fence", move |FenceJob { host, at }| match participants.stop_host(&host) {
        Ok(true) => {
            participants.report(Report::Works { what: FENCING });
            let known = Input::KnownClosed { host, at, proof: Proof::Command };
            let _ = messages.send(Message::Input(known));
        }
        Ok(false) => {}
        Err(how) => participants.report(Report::Failed { what: FENCING, how }),
    })
}

/// Starts what reads the log and appends to it, and lets the lease's keeper have it read.
fn start_log(
    settings: &AgentSettings,
    shared: &Arc<Mutex<Arc<StoreState>>>,
    lease: &LeaseLine,
    messages: &Sender<Message>,
    participants: &Arc<dyn Participants>,
) -> io::Result<Arc<Worker<LogJob>>> {
    let mut desk = LogDesk {
        store: settings.store.with_patience(LOG_PATIENCE),
        me: settings.me.clone(),
        key: settings.key.clone(),
        state: StoreState::default(),
        shared: shared.clone(),
        inputs: messages.clone(),
        participants: participants.clone(),
        heads: BTreeMap::new(),
        probed: 0,
        judge: settings.lease.judge(),
        judged: Box::new(lease.judged()),
    };
    let log = Arc::new(Worker::start("failover-log", move |job| desk.run(job))?);
    lease.attach(LineDesk {
        store: settings.store.name().clone(),
        state: shared.clone(),
        inputs: messages.clone(),
        log: log.clone(),
        participants: participants.clone(),
        doubts: Mutex::default(),
    });
    Ok(log)
}

/// Starts what shows the customers' edge the epoch; `then` starts what acts without customers.
fn start_edge(desk: HostDesk, then: Arc<Worker<HostJob>>) -> io::Result<Worker<HostJob>> {
    Worker::start("failover-edge", move |job: HostJob| {
        let HostJob { number, what } = job.clone();
        if let (true, HostWork::Show { epoch }) = (desk.run(job), what) {
            then.put(HostJob { number, what: HostWork::StartLast { epoch } });
        }
    })
}

fn start_gate(
    gate: Arc<Gate>,
    participants: Arc<dyn Participants>,
    messages: Sender<Message>,
    is_ended: Arc<AtomicBool>,
) -> io::Result<Worker<GateJob>> {
    Worker::start("failover-gate", move |job: GateJob| {
        if is_ended.load(Ordering::SeqCst) {
            return;
        }
        let how = match gate.tell(job.number, job.order) {
            GateOutcome::Done => return,
            GateOutcome::Failed(how) => how,
            GateOutcome::Fenced(how) => {
                if job.order.mode != GateMode::Closed {
                    let _ = messages.send(Message::GateFenced);
                }
                how
            }
        };
        participants.report(Report::Failed { what: "the gate", how });
    })
}
