//! The parts of this host that a store's agent directs.
//!
//! Each order reads the configuration that is in force. Steps that a person waits for are noted in the
//! journal. An order that fails is asked for again by the machine; one that takes long and failed just now
//! (committing what is stranded) is not begun again at once.

use super::around::Daemon;
use super::attested::{self, Word};
use super::back;
use super::commands::Commands;
use super::database::{Database, FenceFor};
use super::files::Files;
use super::gate::StoreGate;
use super::peers::Peers;
use super::trailing::Trailing;
use crate::database::decide::State;
use crate::failover::agent::journal::{CATCH_UP, FOLLOWS, Journal};
use crate::failover::agent::participants::{
    GateMode, GateOrder, GateOutcome, Participants, Report, Standbys,
};
use crate::failover::agent::terms::Back;
use crate::failover::decide::view::{Phase, Until, View};
use crate::failover::guard::settings::Setup;
use crate::failover::peers::question::{Answer, Ask};
use crate::failover::services::order::Part;
use crate::model::decision::Cause;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence, StoreName, WriterId};
use crate::model::record::StoreState;
use crate::repository::decide::Maker;
use crate::repository::store::Store;
use crate::service::board::Duty;
use crate::service::config::StoreConfig;
use crate::service::host::Host;
use crate::service::media;
use crate::service::site::place::give_way;
use crate::standby::depot::Depot;
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use crate::support::trusted;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Name of the read-only instance, for messages.
const REPLICA: &str = "the read-only instance";
/// Name of semi-synchronous replication, for messages.
const ACKS: &str = "semi-synchronous replication";
/// Time before a rejoin that failed is tried again.
const REJOIN_AGAIN: Duration = Duration::from_secs(30);

/// What an agent directs.
pub(crate) struct HostParts {
    pub daemon: Daemon,
    pub name: StoreName,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    /// The store, for reading its log.
    pub store: Store,
    pub journal: Arc<Journal>,
    gate: StoreGate,
    /// Where the gate of the primary is, if another host is.
    relay: Mutex<Option<String>>,
    /// Whether the database was made to refuse writes for a handover.
    is_read_only: AtomicBool,
    /// What the database's fence for a handover, or its promotion, said of its last transaction.
    position: Mutex<Option<GtidPosition>>,
    /// What the database had committed when it began to wait for a standby.
    waits_from: Mutex<Option<GtidPosition>>,
    /// What it had committed a few seconds ago.
    trailing: Mutex<Trailing>,
    rejoin_failed: Mutex<Option<(BootNanos, String)>>,
    pub peers: Arc<Peers>,
    /// What is failing, by its name, and what was refused last.
    failing: Mutex<BTreeMap<&'static str, String>>,
    /// The snapshot that the read-only instance shows.
    replica: Mutex<Option<Sequence>>,
    refused: Mutex<Vec<String>>,
    /// Whether media are compared with the files.
    compares: Arc<AtomicBool>,
}

/// What a store is configured to at the moment.
struct Now {
    host: Host,
    config: StoreConfig,
}

impl Now {
    fn setup(&self) -> Result<Option<Setup>, String> {
        self.config.guard().map_err(|error| error.to_string())
    }

    fn commands(&self) -> Commands<'_> {
        Commands { config: &self.config, env: self.host.env() }
    }

    fn database(&self) -> Database<'_> {
        Database { config: &self.config, env: self.host.env() }
    }
}

impl HostParts {
    pub(crate) fn new(daemon: &Daemon, store: Store, key: Arc<SigningKey>, journal: Arc<Journal>) -> Self {
        let (name, me) = (store.name().clone(), daemon.host().writer());
        let peers = Peers {
            daemon: daemon.clone(),
            store: name.clone(),
            me: me.clone(),
            key: key.clone(),
            client: Mutex::default(),
            silent: Mutex::default(),
        };
        Self {
            daemon: daemon.clone(),
            name,
            me,
            key,
            store,
            journal,
            gate: StoreGate::default(),
            relay: Mutex::default(),
            is_read_only: AtomicBool::new(false),
            position: Mutex::default(),
            waits_from: Mutex::default(),
            trailing: Mutex::default(),
            rejoin_failed: Mutex::default(),
            peers: Arc::new(peers),
            failing: Mutex::default(),
            replica: Mutex::default(),
            refused: Mutex::default(),
            compares: Arc::default(),
        }
    }

