//! This host: its configuration and what it opens by it. What the commands and the daemon share.

use super::config::{self, Config, ConfigError, StoreConfig};
use crate::model::id::{DaemonId, Incarnation, StoreName, WriterId};
use crate::repository::error::RepositoryError;
use crate::repository::key_source::KeySource;
use crate::repository::location::RepositoryUrl;
use crate::repository::objects::Bandwidth;
use crate::repository::store::{Notice, Repository, RepositoryOptions};
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::listing::entries;
use crate::support::{durable, private, trusted};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::runtime::Handle;
use zeroize::Zeroizing;

/// Why something is not opened.
#[derive(Debug, Error)]
pub enum HostError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("{0}; it is the cache")]
    Cache(std::io::Error),
    #[error("{0}; it is the standby's directory")]
    Standby(std::io::Error),
    #[error("no {what}: give {option}, or set HOME for the default directory")]
    NoPlace { what: &'static str, option: &'static str },
}

impl Failure for HostError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Repository(error) => error.kind(),
            Self::Cache(_) | Self::Standby(_) | Self::NoPlace { .. } => FailureKind::Usage,
        }
    }
}

/// Closes what an earlier version left open below a cache that keeps its mode: the directories of repositories.
fn close_old(cache: &Path) {
    for entry in entries(cache).flatten() {
        let name = entry.file_name();
        let is_tag = name.len() == 16 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit);
        if is_tag && entry.file_type().is_dir() {
            // Best effort: what is made from now on is closed by itself.
            let _ = private::own(entry.path());
        }
    }
}

/// Keys that are not configured, but given.
#[derive(Clone, Debug, Default)]
pub struct GivenKeys {
    pub key_file: Option<PathBuf>,
    pub passphrase: Option<Zeroizing<String>>,
    /// A keyring is taken to write with although nobody here made it.
    pub trust_keyring: bool,
    /// A store without encryption is written to although the configuration does not name it.
    pub allow_unencrypted: bool,
}

/// A host.
#[derive(Clone)]
pub struct Host {
    pub config: Arc<Config>,
    pub runtime: Handle,
    /// On the command line, in place of the configured one.
    pub given_repository: Option<String>,
    /// On the command line, or in the environment.
    pub given_keys: GivenKeys,
    env: Env,
    /// This process's own number, where it is a daemon.
    incarnation: Option<Incarnation>,
    /// Where it is said what whoever runs this should know.
    notice: Notice,
    /// Of all repositories together.
    bandwidth: Option<Arc<Bandwidth>>,
}

impl Host {
    pub fn new(config: Config, runtime: Handle, given_repository: Option<String>) -> Self {
        let bandwidth = config.limits.bandwidth.map(|limit| Arc::new(Bandwidth::new(limit)));
        let given_keys = GivenKeys::default();
        let (notice, env) = (Notice::default(), Env::system());
        Self {
            config: Arc::new(config),
            runtime,
            given_repository,
            given_keys,
            env,
            incarnation: None,
            notice,
            bandwidth,
        }
    }

    /// The same host with these keys beside what is configured.
    pub fn with_keys(self, given_keys: GivenKeys) -> Self {
        Self { given_keys, ..self }
    }

    /// The same host in another environment.
    pub fn with_env(self, env: Env) -> Self {
        Self { env, ..self }
    }

    /// Where its time and its randomness come from.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The same host, whose runs are a daemon's.
    pub fn with_incarnation(self, incarnation: Option<Incarnation>) -> Self {
        Self { incarnation, ..self }
    }

    pub fn with_notice(self, notice: Notice) -> Self {
        Self { notice, ..self }
    }

    /// What stores are opened with: given, else configured, else the default key file.
    pub fn keys(&self) -> Result<KeySource, HostError> {
        let mut passphrase = self.given_keys.passphrase.clone();
        if let (None, Some(path)) = (&passphrase, &self.config.passphrase_file) {
            let text = trusted::read_to_string(path).map(Zeroizing::new);
            let text = text.map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let text = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
            if text.is_empty() {
                return Err(ConfigError::EmptyPassphrase(path.clone()).into());
            }
            passphrase = Some(text);
        }
        let key_file = self.given_keys.key_file.clone().or_else(|| self.config.key_file.clone());
        let is_default_file = key_file.is_none();
        let key_file = match key_file {
            None => config::default_key_file()?,
            given => given,
        };
        let encryption = self.config.encryption;
        let GivenKeys { trust_keyring, allow_unencrypted, .. } = self.given_keys;
        let stores = self.config.store.iter();
        let encryption_of =
            stores.filter_map(|store| Some((store.name.clone(), store.encryption?))).collect();
        Ok(KeySource {
            encryption,
            encryption_of,
            key_file,
            is_default_file,
            passphrase,
            identities: Vec::new(),
            trust_keyring,
            allow_unencrypted,
        })
    }

