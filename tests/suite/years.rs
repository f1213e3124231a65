//! Years of running: retention, pruning, checkpoints, repair; and what an attacker with a primary's
//! credentials can do.

use crate::support::faulty::{self, Fault, FaultyStore};
use crate::support::objects::{self, Damage, delete, listed, write};
use crate::support::rig::{self, Rig};
use crate::support::tree::{random, sample_tree};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use std::time::Duration;
use understudy::maintain::prune::{Grace, PruneError, PruneReport, PruneRequest, prune};
use understudy::maintain::verify::{self, VerifyOptions};
use understudy::model::id::{PackId, Sequence, WriterId};
use understudy::model::record::{Event, PruneRecord, SnapshotRecord, StoreState};
use understudy::model::retention::Retention;
use understudy::model::snapshot_ref::Moment;
use understudy::repository::append::Appended;
use understudy::repository::standbys::StandbyReport;
use understudy::repository::store::{Repository, RepositoryOptions, Store};
use understudy::support::clock::UnixNanos;
use understudy::support::failure::{Failure, FailureKind};

fn last(count: u32) -> PruneRequest {
    let retention = Retention { last: count, ..Default::default() };
    let mut request = PruneRequest::new(retention, WriterId("pruner".into()));
    request.grace = Grace { records: 0, time: Duration::ZERO };
    request.bounds.orphan_age = Duration::ZERO;
    request
}

fn pruned(store: &Store, request: &PruneRequest) -> Result<PruneReport, PruneError> {
    prune(store, request, &|_| {})
}

fn bytes(rig: &Rig) -> u64 {
    listed(rig, "/packs/").iter().map(|(_, size)| size).sum()
}

/// Makes snapshots of a tree that partly changes each time and compresses badly.
fn versions(rig: &Rig, count: u64) {
    for version in 0..count {
        std::fs::write(rig.source().join("same"), random(b"same", 300_000)).unwrap();
        for number in 0..4u64 {
            let seed = if number == 0 { 0 } else { version * 10 + number };
            std::fs::write(rig.source().join(format!("f{number}")), random(&seed.to_le_bytes(), 100_000))
                .unwrap();
        }
        rig.resync();
    }
}

#[test]
fn what_no_rule_keeps_goes_and_what_it_alone_had() {
    let rig = Rig::new();
    versions(&rig, 6);
    let before = bytes(&rig);
    let dry = pruned(&rig.store(), &PruneRequest { dry_run: true, ..last(2) }).unwrap();
    assert_eq!((dry.snapshots_dropped, dry.record), (4, None));
    assert!(dry.snapshots.iter().all(|v| v.kept_for.is_empty() == (v.snapshot < Sequence(5))), "{dry:?}");
    assert!(bytes(&rig) == before && rig.store().log().state().unwrap().snapshots.len() == 6);

    let report = pruned(&rig.store(), &last(2)).unwrap();
    assert_eq!((report.snapshots_dropped, report.packs_doomed), (4, dry.packs_doomed));
    assert!(rig.verify().is_sound());
    // Doomed packs still exist for running readers; then they are deleted.
    assert!(bytes(&rig) >= before);
    let report = pruned(&rig.store(), &last(2)).unwrap();
    assert!(report.objects_deleted > 0 && report.packs_waiting == 0, "{report:?}");
    let left = bytes(&rig);
    assert!(left < 300_000 + 100_000 + 2 * 300_000 + 100_000, "{left} of {before}");
    assert!(rig.verify().is_sound());
    assert_eq!(
        std::fs::read(rig.restored(Moment::At(Sequence(5))).join("f2")).unwrap(),
        random(&42u64.to_le_bytes(), 100_000)
    );
    // A pruning with nothing to do makes no record.
    assert_eq!(pruned(&rig.store(), &last(2)).unwrap().record, None);
    // A later resync finds everything in its place.
    let report = rig.resync();
    assert_eq!((report.changes.unchanged, report.new_bytes), (6, 0));
}