    fn now(&self) -> Result<Now, String> {
        let host = self.daemon.host();
        let config = host.config.store(self.name.as_str()).cloned();
        let config = config.ok_or("the store is not in this host's configuration any more")?;
        Ok(Now { host, config })
    }

    fn state(&self) -> Result<StoreState, String> {
        self.store.log().state().map_err(|error| error.to_string())
    }

    /// Returns whether the database here does not serve, and the host that is handed over to has all of its
    /// transactions that a customer was told are done.
    fn is_dispensable(&self) -> bool {
        let Some(agent) = self.daemon.failover_agent(&self.name) else { return false };
        let view = agent.view();
        let Phase::HandingOver { to, .. } = &view.phase else { return false };
        view.log.synced.contains(to) && self.database_serves().is_err()
    }

    /// Waits until the database here has all that a handover ends at.
    fn reach(&self, handover: Sequence) -> Result<(), String> {
        let (now, state) = (self.now()?, self.state()?);
        let underway = state.authority.handover.filter(|underway| underway.sequence == handover);
        match underway.and_then(|underway| underway.database) {
            None => Ok(()),
            Some(position) => {
                let wait = || now.database().reach(state.epoch, &position);
                self.journal.run("last transactions here", wait)
            }
        }
    }

    /// Returns the log as it was last read here.
    fn known(&self) -> Arc<StoreState> {
        self.daemon.failover_agent(&self.name).map(|agent| agent.state()).unwrap_or_default()
    }

    fn with_files<T>(&self, work: impl FnOnce(Files) -> Result<T, String>) -> Result<T, String> {
        let Now { host, config } = &self.now()?;
        work(Files { daemon: &self.daemon, host, config, store: &self.store })
    }

    /// Returns whether this host serves the store already, as an earlier process was told to or since before the
    /// store had members. Then it need not close before it goes on.
    pub(crate) fn is_serving(&self, state: &StoreState) -> Result<bool, String> {
        let now = self.now()?;
        let is_new = state.authority.promotion.as_ref().is_none_or(|last| last.cause == Cause::Founding);
        let is_open = match now.setup()? {
            None => now.commands().serve(),
            Some(setup) => match StoreGate::is_open(&setup)? {
                Some(is_open) => is_open,
                // Customers did not come by the gate before.
                None => is_new && now.commands().serve(),
            },
        };
        let has_tree = || {
            let has_path = !now.config.path.as_os_str().is_empty();
            if has_path { self.with_files(|files| files.is_ready(&self.me)) } else { Ok(true) }
        };
        Ok(is_open && now.database().serves() && has_tree()?)
    }

    /// Returns what is failing now, each with its name.
    pub(crate) fn failing(&self) -> Vec<String> {
        let failing = lock(&self.failing);
        let parts = failing.iter().map(|(what, how)| format!("{what}: {how}"));
        parts.chain(self.peers.failing()).collect()
    }

    /// Returns why the last request was refused.
    pub(crate) fn refused(&self) -> Vec<String> {
        lock(&self.refused).clone()
    }

    pub(crate) fn forget_refusal(&self) {
        lock(&self.refused).clear();
    }

    /// Returns the snapshot that the read-only instance of this host shows; none if there is none.
    pub(crate) fn replica(&self) -> Option<Sequence> {
        *lock(&self.replica)
    }

    /// Notes what the read-only instance shows, or why it could not be brought there.
    pub(crate) fn note_replica(&self, shown: Result<Option<Sequence>, String>) {
        match shown {
            Ok(shown) => {
                self.works(REPLICA);
                *lock(&self.replica) = shown;
            }
            Err(how) => self.report(Report::Failed { what: REPLICA, how }),
        }
    }

    /// Notes what fails until [`Self::note_working`] is called.
    pub(crate) fn note_failing(&self, what: &'static str, how: String) {
        self.report(Report::Failed { what, how });
    }

    pub(crate) fn note_working(&self, what: &'static str) {
        self.works(what);
    }

    /// Returns why the database here does not take writes, as far as understudy runs it.
    pub(crate) fn database_serves(&self) -> Result<(), String> {
        match self.now()?.database().serves_now() {
            true => Ok(()),
            false => Err("the database takes no writes".into()),
        }
    }

    /// Returns by how much the replica of the database here is behind; none where that is not known.
    pub(crate) fn database_lag(&self) -> Option<Duration> {
        self.now().ok()?.database().lag()
    }