    /// What is to be said of secrets that others on this host may read.
    pub fn exposures(&self) -> Vec<String> {
        let default = || config::default_key_file().ok().flatten();
        let key_file = self.given_keys.key_file.clone().or_else(|| self.config.key_file.clone());
        let files = key_file.or_else(default).into_iter();
        let files =
            files.chain(self.config.passphrase_file.clone()).chain(self.config.service.token_file.clone());
        files.filter_map(|path| trusted::exposure(&path)).collect()
    }

    /// The key file that the next new store makes; none when there is one already.
    pub fn key_to_be_made(&self) -> Option<PathBuf> {
        let keys = self.keys().ok().filter(|keys| keys.passphrase.is_none())?;
        keys.key_file.filter(|path| !durable::is_made(path))
    }

    /// The repository of `store`: given, the store's, the configuration's, or the default directory.
    pub fn repository(&self, store: Option<&StoreConfig>) -> Result<Repository, HostError> {
        let configured = self.given_repository.clone();
        let configured = configured.or_else(|| store.and_then(|s| s.repository.clone()));
        let location = match configured.or_else(|| self.config.repository.clone()) {
            Some(text) => RepositoryUrl::parse(&text)?,
            None => RepositoryUrl::Directory(
                config::default_repository()?
                    .ok_or(HostError::NoPlace { what: "repository", option: "--repository" })?,
            ),
        };
        let cache = match &self.config.cache {
            Some(cache) => Some((cache.clone(), private::hold_alone(cache))),
            None => config::default_cache()?.map(|cache| (cache.clone(), private::own(&cache).map(drop))),
        };
        let cache = match cache {
            // What is in it is as good as the stores' own files: it is no cache of somebody else's.
            Some((_, Err(error))) if private::is_refusal(&error) => return Err(HostError::Cache(error)),
            // One that cannot be written is none.
            Some((cache, held)) => {
                let _ = held.map(|()| close_old(&cache));
                Some(cache)
            }
            None => None,
        };
        let options = RepositoryOptions {
            bandwidth: self.bandwidth.clone(),
            cache,
            keys: self.keys()?,
            env: self.env.clone(),
            notice: self.notice.clone(),
            ..Default::default()
        };
        Ok(Repository::open(&location, options, self.runtime.clone())?)
    }

    /// The repository that holds the store `name`.
    pub fn repository_of(&self, name: &StoreName) -> Result<Repository, HostError> {
        self.repository(self.config.store(name.as_str()))
    }

    /// Where what is followed is kept: given, configured, or the default directory.
    ///
    /// # Errors
    /// There is no such place, or it is somebody else's: what is shown and copied from there is as it is.
    pub fn standby(&self, given: Option<&Path>) -> Result<PathBuf, HostError> {
        let chosen = self.standby_path(given)?;
        match private::look(&chosen) {
            Err(error) if private::is_refusal(&error) => Err(HostError::Standby(error)),
            _ => Ok(chosen),
        }
    }

    fn standby_path(&self, given: Option<&Path>) -> Result<PathBuf, HostError> {
        let chosen = given.map(Path::to_owned).or_else(|| self.config.standby.path.clone());
        let chosen = match chosen {
            None => config::default_standby()?,
            given => given,
        };
        let chosen = chosen.ok_or(HostError::NoPlace { what: "standby directory", option: "--standby" })?;
        Ok(std::path::absolute(&chosen).unwrap_or(chosen))
    }

    /// The directories that this program keeps on this host: no part of a store.
    pub fn own_places(&self) -> Vec<PathBuf> {
        let configured = self.config.store.iter().filter_map(|store| store.repository.clone());
        let repositories = configured
            .chain(self.given_repository.clone())
            .chain(self.config.repository.clone())
            .filter_map(|text| match RepositoryUrl::parse(&text) {
                Ok(RepositoryUrl::Directory(path)) => Some(path),
                _ => None,
            });
        // A place that cannot be told is not in use either.
        let defaults = [config::default_repository(), config::default_cache(), config::state_dir()];
        let places = repositories
            .chain(self.config.cache.clone())
            .chain(self.standby_path(None).ok())
            .chain(defaults.into_iter().flat_map(Result::unwrap_or_default));
        places.collect()
    }

    /// Its name in the logs: UNDERSTUDY_WRITER, else the configured one, else the host's. One that changes at each start (a
    /// container's) would be another host each time.
    pub fn writer(&self) -> WriterId {
        let given = std::env::var("UNDERSTUDY_WRITER").ok().filter(|name| !name.is_empty());
        let configured = given.or_else(|| self.config.writer.clone());
        WriterId(configured.unwrap_or_else(|| {
            let host = rustix::system::uname();
            host.nodename().to_string_lossy().into_owned()
        }))
    }

    /// This process as a daemon; none for a single command.
    pub fn daemon(&self) -> Option<DaemonId> {
        self.incarnation.map(|incarnation| DaemonId { host: self.writer(), incarnation })
    }

    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }

    pub fn threads(&self) -> usize {
        let available = || std::thread::available_parallelism().map_or(2, usize::from);
        self.config.limits.threads.unwrap_or_else(available).max(1)
    }
}
