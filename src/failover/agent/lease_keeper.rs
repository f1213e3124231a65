//! Keeps this host's lease, for all its stores: the only thing in this process that creates its numbers.
//!
//! Each store's agent has a [`LeaseLine`], and its machine counts numbers of that line, as if the lease were its
//! own. [`lease_lines`](super::lease_lines) says which real number answers which request.
//!
//! # Why it is safe
//!
//! The machine's proof (see `decide`) needs three things of a lease, and gets them:
//!
//! - **A number exists only after it was asked for.** A request is answered by a number whose first request to
//!   the repository was sent after it arrived. So whoever watches saw the number no earlier than the holder's
//!   validity began. If the reply to a number was lost, it answers those that were there when it was first
//!   sent; later ones get the next number.
//! - **A line that was broken does not go on.** Every real number is read before the next one is created, and
//!   judged for each store by the members of that store's log. A break ends the line of the store that it names:
//!   its request that waits is answered so, or else its next one. To the other stores it is nothing. A number
//!   that may be a break by a member that the store's log does not show yet leaves that store without numbers
//!   until its log was read; the other stores do not wait for that log.
//! - **Another process of this host's name is waited for.** Its number ends all lines; the last number is
//!   looked up only where no line goes on, and every store that asks for its number within `ttl` hears of it.
//!
//! - **A host whose disk hangs does not go on.** It creates no number and asks for no promise
//!   ([`disk_pulse`](super::disk_pulse)): its gates close by their clock, and others may take over.
//!
//! # What can race
//!
//! A store that joins has no number: its first one is created afterwards, and its machine reads the log after
//! that. One that leaves is answered no more. Nothing is done under the lock but counting; the lease's requests
//! run on one thread that waits for nothing else, so an agent, a disk or a store's log that hangs delays no other
//! store's renewal. There must be one keeper for a host and a repository in a process: two would be each other's
//! rivals.

use super::disk_pulse::DiskPulse;
use super::lease_judge::{Judgement, LeaseJudge};
use super::lease_lines::{LineId, Lines, Next, Reply, Verdict};
use super::log_desk::LogJob;
use super::message::Message;
use super::participants::{Participants, Report};
use super::worker::Worker;
use crate::failover::decide::input::{Input, LeaseReply};
use crate::failover::decide::timing::Timing;
use crate::model::id::{Incarnation, StoreName, WriterId};
use crate::model::lease::LeaseNote;
use crate::model::member::{May, Member};
use crate::model::record::StoreState;
use crate::repository::leases::{LEASE_KEPT, Lease, NumberTaken};
use crate::repository::store::Store;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const WHAT: &str = "keeping the lease";

/// What a keeper is and works with.
pub struct LeaseSettings {
    /// Any store of the repository.
    pub store: Store,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    pub incarnation: Incarnation,
    /// Processes of this host that are known to have ended.
    pub ended: BTreeSet<Incarnation>,
    /// Directory on a disk without which this host is none; none if it has no such disk.
    pub disk: Option<PathBuf>,
}

/// The keeper of a host's lease in one repository. Its thread ends when it is dropped.
pub struct LeaseKeeper {
    shared: Arc<Shared>,
    judge: Arc<LeaseJudge>,
    pulse: Option<Arc<DiskPulse>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    env: Env,
}

#[derive(Default)]
struct State {
    lines: Lines,
    desks: BTreeMap<LineId, Arc<LineDesk>>,
    is_ended: bool,
}

/// The agent of a store, as far as the keeper needs it.
pub(crate) struct LineDesk {
    pub store: StoreName,
    /// The state of the store's log.
    pub state: Arc<Mutex<Arc<StoreState>>>,
    pub inputs: Sender<Message>,
    pub log: Arc<Worker<LogJob>>,
    pub participants: Arc<dyn Participants>,
    /// Objects of which it is not known what they are to this store.
    pub doubts: Mutex<BTreeMap<u64, Bytes>>,
}

impl LineDesk {
    /// Has the log read, and then the objects in doubt judged.
    fn judge_again(&self) {
        for (number, bytes) in lock(&self.doubts).iter() {
            self.log.put(LogJob::Judge { number: *number, bytes: bytes.clone() });
        }
    }

