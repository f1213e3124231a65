//! Measures a store after ten years of hourly runs with a daily pruning: the cost to open and to prune it,
//! and the objects in the repository.
//!
//! `cargo bench --bench years [YEARS]`. Twenty days are real runs and prunings; after them come the records
//! that years of such days leave, appended as runs append them; then one more real day. The repository is in
//! memory: requests and bytes are counted, and the measured time is this program's.

// The program prints figures.
#![allow(clippy::disallowed_macros)]
// The time of this real process is measured.
#![allow(clippy::disallowed_methods)]

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use understudy::maintain::prune::{PruneRequest, prune};
use understudy::model::id::{Sequence, StoreName, WriterId};
use understudy::model::plan::PlanName;
use understudy::model::record::{Event, PruneRecord, SnapshotRecord};
use understudy::model::retention::decide;
use understudy::replicate::resync::{Request, ResyncContext, resync};
use understudy::repository::index::Index;
use understudy::repository::key_source::KeySource;
use understudy::repository::store::{Repository, RepositoryOptions};
use understudy::source::disk::Disk;
use understudy::support::clock::{Now, UnixNanos};
use understudy::support::env::{Clock, Env};
use understudy::support::progress::Progress;

const HOUR_NS: u64 = 3_600_000_000_000;

/// A wall clock that is advanced by hand.
struct Years(AtomicU64);

impl Clock for Years {
    fn now(&self) -> Now {
        Now { wall: UnixNanos(self.0.load(Ordering::Relaxed)), ..Env::system().now() }
    }

    fn sleep(&self, time: Duration) {
        Env::system().sleep(time);
    }
}

fn main() {
    let clock = Arc::new(Years(AtomicU64::new(1_800_000_000_000_000_000)));
    let env = Env::system().with_clock(clock.clone());
    let an_hour_passes = || clock.0.fetch_add(HOUR_NS, Ordering::Relaxed);
    let years = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(10u64);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..200 {
        std::fs::write(source.join(format!("f{number}")), format!("file {number}\n").repeat(50)).unwrap();
    }
    let objects: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let key = dir.path().join("key");
    let open = |cache: &str| {
        let keys = KeySource { key_file: Some(key.clone()), ..Default::default() };
        let options = RepositoryOptions {
            keys,
            cache: Some(dir.path().join(cache)),
            env: env.clone(),
            ..Default::default()
        };
        Repository::over(objects.clone(), "bench", options, runtime.handle().clone())
    };
    let name = StoreName::parse("acme").unwrap();
    let size = |part: &str| {
        let listed = objects.list(Some(&Path::from("acme").join(part))).try_collect::<Vec<_>>();
        let listed = runtime.block_on(listed).unwrap();
        (listed.len(), listed.iter().map(|o| o.size).sum::<u64>())
    };
    let request = Request {
        store: name.clone(),
        path: source.clone(),
        plan: PlanName::Private.plan(),
        excludes: Vec::new(),
        writer: WriterId("web-1".into()),
        daemon: None,
        accept: true,
        compression_level: 1,
        holes_max_bytes: understudy::service::run::HOLES_MAX_BYTES,
        threads: 1,
        one_filesystem: false,
        own_places: Vec::new(),
        own_mounts: Vec::new(),
        database_position: None,
        database_end: None,
        watched: None,
    };
    let retention = PlanName::Private.plan().retention;
    let (mut prunes, mut prune_seconds, mut last) = (0, 0.0, Default::default());
    let mut day = || {
        for hour in 0..24u64 {
            std::fs::write(source.join(format!("f{}", hour * 7 % 200)), env.wall().0.to_string().repeat(20))
                .unwrap();
            let progress = Progress::default();
            let around = ResyncContext { tree: &Disk::default(), progress: &progress, on_step: &|_| {} };
            resync(&open("cache"), &request, &around).unwrap();
            an_hour_passes();
        }
        let store = open("cache").store(&name);
        let mut request = PruneRequest::new(retention, WriterId("web-1".into()));
        // The objects have dates of this hour, not of those years.
        request.bounds.orphan_age = Duration::MAX;
        let begun = Instant::now();
        last = prune(&store, &request, &|_| {}).unwrap();
        (prunes, prune_seconds) = (prunes + 1, prune_seconds + begun.elapsed().as_secs_f64());
    };
    (0..20).for_each(|_| day());
    let store = open("cache").store(&name);
    let mut state = store.log().state().unwrap();
    for hour in 0..(years * 8766).saturating_sub(21 * 24) {
        let (_, record) = state.latest().unwrap();
        let record = SnapshotRecord { scan_start: env.wall(), scan_end: env.wall(), ..record.clone() };
        let mut append = |event| {
            store.log().append(&mut state, &request.writer, event).unwrap();
            store.checkpoints().make_if_due(&mut state);
        };
        append(Event::Snapshot(Box::new(record)));
        an_hour_passes();
        if hour % 24 == 23 {
            let times = state.snapshots.iter().map(|(s, r)| (*s, r.scan_start)).collect();
            let verdicts = decide(&retention, &times, &Default::default());
            let gone = verdicts.iter().filter(|(_, reasons)| reasons.is_empty()).map(|(s, _)| *s);
            let pruned = PruneRecord { at: env.wall(), snapshots: gone.collect(), ..Default::default() };
            let event = Event::Pruned(Box::new(pruned));
            store.log().append(&mut state, &request.writer, event).unwrap();
        }
    }
    day();
    let fresh = open("fresh");
    let begun = Instant::now();
    let store = fresh.store(&name);
    let state = store.log().state().unwrap();
    let index = Index::open(&store, &state).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let requests = fresh.requests();
    let begun = Instant::now();
    let whole = store.log().state_until(Sequence(u64::MAX)).unwrap();
    let whole_seconds = begun.elapsed().as_secs_f64();
    assert_eq!(whole.snapshots, state.snapshots);
    println!("| {years} years of hourly runs | |\n| --- | ---: |");
    println!("| records | {} |", state.head.unwrap().0);
    println!("| snapshots that stay | {} |", state.snapshots.len());
    println!("| opened by a host that has nothing, ms | {:.1} |", seconds * 1e3);
    println!(
        "| its requests, KiB received | {} get, {} list, {:.0} |",
        requests.get,
        requests.list,
        requests.received_bytes as f64 / 1024.0
    );
    println!("| the same by all records, s | {whole_seconds:.2} |");
    println!(
        "| segments, and their entries | {}, {} |",
        index.segments().len(),
        index.segments().iter().map(|s| u64::from(s.header.entries)).sum::<u64>()
    );
    println!("| a daily pruning, ms | {:.1} |", prune_seconds / f64::from(prunes) * 1e3);
    println!(
        "| needed of the packs' bytes, KiB | {:.0} of {:.0} |",
        last.alive_bytes as f64 / 1024.0,
        last.packs_bytes as f64 / 1024.0
    );
    for part in ["log", "checkpoints", "index", "packs"] {
        let (count, bytes) = size(part);
        println!("| {part}: objects, MiB | {count}, {:.1} |", bytes as f64 / 1048576.0);
    }
}
