//! One run of one store: a resync where this host is the primary, a follow where it is a standby.

use super::config::StoreConfig;
use super::databases::here::DatabaseHere;
use super::hooks::{self, HookContext, HookError};
use super::host::{Host, HostError};
use crate::api::resync::ResyncReport;
use crate::api::run::RunReport;
use crate::database::server::Server;
use crate::model::hold::Hold;
use crate::model::id::StoreName;
use crate::model::role::Permission;
use crate::model::snapshot_ref::Moment;
use crate::mounts::table::mounted_snapshots;
use crate::replicate::error::ResyncError;
use crate::replicate::resync::{AskPosition, Request, ResyncContext, Watched, resync};
use crate::repository::store::Repository;
use crate::source::disk::Disk;
use crate::standby::depot::Depot;
use crate::standby::error::FollowError;
use crate::standby::follow::{self, FollowRequest, follow};
use crate::support::child;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::progress::{Progress, Step};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Compression level; this one keeps up with the reading of two cores.
pub(crate) const COMPRESSION_LEVEL: i32 = 1;
/// Default maximum of hashed bytes of holes in large files; hashing them takes some ten seconds.
pub const HOLES_MAX_BYTES: u64 = 32 << 30;
/// Default number of snapshots to keep: a day of hourly ones.
pub(crate) const DEFAULT_KEEP: u32 = 24;

/// The reason why a run committed nothing.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Resync(#[from] ResyncError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(
        "store '{0}': this host only watches it, and has no files of it; set another `role` to resync or to follow it"
    )]
    OnlyWatched(StoreName),
    #[error("the run panicked; this is a bug")]
    Panicked,
}

impl Failure for RunError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Host(error) => error.kind(),
            Self::Resync(error) => error.kind(),
            Self::Follow(error) => error.kind(),
            Self::Hook(error) => error.kind(),
            Self::OnlyWatched(_) => FailureKind::Usage,
            Self::Panicked => FailureKind::Failed,
        }
    }
}

impl RunError {
    /// Returns the hold, if the run was held.
    pub fn hold(&self) -> Option<&Hold> {
        match self {
            Self::Resync(ResyncError::Held { hold, .. }) => Some(hold),
            _ => None,
        }
    }
}

/// Resources that the caller lends to a run.
#[derive(Clone, Copy)]
pub(crate) struct RunObserver<'a> {
    pub progress: &'a Progress,
    pub on_step: &'a (dyn Fn(Step) + Sync),
}

/// Returns the directories at which this host shows snapshots. Writable mounts are not included, since they
/// may be a store's own tree.
fn own_mounts() -> Vec<PathBuf> {
    let shown = mounted_snapshots().unwrap_or_default();
    shown.into_iter().filter(|show| show.writable.is_none()).map(|show| show.dir).collect()
}

/// Returns the request of a store's resync.
pub(crate) fn request(host: &Host, store: &StoreConfig, accept: bool) -> Request {
    Request {
        store: store.name.clone(),
        path: store.path.clone(),
        plan: store.plan.plan(),
        excludes: store.exclude.clone(),
        writer: host.writer(),
        daemon: host.daemon(),
        accept,
        compression_level: host.config.limits.compression_level.unwrap_or(COMPRESSION_LEVEL),
        holes_max_bytes: host.config.limits.holes.unwrap_or(HOLES_MAX_BYTES),
        threads: host.threads(),
        one_filesystem: store.one_filesystem,
        own_places: host.own_places(),
        own_mounts: own_mounts(),
        database_position: None,
        database_end: None,
        watched: None,
    }
}

/// Returns the request to follow a store up to a moment.
pub(crate) fn follow_request(host: &Host, moment: Moment) -> FollowRequest {
    FollowRequest {
        moment,
        keep: host.config.standby.keep.unwrap_or(DEFAULT_KEEP) as usize,
        seed: None,
        threads: host.threads(),
        host: host.writer(),
    }
}

/// Resyncs a store as its request says, between its hooks.
pub(crate) fn resync_between_hooks(
    repository: &Repository,
    store: &StoreConfig,
    request: &Request,
    watch: RunObserver,
) -> Result<ResyncReport, RunError> {
    let around = HookContext {
        store: &store.name,
        path: &store.path,
        this: Path::new(child::THIS),
        env: repository.env(),
    };
    let is_stopped = || watch.progress.is_stopped();
    let (report, failed) = hooks::around(&store.hooks, &around, &is_stopped, || {
        let tree = Disk::new(repository.env());
        let around = ResyncContext { tree: &tree, progress: watch.progress, on_step: watch.on_step };
        Ok::<_, RunError>(resync(repository, request, &around)?)
    })?;
    Ok(ResyncReport { hook_failed: failed.map(|error: HookError| error.to_string()), ..report })
}

/// Returns a request with where the store's database is now, and with what asks for it after the scan.
pub(crate) fn between_positions(request: Request, host: &Host, store: &StoreConfig) -> Request {
    // Before the scan: the rows of that moment name only files that the scan finds.
    let database_position = database_position(store, host.env());
    let (store, env) = (store.clone(), host.env().clone());
    let ask: AskPosition = Arc::new(move || self::database_position(&store, &env));
    // A server that did not answer a moment ago is not waited for again.
    let database_end = database_position.is_some().then_some(ask);
    Request { database_position, database_end, ..request }
}

/// Returns where the primary's database is now, as far as this host reaches its server.
fn database_position(store: &StoreConfig, env: &Env) -> Option<String> {
    let here = DatabaseHere { store, env };
    if !here.serves().ok()? {
        return None;
    }
    let position = Server::new(here.server().ok()?).binlog_position();
    position.ok().filter(|position| !position.is_empty()).map(|position| position.to_string())
}

/// Runs a store in the role that the log gives this host. `accept` lets a held resync through.
pub(crate) fn run(
    host: &Host,
    repository: &Repository,
    store: &StoreConfig,
    accept: bool,
    watched: Option<Watched>,
    watch: RunObserver,
) -> Result<RunReport, RunError> {
    match store.role {
        Permission::Primary => {
            let request = Request { watched, ..request(host, store, accept) };
            let request = between_positions(request, host, store);
            let report = resync_between_hooks(repository, store, &request, watch)?;
            Ok(RunReport::Resync(Box::new(report)))
        }
        Permission::Standby => {
            let depot = Depot::new(&host.standby(None)?, &store.name);
            let request = follow_request(host, Moment::Latest);
            let observer = follow::Observer { progress: watch.progress, on_step: &watch.on_step };
            let report = follow(&repository.store(&store.name), &depot, &request, &observer)?;
            Ok(RunReport::Follow(Box::new(report)))
        }
        Permission::Watcher => Err(RunError::OnlyWatched(store.name.clone())),
    }
}
