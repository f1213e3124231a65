//! An open repository, and one store in it.

use super::error::RepositoryError;
use super::key_cache::KeyCache;
use super::key_source::KeySource;
use super::location::RepositoryUrl;
use super::objects::{Bandwidth, Creation, Objects, Patience};
use super::probe;
use crate::api::requests::Requests;
use crate::model::id::StoreName;
use crate::support::env::Env;
use crate::support::failure::FailureKind;
use crate::support::lock::lock;
use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{ObjectStore, PutPayload};
use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

/// The options of a repository.
#[derive(Clone, Default)]
pub struct RepositoryOptions {
    pub patience: Patience,
    /// A limit that all repositories with the same value share.
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// Directory that keeps index segments, records and all chunks except file content between runs.
    ///
    /// Without it, segments are kept in unnamed temporary files.
    pub cache: Option<PathBuf>,
    /// The keys with which stores are opened.
    pub keys: KeySource,
    /// Source of time and randomness for all operations.
    pub env: Env,
    pub notice: Notice,
    /// Whether this host has a member key.
    ///
    /// Then it reads the log of a store that it never saw from its first record: whoever has the store's key
    /// can make a checkpoint, but not a member's decision.
    pub is_member: bool,
}

/// Reports texts to the operator of this process, each once.
#[derive(Clone, Default)]
pub struct Notice(Option<Arc<Say>>);

type Say = dyn Fn(&str) + Send + Sync;

impl Notice {
    pub fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let said = Mutex::new(BTreeSet::new());
        Self(Some(Arc::new(move |text: &str| {
            if lock(&said).insert(text.to_owned()) {
                say(text);
            }
        })))
    }

    pub(crate) fn say(&self, text: &str) {
        if let Some(say) = &self.0 {
            say(text);
        }
    }
}

/// An open repository. Cheap to clone; the clones share the meter.
#[derive(Clone)]
pub struct Repository {
    objects: Objects,
    runtime: Handle,
    cache: Option<Arc<PathBuf>>,
    keys: Arc<KeySource>,
    env: Env,
    notice: Notice,
    is_member: bool,
    /// Its directory, if it is one.
    directory: Option<Arc<PathBuf>>,
    /// The place where an earlier version looked for this address, and that place's current address.
    former: Option<(Objects, Arc<str>)>,
    location: Arc<str>,
}

impl Repository {
    /// Connects to `location` without a probe: for readers.
    pub fn open(
        location: &RepositoryUrl,
        options: RepositoryOptions,
        runtime: Handle,
    ) -> Result<Self, RepositoryError> {
        let opened = {
            let _entered = runtime.enter();
            location.open()?
        };
        let patience = options.patience.clone();
        let former =
            opened.former.map(|(inner, address)| (Objects::new(inner, patience, None), address.into()));
        let directory = match location {
            RepositoryUrl::Directory(path) => Some(Arc::new(path.clone())),
            _ => None,
        };
        Ok(Self { former, directory, ..Self::over(opened.store, &location.to_string(), options, runtime) })
    }

    /// Opens a repository in any object store.
    pub fn over(
        inner: Arc<dyn ObjectStore>,
        location: &str,
        options: RepositoryOptions,
        runtime: Handle,
    ) -> Self {
        let RepositoryOptions { patience, bandwidth, cache, keys, env, notice, is_member } = options;
        // Two repositories never share a cache, since their stores may have the same names.
        let tag = blake3::hash(location.as_bytes()).to_hex();
        let cache = cache.map(|dir| Arc::new(dir.join(&tag[..16])));
        let objects = Objects::new(inner, patience, bandwidth);
        let (keys, location) = (Arc::new(keys), location.into());
        let (directory, former) = (None, None);
        Self { objects, runtime, cache, keys, env, notice, is_member, directory, former, location }
    }

    /// Refuses a backend that lets two creations of one key succeed. Every writer calls it first.
    pub(crate) fn probe(&self) -> Result<(), RepositoryError> {
        self.wait(async {
            if let Some((former, address)) = &self.former {
                probe::refuse_former(&self.objects, former, &self.location, address).await?;
            }
            probe::probe(&self.objects, &self.location, self.env.nonce()).await
        })
    }

