//! A small world for the failover machine: hosts with clocks of their own, gates, databases, a network and an
//! object store. The model checker and the seeded simulation both act in it; the machine is the real one.
//!
//! The object store is linearizable: each request is applied at one moment, which may be late, and its reply
//! may be late or lost. A gate is a process of its own: it outlives the host's agent, and closes by itself
//! when its time is over by the host's clock. A database is the order of its transactions.

use std::collections::{BTreeMap, BTreeSet};
use understudy::failover::decide::input::{Input, LeaseReply, Outcome};
use understudy::failover::decide::log_view::{Event, LogView, Reign};
use understudy::failover::decide::output::Output;
use understudy::failover::decide::step::step;
use understudy::failover::decide::view::{Cause, Phase, Proof, Rules, Until, View};
use understudy::model::id::{Epoch, Sequence, WriterId};
use understudy::support::clock::BootNanos;

/// A customer's order: a transaction of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(pub u32);

/// The gate of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    pub epoch: Epoch,
    pub until: Until,
}

/// A host's database. It outlives the agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Database {
    /// The transactions in the order of the binary log, those that wait included.
    pub transactions: Vec<Order>,
    /// Those that wait for an acknowledgement, and of whom.
    pub waiting: BTreeMap<Order, BTreeSet<WriterId>>,
    /// Those that waited when it was killed. They stay if it starts as the primary's, and are cut off if it
    /// starts as a replica.
    pub in_doubt: BTreeSet<Order>,
    pub waits_for: BTreeSet<WriterId>,
    /// Whether it receives and acknowledges what the primary does.
    pub receives: bool,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// None while the agent is down.
    pub view: Option<View>,
    /// Distinguishes the agents that run one after the other.
    pub life: u32,
    pub clock: BootNanos,
    pub gate: Option<Gate>,
    pub database: Database,
    /// What only this host had when it rejoined.
    pub stranded: Vec<Order>,
}

/// A lease's last number, and whether it is a break.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Lease {
    pub number: u64,
    /// The host that created each number that may still be asked for again.
    pub makers: BTreeMap<u64, WriterId>,
}

impl Lease {
    fn create(&mut self, number: u64, maker: WriterId) {
        self.number = number;
        self.makers.insert(number, maker);
        self.makers.retain(|old, _| old + 3 > number);
    }

    /// Returns the last number that its holder may have created.
    fn renewed(&self, holder: &WriterId) -> u64 {
        let own = self.makers.iter().rev().find(|(_, maker)| *maker == holder).map(|(number, _)| *number);
        let unknown = || self.makers.keys().next().map_or(self.number, |first| first - 1);
        own.unwrap_or_else(unknown)
    }
}

/// The object store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Objects {
    pub log: LogView,
    pub records: Vec<(WriterId, Event)>,
    pub leases: BTreeMap<WriterId, Lease>,
    pub statements: BTreeMap<WriterId, Sequence>,
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    Request { request: Output, sent: BootNanos },
    Reply(Input),
    AskPromise { by: WriterId, epoch: Epoch, sent: BootNanos },
    Promise { from: WriterId, sent: BootNanos },
    AskLook,
}

impl Message {
    /// Returns whether it goes from host to host.
    pub fn is_between_hosts(&self) -> bool {
        matches!(self, Self::AskPromise { .. } | Self::Promise { .. } | Self::AskLook)
    }

    /// Returns whether it is a request that changes what others see. It may be applied after its agent died.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Self::Request {
                request: Output::Renew { .. } | Output::Append { .. } | Output::Break { .. },
                ..
            }
        )
    }
}

/// A message, and the agent that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    /// The host that sent the request, or receives the message.
    pub host: usize,
    pub life: u32,
    pub message: Message,
}

/// A promotion, as a test judges it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Promotion {
    pub host: WriterId,
    pub cause: Cause,
    /// Whether the loss that was stated is zero.
    pub is_lossless: bool,
}

