//! Object stores that disagree on what a conflict means, on what an upload must carry, on addresses and on
//! hard links; and processes without free handles, which is their own problem rather than the repository's.

use crate::support::command::{ok, understudy};
use crate::support::faulty::{Fault, FaultyStore};
use crate::support::rig::{self, Rig};
use crate::support::servers;
use crate::support::standby::{depot, follow_by, request};
use crate::support::tree::{random, sample_tree};
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use understudy::maintain::prune::{Grace, PruneRequest, prune};
use understudy::model::id::{Sequence, WriterId};
use understudy::model::retention::Retention;
use understudy::repository::key_source::KeySource;
use understudy::repository::rekey::Author;
use understudy::repository::store::{Repository, RepositoryOptions};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_conflict_at_any_creation_is_looked_into_and_tried_again() {
    // The creations of a new store: probe, keyring, packs, segments, record.
    let run = |at: u64| {
        let rig = Rig::new();
        sample_tree(&rig.source());
        let faulty = FaultyStore::new(rig.objects.clone(), Fault::Conflict, at, false);
        let report =
            rig::run(&rig::repository(faulty.clone(), rig::patience(3)), &rig::request(&rig.source()));
        let report = report.unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert_eq!((report.snapshot, report.rebased), (Sequence(1), 0), "call {at}");
        assert!(rig.verify().is_sound(), "call {at}");
        faulty.calls()
    };
    let calls = run(u64::MAX);
    for at in 1..=calls {
        run(at);
    }
}

#[test]
fn a_conflict_at_a_note_a_pruning_or_a_key_is_tried_again() {
    for at in 1..=6 {
        let rig = Rig::new();
        sample_tree(&rig.source());
        rig.resync();
        std::fs::write(rig.source().join("c/new"), b"new").unwrap();
        rig.resync();
        let faulty = || {
            let store = FaultyStore::new(rig.objects.clone(), Fault::Conflict, at, false);
            rig::repository(store, rig::patience(3))
        };
        follow_by(&faulty(), &depot(&rig), &request()).unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert_eq!(rig.store().notes().standbys().unwrap()[0].snapshot, Sequence(2), "call {at}");
        let mut request =
            PruneRequest::new(Retention { last: 1, ..Default::default() }, WriterId("p".into()));
        request.grace = Grace { records: 0, time: Duration::ZERO };
        let pruned = prune(&faulty().store(&rig::name()), &request, &|_| {});
        assert_eq!(pruned.unwrap_or_else(|error| panic!("call {at}: {error}")).snapshots_dropped, 1);
        let author = Author { writer: &WriterId("operator".into()), on_step: &|_| {} };
        let rotated = faulty().store(&rig::name()).keyrings().rotate_keys(&author);
        rotated.unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert!(rig.verify().is_sound(), "call {at}");
    }
}

/// The message of a server that tries to steer a terminal.
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[2J\u{202e}\u{9b}2J\nroot";

/// Starts a server that refuses every upload with a reason, and records which uploads came without a
/// checksum.
fn strict_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = heads.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen) = (stream.unwrap(), seen.clone());
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                seen.lock().unwrap().push(String::from_utf8_lossy(&head).to_lowercase());
                let (status, length) = ("HTTP/1.1 403 Forbidden", HOSTILE.len());
                let answer =
                    format!("{status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{HOSTILE}");
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    (port, heads)
}

