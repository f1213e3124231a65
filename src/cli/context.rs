//! What the commands take from outside: configuration, runtime, repository, clock, randomness.

use super::Global;
use super::exit::UsageError;
use crate::model::id::{StoreName, WriterId};
use crate::repository::location::Location;
use crate::repository::store::{Repository, RepositoryOptions};
use crate::service::config::{self, Config, StoreConfig};
use crate::support::progress::Step;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;

pub(super) struct Context {
    pub config: Config,
    pub runtime: Runtime,
    given_repository: Option<String>,
}

impl Context {
    pub fn new(global: &Global) -> Result<Self> {
        let config = Config::load(global.config.as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .enable_all()
            .build()
            .context("starting the runtime")?;
        Ok(Self { config, runtime, given_repository: global.repository.clone() })
    }

    /// The repository of `store`: given, the store's, the configuration's, or the default directory.
    pub fn repository(&self, store: Option<&StoreConfig>) -> Result<Repository> {
        let configured = self.given_repository.clone();
        let configured = configured.or_else(|| store.and_then(|s| s.repository.clone()));
        let location = match configured.or_else(|| self.config.repository.clone()) {
            Some(text) => Location::parse(&text)?,
            None => Location::Directory(config::default_repository().ok_or_else(|| {
                UsageError("no repository: give --repository, or set HOME for the default directory".into())
            })?),
        };
        let options = RepositoryOptions {
            bytes_per_second: self.config.limits.bandwidth,
            cache: self.config.cache.clone().or_else(config::default_cache),
            ..Default::default()
        };
        Ok(Repository::open(&location, options, self.runtime.handle().clone())?)
    }

    /// The repository that holds the store `name`.
    pub fn repository_of(&self, name: &StoreName) -> Result<Repository> {
        self.repository(self.config.store(name.as_str()))
    }

    /// Where what is followed is kept: given, configured, or the default directory.
    pub fn standby(&self, given: Option<&Path>) -> Result<PathBuf> {
        let chosen = given.map(Path::to_owned).or_else(|| self.config.standby.path.clone());
        let chosen = chosen.or_else(config::default_standby).ok_or_else(|| {
            UsageError("no standby directory: give --standby, or set HOME for the default directory".into())
        })?;
        Ok(std::path::absolute(&chosen).unwrap_or(chosen))
    }

    pub fn writer(&self) -> WriterId {
        let configured = self.config.writer.clone();
        WriterId(configured.unwrap_or_else(|| {
            let host = rustix::system::uname();
            host.nodename().to_string_lossy().into_owned()
        }))
    }

    pub fn threads(&self) -> usize {
        let available = || std::thread::available_parallelism().map_or(2, usize::from);
        self.config.limits.threads.unwrap_or_else(available).max(1)
    }
}

/// Nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// Kills this process at the step that the tests name in UNDERSTUDY_TEST_KILL_AT.
pub(super) fn kill_at(step: Step) {
    if std::env::var("UNDERSTUDY_TEST_KILL_AT").is_ok_and(|wanted| wanted == step.name()) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// A number that nobody else draws.
pub(super) fn nonce() -> u64 {
    // Without randomness from the system nothing is safe to write.
    getrandom::u64().unwrap_or_else(|error| panic!("no randomness: {error}"))
}

/// A store's name made of a directory's.
pub(super) fn name_from_path(path: &Path) -> Result<StoreName> {
    let full = std::fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let base = full.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain: String = base
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_') { c } else { '-' })
        .collect();
    let plain: String = plain.trim_start_matches(['.', '_', '-']).chars().take(64).collect();
    StoreName::parse(&plain).map_err(|_| {
        UsageError(format!("{} gives no name for a store; name it with --store", full.display())).into()
    })
}
