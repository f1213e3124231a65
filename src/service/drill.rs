//! A drill: mounts the last snapshot, or the one that is wanted, as after a failure, by the same functions, and checks it.
//!
//! Every entry of its manifest is looked up, files are read and compared with their hashes, and a command of
//! the user's runs in it. A snapshot that passes is proven restorable.
//!
//! A drill leaves nothing, however it ends: see [`super::drill_place`] and [`super::drill_look`].

use super::config::DrillConfig;
use super::drill_look::LookError;
use super::drill_place::{DrillPlace, PlaceError, Wanted};
use super::hooks::{self, Bounds, HookContext, HookError};
use crate::model::entry::{Entry, Kind};
use crate::model::id::{Sequence, StoreName};
use crate::model::record::{ManifestRoot, StoreState};
use crate::model::reread::fnv1a;
use crate::model::snapshot_ref::Moment;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use crate::repository::store::Store;
use crate::repository::upkeep::Proof;
use crate::standby::depot::Depot;
use crate::support::child::{self, ChildError, Confinement, User};
use crate::support::clock::UnixNanos;
use crate::support::failure::{Failure, FailureKind};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The reason why a snapshot is not proven.
#[derive(Debug, Error)]
pub enum DrillError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("{snapshot}: the drill failed: {path}: {reason}")]
    Differs { snapshot: String, path: String, reason: String },
    #[error("{snapshot}: the drill failed: {source}")]
    Place { snapshot: String, source: PlaceError },
    #[error("{snapshot}: the drill failed: the process that reads the mount ended; drill again")]
    Lost { snapshot: String },
    #[error("{snapshot}: the drill was stopped before it finished; it says nothing about the snapshot")]
    Stopped { snapshot: String },
}

impl Failure for DrillError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Hook(error) => error.kind(),
            Self::Differs { .. } => FailureKind::Damaged,
            Self::Place { source, .. } => source.kind(),
            Self::Lost { .. } => FailureKind::Failed,
            Self::Stopped { .. } => FailureKind::Stopped,
        }
    }
}

/// The result of a drill that succeeded.
#[derive(Clone, Debug, Serialize)]
pub struct DrillReport {
    pub store: StoreName,
    pub snapshot: Sequence,
    #[serde(rename = "scan_start_ns")]
    pub scan_start: UnixNanos,
    pub entries: u64,
    pub files_read: u64,
    pub read_bytes: u64,
    pub mount_seconds: f64,
    pub seconds: f64,
    pub command: bool,
}

impl DrillReport {
    pub fn proof(&self, proven: UnixNanos) -> Proof {
        Proof { snapshot: self.snapshot, scan_start: self.scan_start, proven }
    }
}

/// Drills a snapshot of a store, whose depot on this host is `depot`; ends early once `stop` returns true.
pub fn drill(
    store: &Store,
    depot: &Depot,
    moment: Moment,
    config: &DrillConfig,
    stop: &dyn Fn() -> bool,
) -> Result<DrillReport, DrillError> {
    let env = store.env();
    let (begun, seed) = (env.stopwatch(), env.nonce());
    let state = store.log().state()?;
    let (sequence, record) = store.log().find(&state, moment)?;
    let snapshot = format!("{}@{sequence}", store.name());
    let stopped = || DrillError::Stopped { snapshot: snapshot.clone() };
    let wrong = |source| match stop() {
        true => stopped(),
        false => DrillError::Place { snapshot: snapshot.clone(), source },
    };
    let wanted = Wanted { store, state: &state, sequence, record: &record, depot };
    let mut place = DrillPlace::new(&wanted, seed).map_err(wrong)?;
    let mount_seconds = begun.seconds();
    let percent = config.read_percent.unwrap_or(100).min(100);
    let look = Look { snapshot: &snapshot, percent, seed, stop };
    let looked = look.at_all(&mut place, store, &state, &record.manifest);
    let done = looked.and_then(|(entries, files_read, read_bytes)| {
        if let Some(name) = config.command.first() {
            let mut how = confinement(config).map_err(|source| HookError::Child {
                when: "drill",
                program: name.clone(),
                source,
            })?;
            if let Some(user) = &mut how.user {
                // The group belongs to this drill's command alone.
                let own = DRILL_GROUPS.0 + (seed % u64::from(DRILL_GROUPS.1)) as u32;
                match place.let_in(own) {
                    true => user.groups.push(own),
                    // The user namespace of this process may lack that group.
                    false => drop(place.let_in(user.gid)),
                }
            }
            let timeout = config.timeout_seconds.map_or(hooks::TIMEOUT, Duration::from_secs);
            let around =
                HookContext { store: store.name(), path: place.dir(), this: Path::new(child::THIS), env };
            let bounds = Bounds { timeout, stop };
            let there = |command: &mut std::process::Command| {
                command.current_dir(place.dir());
            };
            hooks::run("drill", &config.command, &how, &around, &snapshot, there, bounds)?;
        }
        Ok(DrillReport {
            store: store.name().clone(),
            snapshot: sequence,
            scan_start: record.scan_start,
            entries,
            files_read,
            read_bytes,
            mount_seconds,
            seconds: 0.0,
            command: !config.command.is_empty(),
        })
    });
    // A signal that ends this process may end the process that serves the mount as well; entries that are
    // missing then are no difference.
    let done = done.map_err(|error| if stop() { stopped() } else { error });
    let away = place.take_away();
    let report = done?;
    away.map_err(wrong)?;
    Ok(DrillReport { seconds: begun.seconds(), ..report })
}