#[test]
fn what_is_in_use_stays() {
    let rig = Rig::new();
    versions(&rig, 6);
    let store = rig.store();
    let mut state = store.log().state().unwrap();
    let event = Event::Pinned { snapshot: Sequence(2), note: "release".into() };
    assert!(matches!(
        store.log().append(&mut state, &WriterId("op".into()), event),
        Ok(Appended::Committed(_))
    ));
    let host = WriterId("standby-1".into());
    let report = StandbyReport {
        host: host.clone(),
        snapshot: Sequence(4),
        published: UnixNanos(1),
        pinned: vec![Sequence(1)],
        noted: UnixNanos::EPOCH,
    };
    store.notes().report_standby(&report).unwrap();
    let told = store.notes().standbys().unwrap();
    assert!(told[0].noted > UnixNanos(1), "the store dates it");
    assert_eq!(told, [StandbyReport { noted: told[0].noted, ..report }]);
    pruned(&store, &last(1)).unwrap();
    let kept: Vec<_> = store.log().state().unwrap().snapshots.into_keys().map(|s| s.0).collect();
    assert_eq!(kept, [1, 2, 4, 6]);
    assert!(store.notes().forget_standby(&host).unwrap());
    pruned(&store, &last(1)).unwrap();
    let kept: Vec<_> = store.log().state().unwrap().snapshots.into_keys().map(|s| s.0).collect();
    assert_eq!(kept, [2, 6]);
    assert!(rig.verify().is_sound());
}

#[test]
fn a_content_that_only_dropped_snapshots_had_is_shipped_again() {
    let rig = Rig::new();
    let file = rig.source().join("file");
    for content in [b"a", b"b"] {
        std::fs::write(&file, content.repeat(50_000)).unwrap();
        rig.resync();
    }
    pruned(&rig.store(), &last(1)).unwrap();
    std::fs::write(&file, b"a".repeat(50_000)).unwrap();
    rig.resync();
    pruned(&rig.store(), &last(1)).unwrap();
    pruned(&rig.store(), &last(1)).unwrap();
    assert!(rig.verify().is_sound());
    assert_eq!(std::fs::read(rig.restored(Moment::Latest).join("file")).unwrap(), b"a".repeat(50_000));
}

#[test]
fn a_run_whose_chunks_are_pruned_under_it_ships_them_again() {
    let rig = Rig::new();
    let file = rig.source().join("file");
    for content in [b"a", b"b"] {
        std::fs::write(&file, content.repeat(50_000)).unwrap();
        rig.resync();
    }
    // The run finds "a" in the index; before it commits, prunings doom that chunk and delete it.
    std::fs::write(&file, b"a".repeat(50_000)).unwrap();
    let progress = Default::default();
    let done = std::sync::atomic::AtomicBool::new(false);
    let around = understudy::replicate::resync::ResyncContext {
        tree: &understudy::source::disk::Disk::default(),
        progress: &progress,
        on_step: &|step| {
            let late = step == understudy::support::progress::Step::Shipped;
            if late && !done.swap(true, std::sync::atomic::Ordering::Relaxed) {
                pruned(&rig.store(), &last(1)).unwrap();
                assert!(pruned(&rig.store(), &last(1)).unwrap().objects_deleted > 0);
            }
        },
    };
    let report =
        understudy::replicate::resync::resync(&rig.repository, &rig::request(&rig.source()), &around)
            .unwrap();
    assert!(done.into_inner());
    assert!(rig.verify().is_sound());
    assert_eq!(
        std::fs::read(rig.restored(Moment::At(report.snapshot)).join("file")).unwrap(),
        b"a".repeat(50_000)
    );
}

#[test]
fn a_reader_that_began_before_finds_what_was_copied_elsewhere() {
    use understudy::repository::chunks::ChunkReader;
    use understudy::repository::index::Index;
    let rig = Rig::new();
    versions(&rig, 4);
    let store = rig.store();
    let state = store.log().state().unwrap();
    let reader = ChunkReader::new(store.clone(), Arc::new(Index::open(&store, &state).unwrap()));
    // The first pack has what all versions share, and much that only the first version had.
    let mut request = last(1);
    request.bounds.unused_percent = 0;
    assert!(pruned(&store, &request).unwrap().packs_repacked > 0);
    assert!(pruned(&store, &request).unwrap().objects_deleted > 0);
    let (_, record) = state.latest().unwrap();
    understudy::restore::run::restore(
        reader,
        &record.manifest,
        "t",
        &rig.restore_request("out"),
        &Default::default(),
    )
    .unwrap();
    assert_eq!(std::fs::read(rig.dir.path().join("out/same")).unwrap(), random(b"same", 300_000));
}