/// The world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub rules: Rules,
    pub hosts: Vec<Host>,
    pub objects: Objects,
    pub flights: Vec<Flight>,
    /// Whether readings, statements and promises arrive at once, where there is a connection. Otherwise every
    /// message is a flight.
    pub is_quick: bool,
    /// Whether each host reaches the object store.
    pub reaches_store: Vec<bool>,
    /// Whether the hosts reach each other.
    pub reach_each_other: bool,
    /// Hosts that were told to look, and hear it after what is being given now is done. Empty at rest.
    told_to_look: BTreeSet<usize>,
    /// Number of inputs that are being given, one because of the other.
    depth: u8,
    pub next_order: u32,
    /// Orders that a customer was told are done.
    pub acknowledged: BTreeSet<Order>,
    pub promotions: Vec<Promotion>,
    /// What an invariant that was broken says.
    pub broken: Option<&'static str>,
}

pub fn name(host: usize) -> WriterId {
    WriterId(["a", "b", "c"][host].into())
}

fn index(name: &WriterId) -> usize {
    usize::from(name.0.as_bytes()[0] - b'a')
}

/// Returns whether an output is a message to another host or to the object store.
fn is_sent(output: &Output) -> bool {
    matches!(
        output,
        Output::ReadLog
            | Output::ReadOwnNumber
            | Output::Renew { .. }
            | Output::Look { .. }
            | Output::Break { .. }
            | Output::Append { .. }
            | Output::State { .. }
            | Output::AskPromise { .. }
            | Output::AskLook { .. }
    )
}

impl World {
    /// Returns a world of `hosts` hosts whose first one is the primary by the log, and whose agents have just
    /// started.
    pub fn new(hosts: usize, rules: Rules) -> Self {
        let first = name(0);
        let mut log = LogView {
            head: Sequence(1),
            epoch: Epoch(1),
            primary: Some(first.clone()),
            serving: (0..hosts).map(name).collect(),
            is_completed: true,
            ..Default::default()
        };
        log.reigns.push(Reign { host: first, since: Sequence(1) });
        let host = |at| Host {
            view: Some(View::new(name(at), rules, BootNanos(1))),
            life: 0,
            clock: BootNanos(1),
            gate: None,
            database: Database::default(),
            stranded: Vec::new(),
        };
        Self {
            rules,
            hosts: (0..hosts).map(host).collect(),
            objects: Objects { log, ..Default::default() },
            flights: Vec::new(),
            is_quick: false,
            reaches_store: vec![true; hosts],
            reach_each_other: true,
            told_to_look: BTreeSet::new(),
            depth: 0,
            next_order: 0,
            acknowledged: BTreeSet::new(),
            promotions: Vec::new(),
            broken: None,
        }
    }

    /// Returns whether customers are served at this host at this moment.
    pub fn serves(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        host.gate.as_ref().is_some_and(|gate| gate.until.is_after(host.clock))
    }

    fn view(&self, host: usize) -> Option<&View> {
        self.hosts[host].view.as_ref()
    }

    /// Gives an input to a host's agent, and does what it asks for. What happens on the host itself happens at
    /// once.
    pub fn give(&mut self, host: usize, input: Input) {
        self.depth += 1;
        self.give_one(host, input);
        self.depth -= 1;
        while self.depth == 0
            && let Some(host) = self.told_to_look.pop_first()
        {
            self.give(host, Input::LookNow);
        }
    }

    fn give_one(&mut self, host: usize, input: Input) {
        let mut inputs = std::collections::VecDeque::from([input]);
        let mut rounds = 0;
        while let Some(input) = inputs.pop_front() {
            rounds += 1;
            assert!(rounds < 1000, "host {host} does not settle: {input:?} {:?}", self.hosts[host].view);
            let now = self.hosts[host].clock;
            let Some(view) = &self.hosts[host].view else { return };
            let (view, outputs) = step(view, input, now);
            self.hosts[host].view = Some(view);
            // What happens on the host itself comes before any reply.
            let (sent, done): (Vec<_>, Vec<_>) = outputs.into_iter().partition(is_sent);
            for output in done.into_iter().chain(sent) {
                inputs.extend(self.carry_out(host, output));
            }
            self.judge();
        }
    }