    pub fn store(&self, name: &StoreName) -> Store {
        Store { repository: self.clone(), name: name.clone(), keys: Arc::default() }
    }

    /// Returns the stores that have a log or are about to get one, sorted.
    pub(crate) fn stores(&self) -> Result<Vec<StoreName>, RepositoryError> {
        let names = self.wait(self.objects.names(None))?;
        let mut stores: Vec<_> = names.iter().filter_map(|n| StoreName::parse(n).ok()).collect();
        stores.sort();
        Ok(stores)
    }

    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Returns the same repository in another environment.
    pub fn with_env(&self, env: Env) -> Self {
        Self { env, ..self.clone() }
    }

    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    /// Returns the same repository with a request counter of its own. A bandwidth limit stays shared.
    pub(crate) fn metered(&self) -> Self {
        Self { objects: self.objects.metered(), ..self.clone() }
    }

    /// Returns its directory, if it is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_ref().map(|directory| directory.as_path())
    }

    pub fn requests(&self) -> Requests {
        self.objects.requests()
    }

    /// Waits for requests. It is never called from the runtime's own threads.
    pub(crate) fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }
}

/// One store in a repository.
#[derive(Clone)]
pub struct Store {
    repository: Repository,
    name: StoreName,
    keys: Arc<KeyCache>,
}

impl Store {
    pub fn name(&self) -> &StoreName {
        &self.name
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    pub fn env(&self) -> &Env {
        self.repository.env()
    }

    /// Returns the same store without a bandwidth limit, for small requests that cannot wait.
    pub(crate) fn unlimited(&self) -> Self {
        let objects = self.repository.objects.unlimited();
        Self { repository: Repository { objects, ..self.repository.clone() }, ..self.clone() }
    }

    /// Returns the same store with another patience, and without a bandwidth limit.
    pub(crate) fn with_patience(&self, patience: Patience) -> Self {
        let objects = self.repository.objects.with_patience(patience);
        Self { repository: Repository { objects, ..self.repository.clone() }, ..self.clone() }
    }

    /// Waits for requests. It is never called from the runtime's own threads.
    pub(crate) fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.repository.wait(request)
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.repository.runtime
    }

    /// Returns the keys with which stores are opened.
    pub(crate) fn key_source(&self) -> &KeySource {
        &self.repository.keys
    }

    /// Returns the cache of this store's keyring.
    pub(crate) fn key_cache(&self) -> &KeyCache {
        &self.keys
    }

    /// Returns whether this host has a member key.
    pub(crate) fn is_member(&self) -> bool {
        self.repository.is_member
    }

    pub fn notice(&self) -> &Notice {
        &self.repository.notice
    }

    /// Returns the repository's directory in the local cache.
    pub(crate) fn cache_dir(&self) -> Option<&Path> {
        self.repository.cache.as_ref().map(|cache| cache.as_path())
    }

    pub fn objects(&self) -> &Objects {
        &self.repository.objects
    }

    /// Creates an object that is named by its content. An existing one of another size is overwritten.
    pub(crate) async fn put(&self, at: &Key, bytes: Bytes) -> Result<(), RepositoryError> {
        let size = bytes.len() as u64;
        let payload = PutPayload::from(bytes);
        if self.objects().create(at, payload.clone()).await? == Creation::Existed
            && self.objects().head(at).await? != Some(size)
        {
            self.objects().overwrite(at, payload).await?;
        }
        Ok(())
    }

    /// Checks that an object that was put exists with its full size.
    pub(crate) fn check_arrived(&self, at: &Key, size_bytes: u64) -> Result<(), RepositoryError> {
        let found = self.wait(self.objects().head(at))?;
        if found == Some(size_bytes) {
            return Ok(());
        }
        let reason = match found {
            Some(found) => format!("only {found} of {size_bytes} bytes arrived; nothing was committed"),
            None => "the object is missing after its upload; nothing was committed".to_owned(),
        };
        let kind = FailureKind::Unavailable;
        Err(RepositoryError::Request { operation: "head", key: at.to_string(), reason, kind })
    }
}
