//! Tells what is configured to be told: looks at the stores every few seconds, and has a thread for each receiver, so
//! that none waits for another one, and no run for any.
//!
//! Why nothing is lost or told twice: what was told, and what waits, is on the disk ([`Ledger`]) before a message is
//! sent. A message keeps its id: one whose delivery was not noted before a kill is sent once more, and its receiver
//! knows it by the id. Where the disk takes nothing the notifier goes on in memory, and says so.
//!
//! Why no run waits: what a run says of itself, and what the metrics ask, has locks of its own. The state's may be held
//! while the disk hangs.
//!
//! What can race: a configuration that is read anew. A receiver whose settings changed gets a new thread; the old one
//! ends with its attempt, whose success counts.

use super::attempts::Attempts;
use super::deliver::Sender;
use super::ledger::{Context, Ledger};
use super::message::Message;
use super::ping::{Outcome, Ping, Pings};
use super::post::Failure;
use super::queue::Queue;
use super::settings::NotifySettings;
use super::trouble::Seen;
use crate::model::id::StoreName;
use crate::service::config::Config;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::{durable, private, trusted};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Time between two looks at the stores.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest sleep of a receiver's thread.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What the notifier knows of the daemon.
pub(crate) struct Around {
    pub env: Env,
    /// This host's name.
    pub host: String,
    /// File for the ledger; none where there is no place for it.
    pub ledger: Option<PathBuf>,
    /// Returns the configuration in force.
    pub config: Box<dyn Fn() -> Arc<Config> + Send>,
    /// Returns what is known of all stores.
    pub look: Box<dyn Fn() -> Vec<Seen> + Send>,
}

/// A receiver's figures, for the metrics.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverFigures {
    pub name: String,
    pub kind: &'static str,
    pub is_failing: bool,
    pub sent: u64,
    /// Number of events and pings that wait.
    pub waiting: usize,
}

/// The notifier. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Notifier(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    is_ended: AtomicBool,
    /// The pings of each receiver that wants some.
    pings: Mutex<BTreeMap<String, PingReceiver>>,
    figures: Mutex<BTreeMap<String, ReceiverFigures>>,
}

struct PingReceiver {
    settings: NotifySettings,
    stores: BTreeMap<StoreName, Pings>,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    receivers: BTreeMap<String, Receiver>,
    /// Number of the receiver that was set up last.
    last: u64,
    /// The ledger as it is on the disk.
    saved: String,
    /// Whether it could not be saved the last time.
    is_unsaved: bool,
}

struct Receiver {
    settings: NotifySettings,
    /// By which its thread knows that it is still the one.
    number: u64,
    attempts: Attempts,
}

/// What is to be delivered.
enum Job {
    Message(Message),
    Ping(StoreName, Ping),
}

impl Notifier {
    /// Begins, on threads of its own.
    pub(crate) fn keep(&self, around: Around) {
        // The first runs begin at once.
        self.set_pings(&(around.config)().notify);
        let notifier = self.clone();
        std::thread::spawn(move || {
            let sender = match Sender::new() {
                Ok(sender) => Arc::new(sender),
                Err(error) => return tracing::error!(error, "nobody is notified"),
            };
            notifier.read(&around);
            loop {
                notifier.look(&around, &sender);
                let state = lock(&notifier.0.state);
                let is_on = |_: &mut State| !notifier.is_ended();
                drop(notifier.0.changed.wait_timeout_while(state, LOOK_EVERY, is_on));
                if notifier.is_ended() {
                    return;
                }
            }
        });
    }

    /// Ends all threads; an attempt that is under way is not waited for.
    pub(crate) fn end(&self) {
        self.0.is_ended.store(true, Ordering::Relaxed);
        self.0.changed.notify_all();
    }

    fn is_ended(&self) -> bool {
        self.0.is_ended.load(Ordering::Relaxed)
    }

    /// Takes note that a run of a store begins.
    pub(crate) fn run_begins(&self, store: &StoreName, env: &Env) {
        let run = u128::from(env.nonce()) << 64 | u128::from(env.nonce());
        let now = env.boot();
        self.each_ping(store, |pings| pings.begin(run, now));
    }