#[test]
fn an_upload_to_s3_carries_the_checksum_that_a_locked_bucket_demands() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    for (chosen, header) in
        [(None, "x-amz-checksum-sha256: "), (Some("crc64nvme"), "x-amz-checksum-crc64nvme: ")]
    {
        let (port, heads) = strict_server();
        let mut command = understudy(dir.path());
        command.env("UNDERSTUDY_REPOSITORY", "s3://bucket/locked").env("AWS_REGION", "us-east-1");
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
        command
            .env("AWS_ACCESS_KEY_ID", "x")
            .env("AWS_SECRET_ACCESS_KEY", "x")
            .env_remove("AWS_CHECKSUM_ALGORITHM");
        command.envs(chosen.map(|algorithm| ("AWS_CHECKSUM_ALGORITHM", algorithm)));
        let output = command.args(["resync", "source", "--store", "acme"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "403 is a matter of credentials: {}", said(&output));
        // The server's message is shown on one line, and steers no terminal.
        let text = said(&output);
        assert!(text.contains("owned") && text.lines().count() == 1, "{text:?}");
        assert!(!text.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        let heads = heads.lock().unwrap();
        let puts: Vec<_> = heads.iter().filter(|head| head.starts_with("put ")).collect();
        assert!(!puts.is_empty() && puts.iter().all(|head| head.contains(header)), "{heads:?}");
    }
}

#[test]
fn addresses_with_odd_characters_are_places_of_their_own() {
    let server = servers::moto();
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let at = |address: &str| {
        let mut command = understudy(dir.path());
        command
            .envs(server.environment.iter().map(|(key, value)| (*key, value)))
            .env("UNDERSTUDY_REPOSITORY", address);
        command
    };
    let addresses = ["shop?1", "shop#2", "a b/\u{fc}", "a%20b", "~x+y&z=1"];
    for prefix in addresses {
        let address = format!("s3://bucket/{prefix}");
        ok(at(&address).args(["resync", "source", "--store", "acme", "--quiet"]));
        ok(at(&address).args(["verify", "acme", "--read-data", "--quiet"]));
        let list = ok(at(&address).args(["snapshots", "acme", "--json"])).stdout;
        let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 1, "{address} has what it was given");
    }
    for plain in ["s3://bucket/shop", "s3://bucket/a", "s3://bucket/a b"] {
        let output = at(plain).args(["snapshots", "acme"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{plain} has nothing: {}", said(&output));
    }
    let keys = server.keys();
    for prefix in addresses {
        let record = format!("{prefix}/acme/log/00000000000000000001");
        assert!(keys.contains(&record), "{record} is not among {keys:?}");
    }
    // There is a store where an earlier version would have put it.
    ok(at("s3://bucket/pre%2520fix").args(["resync", "source", "--store", "acme", "--quiet"]));
    let output = at("s3://bucket/pre fix").args(["resync", "source", "--store", "acme"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("s3://bucket/pre%2520fix"), "{}", said(&output));
}

/// A filesystem without hard links.
struct ExFat(PathBuf);

impl ExFat {
    fn mount(dir: &Path) -> Self {
        let (image, at) = (dir.join("exfat.img"), dir.join("usb"));
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", said(&output));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        run(Command::new("mkfs.exfat").arg(&image));
        let device = run(Command::new("losetup").args(["-f", "--show"]).arg(&image));
        let mounted = Command::new("mount.exfat-fuse").arg(&device).arg(&at).output().unwrap();
        run(Command::new("losetup").args(["-d", &device]));
        assert!(mounted.status.success(), "{}", said(&mounted));
        Self(at)
    }
}

impl Drop for ExFat {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_place_without_hard_links_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let usb = ExFat::mount(dir.path());
    let mut command = understudy(dir.path());
    command.env("UNDERSTUDY_REPOSITORY", usb.0.join("repository"));
    let output = command.args(["resync", "source", "--store", "acme"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("no hard links"), "{}", said(&output));
}

#[test]
fn a_process_without_handles_says_so_and_blames_no_repository() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    // Reading a key takes more handles than a request; without a key, a request is the first to find none.
    std::fs::write(dir.path().join("understudy.toml"), "encryption = 'none'\n").unwrap();
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    let with_handles = |count: u32| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={count}:{count}")).arg(env!("CARGO_BIN_EXE_understudy"));
        let usual = understudy(dir.path());
        command.args(["snapshots", "acme"]).current_dir(dir.path()).env_remove("UNDERSTUDY_CONFIG");
        command.envs(usual.get_envs().filter_map(|(key, value)| Some((key, value?))));
        // Each process has an empty cache.
        command.env("XDG_CACHE_HOME", dir.path().join(format!("cache-{count}"))).output().unwrap()
    };
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (6..24).map(|count| scope.spawn(move || with_handles(count))).collect();
        running.into_iter().map(|running| running.join().unwrap()).collect()
    });
    assert!(outputs.iter().any(|output| output.status.success()));
    let mut requests = 0;
    for output in outputs.iter().filter(|output| !output.status.success()) {
        let text = said(output);
        // The directory has that name as well.
        assert!(!text.contains("understudy: repository: "), "{text}");
        // A repository that is a directory is opened first.
        if text.contains("acme/") || text.contains(": open ") {
            requests += 1;
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("Too many open files") && text.contains("ulimit -n"), "{text}");
        }
    }
    assert!(requests > 0, "none came as far as to the repository: {outputs:?}");
}

