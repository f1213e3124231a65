//! A store, a repository and the calls between them, in this process.

use object_store::ObjectStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;
use understudy::api::resync::ResyncReport;
use understudy::maintain::damage::VerifyReport;
use understudy::maintain::verify::{self, VerifyOptions};
use understudy::model::entry::{Entry, Fingerprint, Kind, Timestamp, Xattrs};
use understudy::model::id::{Sequence, StoreName, WriterId};
use understudy::model::plan::PlanName;
use understudy::model::record::StoreState;
use understudy::model::snapshot_ref::Moment;
use understudy::model::tree_path::TreePath;
use understudy::replicate::error::ResyncError;
use understudy::replicate::resync::{Request, ResyncContext, resync};
use understudy::repository::chunks::ChunkReader;
use understudy::repository::index::Index;
use understudy::repository::key_source::KeySource;
use understudy::repository::objects::Patience;
use understudy::repository::store::{Repository, RepositoryOptions, Store};
use understudy::restore::error::RestoreError;
use understudy::restore::request::{RestoreReport, RestoreRequest};
use understudy::restore::run::restore;
use understudy::source::disk::Disk;
use understudy::support::clock::{Now, UnixNanos};
use understudy::support::env::{Clock, Env};
use understudy::support::progress::Progress;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

pub fn runtime() -> tokio::runtime::Handle {
    RUNTIME.handle().clone()
}

/// Returns a short patience, since the tests' repositories answer immediately or never.
pub fn patience(attempts: u32) -> Patience {
    Patience { attempts, backoff: Duration::from_millis(1), timeout: Duration::from_millis(300) }
}

/// Returns the patience for a repository on a disk, which may be busy.
pub fn disk_patience(attempts: u32) -> Patience {
    Patience { timeout: Duration::from_secs(30), ..patience(attempts) }
}

pub fn now_ns() -> u64 {
    Env::system().wall().0
}

pub fn nonce() -> u64 {
    Env::system().nonce()
}

struct WallClock<F>(F);

impl<F: Fn() -> u64 + Send + Sync> Clock for WallClock<F> {
    fn now(&self) -> Now {
        Now { wall: UnixNanos((self.0)()), ..Env::system().now() }
    }

    fn sleep(&self, time: Duration) {
        Env::system().sleep(time);
    }
}

/// Returns the system's environment with another wall clock.
pub fn env_at(wall_ns: impl Fn() -> u64 + Send + Sync + 'static) -> Env {
    Env::system().with_clock(Arc::new(WallClock(wall_ns)))
}

pub fn name() -> StoreName {
    StoreName::parse("acme").unwrap()
}

/// Returns the key file that encrypts the tests' stores. It is public, not a secret.
pub fn key_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/key")
}

pub fn key_source() -> KeySource {
    KeySource { key_file: Some(key_file()), ..Default::default() }
}

pub fn repository(inner: Arc<dyn ObjectStore>, patience: Patience) -> Repository {
    let options = RepositoryOptions { patience, keys: key_source(), ..Default::default() };
    Repository::over(inner, "test", options, RUNTIME.handle().clone())
}

pub fn request(source: &Path) -> Request {
    Request {
        store: name(),
        path: source.to_owned(),
        plan: PlanName::Standard.plan(),
        excludes: Vec::new(),
        writer: WriterId("tester".into()),
        daemon: None,
        accept: true,
        compression_level: 1,
        holes_max_bytes: understudy::service::run::HOLES_MAX_BYTES,
        threads: 2,
        one_filesystem: false,
        own_places: Vec::new(),
        own_mounts: Vec::new(),
        database_position: None,
        database_end: None,
        watched: None,
    }
}

pub fn run(repository: &Repository, request: &Request) -> Result<ResyncReport, ResyncError> {
    let progress = Progress::default();
    let around = ResyncContext { tree: &Disk::default(), progress: &progress, on_step: &|_| {} };
    resync(repository, request, &around)
}

pub fn restore_at(
    store: &Store,
    moment: Moment,
    request: &RestoreRequest,
) -> Result<RestoreReport, RestoreError> {
    let state: StoreState = store.log().state()?;
    let (_, record) = store.log().find(&state, moment)?;
    let index = Arc::new(Index::open(store, &state)?);
    let chunks = ChunkReader::new(store.clone(), index);
    restore(chunks, &record.manifest, "tag", request, &Progress::default())
}

/// A source and a repository in memory.
pub struct Rig {
    pub dir: TempDir,
    pub objects: Arc<dyn ObjectStore>,
    pub repository: Repository,
}

impl Rig {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let repository = repository(objects.clone(), patience(3));
        Self { dir, objects, repository }
    }

    /// Returns a rig whose repository is a directory, where the binary looks for it (see `kill::understudy`).
    pub fn on_disk() -> Self {
        let rig = Self::new();
        let place = rig.dir.path().join("repository");
        std::fs::create_dir(&place).unwrap();
        let local = object_store::local::LocalFileSystem::new_with_prefix(&place).unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::new(local);
        Self { repository: repository(objects.clone(), disk_patience(3)), objects, ..rig }
    }

    /// Returns a rig whose store is not encrypted.
    pub fn plain() -> Self {
        let rig = Self::new();
        let options =
            RepositoryOptions { patience: patience(3), keys: KeySource::none(), ..Default::default() };
        let repository = Repository::over(rig.objects.clone(), "test", options, RUNTIME.handle().clone());
        Self { repository, ..rig }
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn store(&self) -> Store {
        self.repository.store(&name())
    }

    pub fn resync(&self) -> ResyncReport {
        run(&self.repository, &request(&self.source())).unwrap()
    }

    pub fn restore_request(&self, to: &str) -> RestoreRequest {
        RestoreRequest {
            destination: self.dir.path().join(to),
            path: TreePath::root(),
            existing: understudy::restore::request::Existing::Refuse,
            threads: 2,
            local: None,
            own: Vec::new(),
        }
    }

    /// Restores a snapshot to a new directory and returns its path.
    pub fn restored(&self, moment: Moment) -> PathBuf {
        let to = format!("restored-{}", nonce());
        let report = restore_at(&self.store(), moment, &self.restore_request(&to)).unwrap();
        assert_eq!(report.warnings, Default::default());
        self.dir.path().join(to)
    }

    pub fn verify(&self) -> VerifyReport {
        verify::verify(&self.store(), VerifyOptions::whole()).unwrap()
    }

    pub fn head(&self) -> Option<Sequence> {
        self.store().log().state().unwrap().latest().map(|(s, _)| s)
    }
}

/// Returns an entry with default metadata.
pub fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: TreePath::parse(path.as_bytes()).unwrap(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Xattrs::None,
        hardlink: None,
        fingerprint: Fingerprint::default(),
    }
}
