//! Runs the machine of one store on this host: one thread that takes messages, and hands the outputs on.
//!
//! Results are told apart by the order numbers of the outputs that asked for them (see `Orders`): one that a
//! later output undid is dropped.

use super::hands::{AgentSettings, FenceJob, GateJob, Hands, HostJob, HostWork};
use super::journal::{Journal, Operation};
use super::log_desk::LogJob;
use super::message::Message;
use super::orders::Orders;
use super::participants::{GateMode, GateOrder, Participants, Report};
use super::terms::Terms;
use super::watch_desk::WatchJob;
use crate::failover::decide::input::{Input, Outcome};
use crate::failover::decide::log_view::Event;
use crate::failover::decide::output::Output;
use crate::failover::decide::reason::{Reason, why_not};
use crate::failover::decide::step::step;
use crate::failover::decide::view::{Cause, Phase, Proof, Until, View};
use crate::failover::watch::words::{Word, Words};
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::model::member::Member;
use crate::model::record::StoreState;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time that a former primary has to say that it is closed, before a command stops the whole host.
const FENCE_AFTER: Duration = Duration::from_secs(10);
/// Interval between looks at the standbys' databases.
const STANDBYS_EVERY: Duration = Duration::from_secs(1);
/// Interval between looks at whether the own database acknowledges, while the log has no news.
const ACKS_EVERY: Duration = Duration::from_secs(10);
/// Maximum number of times that a person's promotion is asked for again.
const AGAIN_MAX: u8 = 5;

/// The agent of a store. When it is dropped, the machine ends, and the gate stays as it is.
pub struct Agent {
    env: Env,
    participants: Arc<dyn Participants>,
    messages: Sender<Message>,
    view: Arc<Mutex<View>>,
    journal: Arc<Journal>,
    state: Arc<Mutex<Arc<StoreState>>>,
    me: WriterId,
    key: Arc<SigningKey>,
    words: Arc<Words>,
    is_ended: Arc<AtomicBool>,
}