#[test]
fn what_went_wrong_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    let disk = crate::support::disk::SmallDisk::mount(dir.path().join("standby"), 256 << 10);
    let follow = || {
        understudy(dir.path()).env("UNDERSTUDY_STANDBY", &disk.0).args(["follow", "acme", "--once"]).output()
    };
    let full = said(&follow().unwrap());
    assert_eq!(full.matches("No space left on device").count(), 1, "{full}");
    std::fs::write(dir.path().join("understudy.toml"), "encryption = \"none\"\n").unwrap();
    ok(understudy(dir.path()).args(["resync", "source", "--store", "plain", "--quiet"]));
    let record = dir.path().join("repository/plain/log/00000000000000000001");
    let sound = std::fs::read(&record).unwrap();
    for (bytes, text) in [
        ([&b"USRECRD\x06"[..], &sound[8..]].concat(), "has format version 6"),
        (Vec::new(), "is truncated: shorter than a record"),
    ] {
        std::fs::write(&record, bytes).unwrap();
        let _ = std::fs::remove_dir_all(dir.path().join("cache"));
        let output = understudy(dir.path()).args(["verify", "plain"]).output().unwrap();
        let snapshots = understudy(dir.path()).args(["snapshots", "plain"]).output().unwrap();
        for said in [said(&output), said(&snapshots)] {
            for line in said.lines() {
                assert!(line.matches(text).count() <= 1, "{line}");
            }
        }
        assert!(said(&snapshots).contains(text), "{}", said(&snapshots));
    }
}

/// An object store that runs a function before a chosen call.
struct Interloper {
    inner: Arc<dyn ObjectStore>,
    at: u64,
    calls: AtomicU64,
    act: Box<dyn Fn() + Send + Sync>,
}

impl Interloper {
    fn new(inner: Arc<dyn ObjectStore>, at: u64, act: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inner, at, calls: AtomicU64::new(0), act: Box::new(act) })
    }

    fn called(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            // The function must not run on the runtime's own thread.
            std::thread::scope(|scope| scope.spawn(|| (self.act)()).join().unwrap());
        }
    }
}

impl std::fmt::Debug for Interloper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interloper")
    }
}

impl std::fmt::Display for Interloper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interloper")
    }
}

#[async_trait]
impl ObjectStore for Interloper {
    async fn put_opts(
        &self,
        at: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.called();
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        self.called();
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.called();
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn prune_at_once(repository: &Repository, name: &str) {
    let mut request = PruneRequest::new(Retention { last: 1, ..Default::default() }, WriterId(name.into()));
    request.grace = Grace { records: 0, time: Duration::ZERO };
    request.bounds.unused_percent = 0;
    prune(&repository.store(&rig::name()), &request, &|_| {})
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn whoever_meets_a_pruning_without_grace_reads_the_log_again_and_says_nothing_of_damage() {
    type Victim = fn(&Rig, &Repository);
    let victims: [(&str, Victim); 3] = [
        ("resync", |rig, repository| {
            rig::run(repository, &rig::request(&rig.source())).unwrap();
        }),
        ("follow", |rig, repository| {
            follow_by(repository, &depot(rig), &request()).unwrap();
        }),
        ("prune", |_, repository| prune_at_once(repository, "victim")),
    ];
    for (what, victim) in victims {
        let run = |at: u64| {
            let rig = Rig::plain();
            for round in 0..3u8 {
                std::fs::write(rig.source().join("same"), random(b"same", 30_000)).unwrap();
                std::fs::write(rig.source().join("other"), random(&[round], 30_000)).unwrap();
                rig.resync();
            }
            std::fs::write(rig.source().join("new"), random(b"new", 30_000)).unwrap();
            let others = rig.repository.clone();
            let store = Interloper::new(rig.objects.clone(), at, move || {
                // The first pruning dooms objects, and the second deletes them.
                prune_at_once(&others, "interloper");
                prune_at_once(&others, "interloper");
            });
            let options = RepositoryOptions {
                patience: rig::disk_patience(3),
                keys: KeySource::none(),
                ..Default::default()
            };
            victim(&rig, &Repository::over(store.clone(), "test", options, rig::runtime()));
            assert!(rig.verify().is_sound(), "{what}, call {at}");
            store.calls.load(Ordering::SeqCst)
        };
        for at in 1..=run(u64::MAX) {
            println!("{what}, call {at}");
            run(at);
        }
    }
}
