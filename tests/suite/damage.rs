//! Each damage to each object, as a matrix: `verify` names the object and the snapshots that it touches, and nothing
//! broken is ever restored as if it were sound.

use crate::support::facts::{self, Facts};
use crate::support::objects::{Damage, damage, keys, read, write};
use crate::support::rig::{self, Rig};
use crate::support::tree::{random, sample_tree};
use object_store::path::Path;
use std::collections::BTreeSet;
use understudy::maintain::damage::VerifyReport;
use understudy::maintain::verify::{VerifyOptions, verify};
use understudy::model::id::{Sequence, WriterId};
use understudy::model::record::Event;
use understudy::model::snapshot_ref::Moment;
use understudy::restore::request::RestoreRequest;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Delete,
    Truncate,
    FlipBit,
    /// Another object of its kind gets its bytes, and it gets the other's.
    Exchange,
}

impl Action {
    const ALONE: [Self; 3] = [Self::Delete, Self::Truncate, Self::FlipBit];
    const ALL: [Self; 4] = [Self::Delete, Self::Truncate, Self::FlipBit, Self::Exchange];
}

/// Which object of a store with two snapshots it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The pack that the second snapshot shipped: the content of `c/added`, and pages.
    Pack,
    /// All index segments.
    Segments,
    FirstRecord,
    LastRecord,
    Keyring,
    Checkpoint,
}

/// What comes of a cell of the matrix.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// A verification names the object, or refuses the whole store.
    noticed: bool,
    /// A verification that reads no content finds something.
    found_by_size: bool,
    touched: Vec<u64>,
    first: Restored,
    latest: Restored,
    /// A resync commits.
    ships: bool,
}

/// What a restore gives.
#[derive(Debug, PartialEq, Eq)]
enum Restored {
    /// All of the snapshot of this number.
    Whole(u64),
    /// All of the second snapshot but `c/added`, which is named.
    AllButAdded,
    Refused,
}

/// Two snapshots; the second adds one file of 700,000 random bytes.
struct Scene {
    rig: Rig,
    trees: [Facts; 2],
    first_packs: Vec<Path>,
    /// Keys of the objects that are not any more as they were.
    struck: Vec<Path>,
}

impl Scene {
    fn new() -> Self {
        let rig = Rig::new();
        sample_tree(&rig.source());
        rig.resync();
        let first_packs = keys(&rig, "/packs/");
        let first = facts::of(&rig.source());
        std::fs::write(rig.source().join("c/added"), random(b"added", 700_000)).unwrap();
        rig.resync();
        let trees = [first, facts::of(&rig.source())];
        Self { rig, trees, first_packs, struck: Vec::new() }
    }

    /// With a log so long that readers begin at a checkpoint.
    fn with_checkpoint(self) -> Self {
        let store = self.rig.store();
        let mut state = store.log().state().unwrap();
        while state.checkpoint.is_none() {
            store
                .log()
                .append(&mut state, &WriterId("tester".into()), Event::Pruned(Box::default()))
                .unwrap();
            store.checkpoints().make_if_due(&mut state);
        }
        self
    }

    /// Returns the keys of a target's objects.
    fn keys(&self, target: Target) -> Vec<Path> {
        let log = keys(&self.rig, "/log/");
        match target {
            Target::Pack => {
                let packs = keys(&self.rig, "/packs/").into_iter();
                let second: Vec<_> = packs.filter(|key| !self.first_packs.contains(key)).collect();
                assert_eq!(second.len(), 1);
                second
            }
            Target::Segments => keys(&self.rig, "/index/"),
            Target::FirstRecord => vec![log[0].clone()],
            Target::LastRecord => vec![log[1].clone()],
            Target::Keyring => keys(&self.rig, "/keys/"),
            Target::Checkpoint => keys(&self.rig, "/checkpoints/"),
        }
    }

    fn strike(&mut self, action: Action, target: Target) {
        let mut struck = self.keys(target);
        assert!(!struck.is_empty(), "{target:?}");
        let kind = match action {
            Action::Delete => Damage::Delete,
            Action::Truncate => Damage::Truncate,
            Action::FlipBit => Damage::Flip,
            Action::Exchange => {
                // Segments are two already.
                match target {
                    Target::Pack => struck.push(self.first_packs[0].clone()),
                    Target::FirstRecord => struck.extend(self.keys(Target::LastRecord)),
                    _ => {}
                }
                let [a, b] = &struck[..] else { panic!("{target:?}: no two of a kind: {struck:?}") };
                let bytes = [a, b].map(|key| read(&self.rig, key));
                write(&self.rig, a, bytes[1].clone());
                write(&self.rig, b, bytes[0].clone());
                self.struck = struck;
                return;
            }
        };
        struck.iter().for_each(|key| damage(&self.rig, key, kind));
        self.struck = struck;
    }

    fn restored(&self, moment: Moment) -> Restored {
        let request = self.rig.restore_request(&format!("restored-{}", rig::nonce()));
        let report = match rig::restore_at(&self.rig.store(), moment, &request) {
            Ok(report) => report,
            Err(error) => {
                assert!(!request.destination.exists(), "half a tree under the final name");
                self.assert_says_where(&error.to_string());
                return Restored::Refused;
            }
        };
        let found = facts::of(&request.destination);
        if report.warnings == Default::default() {
            let number = self.trees.iter().position(|tree| *tree == found).expect("one of the trees");
            return Restored::Whole(number as u64 + 1);
        }
        let damaged: Vec<_> = report.warnings.first.iter().map(|w| w.path.as_str()).collect();
        assert_eq!((report.warnings.damaged, damaged), (1, vec!["c/added"]));
        let mut wanted = self.trees[1].clone();
        wanted.remove(&b"c/added"[..]);
        assert_eq!(found, wanted, "nothing half-written stays under its name");
        Restored::AllButAdded
    }