    /// Takes note of how it ended; none if that says nothing.
    pub(crate) fn run_ended(&self, store: &StoreName, outcome: Option<&Outcome>) {
        self.each_ping(store, |pings| pings.end(outcome.cloned()));
    }

    fn each_ping(&self, store: &StoreName, change: impl Fn(&mut Pings)) {
        let mut all = lock(&self.0.pings);
        for receiver in all.values_mut().filter(|one| one.settings.wants_store(store)) {
            change(receiver.stores.entry(store.clone()).or_default());
        }
        self.0.changed.notify_all();
    }

    pub(crate) fn figures(&self) -> Vec<ReceiverFigures> {
        lock(&self.0.figures).values().cloned().collect()
    }

    /// Takes note of the figures of all receivers.
    fn count(&self, state: &State) {
        let pings = lock(&self.0.pings);
        let waiting = |name: &String| {
            let of_stores = pings.get(name).map(|one| one.stores.values().map(Pings::len).sum::<usize>());
            state.ledger.queue(name).map_or(0, Queue::len) + of_stores.unwrap_or_default()
        };
        let figures = state.receivers.iter().map(|(name, receiver)| {
            let figures = ReceiverFigures {
                name: name.clone(),
                kind: receiver.settings.kind(),
                is_failing: receiver.attempts.is_failing(),
                sent: receiver.attempts.sent,
                waiting: waiting(name),
            };
            (name.clone(), figures)
        });
        *lock(&self.0.figures) = figures.collect();
    }

    /// Reads what an earlier process told.
    fn read(&self, around: &Around) {
        let Some(path) = &around.ledger else { return };
        match trusted::read_to_string(path) {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(ledger) => {
                    let mut state = lock(&self.0.state);
                    (state.ledger, state.saved) = (ledger, text);
                }
                Err(error) => {
                    let path = path.display();
                    tracing::error!(%path, %error, "what was told is not known; what goes on is told again");
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "what was told is not known; what goes on is told again"),
        }
    }

    /// Looks at the stores, and at the configuration.
    fn look(&self, around: &Around, sender: &Arc<Sender>) {
        let config = (around.config)();
        // Without somebody who is told of it nothing is looked at.
        let is_quiet = config.notify.iter().all(NotifySettings::is_ping);
        let seen = if is_quiet { Vec::new() } else { (around.look)() };
        let now = around.env.now();
        let mut state = lock(&self.0.state);
        self.set_receivers(&mut state, &config.notify, around, sender);
        if is_quiet {
            self.count(&state);
            return;
        }
        let all_clear = config.service.all_clear();
        state.ledger.step(&seen, &Context { now, receivers: &config.notify, all_clear });
        for queue in state.ledger.queues() {
            let id = || format!("msg_{:016x}{:016x}", around.env.nonce(), around.env.nonce());
            queue.make(now.boot, now.wall, &around.host, id);
        }
        state.save(&around.env, around.ledger.as_ref());
        self.count(&state);
        self.0.changed.notify_all();
    }

    /// Has a thread for each receiver.
    fn set_receivers(
        &self,
        state: &mut State,
        configured: &[NotifySettings],
        around: &Around,
        sender: &Arc<Sender>,
    ) {
        state.receivers.retain(|_, receiver| configured.contains(&receiver.settings));
        self.set_pings(configured);
        for settings in configured {
            if state.receivers.contains_key(settings.name()) {
                continue;
            }
            state.last += 1;
            let (name, number) = (settings.name().to_owned(), state.last);
            let attempts = Attempts::default();
            state.receivers.insert(name.clone(), Receiver { settings: settings.clone(), number, attempts });
            let (notifier, env, sender) = (self.clone(), around.env.clone(), sender.clone());
            let path = around.ledger.clone();
            std::thread::spawn(move || notifier.deliver(&name, number, &env, path, &sender));
        }
    }

