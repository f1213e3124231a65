//! A drill: the last snapshot is mounted as after a failure, by the same command; every entry of its manifest is looked up, files
//! are read and compared with their hashes, and a command of the user's runs in it. What passes is proven restorable.
//!
//! Nothing of it stays, however it ends: see [`super::drill_place`].

use super::child::{self, ChildError, Confinement, User};
use super::config::DrillConfig;
use super::drill_place::{Place, PlaceError, Program};
use super::hooks::{self, Around, Bounds, HookError};
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
use crate::support::failure::{Failure, FailureKind};
use serde::Serialize;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why a snapshot is not proven.
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
    #[error("{snapshot}: the drill stopped when it was asked to; nothing is known of the snapshot")]
    Stopped { snapshot: String },
}

impl Failure for DrillError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Repository(error) => error.kind(),
            Self::Hook(error) => error.kind(),
            Self::Differs { .. } => FailureKind::Damaged,
            Self::Place { source, .. } => source.kind(),
            Self::Stopped { .. } => FailureKind::Stopped,
        }
    }
}

/// What was proven.
#[derive(Clone, Debug, Serialize)]
pub struct DrillReport {
    pub store: StoreName,
    pub snapshot: Sequence,
    pub scan_start_ns: u64,
    pub entries: u64,
    pub files_read: u64,
    pub read_bytes: u64,
    pub mount_seconds: f64,
    pub seconds: f64,
    pub command: bool,
}

impl DrillReport {
    pub fn proof(&self, proven_ns: u64) -> Proof {
        Proof { snapshot: self.snapshot, scan_start_ns: self.scan_start_ns, proven_ns }
    }
}

/// Drills the last snapshot of a store; ends early once `stop` says so.
pub fn drill(
    store: &Store,
    config: &DrillConfig,
    program: &Program,
    stop: &dyn Fn() -> bool,
) -> Result<DrillReport, DrillError> {
    let env = store.env();
    let (begun, seed) = (env.stopwatch(), env.nonce());
    let state = store.state()?;
    let (sequence, record) = store.find(&state, Moment::Latest)?;
    let snapshot = format!("{}@{sequence}", store.name());
    let stopped = || DrillError::Stopped { snapshot: snapshot.clone() };
    let wrong = |source| match stop() {
        true => stopped(),
        false => DrillError::Place { snapshot: snapshot.clone(), source },
    };
    let place = Place::new(program, &snapshot, env, seed, stop).map_err(wrong)?;
    let dir = place.dir();
    let mount_seconds = begun.seconds();
    let percent = config.read_percent.unwrap_or(100).min(100);
    let look = Look { snapshot: &snapshot, dir, percent, seed, stop };
    let done = look.at_all(store, &state, &record.manifest).and_then(|(entries, files_read, read_bytes)| {
        if let Some(name) = config.command.first() {
            let mut how = confinement(config).map_err(|source| HookError::Child {
                when: "drill",
                program: name.clone(),
                source,
            })?;
            if let Some(user) = &mut how.user {
                // A group that no other drill's command is in.
                let own = DRILL_GROUPS.0 + (seed % u64::from(DRILL_GROUPS.1)) as u32;
                match place.let_in(own) {
                    true => user.groups.push(own),
                    // Not where this user's namespace has no such group.
                    false => drop(place.let_in(user.gid)),
                }
            }
            let timeout = config.timeout_seconds.map_or(hooks::TIMEOUT, Duration::from_secs);
            let around = Around { store: store.name(), path: dir, this: Path::new(child::THIS), env };
            let bounds = Bounds { timeout, stop };
            let there = |command: &mut std::process::Command| {
                command.current_dir(dir);
            };
            hooks::run("drill", &config.command, &how, &around, &snapshot, there, bounds)?;
        }
        Ok(DrillReport {
            store: store.name().clone(),
            snapshot: sequence,
            scan_start_ns: record.scan_start_ns,
            entries,
            files_read,
            read_bytes,
            mount_seconds,
            seconds: 0.0,
            command: !config.command.is_empty(),
        })
    });
    // Who asks this process to end may ask the one that serves the mount as well: what is not there then was not looked at.
    let done = done.map_err(|error| if stop() { stopped() } else { error });
    let away = place.take_away();
    let report = done?;
    away.map_err(wrong)?;
    Ok(DrillReport { seconds: begun.seconds(), ..report })
}

/// As whom the command runs: it works on a tenant's tree, and much of it may be the tenant's. Not as whom the tree belongs to: that is
/// the tenant's word, and may name any user of this host.
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

/// The first of the groups that drills' commands get to their snapshots by, and how many there are: where nobody has theirs.
const DRILL_GROUPS: (u32, u32) = (1_900_000_000, 100_000_000);

struct Look<'a> {
    snapshot: &'a str,
    dir: &'a Path,
    percent: u8,
    seed: u64,
    stop: &'a dyn Fn() -> bool,
}

impl Look<'_> {
    /// Entries seen, files and bytes read.
    fn at_all(
        &self,
        store: &Store,
        state: &StoreState,
        root: &ManifestRoot,
    ) -> Result<(u64, u64, u64), DrillError> {
        let index = Arc::new(Index::open(store, state)?);
        let manifests = ManifestReader::new(ChunkReader::new(store.clone(), index).cached());
        let (mut entries, mut files, mut bytes) = (0, 0, 0);
        for entry in manifests.entries(root) {
            let entry = entry?;
            if (self.stop)() {
                return Err(DrillError::Stopped { snapshot: self.snapshot.to_owned() });
            }
            entries += 1;
            if let Some(read) = self.at(&entry)? {
                files += 1;
                bytes += read;
            }
        }
        Ok((entries, files, bytes))
    }

    /// Compares one entry with what is mounted. Returns how much of it was read.
    fn at(&self, entry: &Entry) -> Result<Option<u64>, DrillError> {
        let path = self.dir.join(std::ffi::OsStr::from_bytes(entry.path.as_bytes()));
        let differs = |reason: String| DrillError::Differs {
            snapshot: self.snapshot.to_owned(),
            path: entry.path.to_string(),
            reason,
        };
        let meta = std::fs::symlink_metadata(&path).map_err(|error| differs(error.to_string()))?;
        let kind = meta.file_type();
        let same_kind = match &entry.kind {
            Kind::Directory => kind.is_dir(),
            Kind::File(file) => kind.is_file() && meta.len() == file.size_bytes,
            Kind::Symlink { .. } => kind.is_symlink(),
            // A mount may show devices as what cannot be opened.
            _ => !kind.is_dir() && !kind.is_file(),
        };
        if !same_kind || meta.mode() & 0o777 != u32::from(entry.mode) & 0o777 && !kind.is_symlink() {
            return Err(differs("is not what the snapshot has".into()));
        }
        let Kind::File(file) = &entry.kind else { return Ok(None) };
        let draw = fnv1a(&[entry.path.as_bytes(), &self.seed.to_le_bytes()].concat());
        if draw % 100 >= u64::from(self.percent) {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        let mut opened = std::fs::File::open(&path).map_err(|error| differs(error.to_string()))?;
        let mut part = vec![0; 1 << 20];
        loop {
            if (self.stop)() {
                return Err(DrillError::Stopped { snapshot: self.snapshot.to_owned() });
            }
            match opened.read(&mut part) {
                Ok(0) => break,
                Ok(count) => hasher.update(&part[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(differs(error.to_string())),
            };
        }
        match *hasher.finalize().as_bytes() == file.hash.0 {
            true => Ok(Some(file.size_bytes)),
            false => Err(differs("does not have the bytes of the snapshot".into())),
        }
    }
}
