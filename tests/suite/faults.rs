//! Promise 2: whatever the repository does at any call, the head is the old or the new snapshot, complete,
//! and the next run continues.

use crate::support::disk::SmallDisk;
use crate::support::facts::{self, assert_same};
use crate::support::faulty::{ALL, Fault, FaultyStore};
use crate::support::rig::{self, Rig};
use crate::support::tree::sample_tree;
use object_store::ObjectStore;
use std::sync::Arc;
use understudy::model::id::Sequence;
use understudy::model::snapshot_ref::Moment;

/// Returns a store with one snapshot, and a change that is not shipped yet.
fn changed_rig() -> (Rig, facts::Facts) {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let before = facts::of(&rig.source());
    std::fs::write(rig.source().join("c/new"), vec![5; 30_000]).unwrap();
    std::fs::write(rig.source().join("a/b/f7"), b"changed").unwrap();
    std::fs::remove_file(rig.source().join("a/b/f8")).unwrap();
    // This is a delta: its block entries are read, and bytes that they do not have are shipped.
    let mut medium = std::fs::read(rig.source().join("c/medium")).unwrap();
    medium.splice(700_000..700_000, *b"inserted");
    std::fs::write(rig.source().join("c/medium"), medium).unwrap();
    (rig, before)
}

/// Makes a run against a store that misbehaves at call `at`; returns the number of calls.
fn strike(fault: Fault, at: u64, on: bool) -> u64 {
    let (rig, before) = changed_rig();
    let faulty = FaultyStore::new(rig.objects.clone(), fault, at, on);
    let patience = if on { rig::patience(2) } else { rig::patience(3) };
    let patience = understudy::repository::objects::Patience {
        timeout: std::time::Duration::from_millis(30),
        ..patience
    };
    let result = rig::run(&rig::repository(faulty.clone(), patience), &rig::request(&rig.source()));
    let what = format!("{fault:?} at call {at}{}", if on { " and after" } else { "" });
    let state = rig.store().log().state().unwrap();
    let head = state.latest().map(|(s, _)| s);
    let restored = facts::of(&rig.restored(Moment::Latest));
    match head {
        Some(Sequence(1)) => assert_eq!(restored, before, "{what}: the old head"),
        Some(Sequence(2)) => assert_eq!(restored, facts::of(&rig.source()), "{what}: the new head"),
        other => panic!("{what}: the head is {other:?}"),
    }
    if result.is_ok() {
        assert_eq!(head, Some(Sequence(2)), "{what}: success was reported");
    }
    if !on && fault != Fault::Short {
        assert!(
            result.is_ok(),
            "{what}: one fault is not the end: {:?}",
            result.err().map(|e| e.to_string())
        );
    }
    let next = rig.resync();
    assert_same(&rig.source(), &rig.restored(Moment::At(next.snapshot)), &what);
    assert!(rig.verify().is_sound(), "{what}: {:?}", rig.verify());
    faulty.calls()
}

fn strike_everywhere(fault: Fault) {
    for on in [false, true] {
        let calls = strike(fault, u64::MAX, on);
        assert!(calls > 8, "the run makes {calls} calls");
        for at in 1..=calls {
            strike(fault, at, on);
        }
    }
}

#[test]
fn a_call_that_fails_leaves_the_old_or_the_new_head() {
    strike_everywhere(Fault::Fails);
}

#[test]
fn a_call_that_hangs_leaves_the_old_or_the_new_head() {
    strike_everywhere(Fault::Hangs);
}

#[test]
fn a_reply_that_is_lost_leaves_the_old_or_the_new_head() {
    strike_everywhere(Fault::ReplyLost);
}

#[test]
fn short_bytes_leave_the_old_or_the_new_head() {
    strike_everywhere(Fault::Short);
}

#[test]
fn flipped_bytes_leave_the_old_or_the_new_head() {
    strike_everywhere(Fault::Flipped);
}

#[test]
fn a_lost_reply_to_the_record_is_one_commit_not_two() {
    let (rig, _) = changed_rig();
    // The record is the last put of a run.
    let counting = FaultyStore::new(rig.objects.clone(), Fault::Fails, u64::MAX, false);
    rig::run(&rig::repository(counting.clone(), rig::patience(3)), &rig::request(&rig.source())).unwrap();
    for at in 1..=counting.calls() + 4 {
        let (rig, _) = changed_rig();
        let faulty = FaultyStore::new(rig.objects.clone(), Fault::ReplyLost, at, false);
        let report =
            rig::run(&rig::repository(faulty, rig::patience(3)), &rig::request(&rig.source())).unwrap();
        assert_eq!((report.snapshot, report.rebased), (Sequence(2), 0), "call {at}");
    }
}