    /// Has a place for the pings of each receiver that wants some.
    fn set_pings(&self, configured: &[NotifySettings]) {
        let mut pings = lock(&self.0.pings);
        pings.retain(|_, receiver| configured.contains(&receiver.settings));
        for settings in configured.iter().filter(|one| one.is_ping()) {
            let new = || PingReceiver { settings: settings.clone(), stores: BTreeMap::new() };
            pings.entry(settings.name().to_owned()).or_insert_with(new);
        }
    }

    /// Delivers to one receiver, until it is not configured any more.
    fn deliver(&self, name: &str, number: u64, env: &Env, path: Option<PathBuf>, sender: &Sender) {
        loop {
            let (job, settings) = {
                let mut state = lock(&self.0.state);
                loop {
                    let Some(receiver) = state.receivers.get(name).filter(|one| one.number == number) else {
                        return;
                    };
                    if self.is_ended() {
                        return;
                    }
                    if let Some(job) = self.job(&state, name, receiver, env.boot()) {
                        break (job, receiver.settings.clone());
                    }
                    let waited = self.0.changed.wait_timeout(state, SLEEP_MAX);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            };
            let result = match &job {
                Job::Message(message) => sender.message(&settings, message, env.wall()),
                Job::Ping(store, ping) => sender.ping(&settings, store, ping).map(|()| Vec::new()),
            };
            if let Ok(refused) = &result
                && !refused.is_empty()
            {
                tracing::warn!(
                    receiver = name,
                    refused = refused.join("; "),
                    "not all of them were notified"
                );
            }
            let result = result.map(drop);
            let mut state = lock(&self.0.state);
            if let (Job::Ping(store, ping), Ok(())) = (&job, &result)
                && let Some(receiver) = lock(&self.0.pings).get_mut(name)
                && let Some(pings) = receiver.stores.get_mut(store)
            {
                pings.delivered(ping, env.boot());
            }
            state.note(name, number, &job, result, env);
            state.save(env, path.as_ref());
            self.count(&state);
        }
    }

    /// Returns what is to be delivered to a receiver now.
    fn job(&self, state: &State, name: &str, receiver: &Receiver, now: BootNanos) -> Option<Job> {
        if !receiver.attempts.is_due(now) {
            return None;
        }
        if let Some(message) = state.ledger.queue(name).and_then(Queue::outgoing) {
            return Some(Job::Message(message.clone()));
        }
        let due =
            |(store, pings): (&StoreName, &Pings)| Some(Job::Ping(store.clone(), pings.due(now)?.clone()));
        lock(&self.0.pings).get(name)?.stores.iter().find_map(due)
    }
}

impl State {
    /// Takes note of an attempt.
    fn note(&mut self, name: &str, number: u64, job: &Job, result: Result<(), Failure>, env: &Env) {
        let now = env.boot();
        let receiver = self.receivers.get_mut(name).filter(|one| one.number == number);
        match (result, receiver) {
            (Ok(()), receiver) => {
                if let Job::Message(message) = job {
                    self.ledger.delivered(name, &message.id, now);
                }
                let Some(receiver) = receiver else { return };
                if receiver.attempts.succeed() {
                    tracing::info!(receiver = name, "is notified again");
                }
            }
            (Err(failure), Some(receiver)) => {
                if receiver.attempts.fail(now, env.nonce(), failure.later) {
                    let reason = failure.reason;
                    tracing::error!(receiver = name, reason, "cannot be notified; it is tried again");
                }
            }
            (Err(_), None) => {}
        }
    }

    /// Writes the ledger to the disk if it has changed.
    fn save(&mut self, env: &Env, path: Option<&PathBuf>) {
        let (Some(path), Ok(text)) = (path, serde_json::to_string(&self.ledger)) else { return };
        if text == self.saved {
            return;
        }
        let made = path.parent().map_or(Ok(()), |dir| private::own(dir).map(drop));
        match made.and_then(|()| durable::replace(env, path, 0o600, text.as_bytes())) {
            Ok(()) => (self.saved, self.is_unsaved) = (text, false),
            Err(error) if !self.is_unsaved => {
                self.is_unsaved = true;
                let path = path.display();
                tracing::error!(%path, %error, "what was told is not kept: a restart may tell it again");
            }
            Err(_) => {}
        }
    }
}