#[test]
fn an_index_that_is_renewed_keeps_what_its_run_wrote() {
    use understudy::format::frame::{ChunkType, Compressor};
    use understudy::model::id::ChunkId;
    use understudy::repository::index::Index;
    use understudy::repository::packer::Packer;
    let rig = Rig::new();
    versions(&rig, 2);
    let store = rig.store();
    let state = store.log().state().unwrap();
    let index = Arc::new(Index::open(&store, &state).unwrap());
    let packer = Packer::new(store.clone(), index.clone());
    let ours = ChunkId::of(b"ours");
    packer.add(ours, ChunkType::Data, b"ours", &mut Compressor::new(1).unwrap(), &mut Vec::new()).unwrap();
    let shipped = packer.close().unwrap();
    // Meanwhile another run commits, and a pruning moves chunks.
    versions(&rig, 3);
    let mut request = last(1);
    // This run's pack is no orphan, since the run is in progress.
    request.bounds.orphan_age = Duration::MAX;
    pruned(&rig.store(), &request).unwrap();
    assert!(index.renew(&store).unwrap() && !index.renew(&store).unwrap());
    assert!(index.lookup(ours).unwrap().is_some());
    assert_eq!(index.added(&state.index, &state).iter().filter(|s| shipped.segments.contains(s)).count(), 1);
}

#[test]
fn a_fault_at_any_call_of_a_pruning_loses_nothing_and_the_next_one_ends_it() {
    for fault in [Fault::Fails, Fault::ReplyLost, Fault::Short, Fault::Flipped] {
        let mut at = 1;
        loop {
            let rig = Rig::new();
            versions(&rig, 4);
            pruned(&rig.store(), &last(3)).unwrap();
            let faulty = FaultyStore::new(rig.objects.clone(), fault, at, false);
            let repository = rig::repository(faulty.clone(), rig::patience(1));
            let done = pruned(&repository.store(&rig::name()), &last(1));
            assert!(rig.verify().is_sound(), "{fault:?} at call {at}: {done:?}");
            for _ in 0..2 {
                pruned(&rig.store(), &last(1)).unwrap();
            }
            assert!(rig.verify().is_sound(), "{fault:?} at call {at}");
            assert_eq!(rig.store().log().state().unwrap().snapshots.len(), 1);
            let left = bytes(&rig);
            assert!(left < 900_000, "{fault:?} at call {at}: {left} bytes are left");
            if faulty.calls() < at {
                break;
            }
            at += 1;
        }
        assert!(at > 15, "{fault:?}: {at} calls");
    }
    let _ = faulty::ALL;
}

/// Refuses what credentials without the right to delete refuse: to delete and to overwrite.
#[derive(Debug)]
struct AppendOnly(Arc<dyn ObjectStore>);

impl std::fmt::Display for AppendOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "append-only")
    }
}

fn denied(at: &Path) -> object_store::Error {
    object_store::Error::PermissionDenied { path: at.to_string(), source: "append-only".into() }
}

#[async_trait::async_trait]
impl ObjectStore for AppendOnly {
    async fn put_opts(
        &self,
        at: &Path,
        payload: object_store::PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        // A host's own notes may be replaced; a bucket with versions keeps the old ones.
        let is_note = ["standbys", "upkeep"].iter().any(|part| at.as_ref().contains(part));
        if options.mode != object_store::PutMode::Create && !is_note {
            return Err(denied(at));
        }
        self.0.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        _: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        Err(denied(at))
    }

    async fn get_opts(
        &self,
        at: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
        use futures::StreamExt;
        locations.map(|at| at.and_then(|at| Err(denied(&at)))).boxed()
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&Path>,
    ) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, to: &Path, _: object_store::CopyOptions) -> object_store::Result<()> {
        Err(denied(to))
    }
}

