//! The daemon: runs every store when it is due, until it is asked to end.
//!
//! One thread looks at the board and begins runs and upkeep, each on a thread of its own. It wakes up when
//! the board changes or at the scheduler's next deadline. A run that panics ends as a failed one.
//!
//! Once the daemon is asked to end, no run begins and those under way stop at their next step; what they
//! shipped is not shipped again. After a time limit the process ends without waiting for them, which loses
//! nothing either.

use super::agents;
use super::agents::around::Around;
use super::agents::registry::Agents;
use super::alert::Alert;
use super::board::{Board, Duty, RunResult, Standing, StartedRun, StartedUpkeep, upkeep_status};
use super::config::{Config, StoreConfig, state_dir};
use super::databases::keeper::Databases;
use super::databases::observed::observe;
use super::drill_place;
use super::ending::{EndLimits, Ending, Running};
use super::host::{Host, HostError};
use super::notify::notifier::{self, Notifier};
use super::notify::ping::Outcome;
use super::notify::trouble::Seen;
use super::run::{RunError, RunObserver, run};
use super::site;
use super::socket;
use super::upkeep::{TaskReport, UpkeepError, UpkeepRun};
use super::watches::Watches;
use super::watching;
use super::watching::alone::Watching;
use crate::api::run::RunReport;
use crate::api::store::StoreStatus;
use crate::api::upkeep::UpkeepStatus;
use crate::failover::agent::run::Agent;
use crate::failover::peers::answer::AskedAgent;
use crate::model::id::{Incarnation, StoreName, WriterId};
use crate::model::record::StoreState;
use crate::model::role::{Permission, Role, member_role, role};
use crate::model::snapshot_ref::Moment;
use crate::mounts::mount;
use crate::repository::store::Repository;
use crate::standby::depot::Depot;
use crate::support::clock::Now;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::lock::lock;
use crate::support::progress::{Progress, Step};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tracing::Level;

/// Maximum sleep of the thread, since clocks may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Time between looks whether a run has ended.
const RUN_LOOK: Duration = Duration::from_millis(20);
/// Maximum number of logs that are read at the same time to learn where their stores stand.
const QUESTIONS_MAX: usize = 16;

/// The daemon. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Daemon(Arc<Inner>);

struct Inner {
    host: RwLock<Host>,
    env: Env,
    board: Mutex<Board>,
    changed: Condvar,
    /// Open repositories by address; the stores of one repository share its bandwidth limit.
    repositories: Mutex<HashMap<String, Repository>>,
    watches: Watches,
    agents: Agents,
    watching: Watching,
    databases: Databases,
    notifier: Notifier,
    on_step: Box<dyn Fn(Step) + Send + Sync>,
    stopping: AtomicBool,
}

impl Daemon {
    /// Creates a daemon and reads from the log of each store where it stands.
    ///
    /// With `stays`, trees are watched between runs, stores get their upkeep, and snapshots carry this
    /// process's incarnation.
    pub fn new(host: Host, stays: bool, on_step: Box<dyn Fn(Step) + Send + Sync>) -> Self {
        let empty = Config { service: host.config.service.clone(), ..Config::default() };
        let env = host.env().clone();
        let host = host.with_incarnation(stays.then(|| Incarnation(env.nonce())));
        let inner = Inner {
            board: Mutex::new(Board::new(&empty, stays, env.now(), |_| Standing::default())),
            host: RwLock::new(host),
            env,
            changed: Condvar::new(),
            repositories: Mutex::default(),
            watches: Watches::default(),
            agents: Agents::default(),
            watching: Watching::default(),
            databases: Databases::default(),
            notifier: Notifier::default(),
            on_step,
            stopping: AtomicBool::new(false),
        };
        let daemon = Self(Arc::new(inner));
        daemon.configure();
        daemon
    }

