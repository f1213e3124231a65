//! The keeper of the databases whose primary this host is: archives each of them, and makes their seeds.
//!
//! An archiver is a thread of its own; one more thread makes the seeds of all stores, one after the other, since each
//! reads a whole database. What fails is tried again later each time; a panic concerns one store only, and is a
//! failure like others. A memory that does not grow with the stores is the archiver's (a segment), and that of one
//! resync.
//!
//! What can race: a configuration that is read anew. An archiver of an older one ends at its next step, and the next
//! look starts another, which goes on where the repository says: nothing is lost between them, nor when this process
//! is killed. An archiver, or a seed, of a person's own command holds a lock; then there is none here.

use super::archiving::{Ended, archive_here};
use super::caught::caught;
use super::drilling::Drills;
use super::due::{again_in, is_seed_due};
use super::here::DatabaseHere;
use super::seeding::{self, SeedError};
use super::supervising::Supervisors;
use crate::api::database::{DatabaseSeeds, DatabaseStatus};
use crate::database::error::DatabaseError;
use crate::model::id::{Sequence, StoreName};
use crate::model::record::StoreState;
use crate::model::role::Permission;
use crate::service::agents::around::Daemon;
use crate::service::config::{Config, StoreConfig};
use crate::service::run::RunObserver;
use crate::support::clock::{BootNanos, UnixNanos, seconds};
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::progress::Progress;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Time between two looks at what is to be begun.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time until it is looked again whether this host is the one to act, after it was not.
const ELSEWHERE_FOR: Duration = Duration::from_secs(10);
/// Longest time until an archive that failed is tried again: it is behind meanwhile.
const ARCHIVE_AGAIN_MAX: Duration = Duration::from_mins(1);
/// Time between looks at the seeds that there are.
const SEEDS_EVERY: Duration = Duration::from_mins(10);

/// The keeper. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Databases(Arc<Inner>);

#[derive(Default)]
struct Inner {
    all: Mutex<BTreeMap<StoreName, Kept>>,
    supervisors: Supervisors,
    drills: Drills,
    /// Set once the daemon ends; a seed that is being made is given up then.
    is_ended: Arc<AtomicBool>,
    changed: Condvar,
    /// What the condition is waited for with.
    waiting: Mutex<()>,
}

/// What is kept of one store's database.
#[derive(Default)]
struct Kept {
    archiver: Option<Archiver>,
    archive_again: BootNanos,
    archive_failures: u32,
    archive_error: Option<String>,
    /// The newest seed, and when it was begun; none before the first look.
    seed: Option<Option<(Sequence, UnixNanos)>>,
    seeds_again: BootNanos,
    seed_failures: u32,
    seed_error: Option<String>,
    is_seeding: bool,
    /// Whether a seed was asked for.
    is_asked: bool,
}

/// A thread that archives.
struct Archiver {
    config: Arc<Config>,
    stop: Arc<AtomicBool>,
}

/// Returns whether a host with this configuration may be the primary of a store.
fn may_serve(store: &StoreConfig) -> bool {
    store.role == Permission::Primary || store.member.is_some()
}

impl Databases {
    /// Keeps the databases of a daemon's stores, on threads of their own. `idle` is called when one of them ends.
    pub(crate) fn keep(&self, daemon: &Daemon, idle: impl Fn() + Send + Sync + 'static) {
        let idle: Arc<dyn Fn() + Send + Sync> = Arc::new(idle);
        let (keeper, around, on_idle) = (self.clone(), daemon.clone(), idle.clone());
        std::thread::spawn(move || {
            while keeper.wait() {
                keeper.look(&around, &on_idle);
            }
        });
        let (keeper, around, on_idle) = (self.clone(), daemon.clone(), idle.clone());
        std::thread::spawn(move || {
            while keeper.wait() {
                keeper.0.drills.attend(&around.host(), &|| keeper.is_ended());
                on_idle();
            }
        });
        let (keeper, around) = (self.clone(), daemon.clone());
        std::thread::spawn(move || {
            while keeper.wait() {
                keeper.attend_seeds(&around);
                idle();
            }
        });
    }

    /// Ends all of it at the next steps.
    pub(crate) fn end(&self) {
        self.0.is_ended.store(true, Ordering::SeqCst);
        lock(&self.0.all).values().filter_map(|kept| kept.archiver.as_ref()).for_each(Archiver::end);
        self.0.changed.notify_all();
    }