    fn ships(&self) -> bool {
        let run = rig::run(&self.rig.repository, &rig::request(&self.rig.source()));
        run.inspect_err(|error| self.assert_says_where(&error.to_string())).is_ok()
    }

    /// An error names an object that was struck, or the store.
    fn assert_says_where(&self, error: &str) {
        let is_named = self.struck.iter().any(|key| error.contains(key.as_ref()));
        let is_part =
            self.struck.iter().any(|key| ["packs", "index"].contains(&key.parts().nth(1).unwrap().as_ref()));
        assert!(is_named || (!is_part && error.contains("acme")), "{:?}: {error}", self.struck);
    }

    fn outcome(&self) -> Outcome {
        let store = self.rig.store();
        let whole = verify(&store, VerifyOptions::whole());
        let is_named = |report: &VerifyReport, key: &Path| {
            report.problems.iter().any(|problem| problem.key == key.as_ref())
        };
        let noticed =
            whole.as_ref().map_or(true, |report| self.struck.iter().all(|key| is_named(report, key)));
        let touched = whole.iter().flat_map(|report| &report.touched).map(|touched| touched.snapshot.0);
        Outcome {
            noticed,
            found_by_size: !verify(&store, VerifyOptions::default()).is_ok_and(|report| report.is_sound()),
            touched: touched.collect::<BTreeSet<_>>().into_iter().collect(),
            first: self.restored(Moment::At(Sequence(1))),
            latest: self.restored(Moment::Latest),
            ships: self.ships(),
        }
    }
}

/// The matrix.
fn expected(target: Target, action: Action) -> Outcome {
    use Restored::*;
    let unharmed = Outcome {
        noticed: false,
        found_by_size: false,
        touched: vec![],
        first: Whole(1),
        latest: Whole(2),
        ships: true,
    };
    let refused = Outcome {
        noticed: true,
        found_by_size: true,
        touched: vec![],
        first: Refused,
        latest: Refused,
        ships: false,
    };
    match (target, action) {
        // The middle of the pack is the middle of the one large file.
        (Target::Pack, Action::FlipBit) => {
            Outcome { noticed: true, touched: vec![2], latest: AllButAdded, ..unharmed }
        }
        (Target::Pack, Action::Exchange) => Outcome { touched: vec![1, 2], ..refused },
        // Its pages are lost with the content.
        (Target::Pack, _) => Outcome { touched: vec![2], first: Whole(1), ..refused },
        (Target::Segments, _) => Outcome { touched: vec![1, 2], ..refused },
        (Target::FirstRecord, Action::Exchange) => Outcome { touched: vec![1, 2], ..refused },
        (Target::FirstRecord, _) => Outcome { touched: vec![1], ..refused },
        // Only a reader that saw the record can know of it.
        (Target::LastRecord, Action::Delete) => Outcome { latest: Whole(1), ..unharmed },
        (Target::LastRecord, _) => Outcome { touched: vec![2], ..refused },
        // What is sealed with its keys is named in its place.
        (Target::Keyring, Action::Delete) => Outcome { noticed: false, touched: vec![1, 2], ..refused },
        (Target::Keyring, _) => refused,
        // Readers go through the log without it.
        (Target::Checkpoint, _) => unharmed,
    }
}

fn check(target: Target, actions: &[Action]) {
    for action in actions {
        let mut scene = Scene::new();
        if target == Target::Checkpoint {
            scene = scene.with_checkpoint();
        }
        scene.strike(*action, target);
        assert_eq!(scene.outcome(), expected(target, *action), "{action:?} of {target:?}");
    }
}

#[test]
fn a_damaged_pack_is_named_with_the_files_of_the_snapshots_that_need_it() {
    check(Target::Pack, &Action::ALL);
}

#[test]
fn a_flipped_bit_is_found_by_reading_and_size_alone_does_not_show_it() {
    let mut scene = Scene::new();
    scene.strike(Action::FlipBit, Target::Pack);
    assert!(verify(&scene.rig.store(), VerifyOptions::default()).unwrap().is_sound());
    let report = scene.rig.verify();
    // It is in one file.
    assert!(report.touched_count > 0 && report.touched.iter().all(|t| t.path == "c/added"), "{report:?}");
}

#[test]
fn a_damaged_index_is_named() {
    check(Target::Segments, &Action::ALL);
}

#[test]
fn a_damaged_record_is_named_and_the_others_are_still_judged() {
    check(Target::FirstRecord, &Action::ALONE);
}

#[test]
fn a_damaged_last_record_is_named_and_a_missing_one_is_the_state_before() {
    check(Target::LastRecord, &Action::ALONE);
}

#[test]
fn without_its_keyring_nothing_of_a_store_is_read_or_written() {
    check(Target::Keyring, &Action::ALONE);
}

#[test]
fn a_damaged_checkpoint_harms_nobody() {
    check(Target::Checkpoint, &Action::ALONE);
}

#[test]
fn a_damaged_page_is_named_by_the_path_it_begins_with() {
    for kind in Damage::ALL {
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
                existing: understudy::restore::request::Existing::Mirror,
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
    check(Target::FirstRecord, &[Action::Exchange]);
}
