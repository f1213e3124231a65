//! A drill: the last snapshot is mounted as after a failure, by the same command; every entry of its manifest is looked up, files
//! are read and compared with their hashes, and a command of the user's runs in it. What passes is proven restorable.

use super::config::DrillConfig;
use super::hooks::{self, Around, HookError};
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
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why a snapshot is not proven.
#[derive(Debug, Error)]
pub enum DrillError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("the drill of {snapshot}: {path}: {reason}")]
    Differs { snapshot: String, path: String, reason: String },
    #[error("the drill of {snapshot}: `understudy {what}` failed: {said}")]
    Command { snapshot: String, what: &'static str, said: String },
    #[error("the drill's directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
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

/// How the mount command is called: the program, and what it is told before the command.
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

/// Drills the last snapshot of a store.
pub fn drill(
    store: &Store,
    config: &DrillConfig,
    program: &Program,
    seed: u64,
) -> Result<DrillReport, DrillError> {
    let begun = Instant::now();
    let state = store.state()?;
    let (sequence, record) = store.find(&state, Moment::Latest)?;
    let snapshot = format!("{}@{sequence}", store.name());
    // Nobody else looks at the store through the drill: the directory around it is this user's.
    let dir = std::env::temp_dir().join(format!("understudy-drill-{}-{seed:016x}", std::process::id()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
    let dir = dir.join("snapshot");
    let made = made.and_then(|()| std::fs::create_dir(&dir));
    made.map_err(|source| DrillError::Directory { path: dir.clone(), source })?;
    let mounted = Mounted { program, snapshot: &snapshot, dir: &dir };
    mounted.mount()?;
    let mount_seconds = begun.elapsed().as_secs_f64();
    let percent = config.read_percent.unwrap_or(100).min(100);
    let looked =
        Look { snapshot: &snapshot, dir: &dir, percent, seed }.at_all(store, &state, &record.manifest);
    let done = looked.and_then(|(entries, files_read, read_bytes)| {
        let around = Around { store: store.name(), path: &dir };
        let timeout = config.timeout_seconds.map_or(hooks::TIMEOUT, Duration::from_secs);
        hooks::run("drill", &config.command, &around, &snapshot, timeout, Some(&dir))?;
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
    let away = mounted.umount();
    let report = done?;
    away?;
    Ok(DrillReport { seconds: begun.elapsed().as_secs_f64(), ..report })
}

struct Mounted<'a> {
    program: &'a Program,
    snapshot: &'a str,
    dir: &'a Path,
}

impl Mounted<'_> {
    fn run(&self, what: &'static str, arguments: &[&std::ffi::OsStr]) -> Result<(), DrillError> {
        let failed = |said: String| DrillError::Command { snapshot: self.snapshot.to_owned(), what, said };
        let output = Command::new(&self.program.path)
            .args(&self.program.arguments)
            .arg("--quiet")
            .arg(what)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    /// The directory and the one around it; never with what is in them.
    fn remove(&self) -> std::io::Result<()> {
        std::fs::remove_dir(self.dir)?;
        self.dir.parent().map_or(Ok(()), std::fs::remove_dir)
    }

    fn mount(&self) -> Result<(), DrillError> {
        self.run("mount", &[self.snapshot.as_ref(), self.dir.as_os_str()]).inspect_err(|_| {
            let _ = self.remove();
        })
    }

    fn umount(&self) -> Result<(), DrillError> {
        self.run("umount", &[self.dir.as_os_str()])?;
        self.remove().map_err(|source| DrillError::Directory { path: self.dir.to_owned(), source })
    }
}

struct Look<'a> {
    snapshot: &'a str,
    dir: &'a Path,
    percent: u8,
    seed: u64,
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
        let read = std::fs::File::open(&path).and_then(|file| hasher.update_reader(file).map(|_| ()));
        read.map_err(|error| differs(error.to_string()))?;
        match *hasher.finalize().as_bytes() == file.hash.0 {
            true => Ok(Some(file.size_bytes)),
            false => Err(differs("does not have the bytes of the snapshot".into())),
        }
    }
}