    /// Returns whether anything is underway.
    pub(crate) fn is_busy(&self) -> bool {
        let keeps = lock(&self.0.all).values().any(|kept| kept.archiver.is_some() || kept.is_seeding);
        keeps || self.0.drills.is_busy()
    }

    /// Has a seed of a store's database be made soon.
    pub(crate) fn ask_seed(&self, store: &StoreName) {
        lock(&self.0.all).entry(store.clone()).or_default().is_asked = true;
        self.0.changed.notify_all();
    }

    /// Adds to what is observed of a database what only this keeper knows.
    pub(crate) fn complete(&self, store: &StoreName, status: &mut DatabaseStatus, now: UnixNanos) {
        if let Some(server) = status.server.as_mut().filter(|server| !server.supervised) {
            server.error = self.0.supervisors.error(store).or(server.error.take());
        }
        if let Some(drill) = &mut status.drill {
            drill.running = self.0.drills.is_running(store);
        }
        let all = lock(&self.0.all);
        let Some(kept) = all.get(store) else { return };
        if let Some(archive) = &mut status.archive
            && !archive.running
            && kept.archive_error.is_some()
        {
            archive.error.clone_from(&kept.archive_error);
        }
        status.seeds = kept.seed.map(|seed| DatabaseSeeds {
            snapshot: seed.map(|(snapshot, _)| snapshot),
            age_seconds: seed.and_then(|(_, begun)| begun.age_at(now)).map(seconds),
            running: kept.is_seeding,
            failures: kept.seed_failures,
            error: kept.seed_error.clone(),
        });
    }