#[test]
fn a_primary_that_may_not_delete_does_all_of_its_work() {
    let rig = Rig::new();
    let primary = rig::repository(Arc::new(AppendOnly(rig.objects.clone())), rig::patience(1));
    sample_tree(&rig.source());
    for round in 0..12u8 {
        std::fs::write(rig.source().join("changing"), [round; 9000]).unwrap();
        rig::run(&primary, &rig::request(&rig.source())).unwrap();
    }
    // It prunes as far as it is permitted: it dooms, and another host deletes.
    let store = primary.store(&rig::name());
    pruned(&store, &last(2)).unwrap();
    let report = pruned(&store, &last(2)).unwrap();
    assert!(report.deletion_refused.is_some() && report.objects_deleted == 0, "{report:?}");
    assert!(pruned(&rig.store(), &last(2)).unwrap().objects_deleted > 0);
    assert!(rig.verify().is_sound());
}

#[test]
fn a_primary_that_was_taken_over_gets_no_history_deleted() {
    let rig = Rig::new();
    versions(&rig, 5);
    // These credentials only permit to append: a record that drops everything and dooms every pack.
    let primary = rig::repository(Arc::new(AppendOnly(rig.objects.clone())), rig::patience(1));
    let store = primary.store(&rig::name());
    let mut state = store.log().state().unwrap();
    let packs = listed(&rig, "/packs/");
    let ids =
        packs.iter().map(|(at, _)| understudy::model::id::PackId::parse(at.filename().unwrap()).unwrap());
    let record = PruneRecord {
        snapshots: (1..=5).map(Sequence).collect(),
        doomed_packs: ids.collect(),
        index: Some(Vec::new()),
        ..Default::default()
    };
    let event = Event::Pruned(Box::new(record));
    store.log().append(&mut state, &WriterId("tester".into()), event).unwrap();
    for (at, _) in &packs {
        let refused = rig::runtime().block_on(AppendOnly(rig.objects.clone()).delete(at)).unwrap_err();
        assert!(matches!(refused, object_store::Error::PermissionDenied { .. }));
    }
    // A host that may delete does not, since the rules keep what was dropped.
    let keeping = PruneRequest { retention: Retention { last: 3, days: 7, ..Default::default() }, ..last(0) };
    let error = pruned(&rig.store(), &keeping).unwrap_err();
    assert!(matches!(error, PruneError::Held { by: Sequence(6), count: 3, .. }), "{error}");
    assert!(error.to_string().contains("--until-record 5"), "{error}");
    assert_eq!(listed(&rig, "/packs/"), packs);
    // All of it can be restored as of the record before.
    let state = rig.store().log().state_until(Sequence(5)).unwrap();
    assert_eq!(state.snapshots.len(), 5);
    let index =
        understudy::repository::index::Index::of(&rig.store(), &state.index, Default::default()).unwrap();
    let chunks = understudy::repository::chunks::ChunkReader::new(rig.store(), Arc::new(index));
    let (_, record) = state.latest().unwrap();
    understudy::restore::run::restore(
        chunks,
        &record.manifest,
        "t",
        &rig.restore_request("out"),
        &Default::default(),
    )
    .unwrap();
    assert_eq!(std::fs::read(rig.dir.path().join("out/f3")).unwrap(), random(&43u64.to_le_bytes(), 100_000));
}