impl Agent {
    /// Starts an agent.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(settings: AgentSettings, participants: Arc<dyn Participants>) -> io::Result<Self> {
        let (messages, inbox) = mpsc::channel();
        let env = settings.store.env().clone();
        let new = if settings.is_serving { View::starting } else { View::new };
        let view = new(settings.me.clone(), settings.rules, env.boot());
        let shared = Arc::new(Mutex::new(view.clone()));
        let is_ended = Arc::new(AtomicBool::new(false));
        let hands = Hands::start(&settings, &participants, &messages, &is_ended)?;
        let (incarnation, journal) = (Some(settings.incarnation), settings.journal.clone());
        let (state, AgentSettings { me, key, .. }) = (hands.state.clone(), settings);
        let machine = Machine {
            env: env.clone(),
            view,
            shared: shared.clone(),
            hands,
            orders: Orders::default(),
            terms: Terms { incarnation, ..Terms::default() },
            told: None,
            took_over: None,
            journal: journal.clone(),
            again: None,
            participants: participants.clone(),
            looked_at_standbys: None,
            looked_at_acks: None,
        };
        let its = is_ended.clone();
        std::thread::Builder::new().name("failover".into()).spawn(move || machine.run(&inbox, &its))?;
        let words = Arc::default();
        Ok(Self { env, participants, messages, view: shared, journal, state, me, key, words, is_ended })
    }

    fn send(&self, message: Message) {
        // A machine that has ended does nothing.
        let _ = self.messages.send(message);
    }

    /// Returns what the host knows.
    pub fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// Returns what the host is doing, or did last, and its steps.
    pub fn operation(&self) -> Operation {
        self.journal.operation()
    }

    /// Returns the state of the store's log, as it was last read here.
    pub fn state(&self) -> Arc<StoreState> {
        lock(&self.state).clone()
    }

    /// Returns this host's name in the log.
    pub fn me(&self) -> &WriterId {
        &self.me
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Returns what is said of the store on this host.
    pub fn words(&self) -> &Arc<Words> {
        &self.words
    }

    /// Hears that a watcher sees nobody served in `epoch`, and returns why this host does not serve as its primary;
    /// empty if it does, as far as it knows.
    pub fn why_not_serving(&self, watcher: &WriterId, epoch: Epoch, failed: &[String]) -> Vec<String> {
        let view = self.view();
        match view.phase {
            Phase::Primary { epoch: served, .. } if served == epoch => {
                let word = Word { at: self.env.boot(), epoch, failed: failed.to_vec() };
                self.words.hear(watcher, word);
                self.words.not_ready()
            }
            _ => vec![format!("this host does not serve in epoch {}", epoch.0)],
        }
    }

    /// Returns how this host's watcher saw customers served in `epoch` a moment ago; none if it did not.
    pub fn saw_served(&self, epoch: Epoch) -> Option<String> {
        self.words.saw_served(&self.me, epoch, self.env.boot())
    }

    /// Has the log read now: another host says that it has news.
    pub fn look(&self) {
        self.send(Message::Input(Input::LookNow));
    }

    /// Asks for this host to become the primary. A person's promotion that loses its place in the log to another
    /// record is tried again, as long as nothing speaks against it.
    pub fn take_over(&self, cause: Cause, terms: Terms) {
        self.send(Message::TakeOver { cause, terms: Box::new(terms), reply: None });
    }

    /// As [`Self::take_over`], for a person; returns why that is not begun, or none if there was no answer within
    /// this time.
    pub fn try_take_over(&self, terms: Terms, within: Duration) -> Option<Vec<Reason>> {
        let (reply, answer) = mpsc::channel();
        let (terms, reply) = (Box::new(terms), Some(reply));
        self.send(Message::TakeOver { cause: Cause::Person, terms, reply });
        answer.recv_timeout(within).ok()
    }

    /// Returns why this host could not serve; none if it could.
    pub fn may_serve(&self) -> Result<(), String> {
        self.participants.may_serve()
    }

    /// Returns why this host's database does not acknowledge, or lacks something up to a position.
    pub fn has_received(&self, position: &GtidPosition) -> Result<(), String> {
        self.participants.has_received(position)
    }

    /// Returns why this host would not become the primary if a person wanted it; empty if it would.
    pub fn why_not(&self) -> Vec<String> {
        let reasons = why_not(&self.view(), Cause::Person, self.env.boot());
        let reasons = reasons.into_iter().chain(self.may_serve().err().map(|how| Reason::NotReady { how }));
        reasons.map(|reason| reason.to_string()).collect()
    }

    /// Returns the former primaries that this host, which takes over, does not know to be closed.
    pub fn waits_for(&self) -> Vec<WriterId> {
        let view = self.view();
        let Phase::TakingOver { .. } = view.phase else { return Vec::new() };
        view.open_reigns(self.env.boot()).map(|reign| reign.host.clone()).collect()
    }

    /// Asks for another host to become the primary without loss, and returns why that is not begun; none if there
    /// was no answer within this time.
    pub fn try_hand_over(&self, to: &WriterId, within: Duration) -> Option<Vec<Reason>> {
        self.hand_over(to, None, within)
    }

    /// As [`Self::try_hand_over`], though no person asked for it.
    pub fn give_away(&self, to: &WriterId, because: &str, within: Duration) -> Option<Vec<Reason>> {
        self.hand_over(to, Some(because.to_owned()), within)
    }

    fn hand_over(&self, to: &WriterId, because: Option<String>, within: Duration) -> Option<Vec<Reason>> {
        let (reply, answer) = mpsc::channel();
        self.send(Message::HandOver { to: to.clone(), because, reply });
        answer.recv_timeout(within).ok()
    }

    /// Returns why this host, if it serves, is not handing over to `to` any more, nor about to; empty if it is.
    pub fn why_not_handing_over(&self, to: &WriterId) -> Vec<String> {
        let serves = self.view().phase.serves();
        if serves { self.operation().why_no_handover(to) } else { Vec::new() }
    }

    /// Cancels a handover.
    pub fn keep_serving(&self) {
        self.send(Message::Input(Input::KeepServing));
    }

    /// Asks for these members.
    pub fn set_members(&self, members: Vec<Member>) {
        self.send(Message::SetMembers { members });
    }

    /// Takes a person's word again that was given to an earlier process, at this position of the log.
    pub fn was_attested(&self, host: &WriterId, at: Sequence) {
        let known = Input::KnownClosed { host: host.clone(), at, proof: Proof::Person };
        self.send(Message::Input(known));
    }

    /// Takes a person's word that a host is down. Returns whether this host waits for that one, since a word counts
    /// after the promotion; none if the agent does not answer within this time, and may not keep the word.
    pub fn attest(&self, host: &WriterId, within: Duration) -> Option<bool> {
        if !self.waits_for().contains(host) {
            return Some(false);
        }
        let (reply, answer) = mpsc::channel();
        self.send(Message::Attest { host: host.clone(), reply });
        answer.recv_timeout(within).ok().map(|_| true)
    }

    /// Answers another host that asks for a promise, within this time. Returns whether it was given.
    pub fn promise(&self, by: &WriterId, epoch: Epoch, within: Duration) -> bool {
        let (reply, answer) = mpsc::channel();
        self.send(Message::Asked { by: by.clone(), epoch, reply });
        answer.recv_timeout(within).is_ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.send(Message::End);
    }
}