    /// Carries out an output; returns what follows from it on the same host.
    fn carry_out(&mut self, host: usize, output: Output) -> Option<Input> {
        match output {
            Output::ReadLog
            | Output::ReadOwnNumber
            | Output::Renew { .. }
            | Output::Look { .. }
            | Output::Break { .. }
            | Output::Append { .. }
            | Output::State { .. } => {
                let sent = self.hosts[host].clock;
                self.send(host, Message::Request { request: output, sent });
                None
            }
            Output::AskPromise { of, epoch } => {
                let sent = self.hosts[host].clock;
                self.send(index(&of), Message::AskPromise { by: name(host), epoch, sent });
                None
            }
            Output::AskLook { of } => {
                self.send(index(&of), Message::AskLook);
                None
            }
            // The answer to the message that is being delivered; see `deliver`.
            Output::Promise { .. } => None,
            Output::Serve { epoch, until } => {
                self.hosts[host].gate = Some(Gate { epoch, until });
                let is_verified = self.view(host).is_some_and(
                    |view| matches!(view.phase, Phase::Primary { is_verified, .. } if is_verified),
                );
                (!is_verified).then_some(Input::Verified { epoch })
            }
            Output::Hold { .. } => {
                self.hosts[host].gate = None;
                let view = self.view(host)?;
                let is_drained = matches!(&view.phase, Phase::HandingOver { drained: Some(_), .. });
                let is_idle = self.hosts[host].database.waiting.is_empty();
                (!is_drained && is_idle).then_some(Input::Drained { snapshot: view.log.head })
            }
            Output::Close => {
                self.close(host);
                Some(Input::Closed)
            }
            Output::Prepare { epoch } => {
                self.hosts[host].database.in_doubt.clear();
                Some(Input::Prepared { epoch })
            }
            Output::Rejoin { epoch } => self.rejoin(host, epoch),
            Output::Apply { handover } => self.has_all(host).then_some(Input::Applied { handover }),
            Output::StopAcks => {
                self.hosts[host].database.receives = false;
                Some(Input::AcksStopped)
            }
            Output::StartAcks => {
                self.hosts[host].database.receives = true;
                None
            }
            Output::WaitFor { standbys } => {
                self.wait_for(host, &standbys);
                Some(Input::WaitsFor { standbys })
            }
            Output::Refused { .. } => None,
        }
    }

    /// Returns whether a message takes its time in a quick world.
    ///
    /// Writes do, and readings of the log by a host that is about to open: their moment decides races. The
    /// moment of all others is the moment at which the host wakes up.
    fn is_slow(&self, host: usize, message: &Message) -> bool {
        let is_opening = |view: &View| matches!(view.phase, Phase::Fenced { .. } | Phase::TakingOver { .. });
        match message {
            Message::Request { request: Output::ReadLog, .. } => self.view(host).is_some_and(is_opening),
            message => message.is_write(),
        }
    }

    fn send(&mut self, host: usize, message: Message) {
        if self.is_quick && !self.is_slow(host, &message) {
            let life = self.hosts[host].life;
            match message {
                Message::Request { request, sent } if self.reaches_store[host] => {
                    let reply = self.apply(host, request, sent);
                    self.deliver(host, life, Message::Reply(reply));
                }
                Message::AskPromise { .. } if self.reach_each_other => self.deliver(host, life, message),
                // A host does nothing else before it has done what it was told.
                Message::AskLook if self.reach_each_other => {
                    self.told_to_look.insert(host);
                }
                _ => {}
            }
            return;
        }
        let is_same = |flight: &Flight| {
            flight.host == host
                && match (&flight.message, &message) {
                    (Message::Request { request: a, .. }, Message::Request { request: b, .. }) => a == b,
                    (Message::AskPromise { by: a, .. }, Message::AskPromise { by: b, .. }) => a == b,
                    (Message::AskLook, Message::AskLook) => true,
                    _ => false,
                }
        };
        let life = self.hosts[host].life;
        if !self.flights.iter().any(|flight| is_same(flight) && flight.life == life) {
            self.flights.push(Flight { host, life, message });
        }
    }