#[test]
fn no_shape_of_records_gets_history_deleted_without_a_word() {
    type Forge = fn(&StoreState, &[PackId], u64) -> Option<Event>;
    let shapes: [(&str, Forge); 4] = [
        // The record drops only, and leaves dooming to the pruner.
        ("a drop alone", |_, _, step| {
            let snapshots = vec![Sequence(1), Sequence(2), Sequence(3), Sequence(4)];
            (step == 0).then(|| Event::Pruned(Box::new(PruneRecord { snapshots, ..Default::default() })))
        }),
        ("dooms that are taken back and made again", |_, packs, step| {
            let snapshots = vec![Sequence(1), Sequence(2), Sequence(3), Sequence(4)];
            let doomed_packs = packs.to_vec();
            let record = match step {
                0 => PruneRecord { snapshots, doomed_packs, ..Default::default() },
                1 => PruneRecord { deleted_packs: doomed_packs, ..Default::default() },
                2 => PruneRecord { doomed_packs, ..Default::default() },
                _ => return None,
            };
            Some(Event::Pruned(Box::new(record)))
        }),
        ("an empty index", |_, _, step| {
            let record = PruneRecord { index: Some(Vec::new()), ..Default::default() };
            (step == 0).then(|| Event::Pruned(Box::new(record)))
        }),
        ("a snapshot that merges all segments into none", |state, _, step| {
            let (_, last) = state.latest().unwrap();
            let merged_index = state.index.iter().map(|segment| segment.id).collect();
            let (new_packs, new_index) = (Vec::new(), Vec::new());
            let record = SnapshotRecord { merged_index, new_packs, new_index, ..last.clone() };
            (step == 0).then(|| Event::Snapshot(Box::new(record)))
        }),
    ];
    for (what, forge) in shapes {
        let rig = Rig::new();
        versions(&rig, 5);
        let store =
            rig::repository(Arc::new(AppendOnly(rig.objects.clone())), rig::patience(1)).store(&rig::name());
        let mut state = store.log().state().unwrap();
        let packs = listed(&rig, "/packs/");
        let ids: Vec<_> =
            packs.iter().map(|(at, _)| PackId::parse(at.filename().unwrap()).unwrap()).collect();
        for step in 0.. {
            let Some(event) = forge(&state, &ids, step) else { break };
            store.log().append(&mut state, &WriterId("tester".into()), event).unwrap();
        }
        // Without any grace, repeatedly, and with a grace that is not over.
        let keeping =
            PruneRequest { retention: Retention { last: 5, days: 7, ..Default::default() }, ..last(0) };
        let patient = PruneRequest { grace: Grace::default(), ..keeping.clone() };
        for round in 0..4 {
            let error = pruned(&rig.store(), if round == 3 { &patient } else { &keeping }).unwrap_err();
            let is_held = matches!(error, PruneError::Held { .. } | PruneError::Missing { .. });
            assert!(is_held, "{what}, {round}: {error}");
            assert_eq!(listed(&rig, "/packs/"), packs, "{what}, {round}");
            if round == 1 {
                // Further records do not end the hold.
                let again = PruneRecord::default();
                let event = Event::Pruned(Box::new(again));
                store.log().append(&mut state, &WriterId("tester".into()), event).unwrap();
            }
        }
        // An operator may accept it after a look: once, on a host that remembers it.
        let accepted = PruneRequest { accept: true, ..patient.clone() };
        let here = cached(&rig, "pruner").store(&rig::name());
        pruned(&here, &accepted).unwrap();
        let after = pruned(&here, &patient);
        assert!(!matches!(after, Err(PruneError::Held { .. })), "{what}: {after:?}");
    }
}

fn cached(rig: &Rig, cache: &str) -> Repository {
    let cache = Some(rig.dir.path().join(cache));
    let options = RepositoryOptions {
        patience: rig::patience(3),
        keys: rig::key_source(),
        cache,
        ..Default::default()
    };
    Repository::over(rig.objects.clone(), "test", options, rig::runtime())
}

