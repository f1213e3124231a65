//! This host: its configuration and the repositories and keys that it opens by it. Shared by the commands and
//! the daemon.

use super::config::{self, Config, ConfigError, StoreConfig};
use super::notify::settings::NotifySettings;
use crate::database::seed::store_name;
use crate::model::id::{DaemonId, Incarnation, StoreName, WriterId};
use crate::repository::error::RepositoryError;
use crate::repository::key_source::KeySource;
use crate::repository::location::RepositoryUrl;
use crate::repository::objects::Bandwidth;
use crate::repository::store::{Notice, Repository, RepositoryOptions};
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::listing::entries;
use crate::support::signature::SigningKey;
use crate::support::{durable, private, trusted};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::runtime::Handle;
use zeroize::Zeroizing;

/// The reason why something is not opened.
#[derive(Debug, Error)]
pub(crate) enum HostError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("cache: {0}")]
    Cache(std::io::Error),
    #[error("standby directory: {0}")]
    Standby(std::io::Error),
    #[error("member key {}: {source}", path.display())]
    MemberKey { path: PathBuf, source: std::io::Error },
    #[error("no {what}: give {option}, or set HOME for the default directory")]
    NoPlace { what: &'static str, option: &'static str },
}

impl Failure for HostError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Repository(error) => error.kind(),
            Self::Cache(_) | Self::Standby(_) | Self::MemberKey { .. } | Self::NoPlace { .. } => {
                FailureKind::Usage
            }
        }
    }
}

/// Restricts the repository directories below a cache, which an earlier version left readable for others. The
/// cache itself keeps its mode.
fn close_old(cache: &Path) {
    for entry in entries(cache).flatten() {
        let name = entry.file_name();
        let is_tag = name.len() == 16 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit);
        if is_tag && entry.file_type().is_dir() {
            // Best effort: directories that are made from now on are restricted anyway.
            let _ = private::own(entry.path());
        }
    }
}

/// Keys that are given by a command rather than configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenKeys {
    pub key_file: Option<PathBuf>,
    pub passphrase: Option<Zeroizing<String>>,
    /// Whether a keyring that no holder on this host made is trusted for writing.
    pub trust_keyring: bool,
    /// Whether an unencrypted store is written to although the configuration does not name it.
    pub allow_unencrypted: bool,
}

/// This host.
#[derive(Clone)]
pub(crate) struct Host {
    pub config: Arc<Config>,
    pub runtime: Handle,
    /// The repository of the command line, which overrides the configured one.
    pub given_repository: Option<String>,
    /// Keys from the command line or the environment.
    pub given_keys: GivenKeys,
    env: Env,
    /// Incarnation of this process, if it is a daemon.
    incarnation: Option<Incarnation>,
    /// Receives messages for the user who runs this process.
    notice: Notice,
    /// The bandwidth limit of all repositories together.
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

    /// Returns the same host with these keys in addition to the configured ones.
    pub(crate) fn with_keys(self, given_keys: GivenKeys) -> Self {
        Self { given_keys, ..self }
    }

    /// Returns the same host with another environment.
    pub fn with_env(self, env: Env) -> Self {
        Self { env, ..self }
    }

    /// Returns the source of this host's time and randomness.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Returns the same host, whose runs are a daemon's.
    pub(crate) fn with_incarnation(self, incarnation: Option<Incarnation>) -> Self {
        Self { incarnation, ..self }
    }

    pub(crate) fn with_notice(self, notice: Notice) -> Self {
        Self { notice, ..self }
    }