    /// Lets the message number `at` take its next step: a request is applied and becomes a reply, everything
    /// else arrives. With `is_lost`, what follows is lost.
    pub fn advance(&mut self, at: usize, is_lost: bool) {
        let Flight { host, life, message } = self.flights.remove(at);
        match message {
            Message::Request { request, sent } => {
                let reply = self.apply(host, request, sent);
                // Only a reading of the log matters when it arrives late: the others' are judged by the time
                // at which they arrive.
                let is_log = matches!(reply, Input::Log { .. });
                match (is_lost, is_log) {
                    (true, _) => {}
                    (false, true) => self.flights.push(Flight { host, life, message: Message::Reply(reply) }),
                    (false, false) => self.deliver(host, life, Message::Reply(reply)),
                }
            }
            message if !is_lost => self.deliver(host, life, message),
            _ => {}
        }
        self.judge();
    }

    fn deliver(&mut self, host: usize, life: u32, message: Message) {
        if self.hosts[host].life != life {
            return;
        }
        match message {
            Message::Reply(input) => self.give(host, input),
            Message::AskPromise { by, epoch, sent } => {
                let now = self.hosts[host].clock;
                let Some(view) = &self.hosts[host].view else { return };
                let asked = Input::PromiseAsked { by: by.clone(), epoch };
                let (_, outputs) = step(view, asked.clone(), now);
                self.give(host, asked);
                if outputs.contains(&Output::Promise { to: by.clone() }) {
                    let message = Message::Promise { from: name(host), sent };
                    let by = index(&by);
                    let life = self.hosts[by].life;
                    match self.is_quick {
                        true => self.deliver(by, life, message),
                        false => self.flights.push(Flight { host: by, life, message }),
                    }
                }
            }
            Message::Promise { from, sent } => self.give(host, Input::Promised { from, sent }),
            Message::AskLook => self.give(host, Input::LookNow),
            Message::Request { .. } => unreachable!("requests are applied"),
        }
    }

    /// Applies a request to the object store, and returns the reply.
    fn apply(&mut self, host: usize, request: Output, sent: BootNanos) -> Input {
        let me = name(host);
        match request {
            Output::ReadLog => Input::Log { log: self.objects.log.clone(), asked: sent },
            Output::ReadOwnNumber => {
                let lease = self.objects.leases.entry(me).or_default();
                Input::OwnNumber { number: lease.number, is_mine: true }
            }
            Output::Renew { number } => {
                let lease = self.objects.leases.entry(me.clone()).or_default();
                let reply = match lease.makers.get(&number) {
                    None if lease.number + 1 == number => {
                        lease.create(number, me);
                        LeaseReply::Created
                    }
                    Some(maker) if *maker == me => LeaseReply::Created,
                    Some(_) => LeaseReply::Broken,
                    // It was taken long ago.
                    None if number <= lease.number => LeaseReply::Broken,
                    None => LeaseReply::Unknown,
                };
                Input::Lease { number, reply }
            }
            Output::Look { host } => {
                let lease = self.objects.leases.entry(host.clone()).or_default();
                let (number, renewed) = (lease.number, lease.renewed(&host));
                let closed_at = self.objects.statements.get(&host).copied();
                Input::Seen { host, number, renewed, closed_at }
            }
            Output::Break { host, number, epoch } => {
                let lease = self.objects.leases.entry(host.clone()).or_default();
                if lease.number + 1 == number {
                    lease.create(number, me.clone());
                }
                let is_won = lease.makers.get(&number) == Some(&me);
                let (number, renewed) = (lease.number, lease.renewed(&host));
                Input::Break { host, number, renewed, epoch, is_won }
            }
            Output::Append { after, event } => self.append(host, after, event),
            Output::State { at } => {
                let known = self.objects.statements.entry(me).or_insert(at);
                *known = at.max(*known);
                Input::Stated { at }
            }
            other => unreachable!("{other:?} is no request"),
        }
    }