    fn failed(&self, how: String) {
        self.participants.report(Report::Failed { what: WHAT, how });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes the lines, and tells the machines what follows from it.
    fn change<R: IntoIterator<Item = Reply>>(&self, change: impl FnOnce(&mut Lines) -> R) {
        let mut state = self.lock();
        for (id, input) in change(&mut state.lines) {
            if let Some(desk) = state.desks.get(&id) {
                if matches!(input, Input::Lease { reply: LeaseReply::Created, .. }) {
                    desk.participants.report(Report::Works { what: WHAT });
                }
                // A machine that has ended hears nothing.
                let _ = desk.inputs.send(Message::Input(input));
            }
        }
        self.changed.notify_one();
    }

    /// Waits for what has to be done; none when there will be nothing.
    fn next(&self) -> Option<Next> {
        let mut state = self.lock();
        loop {
            if state.is_ended {
                return None;
            }
            let now = self.env.boot();
            state = match state.lines.next(now) {
                Next::Wait { until: None } => {
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                Next::Wait { until: Some(until) } => {
                    let waited = self.changed.wait_timeout(state, until.since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                next => return Some(next),
            };
        }
    }

    fn desks(&self) -> BTreeMap<LineId, Arc<LineDesk>> {
        self.lock().desks.clone()
    }
}

impl LeaseKeeper {
    /// Starts a keeper. It creates nothing before a store asks for it.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(settings: LeaseSettings) -> io::Result<Arc<Self>> {
        let LeaseSettings { store, me, key, incarnation, ended, disk } = settings;
        let judge = Arc::new(LeaseJudge { me: me.clone(), incarnation, ended });
        let env = store.env().clone();
        let pulse = disk.map(|dir| DiskPulse::start(&env, &dir)).transpose()?.map(Arc::new);
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), env });
        let (old, its) = (Lease::new(&store, &me), shared.clone());
        let prune = Worker::start("lease-prune", move |last| {
            if let Err(error) = old.prune(last)
                && let Some(desk) = its.desks().values().next()
            {
                let what = "deleting old numbers of the lease";
                desk.participants.report(Report::Failed { what, how: error.to_string() });
            }
        })?;
        let lease = Lease::new(&store, &me);
        let mut own = OwnLease {
            shared: shared.clone(),
            lease,
            key,
            judge: judge.clone(),
            prune,
            pulse: pulse.clone(),
        };
        std::thread::Builder::new().name("lease".into()).spawn(move || own.run())?;
        Ok(Arc::new(Self { shared, judge, pulse }))
    }

    /// Returns the process whose numbers these are.
    pub fn incarnation(&self) -> Incarnation {
        self.judge.incarnation
    }

    pub(crate) fn judge(&self) -> Arc<LeaseJudge> {
        self.judge.clone()
    }

    /// Begins the line of a store. It is heard of after [`LeaseLine::attach`].
    pub(crate) fn join(self: &Arc<Self>, timing: Timing) -> LeaseLine {
        let id = self.shared.lock().lines.join(timing);
        LeaseLine { keeper: self.clone(), id }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.shared.lock().is_ended = true;
        self.shared.changed.notify_one();
    }
}

/// The line of one store's agent. It ends when this is dropped.
pub(crate) struct LeaseLine {
    keeper: Arc<LeaseKeeper>,
    id: LineId,
}

impl LeaseLine {
    pub(crate) fn attach(&self, desk: LineDesk) {
        self.keeper.shared.lock().desks.insert(self.id, Arc::new(desk));
    }

    /// Asks for the line's last number.
    pub(crate) fn find(&self) {
        let now = self.keeper.shared.env.boot();
        self.keeper.shared.change(|lines| lines.find(self.id, now));
    }

    /// Asks for the line's next number.
    pub(crate) fn renew(&self, number: u64) {
        let shared = &self.keeper.shared;
        let now = shared.env.boot();
        shared.change(|lines| lines.renew(self.id, number, now));
        let desk = shared.lock().desks.get(&self.id).cloned();
        if let Some(desk) = desk {
            desk.judge_again();
        }
    }

    /// Returns whether the disk of this host hangs. Then it does not ask others for promises either.
    pub(crate) fn disk_hangs(&self, now: BootNanos) -> bool {
        self.keeper.pulse.as_ref().is_some_and(|pulse| pulse.hangs(now).is_some())
    }

    /// Returns what takes the verdict about an object that was in doubt.
    pub(crate) fn judged(&self) -> impl Fn(u64, Verdict) + Send + use<> {
        let (shared, id) = (self.keeper.shared.clone(), self.id);
        move |number, verdict| {
            let desk = shared.lock().desks.get(&id).cloned();
            if let Some(desk) = desk {
                lock(&desk.doubts).remove(&number);
            }
            let now = shared.env.boot();
            shared.change(|lines| lines.judged(id, number, verdict, now));
        }
    }
}

impl Drop for LeaseLine {
    fn drop(&mut self) {
        let desk = {
            let mut state = self.keeper.shared.lock();
            state.lines.leave(self.id);
            state.desks.remove(&self.id)
        };
        // What it holds ends outside the lock.
        drop(desk);
    }
}

/// The thread that reads and creates the lease's numbers.
struct OwnLease {
    shared: Arc<Shared>,
    lease: Lease,
    key: Arc<SigningKey>,
    judge: Arc<LeaseJudge>,
    prune: Worker<u64>,
    pulse: Option<Arc<DiskPulse>>,
}

