//! The store's clock decides what is deleted, and for which standby something is kept. All other clocks may
//! be wrong.

use crate::support::command::{ok, understudy};
use crate::support::dated::{BEGIN_NS, Dated};
use crate::support::rig::{self, Rig};
use crate::support::standby::{depot, follow_by, request};
use crate::support::tree::{random, sample_tree};
use std::sync::Arc;
use understudy::api::follow::FollowReport;
use understudy::maintain::prune::{Grace, PruneReport, PruneRequest, prune};
use understudy::model::id::WriterId;
use understudy::model::retention::Retention;
use understudy::repository::store::{Repository, Store};
use understudy::standby::follow::{FollowRequest, Observer, follow};
use understudy::support::progress::Progress;

const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;
struct Clocks {
    rig: Rig,
    store: Arc<Dated>,
    repository: Repository,
}

impl Clocks {
    fn new() -> Self {
        let rig = Rig::new();
        let store = Dated::new(rig.objects.clone());
        let repository = rig::repository(store.clone(), rig::patience(3));
        Self { rig, store, repository }
    }

    fn resync(&self, seed: u8) {
        std::fs::write(self.rig.source().join("file"), random(&[seed], 300_000)).unwrap();
        rig::run(&self.repository, &rig::request(&self.rig.source())).unwrap();
    }

    /// Prunes by the rule to keep one snapshot, with a pruner whose clock shows `now_ns`.
    fn prune(&self, now_ns: u64) -> PruneReport {
        let retention = Retention { last: 1, ..Default::default() };
        let mut request = PruneRequest::new(retention, WriterId("pruner".into()));
        request.grace = Grace { records: 0, ..Grace::default() };
        prune(&self.store_at(now_ns), &request, &|_| {}).unwrap()
    }

    fn follow(&self, host: &str, now_ns: u64) -> FollowReport {
        let progress = Progress::default();
        let observer = Observer { progress: &progress, on_step: &|_| {} };
        let request = FollowRequest { host: WriterId(host.into()), ..request() };
        follow(&self.store_at(now_ns), &depot(&self.rig), &request, &observer).unwrap()
    }

    /// Returns the store as a host with the clock `now_ns` sees it.
    fn store_at(&self, now_ns: u64) -> Store {
        self.repository.with_env(rig::env_at(move || now_ns)).store(&rig::name())
    }

    fn snapshots(&self) -> Vec<u64> {
        let state = self.repository.store(&rig::name()).log().state().unwrap();
        state.snapshots.keys().map(|sequence| sequence.0).collect()
    }
}

#[test]
fn no_clock_of_a_pruner_ends_a_grace_or_makes_it_last() {
    for clock in [|_: u64| 0, |now: u64| now, |now: u64| now + 10_000 * DAY_NS] {
        let clocks = Clocks::new();
        clocks.resync(1);
        clocks.resync(2);
        assert!(clocks.prune(clock(BEGIN_NS)).packs_doomed > 0);
        for (hours, goes) in [(0, false), (1, false), (71, false), (72, true)] {
            let now = BEGIN_NS + hours * HOUR_NS;
            clocks.store.set(now);
            let deleted = clocks.prune(clock(now)).objects_deleted;
            assert_eq!(
                deleted > 0,
                goes,
                "{deleted} after {hours} hours by a clock that says {}",
                clock(now)
            );
        }
    }
}

#[test]
fn a_store_whose_clock_was_wrong_deletes_nothing_early_and_blocks_nothing_for_ever() {
    for wrong in [1_000_000_000, BEGIN_NS + 4000 * DAY_NS] {
        let clocks = Clocks::new();
        clocks.resync(1);
        clocks.resync(2);
        clocks.store.set(wrong);
        assert!(clocks.prune(BEGIN_NS).packs_doomed > 0);
        assert_eq!(clocks.prune(BEGIN_NS).objects_deleted, 0, "while it is wrong");
        clocks.store.set(BEGIN_NS + HOUR_NS);
        assert_eq!(clocks.prune(BEGIN_NS).objects_deleted, 0, "an hour later, when it is right again");
        // A correctly dated record proves the minimum age of those before it.
        clocks.resync(3);
        clocks.store.set(BEGIN_NS + 74 * HOUR_NS);
        assert!(clocks.prune(BEGIN_NS).objects_deleted > 0, "three days later");
    }
}

#[test]
fn a_standby_holds_what_it_has_for_as_long_as_it_is_heard_of() {
    let clocks = Clocks::new();
    clocks.resync(1);
    clocks.follow("web-2", BEGIN_NS);
    clocks.resync(2);
    let puts = || clocks.repository.requests().put;
    // Nothing changes for months, and the standby writes its note about once a day.
    let before = puts();
    for hours in 0..100 * 24 {
        let now = BEGIN_NS + hours * HOUR_NS;
        clocks.store.set(now);
        let store = clocks.store_at(now);
        let progress = Progress::default();
        let observer = Observer { progress: &progress, on_step: &|_| {} };
        if hours % 4 == 0 {
            let old = understudy::model::snapshot_ref::Moment::At(understudy::model::id::Sequence(1));
            let request = FollowRequest { host: WriterId("web-2".into()), moment: old, ..request() };
            follow(&store, &depot(&clocks.rig), &request, &observer).unwrap();
        }
    }
    let told = puts() - before;
    assert!((90..=120).contains(&told), "told {told} times in 100 days");
    let now = BEGIN_NS + 100 * DAY_NS;
    clocks.store.set(now + 29 * DAY_NS);
    // The pruner's own clock is irrelevant.
    let report = clocks.prune(now + 1000 * DAY_NS);
    assert_eq!((clocks.snapshots(), report.silent_standbys.len()), (vec![1, 2], 0));
    clocks.store.set(now + 31 * DAY_NS);
    let report = clocks.prune(0);
    assert_eq!(clocks.snapshots(), [2]);
    let silent = &report.silent_standbys[0];
    assert_eq!((silent.host.as_str(), silent.silent_days, silent.forgotten), ("web-2", 31, false));
    assert_eq!(
        clocks.repository.store(&rig::name()).notes().standbys().unwrap().len(),
        1,
        "it is still shown"
    );
    clocks.store.set(now + 130 * DAY_NS);
    assert!(clocks.prune(0).silent_standbys[0].forgotten);
    assert_eq!(clocks.repository.store(&rig::name()).notes().standbys().unwrap(), []);
}