    fn configure(&self) {
        let config = self.host().config;
        // The logs are read without the lock, since a repository may be slow.
        let new: Vec<_> = config.store.iter().filter(|store| !self.board().knows(&store.name)).collect();
        let standings = Mutex::new(HashMap::new());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..QUESTIONS_MAX.min(new.len()) {
                scope.spawn(|| {
                    while let Some(store) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = self.standing(store);
                        lock(&standings).insert(store.name.clone(), found);
                    }
                });
            }
        });
        let standings = standings.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (store, _) in standings.iter().filter(|(_, found)| found.role == Some(Role::Fenced)) {
            tracing::error!(%store, "fenced: another host is the primary; the store does not run here");
        }
        self.0.watches.retain(|name| config.store(name.as_str()).is_some());
        self.board()
            .configure(&config, self.now(), |store| standings.get(&store.name).copied().unwrap_or_default());
        self.0.changed.notify_all();
    }

    /// Applies a new configuration.
    pub(crate) fn reload(&self, config: Config) {
        {
            let mut host = self.0.host.write().unwrap_or_else(PoisonError::into_inner);
            let keys = host.given_keys.clone();
            let new = Host::new(config, host.runtime.clone(), host.given_repository.clone());
            let incarnation = host.incarnation();
            *host = new.with_keys(keys).with_env(self.0.env.clone()).with_incarnation(incarnation);
        }
        lock(&self.0.repositories).clear();
        self.configure();
    }

    pub(crate) fn host(&self) -> Host {
        self.0.host.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn now(&self) -> Now {
        self.0.env.now()
    }

    pub fn env(&self) -> &Env {
        &self.0.env
    }

    /// Returns the failover agent of a store; none if none runs here.
    pub(crate) fn failover_agent(&self, store: &StoreName) -> Option<Arc<Agent>> {
        self.0.agents.get(store).map(|running| running.agent)
    }

    /// Returns what answers other members about a store: its agent, or what watches it.
    pub(crate) fn asked_agent(&self, store: &StoreName) -> Option<Arc<dyn AskedAgent>> {
        let agent = self.failover_agent(store).map(|agent| agent as Arc<dyn AskedAgent>);
        agent.or_else(|| self.0.watching.get(store).map(|watched| watched as Arc<dyn AskedAgent>))
    }

    /// Returns the stores that this daemon only watches.
    pub(crate) fn watching(&self) -> &Watching {
        &self.0.watching
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.0.board)
    }

    /// Wakes the threads that wait for a change of the board.
    pub(crate) fn wake(&self) {
        self.0.changed.notify_all();
    }

    /// Runs stores and does their upkeep when due, until `stop` is called and everything under way has ended
    /// or exceeded its limit.
    pub(crate) fn run(&self, limits: EndLimits) {
        let around = Arc::new(self.clone()) as agents::around::Daemon;
        self.0.agents.keep(&around);
        self.0.watching.keep(&around, self.0.agents.dead_hosts());
        let idle = self.clone();
        self.0.databases.keep(&around, move || {
            // With the lock, so that whoever looks now sees this or waits for it.
            drop(idle.board());
            idle.wake();
        });
        self.0.notifier.keep(self.around_notifier());
        // Removes what killed drills left, of a daemon or of a single command.
        let standby = self.host().standby(None).ok();
        std::thread::spawn(move || {
            drill_place::tidy(standby.as_deref());
            standby.as_deref().map(site::place::tidy)
        });
        let mut ending: Option<Ending> = None;
        let mut board = self.board();
        loop {
            let now = self.now();
            while let Some(started) = board.begin_run(now) {
                self.start_run(started);
            }
            while let Some(started) = board.begin_upkeep(now) {
                self.start_upkeep(started);
            }
            let mut sleep = board.wake_in(now).unwrap_or(SLEEP_MAX);
            if board.is_stopping() {
                let ending = ending.get_or_insert_with(|| Ending::new(limits, now.boot));
                let runs = board.running() > 0 || self.0.databases.is_busy();
                match ending.wait(Running { runs, upkeep: board.is_upkeep_running() }, now.boot) {
                    Some(wait) => sleep = wait,
                    None => return,
                }
            }
            let least = Duration::from_millis(1);
            let waited = self.0.changed.wait_timeout(board, sleep.clamp(least, SLEEP_MAX));
            board = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs what is due now, and returns how each run ended.
    pub(crate) fn run_due(&self) -> Vec<(StoreName, RunResult)> {
        let now = self.now();
        let mut begun = Vec::new();
        let mut board = self.board();
        loop {
            // All runs use one moment: a store that becomes due meanwhile waits for the next call.
            while let Some(started) = board.begin_run(now) {
                let number = board.number_of(started.id);
                begun.push((started.config.name.clone(), started.id, number));
                self.start_run(started);
            }
            if board.running() == 0 {
                break;
            }
            let waited = self.0.changed.wait_timeout(board, SLEEP_MAX);
            board = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let ended =
            begun.into_iter().filter_map(|(name, id, number)| Some((name, board.follow_run(id, number).0?)));
        ended.collect()
    }

    /// Has a seed of a store's database be made soon.
    pub(crate) fn ask_seed(&self, store: &StoreName) {
        self.0.databases.ask_seed(store);
    }

    /// Returns the failover agents of this daemon's stores.
    pub(crate) fn agents(&self) -> &Agents {
        &self.0.agents
    }

    /// Stops the daemon: no run begins any more, and those under way stop as soon as they can.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        self.0.agents.end();
        self.0.watching.end();
        self.0.databases.end();
        self.0.notifier.end();
        self.board().stop();
        self.0.changed.notify_all();
    }

    /// Looks at one store's upkeep on a thread of its own.
    fn start_upkeep(&self, started: StartedUpkeep) {
        let daemon = self.clone();
        std::thread::spawn(move || {
            let StartedUpkeep { id, config } = started;
            // A panic concerns this store only; the upkeep of the others continues.
            let work = || daemon.keep_one_up(&config);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let upkeep = match result {
                Ok(Ok(upkeep)) => upkeep,
                Ok(Err(error)) => {
                    tracing::error!(store = %config.name, %error, "upkeep not started");
                    None
                }
                Err(_) => None,
            };
            let now = daemon.now();
            daemon.board().end_upkeep(id, now, upkeep);
            daemon.wake();
        });
    }

    /// Does the upkeep that is due for a store, and returns its upkeep status after that.
    fn keep_one_up(&self, config: &StoreConfig) -> Result<Option<UpkeepStatus>, UpkeepError> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let host = self.host();
        let store = self.repository(config)?.store(&config.name);
        let keeper = UpkeepRun { host: &host, store: &store, config, stop: &self.0.stopping };
        for (duty, result) in keeper.keep_up()? {
            match result {
                Ok(TaskReport::Prune(report)) => tracing::info!(
                    store = %config.name,
                    snapshots_dropped = report.snapshots_dropped,
                    deleted_bytes = report.deleted_bytes,
                    deletion_refused = report.deletion_refused,
                    "pruned"
                ),
                Ok(_) => tracing::info!(store = %config.name, ?duty, "done"),
                Err(error) => tracing::error!(store = %config.name, ?duty, %error, "failed"),
            }
        }
        Ok(Some(upkeep_status(&store.notes().upkeep()?, self.now().wall)))
    }

    /// Runs one store on a thread of its own.
    fn start_run(&self, started: StartedRun) {
        let daemon = self.clone();
        std::thread::spawn(move || {
            let StartedRun { id, config, is_full, accept, progress } = started;
            let name = config.name.clone();
            tracing::debug!(store = %name, role = config.role.name(), "run begins");
            let begun = daemon.0.env.stopwatch();
            let made = daemon.host().key_to_be_made();
            daemon.0.notifier.run_begins(&name, &daemon.0.env);
            let (result, is_full) = daemon.run_watched(&config, is_full, accept, &progress);
            tell(&name, &result, begun.seconds());
            daemon.0.notifier.run_ended(&name, outcome(&result).as_ref());
            if let Some(path) = made.filter(|path| path.exists()) {
                let path = path.display();
                tracing::warn!(%path, "created the key file: keep a copy elsewhere; without it encrypted stores are lost");
            }
            let standing = match &result {
                Ok(RunReport::Resync(report)) => Standing {
                    snapshot: Some(report.snapshot),
                    scan_start: Some(report.scan_start),
                    role: None,
                },
                Ok(RunReport::Follow(_)) => daemon.standing(&config),
                Err(_) => Standing::default(),
            };
            let now = daemon.now();
            let became = {
                let mut board = daemon.board();
                let before = board.role_of(id);
                board.end_run(id, now, result, standing, is_full);
                Some(board.role_of(id)).filter(|role| *role != before)
            };
            if became == Some(Role::Unassigned) {
                tracing::error!(store = %name, "{}", Role::UNASSIGNED);
            }
            daemon.wake();
        });
    }

    /// Runs a store on this thread, as its watch says. Returns the result, and whether the run looked at
    /// everything.
    fn run_watched(
        &self,
        config: &StoreConfig,
        is_full: bool,
        accept: bool,
        progress: &Progress,
    ) -> (Result<RunReport, RunError>, bool) {
        let watched = self.0.watches.begin(config, is_full, self.changed(config));
        let is_full = watched.as_ref().is_none_or(|watched| watched.hints.is_none());
        let work = || {
            let host = self.host();
            let repository = self.repository(config)?.metered();
            let watch = RunObserver { progress, on_step: &self.0.on_step };
            run(&host, &repository, config, accept, watched.clone(), watch)
        };
        // A panic concerns this store only; the thread continues to report the result.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let result = result.unwrap_or(Err(RunError::Panicked));
        if let Some(watched) = watched {
            let done = match &result {
                Ok(RunReport::Resync(report)) => Some(&**report),
                _ => None,
            };
            self.0.watches.end(&config.name, watched, done);
        }
        (result, is_full)
    }

    /// Returns the function to call when something changes in a store.
    fn changed(&self, store: &StoreConfig) -> impl Fn() + Send + 'static {
        let (daemon, name) = (self.clone(), store.name.clone());
        move || {
            let now = daemon.now();
            daemon.board().changed(&name, now);
            daemon.wake();
        }
    }

    pub(crate) fn repository(&self, store: &StoreConfig) -> Result<Repository, HostError> {
        let host = self.host();
        let key = store.repository.clone().unwrap_or_default();
        let mut open = lock(&self.0.repositories);
        if let Some(repository) = open.get(&key) {
            return Ok(repository.clone());
        }
        let repository = host.repository(Some(store))?;
        open.insert(key, repository.clone());
        Ok(repository)
    }

    /// Returns where a store stands: by its log, or by what is published here. A store whose state is unknown
    /// is due.
    fn standing(&self, store: &StoreConfig) -> Standing {
        let look = || -> Option<Standing> {
            match store.role {
                Permission::Primary => {
                    let state = self.repository(store).ok()?.store(&store.name).log().state().ok()?;
                    let latest = state.latest();
                    Some(Standing {
                        snapshot: latest.map(|(snapshot, _)| snapshot),
                        scan_start: latest.map(|(_, record)| record.scan_start),
                        role: Some(role_of(store, &state, &self.host().writer())),
                    })
                }
                Permission::Standby => {
                    let depot = Depot::new(&self.host().standby(None).ok()?, &store.name);
                    let snapshot = mount::find(&depot, &store.name, Moment::Latest).ok()?;
                    let scan_start = mount::taken(&depot, snapshot).ok();
                    Some(Standing { snapshot: Some(snapshot), scan_start, role: None })
                }
                Permission::Watcher => None,
            }
        };
        look().unwrap_or_default()
    }

    pub(crate) fn statuses(&self) -> Vec<StoreStatus> {
        let now = self.now();
        let statuses = self.board().statuses(now);
        statuses.into_iter().map(|status| self.with_parts(status)).collect()
    }

    pub(crate) fn status_of(&self, name: &StoreName) -> Option<StoreStatus> {
        let now = self.now();
        let status = self.board().status_of(name, now);
        status.map(|status| self.with_parts(status))
    }

    /// Returns what is known of all stores, for whoever is notified.
    fn seen(&self) -> Vec<Seen> {
        let boot = self.0.env.boot();
        let seen = |status: StoreStatus| {
            let running = self.0.agents.get(&status.store);
            let failover = running.map(|running| agents::status::of(&status.store, &running, None, boot));
            Seen { status, failover }
        };
        self.statuses().into_iter().map(seen).collect()
    }

    fn around_notifier(&self) -> notifier::Around {
        let (host, of_config, of_look) = (self.host(), self.clone(), self.clone());
        let tag = socket::tag(&host.config, host.given_repository.as_deref());
        let dir = state_dir().ok().flatten();
        notifier::Around {
            env: self.0.env.clone(),
            host: host.writer().to_string(),
            ledger: dir.map(|dir| dir.join(format!("notify-{tag}.json"))),
            config: Box::new(move || of_config.host().config),
            look: Box::new(move || of_look.seen()),
        }
    }

    /// Returns the figures of whoever is notified.
    pub(crate) fn notified(&self) -> Vec<notifier::ReceiverFigures> {
        self.0.notifier.figures()
    }

    /// Adds what is not the board's: the store's failover, and its database.
    fn with_parts(&self, status: StoreStatus) -> StoreStatus {
        let running = self.0.agents.get(&status.store);
        let failover = running.as_ref().map(agents::status::brief);
        let config = self.host().config;
        let store = config.store(status.store.as_str());
        let is_primary = status.log_role == Role::Primary;
        let mut database = store.and_then(|store| observe(store, &self.0.env, is_primary));
        if let Some(database) = &mut database {
            self.0.databases.complete(&status.store, database, self.0.env.wall());
        }
        let words = running.map(|running| running.agent.words().clone());
        let words = words.or_else(|| Some(self.0.watching.get(&status.store)?.words.clone()));
        let watch = words.and_then(|words| watching::status::of(&words));
        StoreStatus { failover, watch, database, ..status }
    }
}