    fn append(&mut self, host: usize, after: Sequence, event: Event) -> Input {
        let me = name(host);
        let taken = self.objects.records.get((after.0 - 1) as usize);
        let outcome = match taken {
            Some((by, found)) if *by == me && *found == event => Outcome::Won,
            Some(_) => Outcome::Lost,
            None if self.objects.log.head == after => {
                let before = self.objects.log.clone();
                if before.admits(&me, &event) {
                    self.note(host, &before, &event);
                }
                self.objects.log.apply(&me, &event);
                self.objects.records.push((me, event));
                Outcome::Won
            }
            None => unreachable!("a record after the head"),
        };
        Input::Appended { after, outcome }
    }

    /// Keeps what a promotion promised.
    fn note(&mut self, host: usize, before: &LogView, event: &Event) {
        let Event::Promoted { primary } = event else { return };
        let cause = match self.view(host).map(|view| &view.phase) {
            Some(Phase::Promoting { cause }) => *cause,
            // The agent that asked is gone, and its record arrived late.
            _ => Cause::Person,
        };
        let is_lossless = before.synced.contains(primary) || cause == Cause::Handover;
        self.promotions.push(Promotion { host: primary.clone(), cause, is_lossless });
        if cause == Cause::Watchers && before.is_paused {
            self.broken = Some("an automatic promotion while paused");
        }
    }

    /// Shuts the gate, and kills the database: what waits was acknowledged to nobody.
    fn close(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        host.gate = None;
        let waiting = std::mem::take(&mut host.database.waiting);
        host.database.in_doubt.extend(waiting.into_keys());
        host.database.waits_for.clear();
        host.database.receives = false;
    }

    /// Returns whether `host` has all transactions of the primary's database.
    fn has_all(&self, host: usize) -> bool {
        let Some(primary) = self.objects.log.primary.as_ref().map(index) else { return false };
        let database = &self.hosts[primary].database;
        let is_settled = database.waiting.is_empty() && database.in_doubt.is_empty();
        is_settled && self.hosts[primary].database.transactions == self.hosts[host].database.transactions
    }

    /// Keeps what only this host has, and takes the primary's database over.
    fn rejoin(&mut self, host: usize, epoch: Epoch) -> Option<Input> {
        let primary = self.view(host)?.log.primary.as_ref().map(index).filter(|primary| *primary != host)?;
        if !self.reach_each_other || self.objects.log.epoch != epoch {
            return None;
        }
        let theirs = self.hosts[primary].database.transactions.clone();
        let database = &mut self.hosts[host].database;
        let cut = std::mem::take(&mut database.in_doubt);
        let mine = std::mem::replace(&mut database.transactions, theirs.clone());
        let only_here = mine.into_iter().filter(|order| !theirs.contains(order) && !cut.contains(order));
        self.hosts[host].stranded.extend(only_here);
        Some(Input::Rejoined { epoch })
    }

    fn wait_for(&mut self, host: usize, standbys: &BTreeSet<WriterId>) {
        self.hosts[host].database.waits_for.clone_from(standbys);
        let is_free: Vec<Order> = {
            let waiting = &mut self.hosts[host].database.waiting;
            waiting.values_mut().for_each(|of| of.retain(|standby| standbys.contains(standby)));
            waiting.iter().filter(|(_, of)| of.is_empty()).map(|(order, _)| *order).collect()
        };
        is_free.into_iter().for_each(|order| self.acknowledge(host, order));
    }

    /// A customer orders at this host, if it serves.
    pub fn order(&mut self, host: usize) {
        if !self.serves(host) {
            return;
        }
        let order = Order(self.next_order);
        self.next_order += 1;
        let database = &mut self.hosts[host].database;
        database.transactions.push(order);
        let of = database.waits_for.clone();
        database.waiting.insert(order, of.clone());
        if of.is_empty() {
            self.acknowledge(host, order);
        }
    }

