//! {delete, truncate, flip a bit} × {pack, index, record, page}: `verify` names the broken objects and the
//! affected files of the snapshots; no broken file is ever restored as if it were sound.

use crate::facts;
use crate::rig::{self, Rig, sample_tree};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use std::collections::BTreeSet;
use understudy::maintain::verify::{self, VerifyOptions};
use understudy::model::id::Sequence;
use understudy::model::snapshot_ref::Moment;
use understudy::restore::request::RestoreRequest;

fn wait<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

pub fn keys(rig: &Rig, part: &str) -> Vec<Path> {
    let all: Vec<_> = wait(rig.objects.list(None).try_collect()).unwrap();
    let mut keys: Vec<_> =
        all.into_iter().map(|o| o.location).filter(|k| k.as_ref().contains(part)).collect();
    keys.sort();
    keys
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Delete,
    Truncate,
    Flip,
}

pub fn damage(rig: &Rig, key: &Path, damage: Damage) {
    let mut bytes = wait(async { rig.objects.get(key).await.unwrap().bytes().await.unwrap() }).to_vec();
    let middle = bytes.len() / 2;
    match damage {
        Damage::Delete => return wait(rig.objects.delete(key)).unwrap(),
        Damage::Truncate => bytes.truncate(middle),
        Damage::Flip => bytes[middle] ^= 1,
    }
    wait(rig.objects.put(key, PutPayload::from(bytes))).unwrap();
}

/// Returns a store with two snapshots; the second adds one file of 700,000 random bytes.
fn two_snapshots() -> (Rig, Vec<Path>) {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let first = keys(&rig, "/packs/");
    let mut random = vec![0; 700_000];
    blake3::Hasher::new().finalize_xof().fill(&mut random);
    std::fs::write(rig.source().join("c/added"), random).unwrap();
    rig.resync();
    let second = keys(&rig, "/packs/").into_iter().filter(|k| !first.contains(k)).collect();
    (rig, second)
}

#[test]
fn a_damaged_pack_is_named_with_the_files_of_the_snapshots_that_need_it() {
    for kind in [Damage::Delete, Damage::Truncate, Damage::Flip] {
        let (rig, second) = two_snapshots();
        assert_eq!(second.len(), 1);
        damage(&rig, &second[0], kind);
        let report = rig.verify();
        assert!(report.problems.iter().any(|p| p.key == second[0].as_ref()), "{kind:?}: {report:?}");
        let snapshots: BTreeSet<_> = report.touched.iter().map(|t| t.snapshot).collect();
        assert_eq!(snapshots, BTreeSet::from([Sequence(2)]), "{kind:?}: {report:?}");
        if matches!(kind, Damage::Flip) {
            // The middle of the pack belongs to the one large file.
            assert!(report.touched.iter().all(|t| t.path == "c/added"), "{report:?}");
        }
        // If the pages are lost with the content, nothing is restored; else everything but the one file.
        let restored = rig::restore_at(&rig.store(), Moment::Latest, &rig.restore_request("bad"));
        let bad = rig.dir.path().join("bad");
        match restored {
            Err(_) => assert!(!bad.exists(), "{kind:?}"),
            Ok(report) => {
                let damaged: Vec<_> = report.warnings.first.iter().map(|w| w.path.as_str()).collect();
                assert_eq!((kind, report.warnings.damaged, damaged), (Damage::Flip, 1, vec!["c/added"]));
                let mut wanted = facts::of(&rig.source());
                wanted.remove(&b"c/added"[..]);
                assert_eq!(facts::of(&bad), wanted, "nothing half-written stays under its name");
            }
        }
        rig.restored(Moment::At(Sequence(1)));
    }
}

#[test]
fn a_flipped_bit_is_found_by_reading_and_size_alone_does_not_show_it() {
    let (rig, second) = two_snapshots();
    damage(&rig, &second[0], Damage::Flip);
    let options = VerifyOptions::default();
    assert!(verify::verify(&rig.store(), options).unwrap().is_sound());
    assert!(!rig.verify().is_sound());
}