#[test]
fn a_long_log_opens_by_its_checkpoint_and_with_few_segments() {
    let rig = Rig::new();
    std::fs::write(rig.source().join("file"), b"first").unwrap();
    for round in 0..300u32 {
        std::fs::write(rig.source().join("file"), round.to_le_bytes()).unwrap();
        rig::run(&cached(&rig, "cache"), &rig::request(&rig.source())).unwrap();
    }
    let whole = rig.store().log().state_until(Sequence(u64::MAX)).unwrap();
    assert_eq!(whole.snapshots.len(), 300);
    assert!(whole.index.len() <= 21, "{} segments", whole.index.len());
    assert_eq!(listed(&rig, "/checkpoints/").len(), 2);
    // Without a cache: reads the log after the last checkpoint, and nothing before it.
    let fresh = cached(&rig, "fresh");
    let state = fresh.store(&rig::name()).log().state().unwrap();
    assert_eq!((state.checkpoint, &state.snapshots), (Some(Sequence(256)), &whole.snapshots));
    let honest = fresh.requests();
    // Checkpoints that an attacker adds, sealed with an unknown key, cost a few requests, and no reading of
    // the keyring.
    for number in 0..50u64 {
        let at = object_store::path::Path::from(format!("acme/checkpoints/{:020}", 1_000_000 + number));
        let bytes = [b"USCHECK\x01\x01\xff\xff\xff\x7f".as_slice(), &[number as u8; 48]].concat();
        write(&rig, &at, bytes);
    }
    let fooled = cached(&rig, "fooled");
    assert_eq!(fooled.store(&rig::name()).log().state().unwrap().snapshots, whole.snapshots);
    let (made, lists) = (fooled.requests(), honest.list);
    assert_eq!(made.list, lists);
    assert!(made.get <= 300 + honest.get, "{made:?}");
    assert_eq!((&state.index, &state.doomed_index), (&whole.index, &whole.doomed_index));
    let requests = fresh.requests();
    assert!(requests.get <= 2 + 45 && requests.list <= 3, "{requests:?}");
    // Merged segments are deleted.
    assert_eq!(cached(&rig, "cache").store(&rig::name()).log().state().unwrap().snapshots.len(), 300);
    pruned(&rig.store(), &last(300)).unwrap();
    pruned(&rig.store(), &last(300)).unwrap();
    assert!(listed(&rig, "/index/").len() <= 21 && rig.verify().is_sound());
    // A damaged or forged checkpoint has no further effect.
    for (at, _) in listed(&rig, "/checkpoints/") {
        write(&rig, &at, "no checkpoint");
    }
    assert_eq!(cached(&rig, "another").store(&rig::name()).log().state().unwrap().snapshots.len(), 300);
}

#[test]
fn a_host_that_saw_the_log_when_it_was_short_reads_each_record_since_then_once() {
    let rig = Rig::new();
    versions(&rig, 1);
    cached(&rig, "old").store(&rig::name()).log().state().unwrap();
    let store = rig.store();
    let mut state = store.log().state().unwrap();
    for _ in 0..700 {
        let event = Event::Unpinned { snapshot: Sequence(1) };
        store.log().append(&mut state, &WriterId("op".into()), event).unwrap();
        store.checkpoints().make_if_due(&mut state);
    }
    let old = cached(&rig, "old");
    assert_eq!(old.store(&rig::name()).log().state().unwrap().head, state.head);
    // Only the records between what it saw and the checkpoint tie the two together.
    assert!(old.requests().get <= 700 + 10, "{:?}", old.requests());
    let again = cached(&rig, "old");
    assert_eq!(again.store(&rig::name()).log().state().unwrap().head, state.head);
    assert!(again.requests().get < 10, "{:?}", again.requests());
}

#[test]
fn a_log_that_was_rolled_back_is_not_taken() {
    let rig = Rig::new();
    versions(&rig, 3);
    cached(&rig, "cache").store(&rig::name()).log().state().unwrap();
    let log = listed(&rig, "/log/");
    delete(&rig, &log[2].0);
    let error = cached(&rig, "cache").store(&rig::name()).log().state().unwrap_err();
    assert!(error.to_string().contains("rolled back") && error.kind() == FailureKind::Damaged, "{error}");
    assert!(rig::run(&cached(&rig, "cache"), &rig::request(&rig.source())).is_err());
    // The same for a log that continued differently from there.
    versions(&rig, 3);
    let error = cached(&rig, "cache").store(&rig::name()).log().state().unwrap_err();
    assert!(error.to_string().contains("another record there"), "{error}");
}