impl Around for Daemon {
    fn ask_run(&self, store: &StoreName) {
        self.board().ask(store, false);
        self.wake();
    }

    fn host(&self) -> Host {
        Daemon::host(self)
    }

    fn repository(&self, store: &StoreConfig) -> Result<Repository, HostError> {
        Daemon::repository(self, store)
    }

    fn failover_agent(&self, store: &StoreName) -> Option<Arc<Agent>> {
        Daemon::failover_agent(self, store)
    }

    fn set_duty(&self, name: &StoreName, duty: Option<Duty>) {
        let now = self.now();
        self.board().set_duty(name, duty, now);
        self.wake();
    }

    // The board does not count it: it is a step of a handover.
    fn run_now(&self, config: &StoreConfig) -> Result<RunReport, RunError> {
        while self.board().is_running(&config.name) {
            self.0.env.sleep(RUN_LOOK);
        }
        self.run_watched(config, false, false, &Progress::default()).0
    }
}

/// Returns the role of a host for a store of its configuration.
pub(crate) fn role_of(store: &StoreConfig, state: &StoreState, host: &WriterId) -> Role {
    if store.role == Permission::Watcher {
        return Role::Watcher;
    }
    let as_member = store.member.as_ref().and_then(|_| member_role(state, host));
    as_member.unwrap_or_else(|| role(state, host, store.role))
}