    /// Returns whether a standby acknowledges what the database commits, by this host's configuration.
    pub(crate) fn has_semi_sync(&self) -> bool {
        self.now().is_ok_and(|now| now.database().has_semi_sync())
    }

    /// Returns which services that serve customers do not run.
    pub(crate) fn services_run(&self) -> Result<(), String> {
        let stopped = self.now()?.commands().stopped();
        match stopped.is_empty() {
            true => Ok(()),
            false => Err(format!("not running: {}", stopped.join(", "))),
        }
    }

    /// Stops the services that serve customers, and starts them again.
    pub(crate) fn restart_services(&self) -> Result<(), String> {
        let now = self.now()?;
        let commands = now.commands();
        // One that cannot be stopped may be started all the same.
        let stopped = commands.stop(Part::Serving);
        commands.start(Part::Serving, &|| false).and(stopped)
    }

    /// Has a drill of the store's failover end: this is a real one.
    fn end_drill(&self) {
        if let Ok(standby) = self.daemon.host().standby(None) {
            give_way(&Depot::new(&standby, &self.name));
        }
    }

    /// Compares the media that the database names with the files, while the store is served already.
    fn compare_media(&self, now: Now) {
        let state = self.known();
        let base = state.authority.promotion.as_ref().and_then(|last| last.base);
        let is_new = media::MediaNote::read(&self.name).is_none_or(|note| note.epoch != state.epoch);
        let Some(base) = base.filter(|_| is_new && !now.config.database.media.is_empty()) else { return };
        let (store, is_running) = (self.store.clone(), self.compares.clone());
        if is_running.swap(true, Ordering::SeqCst) {
            return;
        }
        std::thread::spawn(move || {
            media::after_promotion(&now.config, &store, base, now.host.env());
            is_running.store(false, Ordering::SeqCst);
        });
    }

    /// Notes that a part works again.
    fn works(&self, what: &'static str) {
        lock(&self.failing).remove(what);
    }

    fn noted<T>(&self, what: &'static str, result: Result<T, String>) -> Result<T, String> {
        if result.is_ok() {
            self.works(what);
        }
        result
    }
}

/// Returns what the daemon's own runs of a store are in a phase of its agent.
fn duty(view: &View) -> Duty {
    let is_other = view.log.primary.as_ref().is_some_and(|primary| *primary != view.me);
    match &view.phase {
        Phase::Primary { .. } => Duty::Resync,
        // The last snapshot is committed by the agent.
        Phase::HandingOver { to, .. } => Duty::Wait(format!("handing over to '{to}'")),
        _ if is_other => Duty::Follow,
        _ if view.log.primary.is_none() => Duty::Wait("the log was not read yet".into()),
        _ => Duty::Wait("this host is the primary, and is being made ready".into()),
    }
}

impl Participants for HostParts {
    fn gate(&self, order: GateOrder) -> GateOutcome {
        let now = match self.now() {
            Ok(now) => now,
            Err(how) => return GateOutcome::Failed(how),
        };
        if order.mode == GateMode::Open && self.is_read_only.load(Ordering::SeqCst) {
            // The handover was cancelled.
            if let Err(how) = now.database().promote(order.epoch) {
                return GateOutcome::Failed(how);
            }
            self.is_read_only.store(false, Ordering::SeqCst);
        }
        let outcome = match now.setup() {
            Ok(Some(setup)) => self.gate.order(&setup, order, lock(&self.relay).clone()),
            Ok(None) => GateOutcome::Done,
            Err(how) => GateOutcome::Failed(how),
        };
        if outcome == GateOutcome::Done {
            self.works("the gate");
        }
        outcome
    }

    fn close(&self, epoch: Epoch) -> Result<(), String> {
        let now = self.now()?;
        let commands = now.commands();
        let last = self.journal.run("consumers stopped", || commands.stop(Part::Last));
        let fence = || now.database().fence(epoch, FenceFor::Closing).map(drop);
        let database = self.journal.run("database fenced", fence);
        let serving = self.journal.run("services stopped", || commands.stop(Part::Serving));
        self.is_read_only.store(false, Ordering::SeqCst);
        // All of them are stopped, whatever became of the others.
        last.and(database).and(serving)?;
        if let Some(setup) = now.setup()? {
            self.gate.note_stopped(&setup);
            // It may relay now.
            let order = GateOrder { epoch, mode: GateMode::Closed, until: Until::Never };
            if let GateOutcome::Failed(how) = self.gate.order(&setup, order, lock(&self.relay).clone()) {
                return Err(how);
            }
        }
        self.noted("closing", Ok(()))
    }