#[test]
fn a_standby_that_gets_another_name_holds_nothing_by_the_old_one() {
    let clocks = Clocks::new();
    for pod in 1..=5u8 {
        clocks.resync(pod);
        let report = clocks.follow(&format!("pod-{pod}"), BEGIN_NS);
        let before = (pod > 1).then(|| format!("pod-{}", pod - 1));
        assert_eq!(report.renamed_from, before);
    }
    let hosts: Vec<_> = clocks
        .repository
        .store(&rig::name())
        .notes()
        .standbys()
        .unwrap()
        .into_iter()
        .map(|s| s.host.0)
        .collect();
    assert_eq!(hosts, ["pod-5"]);
    clocks.prune(BEGIN_NS);
    assert_eq!(clocks.snapshots(), [5]);
    assert_eq!(clocks.follow("pod-5", BEGIN_NS).renamed_from, None);
}

#[test]
fn a_name_is_given_by_the_environment_and_a_standby_that_is_gone_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command
            .env("UNDERSTUDY_STANDBY", dir.path().join("standby"))
            .env("UNDERSTUDY_WRITER", "stable")
            .args(args);
        command
    };
    ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
    ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
    let note = dir.path().join("repository/acme/standbys/stable");
    // The directory's dates are the store's clock.
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(40 * 86_400);
    std::fs::File::options().write(true).open(&note).unwrap().set_modified(then).unwrap();
    let shown = String::from_utf8(ok(&mut command(&["status"])).stdout).unwrap();
    assert!(shown.contains("stable @1 (not seen since 20"), "{shown}");
    let pruned = ok(&mut command(&["prune", "acme", "--keep-last", "1"]));
    let said = String::from_utf8_lossy(&pruned.stderr).into_owned();
    assert!(said.contains("standby 'stable' last reported 40 days ago"), "{said}");
}

#[test]
fn what_broken_off_uploads_and_probes_left_goes_when_it_is_old_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    let root = dir.path().join("repository");
    let week = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 86_400);
    let make = |path: &str, old: bool| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        if old {
            file.set_modified(week).unwrap();
        }
        path
    };
    let name = "ab".repeat(32);
    let goes = [
        make(&format!("acme/packs/ab/{name}#1"), true),
        make(&format!("acme/index/{name}#12"), true),
        make("acme/log/00000000000000000002#1", true),
        make("acme/standbys/web-2#1", true),
        make(".probe/00000000000000ab#1", true),
        make(".probe/00000000000000cd", true),
    ];
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("theirs#1"), b"").unwrap();
    std::fs::File::options().write(true).open(outside.join("theirs#1")).unwrap().set_modified(week).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("acme/packs/cd")).unwrap();
    std::os::unix::fs::symlink(outside.join("theirs#1"), root.join("acme/log/link#1")).unwrap();
    let stays = [
        make(&format!("acme/packs/ab/{name}#2"), false),
        make(".probe/00000000000000ef", false),
        make("acme/log/#1", true),
        make("acme/log/x#1y", true),
        make("other/log/00000000000000000001#1", true),
        make("stranger#1", true),
        outside.join("theirs#1"),
        root.join("acme/log/link#1"),
    ];
    std::fs::create_dir(root.join("acme/log/directory#1")).unwrap();
    let output = ok(understudy(dir.path()).args(["prune", "acme", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report[0]["leftovers_deleted"], goes.len(), "{report}");
    for path in goes {
        assert!(!path.exists(), "{}", path.display());
    }
    for path in stays {
        assert!(path.symlink_metadata().is_ok(), "{}", path.display());
    }
    assert!(root.join("acme/log/directory#1").exists());
}

#[test]
fn a_full_cache_is_not_filled_by_what_could_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let disk = crate::support::disk::SmallDisk::mount(dir.path().join("cache"), 256 << 10);
    for round in 0..4u8 {
        std::fs::write(dir.path().join("source/c/new"), random(&[round], 400_000)).unwrap();
        ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    }
    let names = walkdir::WalkDir::new(&disk.0).into_iter().flatten().map(|e| e.file_name().to_owned());
    let broken: Vec<_> = names
        .filter(|name| name.to_string_lossy().contains('.') && name.to_string_lossy().contains('-'))
        .collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn a_follower_tells_by_the_real_clock_no_more_than_once() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let before = rig.repository.requests();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert_eq!(rig.repository.requests().since(&before).put, 0);
}