#[test]
fn a_restore_from_a_failing_repository_is_whole_or_an_error_or_says_what_is_lost() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    for fault in ALL {
        for on in [false, true] {
            for at in 1.. {
                let faulty = FaultyStore::new(rig.objects.clone(), fault, at, on);
                let patience = understudy::repository::objects::Patience {
                    timeout: std::time::Duration::from_millis(30),
                    ..rig::patience(2)
                };
                let store =
                    rig::repository(faulty.clone() as Arc<dyn ObjectStore>, patience).store(&rig::name());
                let to = format!("r-{fault:?}-{on}-{at}");
                let request = rig.restore_request(&to);
                let result = rig::restore_at(&store, Moment::Latest, &request);
                match result {
                    Err(_) => {
                        assert!(!request.destination.exists(), "{to}: half a tree under the final name");
                        rig::restore_at(&rig.store(), Moment::Latest, &request).unwrap();
                    }
                    // Content that cannot be read is damaged: it is reported and left out.
                    Ok(report) if report.warnings.total() > 0 => {
                        let warnings = report.warnings;
                        assert_eq!(warnings.total(), warnings.damaged, "{to}: {warnings:?}");
                        let mut paths: Vec<Vec<u8>> =
                            warnings.first.iter().map(|w| w.path.clone().into_bytes()).collect();
                        paths.extend(facts::of(&request.destination).into_keys());
                        paths.sort();
                        let wanted: Vec<_> = facts::of(&rig.source()).into_keys().collect();
                        assert_eq!(paths, wanted, "{to}");
                        let over = understudy::restore::request::RestoreRequest {
                            existing: understudy::restore::request::Existing::Replace,
                            ..request
                        };
                        rig::restore_at(&rig.store(), Moment::Latest, &over).unwrap();
                        assert_same(&rig.source(), &over.destination, &to);
                        continue;
                    }
                    Ok(_) => {}
                }
                assert_same(&rig.source(), &request.destination, &to);
                if faulty.calls() < at {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_full_disk_under_the_repository_leaves_the_old_head() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    let disk = SmallDisk::mount(rig.dir.path().join("disk"), 4 << 20);
    let repository = || {
        let local = object_store::local::LocalFileSystem::new_with_prefix(&disk.0).unwrap().with_fsync(true);
        rig::repository(Arc::new(local), rig::disk_patience(2))
    };
    rig::run(&repository(), &rig::request(&rig.source())).unwrap();
    let before = facts::of(&rig.source());
    let mut random = vec![0; 8 << 20];
    blake3::Hasher::new().update(b"big").finalize_xof().fill(&mut random);
    std::fs::write(rig.source().join("big"), random).unwrap();
    let error = rig::run(&repository(), &rig::request(&rig.source())).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    let store = repository().store(&rig::name());
    rig::restore_at(&store, Moment::Latest, &rig.restore_request("old")).unwrap();
    assert_eq!(facts::of(&rig.dir.path().join("old")), before);
    disk.grow(64 << 20);
    rig::run(&repository(), &rig::request(&rig.source())).unwrap();
    rig::restore_at(&store, Moment::Latest, &rig.restore_request("new")).unwrap();
    assert_same(&rig.source(), &rig.dir.path().join("new"), "after the disk grew");
}

#[test]
fn a_full_disk_under_a_restore_is_an_error_and_goes_on_later() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let disk = SmallDisk::mount(rig.dir.path().join("disk"), 1 << 20);
    let request = understudy::restore::request::RestoreRequest {
        destination: disk.0.join("out"),
        ..rig.restore_request("")
    };
    let error = rig::restore_at(&rig.store(), Moment::Latest, &request).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(!request.destination.exists());
    disk.grow(64 << 20);
    let report = rig::restore_at(&rig.store(), Moment::Latest, &request).unwrap();
    assert!(report.resumed);
    assert_same(&rig.source(), &request.destination, "resumed");
}