/// Returns the confinement of the command.
///
/// The command works on a tenant's tree, and may itself come from it. It does not run as the owner of the
/// tree: the tenant chooses that, and may name any user of this host.
fn confinement(config: &DrillConfig) -> Result<Confinement, ChildError> {
    let user = config.user.as_deref().map(User::find).transpose()?;
    Ok(Confinement {
        is_optional: user.is_none(),
        user: Some(user.unwrap_or_else(User::nobody)),
        no_new_privileges: true,
        ends_all: true,
        environment: config.environment.clone(),
    })
}

/// First id and number of the groups by which drills' commands reach their snapshots; chosen where hosts have
/// no groups.
const DRILL_GROUPS: (u32, u32) = (1_900_000_000, 100_000_000);

struct Look<'a> {
    snapshot: &'a str,
    percent: u8,
    seed: u64,
    stop: &'a dyn Fn() -> bool,
}

impl Look<'_> {
    /// Has every entry looked up and some of the files read. Returns the number of entries, of files read,
    /// and of their bytes.
    fn at_all(
        &self,
        place: &mut DrillPlace,
        store: &Store,
        state: &StoreState,
        root: &ManifestRoot,
    ) -> Result<(u64, u64, u64), DrillError> {
        let index = Arc::new(Index::open(store, state)?);
        let manifests = ManifestReader::new(ChunkReader::new(store.clone(), index).cached());
        let (mut entries, mut files, mut bytes) = (0, 0, 0);
        for entry in manifests.entries(root) {
            let entry = entry?;
            entries += 1;
            let is_read = self.reads(&entry);
            if let (true, Some(file)) = (is_read, entry.file()) {
                files += 1;
                bytes += file.size_bytes;
            }
            let looked = place.looker().and_then(|looker| looker.look(&entry, is_read, self.stop));
            looked.map_err(|error| self.differs(place, error))?;
        }
        let finished = place.looker().and_then(|looker| looker.finish(self.stop));
        finished.map_err(|error| self.differs(place, error))?;
        Ok((entries, files, bytes))
    }

    /// Returns whether the entry is a file of the share that is read.
    fn reads(&self, entry: &Entry) -> bool {
        let draw = fnv1a(&[entry.path.as_bytes(), &self.seed.to_le_bytes()].concat());
        matches!(entry.kind, Kind::File(_)) && draw % 100 < u64::from(self.percent)
    }

    fn differs(&self, place: &DrillPlace, error: LookError) -> DrillError {
        let snapshot = self.snapshot.to_owned();
        match error {
            LookError::Stopped => DrillError::Stopped { snapshot },
            LookError::Lost => DrillError::Lost { snapshot },
            LookError::Differs { path, reason } => {
                // The looking process only gets an error number; the serving threads know the cause.
                let reason = match place.complaint() {
                    said if said.is_empty() => reason,
                    said => format!("{reason}: {said}"),
                };
                DrillError::Differs { snapshot, path, reason }
            }
        }
    }
}