impl OwnLease {
    fn run(&mut self) {
        while let Some(next) = self.shared.next() {
            match next {
                Next::Look => self.look(),
                Next::Create { number } => self.create(number),
                Next::Wait { .. } => {}
            }
        }
    }

    /// Returns by whose keys the last number is looked for: the members of all stores that are known, and this
    /// host.
    fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        for desk in self.shared.desks().values() {
            let state = lock(&desk.state).clone();
            for member in &state.authority.members {
                if !members.iter().any(|known| known.name == member.name) {
                    members.push(member.clone());
                }
            }
        }
        let me = &self.judge.me;
        if !members.iter().any(|known| known.name == *me) {
            let may = BTreeSet::from([May::Serve]);
            let key = self.key.public();
            members.push(Member {
                name: me.clone(),
                key,
                address: None,
                customers: None,
                database: None,
                zone: None,
                may,
            });
        }
        members
    }

    fn look(&mut self) {
        let members = self.members();
        let found = match self.lease.look(&members) {
            Ok(found) => found.cloned(),
            Err(error) => return self.failed(&error.to_string()),
        };
        let is_mine = found.as_ref().is_none_or(|last| match last.note {
            LeaseNote::Held { incarnation } => self.judge.is_own(incarnation),
            LeaseNote::Broken { .. } => true,
        });
        let last = found.map_or(0, |last| last.number);
        // Numbers that count for nothing cannot be created any more.
        let free = last.checked_add(1).and_then(|next| self.lease.free_from(next));
        let Some(number) = free.and_then(|free| free.checked_sub(1)) else {
            return self.failed("no number is left");
        };
        let now = self.shared.env.boot();
        self.shared.change(|lines| lines.looked(number, is_mine, now));
    }

    fn create(&mut self, number: u64) {
        let now = self.shared.env.boot();
        if let Some(how) = self.pulse.as_ref().and_then(|pulse| pulse.hangs(now)) {
            self.failed(&how);
            return self.shared.change(Lines::unknown);
        }
        let held = LeaseNote::Held { incarnation: self.judge.incarnation };
        let me = &self.judge.me;
        let created = match held.sign(me, number, me, &self.key) {
            Ok(signed) => self.lease.create(number, &signed).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let now = self.shared.env.boot();
        match created {
            Ok(NumberTaken::Mine) => {
                self.shared.change(|lines| lines.created(now));
                if number.is_multiple_of(LEASE_KEPT / 10) {
                    self.prune.put_if_idle(number);
                }
            }
            Ok(NumberTaken::Other(bytes)) => self.taken(number, &bytes),
            Ok(NumberTaken::Unknown) => self.shared.change(Lines::unknown),
            Err(how) => {
                self.failed(&how);
                self.shared.change(Lines::unknown);
            }
        }
    }

    /// Somebody else created the number: it is judged for each store.
    fn taken(&self, number: u64, bytes: &Bytes) {
        let desks = self.shared.desks();
        let (mut verdicts, mut void) = (BTreeMap::new(), None);
        let mut is_named = false;
        for (id, desk) in &desks {
            let state = lock(&desk.state).clone();
            let judged = self.judge.judge(bytes, number, &desk.store, &state.authority.members);
            let Judgement { verdict, why } = judged;
            match verdict {
                Verdict::Doubtful => drop(lock(&desk.doubts).insert(number, bytes.clone())),
                Verdict::Passed => void = void.or(why.map(|why| why.to_string())),
                Verdict::Broken | Verdict::Rival => {}
            }
            is_named |= verdict != Verdict::Passed;
            verdicts.insert(*id, verdict);
        }
        if !is_named && let Some(how) = void.or_else(|| self.names_nobody(&desks, bytes)) {
            self.failed(&format!("number {number} of this host's lease counts for nothing: {how}"));
        }
        let now = self.shared.env.boot();
        self.shared.change(|lines| lines.taken(&verdicts, now));
        for desk in desks.values() {
            desk.judge_again();
        }
    }

    /// Returns why a break concerns nobody, if it names a store that has no agent here.
    fn names_nobody(&self, desks: &BTreeMap<LineId, Arc<LineDesk>>, bytes: &[u8]) -> Option<String> {
        let Some(LeaseNote::Broken { store, .. }) = LeaseNote::claimed(bytes) else { return None };
        let is_here = desks.values().any(|desk| desk.store == store);
        (!is_here).then(|| format!("store '{store}', which it names, has no agent here"))
    }

    /// Tells one of the agents: they are of one host.
    fn failed(&self, how: &str) {
        if let Some(desk) = self.shared.desks().values().next() {
            desk.failed(how.to_owned());
        }
    }
}
