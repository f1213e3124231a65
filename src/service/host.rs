//! This host: its configuration and what it opens by it. What the commands and the daemon share.

use super::config::{self, Config, ConfigError, StoreConfig};
use crate::model::id::{StoreName, WriterId};
use crate::repository::error::RepositoryError;
use crate::repository::location::Location;
use crate::repository::objects::Bandwidth;
use crate::repository::store::{Repository, RepositoryOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::runtime::Handle;

/// Why something is not opened.
#[derive(Debug, Error)]
pub enum HostError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("no {what}: give {option}, or set HOME for the default directory")]
    NoPlace { what: &'static str, option: &'static str },
}

/// What comes from outside: time and randomness.
#[derive(Clone, Copy)]
pub struct World {
    /// Nanoseconds since 1970.
    pub now_ns: fn() -> u64,
    /// A number that nobody else draws.
    pub nonce: fn() -> u64,
}

/// A host.
#[derive(Clone)]
pub struct Host {
    pub config: Arc<Config>,
    pub runtime: Handle,
    /// On the command line, in place of the configured one.
    pub given_repository: Option<String>,
    /// Of all repositories together.
    bandwidth: Option<Arc<Bandwidth>>,
}

impl Host {
    pub fn new(config: Config, runtime: Handle, given_repository: Option<String>) -> Self {
        let bandwidth = config.limits.bandwidth.map(|limit| Arc::new(Bandwidth::new(limit)));
        Self { config: Arc::new(config), runtime, given_repository, bandwidth }
    }

    /// The repository of `store`: given, the store's, the configuration's, or the default directory.
    pub fn repository(&self, store: Option<&StoreConfig>) -> Result<Repository, HostError> {
        let configured = self.given_repository.clone();
        let configured = configured.or_else(|| store.and_then(|s| s.repository.clone()));
        let location = match configured.or_else(|| self.config.repository.clone()) {
            Some(text) => Location::parse(&text)?,
            None => Location::Directory(
                config::default_repository()
                    .ok_or(HostError::NoPlace { what: "repository", option: "--repository" })?,
            ),
        };
        let options = RepositoryOptions {
            bandwidth: self.bandwidth.clone(),
            cache: self.config.cache.clone().or_else(config::default_cache),
            ..Default::default()
        };
        Ok(Repository::open(&location, options, self.runtime.clone())?)
    }

    /// The repository that holds the store `name`.
    pub fn repository_of(&self, name: &StoreName) -> Result<Repository, HostError> {
        self.repository(self.config.store(name.as_str()))
    }

    /// Where what is followed is kept: given, configured, or the default directory.
    pub fn standby(&self, given: Option<&Path>) -> Result<PathBuf, HostError> {
        let chosen = given.map(Path::to_owned).or_else(|| self.config.standby.path.clone());
        let chosen = chosen
            .or_else(config::default_standby)
            .ok_or(HostError::NoPlace { what: "standby directory", option: "--standby" })?;
        Ok(std::path::absolute(&chosen).unwrap_or(chosen))
    }

    /// Its name in the logs.
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