#[test]
fn a_damaged_index_is_named() {
    for kind in [Damage::Delete, Damage::Truncate, Damage::Flip] {
        let (rig, _) = two_snapshots();
        let index = keys(&rig, "/index/");
        for key in &index {
            damage(&rig, key, kind);
        }
        let report = rig.verify();
        for key in &index {
            assert!(report.problems.iter().any(|p| p.key == key.as_ref()), "{kind:?}: {report:?}");
        }
        let snapshots: BTreeSet<_> = report.touched.iter().map(|t| t.snapshot).collect();
        assert_eq!(snapshots, BTreeSet::from([Sequence(1), Sequence(2)]), "{kind:?}");
        let error = rig::restore_at(&rig.store(), Moment::Latest, &rig.restore_request("bad")).unwrap_err();
        assert!(error.to_string().contains("index"), "{kind:?}: {error}");
    }
}

#[test]
fn a_damaged_record_is_named_and_the_others_are_still_judged() {
    for kind in [Damage::Delete, Damage::Truncate, Damage::Flip] {
        let (rig, _) = two_snapshots();
        let log = keys(&rig, "/log/");
        damage(&rig, &log[0], kind);
        let report = rig.verify();
        assert!(report.problems.iter().any(|p| p.key == log[0].as_ref()), "{kind:?}: {report:?}");
        assert!(report.touched.iter().all(|t| t.snapshot == Sequence(1)), "{kind:?}: {report:?}");
        let error = rig::run(&rig.repository, &rig::request(&rig.source())).unwrap_err();
        assert!(error.to_string().contains("acme"), "{kind:?}: {error}");
    }
}

#[test]
fn a_damaged_page_is_named_by_the_path_it_begins_with() {
    for kind in [Damage::Truncate, Damage::Flip, Damage::Delete] {
        // The tree has no content, so its packs hold only pages.
        let rig = Rig::new();
        for number in 0..3000 {
            std::fs::write(rig.source().join(format!("empty-{number:04}")), b"").unwrap();
        }
        rig.resync();
        let packs = keys(&rig, "/packs/");
        assert_eq!(packs.len(), 1);
        let whole = rig.restored(Moment::Latest);
        std::fs::write(whole.join("extra"), b"").unwrap();
        damage(&rig, &packs[0], kind);
        let report = rig.verify();
        assert!(report.problems.iter().any(|p| p.key == packs[0].as_ref()), "{kind:?}: {report:?}");
        assert!(report.touched_count > 0);
        assert!(report.touched.iter().all(|t| t.reason.contains("page")), "{kind:?}: {report:?}");
        // The other pages are restored, and the number of entries of the lost page is reported.
        if let Ok(restored) = rig::restore_at(&rig.store(), Moment::Latest, &rig.restore_request("bad")) {
            let names = std::fs::read_dir(rig.dir.path().join("bad")).unwrap().count() as u64;
            assert_eq!((kind, names + restored.warnings.damaged), (Damage::Flip, 3000), "{restored:?}");
            assert!(names > 1000, "{names}");
            // The entries of a lost page are not deleted as if they did not belong to the snapshot.
            let over = RestoreRequest {
                destination: whole.clone(),
                overwrite: true,
                delete: true,
                ..rig.restore_request("")
            };
            let over = rig::restore_at(&rig.store(), Moment::Latest, &over).unwrap();
            assert_eq!((over.removed, over.warnings.left), (0, 1), "{over:?}");
            assert_eq!(std::fs::read_dir(&whole).unwrap().count(), 3001);
        }
    }
}

#[test]
fn records_that_were_exchanged_are_noticed() {
    let (rig, _) = two_snapshots();
    let log = keys(&rig, "/log/");
    let read = |key: &Path| wait(async { rig.objects.get(key).await.unwrap().bytes().await.unwrap() });
    let (a, b) = (read(&log[0]), read(&log[1]));
    wait(rig.objects.put(&log[0], b.into())).unwrap();
    wait(rig.objects.put(&log[1], a.into())).unwrap();
    assert!(rig.store().log().state().is_err());
    assert!(!rig.verify().is_sound());
}