    /// The database committed; the customer hears of it if the gate is still open.
    fn acknowledge(&mut self, host: usize, order: Order) {
        self.hosts[host].database.waiting.remove(&order);
        if self.serves(host) {
            self.acknowledged.insert(order);
        }
    }

    /// The standby receives all that the primary's database has, and acknowledges it.
    pub fn replicate(&mut self, from: usize, to: usize) {
        if from == to || !self.reach_each_other || !self.hosts[to].database.receives {
            return;
        }
        let follows = |view: &View| view.log.primary == Some(name(from)) && view.phase == Phase::Standby;
        if !self.view(to).is_some_and(follows) {
            return;
        }
        let theirs = &self.hosts[from].database.transactions;
        if !theirs.starts_with(&self.hosts[to].database.transactions) {
            return;
        }
        self.hosts[to].database.transactions = theirs.clone();
        let waiting: Vec<Order> = self.hosts[from].database.waiting.keys().copied().collect();
        for order in waiting {
            let of = self.hosts[from].database.waiting.get_mut(&order).unwrap();
            of.remove(&name(to));
            if of.is_empty() {
                self.acknowledge(from, order);
            }
        }
    }

    /// The primary's database says which standbys are connected to it.
    pub fn count_standbys(&mut self, from: usize) {
        for to in (0..self.hosts.len()).filter(|to| *to != from) {
            let follows = self
                .view(to)
                .is_some_and(|view| view.phase == Phase::Standby && view.log.primary == Some(name(from)));
            let is_alive = self.view(from).is_some_and(|view| view.phase.serves());
            let is_connected = is_alive
                && follows
                && self.reach_each_other
                && self.hosts[to].database.receives
                && self.hosts[to].database.transactions == self.hosts[from].database.transactions;
            self.give(from, Input::Standby { host: name(to), is_connected });
        }
    }

    /// The agent is killed. Its gate goes on until its time is over.
    pub fn kill_agent(&mut self, host: usize) {
        self.hosts[host].view = None;
        self.hosts[host].life += 1;
    }

    /// The host loses power: everything on it ends, and the database's waiting transactions stay in its log
    /// until it starts.
    pub fn kill_host(&mut self, host: usize) {
        self.kill_agent(host);
        self.close(host);
    }

    /// Starts an agent. One that finds the gate open closes nothing before it has read the log.
    pub fn start(&mut self, host: usize) {
        if self.hosts[host].view.is_none() {
            let now = self.hosts[host].clock;
            let new = if self.serves(host) { View::starting } else { View::new };
            self.hosts[host].view = Some(new(name(host), self.rules, now));
        }
    }

    /// A person says that a host is down.
    pub fn attest(&mut self, to: usize, down: usize) {
        let at = self.objects.log.head;
        self.give(to, Input::KnownClosed { host: name(down), at, proof: Proof::Person });
    }

    /// Checks what must hold at each moment.
    fn judge(&mut self) {
        let serving: Vec<usize> = (0..self.hosts.len()).filter(|host| self.serves(*host)).collect();
        if serving.len() > 1 {
            self.broken.get_or_insert("two hosts serve");
        }
        for host in serving {
            let primary = self.objects.log.primary.as_ref().map(index);
            let epoch = self.hosts[host].gate.as_ref().map(|gate| gate.epoch);
            if epoch.is_some_and(|epoch| epoch > self.objects.log.epoch) {
                self.broken.get_or_insert("a gate shows an epoch that the log does not have");
            }
            if epoch == Some(self.objects.log.epoch) && primary != Some(host) {
                self.broken.get_or_insert("a host serves the epoch of another one");
            }
        }
    }

    /// Time passes: each host's clock goes on by its own amount.
    pub fn pass(&mut self, amounts: &[u64]) {
        for (host, amount) in self.hosts.iter_mut().zip(amounts) {
            host.clock.0 += amount;
        }
        self.judge();
    }
}