    fn may_serve(&self) -> Result<(), String> {
        let now = self.now()?;
        let path = &now.config.path;
        if !path.as_os_str().is_empty() {
            trusted::look_at_way(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        now.database().is_fit()?;
        now.setup()?.map_or(Ok(()), |setup| StoreGate::may_begin(&setup))
    }

    fn goes_back(&self, at: Option<Sequence>, back: Option<&Back>) -> Result<(), String> {
        let now = self.now()?;
        back::note(now.host.env(), &now.config, at, back)
    }

    fn prepare(&self, epoch: Epoch, stop: &dyn Fn() -> bool) -> Result<(), String> {
        let now = self.now()?;
        let commands = now.commands();
        *lock(&self.relay) = None;
        self.end_drill();
        if let Some(setup) = now.setup()? {
            self.journal.run("gate holds", || self.gate.make_ready(now.host.env(), &setup, epoch, stop))?;
        }
        self.journal.run("files", || self.with_files(|files| files.make_ready(&self.me)))?;
        if now.database().is_directed() {
            let back = back::wanted(&now.config, self.state()?.authority.promotion.as_ref())?;
            let position = match back {
                Some(back) => self.journal.run("database back", || now.database().go_back(epoch, &back))?,
                None => self.journal.run("database", || now.database().promote(epoch))?,
            };
            *lock(&self.position) = position;
        }
        self.journal.run("services", || commands.start(Part::Serving, stop))?;
        self.noted("preparing", Ok(()))
    }

    fn catch_up(&self, to: &WriterId, stop: &dyn Fn() -> bool) -> Result<(), String> {
        let is_ready = match self.peers.ask(to, Ask::Ready) {
            Some(Answer::Refused { reasons }) => Err(reasons.join("; ")),
            // One that does not answer at the moment may read the log all the same.
            Some(Answer::Done) | None => Ok(()),
        };
        if is_ready.is_ok() && self.now()?.config.path.as_os_str().is_empty() {
            return Ok(());
        }
        let caught_up = is_ready.and_then(|()| {
            self.journal.run(CATCH_UP, || self.with_files(|files| files.commit_for_handover()))
        });
        let caught_up = caught_up.and_then(|snapshot| {
            self.tell_others();
            let wait = || self.with_files(|files| files.wait_for_standby(to, snapshot, stop));
            self.journal.run(FOLLOWS, wait)
        });
        if let Err(how) = &caught_up {
            *lock(&self.refused) = vec![format!("'{to}' was not handed over to: {how}")];
        }
        caught_up
    }

    fn log_grew(&self) {
        self.daemon.ask_run(&self.name);
    }

    fn drain(&self, epoch: Epoch, stop: &dyn Fn() -> bool) -> Result<Sequence, String> {
        let now = self.now()?;
        let commands = now.commands();
        self.journal.run("consumers stopped", || commands.stop(Part::Last))?;
        if let Some(setup) = now.setup()? {
            self.journal
                .run("requests ended", || StoreGate::wait_until_idle(now.host.env(), &setup, stop))?;
        }
        self.is_read_only.store(true, Ordering::SeqCst);
        let fence = || now.database().fence(epoch, FenceFor::Handover);
        let position = self.journal.run("database fenced", fence).or_else(|how| {
            // It hands out nothing. Where a standby has all that a customer was told is done, nothing is lost by
            // ending it.
            match self.is_dispensable() {
                true => now.database().fence(epoch, FenceFor::Closing).map(|_| None),
                false => Err(how),
            }
        })?;
        *lock(&self.position) = position;
        let snapshot =
            self.journal.run("last snapshot", || self.with_files(|files| files.commit_for_handover()))?;
        self.works("the last snapshot");
        Ok(snapshot)
    }

    fn apply(&self, handover: Sequence) -> Result<(), String> {
        let fetched = self
            .journal
            .run("last snapshot here", || self.with_files(|files| files.fetch(handover)))
            .and_then(|()| self.reach(handover));
        self.noted("fetching a handover", fetched)
    }

    fn position(&self) -> Option<GtidPosition> {
        lock(&self.position).clone()
    }

    fn rejoin(&self, epoch: Epoch) -> Result<(), String> {
        let state = self.state()?;
        if state.epoch != epoch {
            return Err(format!("the log is in epoch {} by now", state.epoch.0));
        }
        let boot = self.store.env().boot();
        if let Some((failed, how)) = lock(&self.rejoin_failed).clone()
            && boot < failed.plus(REJOIN_AGAIN)
        {
            return Err(how);
        }
        let maker = Maker { name: &self.me, key: &self.key };
        let rejoined = self.journal.run("stranded files", || self.with_files(|files| files.rejoin(maker)));
        let demoted = rejoined.and_then(|report| {
            if let Some(report) = report.filter(|report| report.record.is_some()) {
                if let Some(said) = report.loss.said() {
                    tracing::error!(store = %self.name, "{said}");
                }
                tracing::warn!(
                    store = %self.name,
                    record = report.record.map(|record| record.0),
                    "only this host had some files; `understudy stranded list` shows them"
                );
            }
            self.now()?.database().demote(epoch)
        });
        *lock(&self.rejoin_failed) = demoted.as_ref().err().map(|how| (self.store.env().boot(), how.clone()));
        self.noted("rejoining", demoted)
    }

    fn show(&self, epoch: Epoch) -> Result<(), String> {
        let (now, state) = (self.now()?, self.state()?);
        let promotion = state.authority.promotion.as_ref();
        let runtime = &now.host.runtime;
        let shown =
            self.journal.run("edge", || now.commands().switch_edges(runtime, &self.me, epoch, promotion));
        self.noted("the edge", shown)
    }

    fn start_last(&self, _: Epoch, stop: &dyn Fn() -> bool) -> Result<(), String> {
        let now = self.now()?;
        let started = self.journal.run("consumers", || now.commands().start(Part::Last, stop));
        if started.is_ok() {
            self.compare_media(now);
        }
        self.noted("starting what acts without customers", started)
    }

    fn stop_acks(&self) -> Result<(), String> {
        self.end_drill();
        let (now, state) = (self.now()?, self.known());
        let stop = || now.database().acknowledge(state.epoch, false);
        let stopped = self.journal.run("acknowledgements stopped", stop);
        self.noted("the database", stopped)
    }

    fn start_acks(&self) -> Result<(), String> {
        let (now, state) = (self.now()?, self.known());
        let primary = state.primary.as_ref().filter(|primary| **primary != self.me);
        let wanted = primary.is_some_and(|primary| state.authority.acknowledges(&self.me, primary));
        let started = now.database().acknowledge(state.epoch, wanted);
        self.noted("the database", started)
    }

    fn wait_for(&self, standbys: &BTreeSet<WriterId>) -> Result<(), String> {
        let waited = self.now()?.database().wait_for_standby(self.known().epoch, !standbys.is_empty());
        let position = self.noted("the database", waited)?;
        *lock(&self.waits_from) = position.filter(|_| !standbys.is_empty());
        Ok(())
    }

    fn standbys(&self, waits_for: &BTreeSet<WriterId>) -> Standbys {
        let (Ok(now), state) = (self.now(), self.known()) else { return Standbys::default() };
        let synced = &state.authority.synced;
        let gone =
            || Standbys { waits_for: None, seen: synced.iter().map(|host| (host.clone(), false)).collect() };
        let standby = state.authority.synchronous_standby(&self.me);
        let Some(report) = now.database().acks() else {
            // Where nothing is configured any more, nobody acknowledges; a supervisor that is silent says nothing.
            return if now.database().has_semi_sync() { Standbys::default() } else { gone() };
        };
        if report.acks.is_none() && matches!(report.state, State::Down | State::Waiting) {
            // A server that does not run, or takes no writes, commits nothing: whoever had everything has it still.
            return Standbys::default();
        }
        let (Some(standby), Some(acks)) = (standby, report.acks) else { return gone() };
        let is_it = acks.acknowledging == 1;
        match acks.acknowledging > 1 {
            true => self.report(Report::Failed {
                what: ACKS,
                how: format!("{} servers acknowledge what the database commits, and one of them is not '{standby}'; nobody knows what '{standby}' has", acks.acknowledging),
            }),
            false => self.works(ACKS),
        }
        let is_known = synced.contains(standby) && waits_for.contains(standby);
        // What was committed before the server waited is only here, unless the standby says that it has it.
        let earlier = lock(&self.trailing).note(&report.applied, self.store.env().boot());
        let position = match lock(&self.waits_from).clone() {
            Some(position) => position,
            None if acks.waits => report.applied,
            // Nothing is waited for yet: this only says whether it follows closely enough to begin with that.
            None => earlier,
        };
        let asked = || self.peers.ask(standby, Ask::Received { position });
        let is_connected = is_it && (is_known || asked() == Some(Answer::Done));
        let others = synced.union(waits_for).filter(|host| *host != standby);
        let others = others.map(|host| (host.clone(), false));
        Standbys {
            waits_for: (acks.waits && waits_for.is_empty()).then(|| standby.clone()),
            seen: others.chain([(standby.clone(), is_connected)]).collect(),
        }
    }

    fn has_received(&self, position: &GtidPosition) -> Result<(), String> {
        self.now()?.database().has_received(position)
    }

    fn changed(&self, view: &View, state: &StoreState) {
        let other = view.log.primary.as_ref().filter(|primary| **primary != view.me);
        let relay = other.and_then(|other| state.authority.member(other)?.customers.clone());
        *lock(&self.relay) = relay;
        self.daemon.set_duty(&self.name, Some(duty(view)));
    }

    fn attested(&self, host: &WriterId, at: Sequence) {
        let word = Word { host: host.clone(), at };
        if let Err(how) = attested::keep(self.store.env(), &self.name, word) {
            tracing::warn!(store = %self.name, how, "a person's word is not kept; after a restart it is asked for again");
        }
    }

    fn stop_host(&self, host: &WriterId) -> Result<bool, String> {
        let now = self.now()?;
        if now.config.fence.command.is_empty() {
            return Ok(false);
        }
        self.journal.run("former primary's host stopped", || now.commands().stop_host(host))
    }

    fn tell_others(&self) {
        let peers = self.peers.clone();
        std::thread::spawn(move || peers.tell_all());
    }

    fn ask_promise(&self, of: &WriterId, epoch: Epoch) -> bool {
        self.peers.ask(of, Ask::Promise { epoch }) == Some(Answer::Done)
    }

    fn ask_look(&self, of: &WriterId) {
        self.peers.ask(of, Ask::Look);
    }

    fn report(&self, report: Report) {
        let store = &self.name;
        match report {
            Report::Refused(reasons) => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                tracing::warn!(%store, reasons = reasons.join("; "), "not done");
                *lock(&self.refused) = reasons;
            }
            Report::Failed { what, how } => {
                // It is tried again every few seconds; it is said once.
                if lock(&self.failing).insert(what, how.clone()).as_ref() != Some(&how) {
                    tracing::error!(%store, how, "{what} failed; it is tried again");
                }
            }
            Report::Works { what } => self.works(what),
            Report::NotAppended { decision, how } => {
                tracing::error!(%store, decision, how, "a decision was not made");
                *lock(&self.refused) = vec![format!("{decision}: {how}")];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::decide::timing::Timing;
    use crate::failover::decide::view::{Cause as Why, Rules};

    fn view(primary: Option<&str>, phase: Phase) -> View {
        let rules = Rules { timing: Timing::DEFAULT, has_lease: false, needs_set: true };
        let mut view = View { phase, ..View::new(WriterId("b".into()), rules, BootNanos(0)) };
        view.log.primary = primary.map(|name| WriterId(name.into()));
        view
    }

    #[test]
    fn only_who_serves_resyncs_and_only_who_knows_another_primary_follows() {
        let epoch = Epoch(2);
        let primary = || Phase::Primary { epoch, is_verified: false };
        assert_eq!(duty(&view(Some("b"), primary())), Duty::Resync);
        let handing_over = Phase::HandingOver {
            to: WriterId("c".into()),
            since: BootNanos(0),
            is_cancelled: false,
            drained: None,
        };
        assert_eq!(duty(&view(Some("b"), handing_over)), Duty::Wait("handing over to 'c'".into()));
        let others = || {
            [
                Phase::Starting,
                Phase::Fenced { is_closed: false },
                Phase::Rejoining,
                Phase::Standby,
                Phase::Promoting { cause: Why::Person },
                Phase::TakingOver { epoch, is_prepared: true },
            ]
        };
        for phase in others() {
            assert_eq!(duty(&view(Some("a"), phase.clone())), Duty::Follow, "{phase:?}");
            assert!(matches!(duty(&view(None, phase.clone())), Duty::Wait(_)), "{phase:?}");
            assert!(matches!(duty(&view(Some("b"), phase.clone())), Duty::Wait(_)), "{phase:?}");
        }
    }
}