/// The machine's thread.
struct Machine {
    env: Env,
    view: View,
    shared: Arc<Mutex<View>>,
    hands: Hands,
    orders: Orders,
    terms: Terms,
    /// What the gate was told last, and when.
    told: Option<(GateOrder, BootNanos)>,
    /// When this host's promotion was won.
    took_over: Option<BootNanos>,
    journal: Arc<Journal>,
    again: Option<Again>,
    participants: Arc<dyn Participants>,
    /// When the standbys' databases were last looked at.
    looked_at_standbys: Option<BootNanos>,
    /// The end of the log when the own database's acknowledgements were looked at, and when that was.
    looked_at_acks: Option<(Sequence, BootNanos)>,
}

/// A person's promotion that lost its place in the log is asked for again.
struct Again {
    left: u8,
    /// The head of the log that was known when it was lost; it is asked for again after the log was read.
    lost_at: Option<Sequence>,
}

impl Machine {
    fn run(mut self, inbox: &Receiver<Message>, is_ended: &AtomicBool) {
        let look_every = self.view.rules.timing.look_every;
        let tick = (look_every / 8).clamp(Duration::from_millis(5), Duration::from_millis(250));
        while !is_ended.load(Ordering::SeqCst) {
            match inbox.recv_timeout(tick) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {
                    self.look_at_standbys();
                    self.give(Input::Tick);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Looks at the standbys' databases, now and then, while this host serves; while it stands by, at its own.
    fn look_at_standbys(&mut self) {
        let now = self.env.boot();
        if self.looked_at_standbys.is_some_and(|at| now < at.plus(STANDBYS_EVERY)) {
            return;
        }
        self.looked_at_standbys = Some(now);
        let number = self.orders.next();
        if self.view.phase.serves() {
            let waits_for = self.view.database.waits_for.clone();
            self.hands.database.put(HostJob { number, what: HostWork::Standbys { waits_for } });
        } else if self.view.phase == Phase::Standby && self.view.database.acknowledges {
            // The log may want it of another standby by now, or it may have failed.
            let head = self.view.log.head;
            let is_due =
                self.looked_at_acks.is_none_or(|(seen, at)| seen != head || now >= at.plus(ACKS_EVERY));
            if is_due {
                self.looked_at_acks = Some((head, now));
                self.host(number, Output::StartAcks);
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.give(input),
            Message::Done { input, order } if self.orders.holds(&input, order) => self.give(input),
            Message::Done { .. } | Message::End => {}
            Message::Asked { by, epoch, reply } => {
                let promise = Output::Promise { to: by.clone() };
                if self.step(Input::PromiseAsked { by, epoch }).contains(&promise) {
                    // Who asked may not wait any more; the promise binds all the same.
                    let _ = reply.send(());
                }
            }
            Message::TakeOver { cause, terms, reply } => {
                let mut reasons = self.why_not(cause);
                if reasons.is_empty() {
                    // What an earlier request asked for is forgotten.
                    let noted = self.participants.goes_back(terms.at, terms.back.as_ref());
                    reasons.extend(noted.err().map(|how| Reason::NotReady { how }));
                }
                if let Some(reply) = reply {
                    let _ = reply.send(reasons.clone());
                }
                if reasons.iter().any(|reason| matches!(reason, Reason::NotReady { .. })) {
                    return self.participants.report(Report::Refused(reasons));
                }
                let incarnation = self.terms.incarnation;
                self.terms = Terms { cause: Some(cause), incarnation, ..*terms };
                self.again = (cause == Cause::Person).then_some(Again { left: AGAIN_MAX, lost_at: None });
                self.give(Input::TakeOver { cause });
            }
            Message::HandOver { to, because, reply } => {
                self.terms.hands_over_because = because;
                let reasons = self.begin_handover(to);
                let _ = reply.send(reasons);
            }
            Message::SetMembers { members } => {
                let serving = members.iter().filter(|member| member.may_serve());
                let serving = serving.map(|member| member.name.clone()).collect();
                self.terms.members = members;
                self.give(Input::SetMembers { serving });
            }
            Message::Attest { host, reply } => {
                let (at, proof) = (self.view.log.head, Proof::Person);
                self.participants.attested(&host, at);
                let _ = reply.send(());
                self.give(Input::KnownClosed { host, at, proof });
            }
            Message::GateFenced => {
                // As after a start: nothing is known any more of what is prepared here.
                if self.view.phase.serves() {
                    self.view = View::new(self.view.me.clone(), self.view.rules, self.env.boot());
                    self.orders.opened = self.orders.next();
                    self.tell_of_change();
                    self.give(Input::Tick);
                }
            }
        }
    }

    fn tell_of_change(&self) {
        let state = lock(&self.hands.state).clone();
        self.participants.changed(&self.view, &state);
    }

    fn give(&mut self, input: Input) {
        let is_log = matches!(input, Input::Log { .. });
        self.step(input);
        if is_log {
            self.try_again();
        }
    }

    /// Returns the reasons why this host does not become the primary.
    fn why_not(&self, cause: Cause) -> Vec<Reason> {
        let mut reasons = why_not(&self.view, cause, self.env.boot());
        let not_ready = self.participants.may_serve().err().map(|how| Reason::NotReady { how });
        reasons.extend(not_ready);
        reasons
    }

    /// Begins a handover: first this host and `to` catch up while the store is served. Returns the reasons for
    /// which it is not begun.
    fn begin_handover(&mut self, to: WriterId) -> Vec<Reason> {
        let (_, outputs) = step(&self.view, Input::HandOver { to: to.clone() }, self.env.boot());
        let reasons = outputs.into_iter().filter_map(|output| match output {
            Output::Refused { reasons } => Some(reasons),
            _ => None,
        });
        let reasons: Vec<_> = reasons.flatten().collect();
        if reasons.is_empty() {
            self.journal.begin_handover(&to);
            let number = self.orders.next();
            self.hands.host.put(HostJob { number, what: HostWork::CatchUp { to } });
        } else {
            self.participants.report(Report::Refused(reasons.clone()));
        }
        reasons
    }

    /// Reports what is refused, unless it is asked for again after the log was read.
    fn refused(&mut self, reasons: Vec<Reason>) {
        let is_race = *reasons == [Reason::LostRace] && self.terms.cause == Some(Cause::Person);
        self.again = self.again.take().filter(|again| is_race && again.left > 0);
        match &mut self.again {
            Some(Again { left, lost_at }) => (*left, *lost_at) = (*left - 1, Some(self.view.log.head)),
            None => self.participants.report(Report::Refused(reasons)),
        }
    }

    /// Asks again for a person's promotion, if it was lost to a record that is known by now.
    fn try_again(&mut self) {
        let Some(lost_at) = self.again.as_mut().and_then(|again| again.lost_at.take()) else { return };
        if self.view.log.head > lost_at {
            self.step(Input::TakeOver { cause: Cause::Person });
        } else {
            // The place is still free: the log itself would not admit it.
            self.again = None;
            self.participants.report(Report::Refused(vec![Reason::LostRace]));
        }
    }

    /// Steps once, hands the outputs on, and returns them.
    fn step(&mut self, input: Input) -> Vec<Output> {
        let now = self.env.boot();
        let is_won = matches!(input, Input::Appended { outcome: Outcome::Won, .. });
        let (view, outputs) = step(&self.view, input, now);
        let before = std::mem::replace(&mut self.view, view);
        self.journal.note(&before, &self.view, now);
        let (was, is) = (&before, &self.view);
        if (&was.phase, &was.log.primary, was.log.epoch) != (&is.phase, &is.log.primary, is.log.epoch) {
            self.tell_of_change();
        }
        self.took_over = match self.view.phase {
            Phase::TakingOver { .. } => self.took_over.or(Some(now)),
            _ => None,
        };
        if is_won {
            self.participants.tell_others();
        }
        if self.view.phase == Phase::Standby && self.view.log.head > before.log.head {
            self.participants.log_grew();
        }
        if let Phase::Promoting { cause } = self.view.phase {
            self.terms.cause = Some(cause);
        }
        if let Phase::HandingOver { drained, .. } = &self.view.phase {
            self.terms.drained = *drained;
        }
        if !matches!(self.view.phase, Phase::Standby | Phase::Promoting { cause: Cause::Person }) {
            self.again = self.again.take().filter(|again| again.lost_at.is_some());
        }
        lock(&self.shared).clone_from(&self.view);
        for output in &outputs {
            self.hand_on(output.clone(), now);
        }
        outputs
    }

    fn hand_on(&mut self, output: Output, now: BootNanos) {
        let number = self.orders.next();
        let hands = &mut self.hands;
        match output {
            Output::ReadLog => hands.log.put(LogJob::Read),
            Output::Append { after, event } => self.append(after, event),
            Output::State { at } => hands.log.put(LogJob::State { at }),
            Output::ReadOwnNumber => hands.lease.find(),
            Output::Renew { number } => hands.lease.renew(number),
            Output::Look { host } => {
                // A standby has a use for a statement only where it may be a handover's.
                let has_statements = self.view.phase != Phase::Standby || self.view.log.handover.is_some();
                hands.watch.put(WatchJob::Look { host: host.clone(), has_statements });
                if self.took_over.is_some_and(|since| now >= since.plus(FENCE_AFTER)) {
                    // What is known after the promotion counts.
                    hands.fence.put(FenceJob { host, at: self.view.log.head });
                }
            }
            Output::Break { host, number, epoch } => {
                hands.watch.put(WatchJob::Break { host, number, epoch });
            }
            Output::AskPromise { .. } if hands.lease.disk_hangs(now) => {}
            Output::AskPromise { of, epoch } => hands.ask_promise(of, epoch, now),
            Output::AskLook { of } => hands.ask_look(of),
            // It was answered to who asked; see `take`.
            Output::Promise { .. } => {}
            Output::Refused { reasons } => self.refused(reasons),
            Output::Serve { .. } | Output::Hold { .. } | Output::Close => self.gate(number, output, now),
            output => self.host(number, output),
        }
    }

    fn append(&mut self, after: Sequence, event: Event) {
        let mut terms = Terms { steps: self.journal.times(), ..self.terms.clone() };
        if let Event::HandedOver { .. } | Event::Completed = event {
            terms.database = self.participants.position();
        }
        if let Event::Promoted { .. } = event {
            let said = self.view.log.primary.as_ref().and_then(|primary| self.view.proofs.get(primary));
            terms.attested |= said.is_some_and(|(_, proof)| *proof == Proof::Person);
        }
        self.hands.log.put(LogJob::Append { after, event, terms: Box::new(terms) });
    }

    /// Hands on what concerns the gate.
    fn gate(&mut self, number: u64, output: Output, now: BootNanos) {
        let epoch = self.view.log.epoch;
        let (epoch, mode, until, what) = match output {
            Output::Serve { epoch, until } => {
                (self.orders.served, self.orders.opened) = (number, number);
                let is_new = matches!(self.view.phase, Phase::Primary { is_verified: false, .. });
                (epoch, GateMode::Open, until, is_new.then_some(HostWork::Show { epoch }))
            }
            Output::Hold { until } => {
                self.orders.opened = number;
                let is_new = matches!(self.view.phase, Phase::HandingOver { drained: None, .. });
                (epoch, GateMode::Hold, until, is_new.then_some(HostWork::Drain { epoch }))
            }
            _ => {
                self.orders.closed = number;
                self.hands.closed.store(number, Ordering::SeqCst);
                (epoch, GateMode::Closed, Until::Never, Some(HostWork::Close { epoch }))
            }
        };
        let order = GateOrder { epoch, mode, until };
        // It is told again at times: it may be another process by then.
        let again = self.view.rules.timing.look_every;
        if self.told.is_none_or(|(told, at)| told != order || now >= at.plus(again)) {
            self.told = Some((order, now));
            self.hands.gate.put_latest(GateJob { number, order });
        }
        match what {
            Some(what @ HostWork::Show { .. }) => self.hands.edge.put(HostJob { number, what }),
            Some(what) => self.hands.host.put(HostJob { number, what }),
            None => {}
        }
    }

    /// Hands on what changes services, files and the database here.
    fn host(&mut self, number: u64, output: Output) {
        let job = |what| HostJob { number, what };
        match output {
            Output::Prepare { epoch } => {
                self.orders.opened = number;
                self.hands.host.put(job(HostWork::Prepare { epoch }));
            }
            Output::Apply { handover } => self.hands.host.put(job(HostWork::Apply { handover })),
            Output::Rejoin { epoch } => self.hands.host.put(job(HostWork::Rejoin { epoch })),
            Output::StopAcks => self.hands.database.put(job(HostWork::StopAcks)),
            Output::StartAcks => {
                self.orders.acknowledged = number;
                self.hands.database.put(job(HostWork::StartAcks));
            }
            Output::WaitFor { standbys } => self.hands.database.put(job(HostWork::WaitFor { standbys })),
            _ => {}
        }
    }
}