    /// Returns the keys that open stores: given, else configured, else the default key file.
    pub(crate) fn keys(&self) -> Result<KeySource, HostError> {
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
        // What is said of a store holds for its database, too.
        let names = |store: &StoreConfig| [Some(store.name.clone()), store_name(&store.name).ok()];
        let encryption_of = stores
            .filter_map(|store| Some((names(store), store.encryption?)))
            .flat_map(|(names, encryption)| names.into_iter().flatten().map(move |name| (name, encryption)))
            .collect();
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

    /// Returns warnings about secrets that other users of this host can read.
    pub(crate) fn exposures(&self) -> Vec<String> {
        let default = || config::default_key_file().ok().flatten();
        let key_file = self.given_keys.key_file.clone().or_else(|| self.config.key_file.clone());
        let files = key_file.or_else(default).into_iter();
        let files =
            files.chain(self.config.passphrase_file.clone()).chain(self.config.service.token_file.clone());
        let accounts = self.config.store.iter().filter_map(|store| store.database.account_file.clone());
        let notify = self.config.notify.iter().flat_map(NotifySettings::secrets);
        files.chain(accounts).chain(notify).filter_map(|path| trusted::exposure(&path)).collect()
    }

    /// Returns the key file that the next new store will create; none when there is one already.
    pub(crate) fn key_to_be_made(&self) -> Option<PathBuf> {
        let keys = self.keys().ok().filter(|keys| keys.passphrase.is_none())?;
        keys.key_file.filter(|path| !durable::is_made(path))
    }

    /// Returns the repository of `store`: given, the store's, the configuration's, or the default directory.
    pub(crate) fn repository(&self, store: Option<&StoreConfig>) -> Result<Repository, HostError> {
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
            // The cache's content is trusted like the stores' own files, so another user's directory is
            // refused.
            Some((_, Err(error))) if private::is_refusal(&error) => return Err(HostError::Cache(error)),
            // A cache that cannot be written is not used.
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
            is_member: config::state_dir().ok().flatten().is_some_and(|dir| SigningKey::exists(&dir)),
            ..Default::default()
        };
        Ok(Repository::open(&location, options, self.runtime.clone())?)
    }

    /// Returns the key that this host signs its decisions with. It is made if there is none.
    pub(crate) fn member_key(&self) -> Result<SigningKey, HostError> {
        let dir = config::state_dir()?;
        let dir = dir.ok_or(HostError::NoPlace { what: "state directory", option: "XDG_STATE_HOME" })?;
        SigningKey::read_or_make(&self.env, &dir)
            .map_err(|source| HostError::MemberKey { path: SigningKey::path(&dir), source })
    }

    /// Returns the repository that holds the store `name`.
    pub(crate) fn repository_of(&self, name: &StoreName) -> Result<Repository, HostError> {
        self.repository(self.config.store(name.as_str()))
    }

    /// Returns the directory for followed stores: given, configured, or the default.
    ///
    /// # Errors
    /// There is no such directory, or it belongs to another user: its content is shown and copied without a
    /// further check.
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

    /// Returns the directories that this program keeps on this host. They are no part of a store.
    pub(crate) fn own_places(&self) -> Vec<PathBuf> {
        let configured = self.config.store.iter().filter_map(|store| store.repository.clone());
        let repositories = configured
            .chain(self.given_repository.clone())
            .chain(self.config.repository.clone())
            .filter_map(|text| match RepositoryUrl::parse(&text) {
                Ok(RepositoryUrl::Directory(path)) => Some(path),
                _ => None,
            });
        // A place that cannot be determined is not in use either.
        let defaults = [config::default_repository(), config::default_cache(), config::state_dir()];
        let places = repositories
            .chain(self.config.cache.clone())
            .chain(self.standby_path(None).ok())
            .chain(defaults.into_iter().flat_map(Result::unwrap_or_default));
        places.collect()
    }

    /// Returns this host's name in the logs: `UNDERSTUDY_WRITER`, else the configured name, else the host's.
    ///
    /// A name that changes at each start (as a container's does) would be another host each time.
    pub(crate) fn writer(&self) -> WriterId {
        let given = std::env::var("UNDERSTUDY_WRITER").ok().filter(|name| !name.is_empty());
        let configured = given.or_else(|| self.config.writer.clone());
        WriterId(configured.unwrap_or_else(|| {
            let host = rustix::system::uname();
            host.nodename().to_string_lossy().into_owned()
        }))
    }

    /// Returns this process as a daemon; none for a single command.
    pub fn daemon(&self) -> Option<DaemonId> {
        self.incarnation.map(|incarnation| DaemonId { host: self.writer(), incarnation })
    }

    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
    }

    pub(crate) fn threads(&self) -> usize {
        let available = || std::thread::available_parallelism().map_or(2, usize::from);
        self.config.limits.threads.unwrap_or_else(available).max(1)
    }
}