#[test]
fn a_standby_drops_nothing_for_a_log_that_was_rolled_back() {
    use understudy::standby::depot::Depot;
    use understudy::standby::follow::{FollowRequest, Observer, follow};
    let rig = Rig::new();
    let depot = Depot::new(&rig.dir.path().join("standby"), &rig::name());
    let request = FollowRequest {
        moment: Moment::Latest,
        keep: 10,
        seed: None,
        threads: 1,
        host: WriterId("standby-1".into()),
    };
    let progress = Default::default();
    let observer = Observer { progress: &progress, on_step: &|_| {} };
    for _ in 0..3 {
        versions(&rig, 1);
        std::fs::write(rig.source().join("f1"), rig::nonce().to_le_bytes()).unwrap();
        rig.resync();
        follow(&rig.store(), &depot, &request, &observer).unwrap();
    }
    let before = depot.snapshots().unwrap();
    assert_eq!(before.len(), 3);
    for (at, _) in &listed(&rig, "/log/")[2..] {
        delete(&rig, at);
    }
    let error = follow(&rig.store(), &depot, &request, &observer).unwrap_err();
    assert!(error.to_string().contains("rolled back"), "{error}");
    assert_eq!(depot.snapshots().unwrap(), before);
}

#[test]
fn verification_by_share_reads_everything_in_its_turn() {
    let rig = Rig::new();
    versions(&rig, 10);
    let packs = listed(&rig, "/packs/").len() as u64;
    let (mut after, mut read, mut rounds) = (None, 0, 0);
    while rounds == 0 {
        let options = VerifyOptions { read_data_percent: 25, after, is_over: &|| false };
        let report = verify::verify(&rig.store(), options).unwrap();
        assert!(report.is_sound());
        (after, read) = (report.read_until, read + report.packs_read);
        rounds += u64::from(report.came_round);
    }
    assert!(read >= packs, "{read} of {packs}");
    let none = VerifyOptions { read_data_percent: 100, after: None, is_over: &|| true };
    assert_eq!(verify::verify(&rig.store(), none).unwrap().packs_read, 0);
}

#[test]
fn what_the_repository_lost_is_shipped_again() {
    use std::os::unix::fs::FileExt;
    let source_of = |rig: &Rig| {
        let source = rig.source();
        move |entry: &understudy::model::entry::Entry, offset: u64, length: usize| {
            let path = source.join(entry.path.to_string());
            let file = std::fs::File::open(path).ok()?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).ok()?;
            Some(bytes)
        }
    };
    for damage in ["delete", "cut", "flip", "index"] {
        let rig = Rig::new();
        std::fs::create_dir(rig.source().join("dir")).unwrap();
        std::fs::write(rig.source().join("dir/large"), random(b"large", 3_000_000)).unwrap();
        versions(&rig, 2);
        std::fs::write(rig.source().join("dir/large"), [&random(b"large", 3_000_000)[..], b"more"].concat())
            .unwrap();
        rig.resync();
        let mut packs = listed(&rig, if damage == "index" { "/index/" } else { "/packs/" });
        packs.sort_by_key(|(_, size)| *size);
        // The largest object has content, and no page that is nowhere else.
        let (at, _) = packs.pop().unwrap();
        match damage {
            "delete" => objects::damage(&rig, &at, Damage::Delete),
            "cut" => objects::damage(&rig, &at, Damage::Truncate),
            _ => objects::damage(&rig, &at, Damage::Flip),
        }
        assert!(!rig.verify().is_sound(), "{damage}");
        let repository = cached(&rig, "cache");
        let store = repository.store(&rig::name());
        let report =
            understudy::maintain::repair::repair(&store, &WriterId("op".into()), &source_of(&rig)).unwrap();
        assert!(report.record.is_some(), "{damage}");
        let after = rig.verify();
        if report.lost {
            // Pages were lost as well, which no file has; the next snapshot is complete again.
            let next = rig.resync();
            let after = rig.verify();
            assert!(after.touched.iter().all(|t| t.snapshot < next.snapshot), "{damage}: {after:?}");
        } else {
            assert!(after.is_sound(), "{damage}: {after:?}");
        }
        let out = rig.restored(Moment::Latest);
        let large = [&random(b"large", 3_000_000)[..], b"more"].concat();
        assert!(std::fs::read(out.join("dir/large")).unwrap() == large, "{damage}");
    }
}