    /// Waits for the next look; returns false once there will be none.
    fn wait(&self) -> bool {
        let waiting = lock(&self.0.waiting);
        if !self.is_ended() {
            let waited = self.0.changed.wait_timeout(waiting, LOOK_EVERY);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        !self.is_ended()
    }

    fn is_ended(&self) -> bool {
        self.0.is_ended.load(Ordering::SeqCst)
    }

    /// Starts the archivers that are due, and ends those of another configuration.
    fn look(&self, daemon: &Daemon, idle: &Arc<dyn Fn() + Send + Sync>) {
        let host = daemon.host();
        self.0.supervisors.look(&host);
        let (config, now) = (host.config.clone(), host.env().boot());
        let mut all = lock(&self.0.all);
        all.retain(|name, kept| {
            let is_configured = config.store(name.as_str()).is_some();
            if !is_configured {
                kept.archiver.iter().for_each(Archiver::end);
            }
            is_configured || kept.archiver.is_some() || kept.is_seeding
        });
        for store in config.store.iter().filter(|store| store.database.mode.archives() && may_serve(store)) {
            let kept = all.entry(store.name.clone()).or_default();
            match &kept.archiver {
                Some(archiver) if !Arc::ptr_eq(&archiver.config, &config) => archiver.end(),
                None if kept.archive_again <= now && !self.is_ended() => {
                    let stop = Arc::new(AtomicBool::new(false));
                    kept.archiver = Some(Archiver { config: config.clone(), stop: stop.clone() });
                    let (keeper, daemon, store) = (self.clone(), daemon.clone(), store.clone());
                    let idle = idle.clone();
                    std::thread::spawn(move || {
                        keeper.archive(&daemon, &store, &stop);
                        idle();
                    });
                }
                _ => {}
            }
        }
    }

    /// Archives a store's database until that ends, and notes how it did.
    fn archive(&self, daemon: &Daemon, store: &StoreConfig, stop: &AtomicBool) {
        let env = daemon.host().env().clone();
        let begun = env.stopwatch();
        let ended = caught(|| archive_here(daemon, store, &env, stop));
        let (name, now) = (&store.name, env.boot());
        let mut all = lock(&self.0.all);
        let kept = all.entry(name.clone()).or_default();
        kept.archiver = None;
        if begun.elapsed() > ELSEWHERE_FOR {
            kept.archive_failures = 0;
        }
        (kept.archive_again, kept.archive_error) = match ended {
            Ok(Ended::Stopped) => (now, None),
            Ok(Ended::Elsewhere) => (now.plus(ELSEWHERE_FOR), None),
            Err(error) => {
                kept.archive_failures = kept.archive_failures.saturating_add(1);
                tracing::error!(store = %name, %error, "the database is not archived; it is tried again");
                (now.plus(again_in(kept.archive_failures).min(ARCHIVE_AGAIN_MAX)), Some(error))
            }
        };
    }

    /// Looks at the seeds of each store in turn, and makes those that are due.
    fn attend_seeds(&self, daemon: &Daemon) {
        let host = daemon.host();
        for store in &host.config.store {
            if !is_seeded(store, host.env()) || self.is_ended() {
                continue;
            }
            let (now, name) = (host.env().boot(), &store.name);
            let is_asked = {
                let mut all = lock(&self.0.all);
                let kept = all.entry(name.clone()).or_default();
                if kept.seeds_again > now && !kept.is_asked {
                    continue;
                }
                std::mem::take(&mut kept.is_asked)
            };
            let attended = caught(|| self.attend(daemon, store, is_asked));
            let mut all = lock(&self.0.all);
            let kept = all.entry(name.clone()).or_default();
            (kept.is_seeding, kept.seed_error) = (false, attended.as_ref().err().cloned());
            kept.seeds_again = match attended {
                Ok(wait) => {
                    kept.seed_failures = 0;
                    host.env().boot().plus(wait)
                }
                Err(_) if self.is_ended() => now,
                Err(error) => {
                    kept.seed_failures = kept.seed_failures.saturating_add(1);
                    tracing::error!(store = %name, %error, "no seed of the database; it is tried again");
                    host.env().boot().plus(again_in(kept.seed_failures))
                }
            };
        }
    }

    /// Looks at a store's seeds, and makes one if it is due. Returns the time until the next look.
    fn attend(&self, daemon: &Daemon, store: &StoreConfig, is_asked: bool) -> Result<Duration, SeedError> {
        let host = daemon.host();
        let (env, name) = (host.env(), &store.name);
        let here = DatabaseHere { store, env };
        let directory = here.seed_directory()?;
        let seeds_config = here.database_store(directory.clone())?;
        let repository = daemon.repository(store)?;
        let seeds = repository.store(&seeds_config.name);
        self.note_seed(name, newest(&seeds.log().state()?));
        let schedule = store.database.seed_schedule();
        let last = lock(&self.0.all).get(name).and_then(|kept| kept.seed.flatten()).map(|(_, begun)| begun);
        let is_due = schedule.is_some_and(|schedule| is_seed_due(last, &schedule, env.wall()));
        if !(is_due || is_asked) || !may_serve(store) {
            return Ok(SEEDS_EVERY);
        }
        let says = here.log_says(&repository.store(name).log().state()?, &host.writer());
        if !here.is_primary(&says) || !here.serves()? {
            return Ok(ELSEWHERE_FOR);
        }
        let _turn = match seeding::turn() {
            // A person makes one; the next look finds it.
            Err(DatabaseError::Taken(_)) => return Ok(ELSEWHERE_FOR),
            turn => turn?,
        };
        lock(&self.0.all).entry(name.clone()).or_default().is_seeding = true;
        tracing::info!(store = %name, directory = %directory.display(), "making a seed of the database");
        let stop = || self.is_ended();
        let copied = seeding::copy(here, &here.server()?, &directory, &stop)?;
        let progress = Progress { stop: self.0.is_ended.clone(), ..Progress::default() };
        let watch = RunObserver { progress: &progress, on_step: &|_| {} };
        let report = seeding::ship(&host, &repository.metered(), &seeds_config, &copied, false, watch)?;
        tracing::info!(
            store = %name,
            snapshot = report.snapshot.0,
            position = %copied.position,
            shipped_bytes = report.shipped_bytes,
            "seeded"
        );
        self.note_seed(name, Some((report.snapshot, report.scan_start)));
        if store.database.seed_schedule().is_some() {
            let pruned = seeding::keep(&seeds, store.database.seed_keep(), &host)?;
            tracing::info!(store = %name, seeds_dropped = pruned.snapshots_dropped, "pruned the seeds");
        }
        Ok(SEEDS_EVERY)
    }

    fn note_seed(&self, store: &StoreName, seed: Option<(Sequence, UnixNanos)>) {
        lock(&self.0.all).entry(store.clone()).or_default().seed = Some(seed);
    }
}

impl Archiver {
    fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Returns whether a store has a database of which this program makes seeds.
fn is_seeded(store: &StoreConfig, env: &Env) -> bool {
    let database = &store.database;
    database.serve.is_some() || database.datadir.is_some() || database.primary(env).is_some()
}

/// Returns the newest seed, and when it was begun.
fn newest(state: &StoreState) -> Option<(Sequence, UnixNanos)> {
    state.latest().map(|(snapshot, record)| (snapshot, record.scan_start))
}