/// Returns how a run ended, for whoever is told of it; none if that says nothing: the daemon ends.
fn outcome(result: &Result<RunReport, RunError>) -> Option<Outcome> {
    match result {
        Ok(_) => Some(Outcome::Done),
        Err(error) if error.kind() == FailureKind::Stopped => None,
        Err(error) => Some(Outcome::Failed(format!("{}: {error}", Alert::from(error.kind()).word))),
    }
}

fn tell(store: &StoreName, result: &Result<RunReport, RunError>, seconds: f64) {
    if let Ok(RunReport::Resync(report)) = result
        && let Some(rivals) = &report.rivals
    {
        tracing::error!(%store, "{rivals}");
    }
    match result {
        Ok(RunReport::Resync(report)) if report.hook_failed.is_some() => {
            let error = report.hook_failed.as_deref().unwrap_or_default();
            tracing::warn!(%store, snapshot = report.snapshot.0, error, "resynced, but the hook `after` failed");
        }
        Ok(RunReport::Resync(report)) => tracing::info!(
            %store,
            snapshot = report.snapshot.0,
            entries = report.entries,
            shipped_bytes = report.shipped_bytes,
            torn = report.warnings.torn,
            unreadable = report.warnings.partial() - report.warnings.torn,
            seconds,
            "resynced"
        ),
        Ok(RunReport::Follow(report)) if report.published => tracing::info!(
            %store,
            snapshot = report.snapshot.0,
            fetched_bytes = report.requests.received_bytes,
            lag_seconds = report.lag_seconds,
            seconds,
            "published"
        ),
        Ok(RunReport::Follow(_)) => tracing::debug!(%store, seconds, "is up to date"),
        Err(error) => {
            let Alert { word, level } = error.kind().into();
            match level {
                Level::ERROR => tracing::error!(%store, %error, state = word, seconds, "failed"),
                Level::WARN => tracing::warn!(%store, %error, "{word}"),
                Level::INFO => tracing::info!(%store, %error, "{word}"),
                _ => tracing::debug!(%store, %error, "{word}"),
            }
        }
    }
}
