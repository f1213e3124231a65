//! A followed and mounted snapshot is complete, verified, and the same as a restored one.

use crate::support::command::{ok, understudy};
use crate::support::disk::SmallDisk;
use crate::support::facts::{self, assert_same};
use crate::support::faulty::{ALL, Fault, FaultyStore};
use crate::support::mount::MountPoint;
use crate::support::objects::{Damage, damage, keys, read, write};
use crate::support::rig::{self, Rig};
use crate::support::standby::{at, depot, follow_by, latest, request};
use crate::support::tree::{all_kinds, random, sample_tree};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;
use understudy::model::id::{ContentHash, Sequence, WriterId};
use understudy::model::record::{Event, PruneRecord};
use understudy::model::snapshot_ref::Moment;
use understudy::mounts::error::StageError;
use understudy::mounts::live::{self, Live, Swap};
use understudy::mounts::mount::{self, MountOptions};
use understudy::mounts::unmount;
use understudy::standby::check::check;
use understudy::standby::depot::Depot;
use understudy::standby::error::FollowError;
use understudy::standby::follow::FollowRequest;
use understudy::standby::pin::pins;
use understudy::vfs::overlay::{self, Layers, Way};

#[test]
fn every_kind_of_entry_is_the_same_through_a_mount() {
    let rig = Rig::new();
    let source = rig.source();
    all_kinds(&source);
    // Names in many blocks; targets around the maximum size after an inode; attributes that look like the
    // overlay's.
    std::fs::create_dir(source.join("many")).unwrap();
    for number in 0..3000 {
        let name = format!("{number}-{}", "n".repeat(number % 200));
        std::fs::write(source.join("many").join(name), number.to_string()).unwrap();
    }
    for length in [1, 31, 32, 33, 4000, 4031, 4032, 4033, 4063, 4064, 4095] {
        std::os::unix::fs::symlink("t".repeat(length), source.join(format!("to-{length}"))).unwrap();
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(source.join(name), attribute, value, flags).unwrap();
    };
    set("to-4064", "trusted.odd", b"123");
    set("many", "trusted.overlay.opaque", b"y");
    set("many", "trusted.overlay.redirect", b"/etc");
    set("c/empty", "trusted.overlay.metacopy", b"");
    std::fs::set_permissions(&source, PermissionsExt::from_mode(0o751)).unwrap();
    rig.resync();
    let report = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert_eq!((report.attributes_left_out, report.whiteouts), (0, 0));
    for way in [Way::Descriptors, Way::Paths] {
        let point = MountPoint::new(&rig.dir.path().join("mounted"));
        let layers = Layers {
            image: depot(&rig).image(Sequence(1)),
            objects: depot(&rig).objects(),
            source: "test".into(),
            upper: None,
            trusted: true,
        };
        overlay::mount_by(&layers, way).unwrap().attach(&point.0).unwrap();
        assert_same(&source, &point.0, &format!("{way:?}"));
        let write = std::fs::write(point.0.join("new"), b"x").unwrap_err();
        assert_eq!(write.raw_os_error(), Some(30), "read-only: {write}");
    }
    // An independent judgement of the image.
    let fsck = Command::new("fsck.erofs").arg(depot(&rig).image(Sequence(1))).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stderr));
}

#[test]
fn holes_of_an_object_stay_holes() {
    let rig = Rig::new();
    let file = std::fs::File::create(rig.source().join("sparse")).unwrap();
    file.set_len(50 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 9000], 20 << 20).unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let point = MountPoint::of(&rig, &latest(), "mounted");
    assert_same(&rig.source(), &point.0, "sparse");
    assert!(point.0.join("sparse").metadata().unwrap().blocks() < 100);
}

#[test]
fn each_snapshot_stays_as_it_was() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    let mut wanted = Vec::new();
    for round in 0..4 {
        std::fs::write(rig.source().join("c/new"), vec![round; 70_000]).unwrap();
        std::fs::write(rig.source().join(format!("a/b/f{round}")), b"changed").unwrap();
        rig.resync();
        let report = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
        assert_eq!(report.objects_made, if round == 0 { 42 } else { 1 }, "{report:?}");
        wanted.push(facts::of(&rig.source()));
    }
    let again = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert!(!again.published);
    for (round, wanted) in wanted.iter().enumerate() {
        let point = MountPoint::of(&rig, &at(round as u64 + 1), &format!("at-{round}"));
        assert!(facts::of(&point.0) == *wanted, "snapshot {round}");
    }
    // "As of" a moment is answered by the image's time.
    let state = rig.store().log().state().unwrap();
    let begun = state.snapshots[&Sequence(3)].scan_start;
    for (time, found) in [(begun, 3), (begun.minus(Duration::from_nanos(1)), 2)] {
        assert_eq!(mount::find(&depot(&rig), &rig::name(), Moment::AsOf(time)).unwrap(), Sequence(found));
    }
    assert_eq!(rig.store().notes().standbys().unwrap()[0].snapshot, Sequence(4));
}

#[test]
fn a_move_fetches_nothing_and_an_insertion_a_block() {
    let rig = Rig::new();
    let large = |seed: &[u8], bytes| {
        let mut content = vec![0; bytes];
        blake3::Hasher::new().update(seed).finalize_xof().fill(&mut content);
        content
    };
    let directory = rig.source().join("media");
    std::fs::create_dir(&directory).unwrap();
    for number in 0..20u8 {
        std::fs::write(directory.join(format!("{number}.jpg")), large(&[number], 200_000)).unwrap();
    }
    std::fs::write(rig.source().join("small.sql"), large(b"small", 900_000)).unwrap();
    std::fs::write(rig.source().join("dump.sql"), large(b"dump", 20 << 20)).unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    std::fs::rename(&directory, rig.source().join("pictures")).unwrap();
    std::fs::copy(rig.source().join("dump.sql"), rig.source().join("copy.sql")).unwrap();
    rig.resync();
    let moved = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert_eq!((moved.objects_made, moved.copied_bytes), (0, 0), "{moved:?}");
    // The log's records, the index and pages are received, but no content.
    assert!(moved.requests.received_bytes < 30_000, "{moved:?}");
    for (name, size) in [("dump.sql", 20 << 20), ("small.sql", 900_000)] {
        let mut content = std::fs::read(rig.source().join(name)).unwrap();
        content.splice(5000..5000, *b"a hundred bytes");
        std::fs::write(rig.source().join(name), content).unwrap();
        rig.resync();
        let inserted = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
        assert_eq!(inserted.objects_made, 1);
        assert!(inserted.copied_bytes > size - (64 << 10), "{inserted:?}");
        assert!(inserted.requests.received_bytes < 150_000, "{inserted:?}");
    }
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "after all");
}

#[test]
fn a_seed_is_used_for_what_it_has_and_trusted_for_nothing() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    std::fs::write(rig.source().join("c/large"), vec![3; 6 << 20]).unwrap();
    let seed = rig.dir.path().join("seed");
    assert!(Command::new("cp").arg("-a").arg(rig.source()).arg(&seed).status().unwrap().success());
    // A file with the right size and wrong bytes, and a symlink that leads out of the seed.
    std::fs::write(seed.join("a/b/f3"), vec![b'x'; std::fs::read(seed.join("a/b/f3")).unwrap().len()])
        .unwrap();
    std::fs::remove_file(seed.join("a/b/f4")).unwrap();
    std::os::unix::fs::symlink(rig.source().join("a/b/f4"), seed.join("a/b/f4")).unwrap();
    rig.resync();
    let seeded = FollowRequest { seed: Some(seed), ..request() };
    let report = follow_by(&rig.repository, &depot(&rig), &seeded).unwrap();
    assert_eq!((report.objects_made, report.objects_seeded), (2, 40), "{report:?}");
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "seeded");
}

#[test]
fn changes_are_kept_apart_and_belong_to_their_snapshot() {
    let rig = Rig::new();
    all_kinds(&rig.source());
    let (owner, group) = (Some(33), Some(44));
    std::os::unix::fs::chown(rig.source(), owner, group).unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    std::fs::write(rig.source().join("later"), b"").unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let upper = rig.dir.path().join("changes");
    let options = MountOptions { writable: Some(upper.clone()), trusted: true };
    let point = MountPoint::new(&rig.dir.path().join("live"));
    mount::mount(&depot(&rig), &at(1), &point.0, &options).unwrap();
    std::fs::remove_file(rig.source().join("later")).unwrap();
    let root = std::fs::File::open(rig.source()).unwrap();
    let image_root = point.0.metadata().unwrap();
    assert_eq!((image_root.uid(), image_root.gid()), (33, 44));
    root.set_modified(image_root.modified().unwrap()).unwrap();
    assert_same(&rig.source(), &point.0, "writable, unchanged");
    // The same changes are made to both trees, also through hardlinks.
    for root in [rig.source(), point.0.clone()] {
        std::fs::write(root.join("c/hard"), b"through one name").unwrap();
        std::fs::remove_dir_all(root.join("empty")).unwrap();
        std::fs::rename(root.join("a/b"), root.join("c/renamed")).unwrap();
        std::fs::write(root.join("c/medium"), b"short").unwrap();
        std::fs::create_dir(root.join("a/b")).unwrap();
        for path in ["c", "a", "a/b", "c/hard", "c/medium", "."] {
            let file = std::fs::File::open(root.join(path)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
    }
    assert_same(&rig.source(), &point.0, "writable, changed");
    drop(point);
    // Mounted again, the changes are there; for another snapshot they are refused.
    let point = MountPoint::new(&rig.dir.path().join("live"));
    let error = mount::mount(&depot(&rig), &at(2), &point.0, &options).unwrap_err();
    assert!(matches!(error, StageError::Bound { .. }), "{error}");
    mount::mount(&depot(&rig), &at(1), &point.0, &options).unwrap();
    assert_same(&rig.source(), &point.0, "mounted again");
    let foreign = MountOptions { writable: Some(rig.source()), trusted: false };
    let error = mount::mount(&depot(&rig), &at(1), &point.0, &foreign).unwrap_err();
    assert!(matches!(error, StageError::Foreign(_)), "{error}");
    // A mount over another one is refused as well.
    let plain = MountOptions::default();
    let error = mount::mount(&depot(&rig), &at(1), &point.0, &plain).unwrap_err();
    assert!(matches!(error, StageError::Shown(_)), "{error}");
}

#[test]
fn what_is_mounted_is_kept_and_what_is_dropped_takes_its_objects_along() {
    let rig = Rig::new();
    let keep = FollowRequest { keep: 2, ..request() };
    let objects = || {
        let mut count = 0;
        depot(&rig)
            .each_object(|_, _| {
                count += 1;
                Ok(())
            })
            .unwrap();
        count
    };
    std::fs::write(rig.source().join("always"), b"the same").unwrap();
    let publish = |round: u8| {
        std::fs::write(rig.source().join("changes"), vec![round; 5000]).unwrap();
        rig.resync();
        follow_by(&rig.repository, &depot(&rig), &keep).unwrap()
    };
    publish(1);
    let wanted = facts::of(&rig.source());
    let point = MountPoint::of(&rig, &at(1), "old");
    let upper = rig.dir.path().join("upper");
    publish(2);
    let live = MountPoint::new(&rig.dir.path().join("live"));
    let options = MountOptions { writable: Some(upper.clone()), trusted: false };
    mount::mount(&depot(&rig), &at(2), &live.0, &options).unwrap();
    for round in 3..7 {
        publish(round);
    }
    let kept = |numbers: &[u64]| numbers.iter().map(|n| Sequence(*n)).collect::<Vec<_>>();
    assert_eq!(depot(&rig).snapshots().unwrap(), kept(&[1, 2, 5, 6]));
    assert_eq!(objects(), 5);
    assert!(facts::of(&point.0) == wanted);
    unmount::unmount(&rig.dir.path().join("standby"), &point.0, false).unwrap();
    unmount::unmount(&rig.dir.path().join("standby"), &live.0, false).unwrap();
    publish(7);
    assert_eq!(depot(&rig).snapshots().unwrap(), kept(&[2, 6, 7]), "changes need their snapshot");
    std::fs::remove_dir_all(&upper).unwrap();
    publish(8);
    assert_eq!(depot(&rig).snapshots().unwrap(), kept(&[7, 8]));
    assert_eq!(objects(), 3);
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "what is left");
}

#[test]
fn changes_on_a_volume_that_is_not_mounted_keep_their_snapshot() {
    let rig = Rig::new();
    let publish = |round: u8| {
        std::fs::write(rig.source().join("changes"), vec![round; 5000]).unwrap();
        rig.resync();
        follow_by(&rig.repository, &depot(&rig), &FollowRequest { keep: 1, ..request() }).unwrap();
    };
    publish(1);
    let volume = SmallDisk::mount(rig.dir.path().join("volume"), 1 << 20);
    let live = MountPoint::new(&rig.dir.path().join("live"));
    let options = MountOptions { writable: Some(volume.0.join("changes")), trusted: false };
    mount::mount(&depot(&rig), &at(1), &live.0, &options).unwrap();
    drop((live, volume));
    publish(2);
    publish(3);
    assert_eq!(depot(&rig).snapshots().unwrap(), [Sequence(1), Sequence(3)]);
}

#[test]
fn a_mount_that_fails_leaves_no_pin_and_one_that_cannot_move_on_keeps_its_own() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let live_dir = MountPoint::new(&rig.dir.path().join("live"));
    let mut live = Live::new(&live_dir.0, Swap::Beneath, &rig::name()).unwrap();
    live::move_on(&depot(&rig), &rig::name(), Sequence(1), &mut live, &MountOptions::default()).unwrap();
    std::fs::write(depot(&rig).image(Sequence(2)), b"no image").unwrap();
    let error = live::move_on(&depot(&rig), &rig::name(), Sequence(2), &mut live, &MountOptions::default());
    assert!(error.is_err());
    let pinned: Vec<_> = pins(&depot(&rig)).unwrap().into_iter().map(|pin| pin.snapshot).collect();
    assert_eq!(pinned, [Sequence(1)]);
    assert_same(&rig.source(), &live_dir.0, "stays");
}

#[test]
fn damaged_and_missing_objects_are_made_anew() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    std::fs::write(rig.source().join("c/large"), vec![3; 6 << 20]).unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let mut number = 0;
    depot(&rig)
        .each_object(|path, _| {
            let mut bytes = std::fs::read(path).unwrap();
            match number % 4 {
                0 => std::fs::remove_file(path).unwrap(),
                1 => {
                    bytes[0] ^= 1;
                    std::fs::write(path, bytes).unwrap();
                }
                2 => std::fs::write(path, b"").unwrap(),
                _ => {}
            }
            number += 1;
            Ok(())
        })
        .unwrap();
    std::fs::write(depot(&rig).image(Sequence(1)), b"no image").unwrap();
    let look = |repair| check(&rig.store(), &depot(&rig), repair, 2).unwrap();
    let report = look(false);
    assert_eq!((report.problem_count, report.repaired), (33, 0), "{report:?}");
    let missing = report.problems.iter().find(|problem| problem.reason == "missing").unwrap();
    assert!(missing.needed_for.as_ref().unwrap().starts_with("acme@1: "), "{missing:?}");
    let report = look(true);
    assert_eq!((report.problem_count, report.repaired), (33, 33), "{report:?}");
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "repaired");
    assert_eq!(look(false).problem_count, 0);
}

#[test]
fn what_a_power_cut_took_is_found_by_the_next_run() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let depot = depot(&rig);
    follow_by(&rig.repository, &depot, &request()).unwrap();
    // A run was interrupted when the machine went down, and some objects have their names but not their
    // bytes.
    std::fs::write(depot.root().join("unfinished"), b"another boot").unwrap();
    let mut number = 0;
    let mut cut = Vec::new();
    depot
        .each_object(|path, _| {
            number += 1;
            if number % 3 == 0 {
                std::fs::write(path, b"").unwrap();
                cut.push(path.to_owned());
            }
            Ok(())
        })
        .unwrap();
    std::fs::write(cut[0].with_file_name(".new-half"), b"half").unwrap();
    std::fs::write(rig.source().join("c/new"), b"new").unwrap();
    rig.resync();
    let report = follow_by(&rig.repository, &depot, &request()).unwrap();
    assert_eq!(report.objects_repaired, cut.len() as u64, "{report:?}");
    assert!(!cut[0].with_file_name(".new-half").exists());
    for sequence in [1, 2] {
        let point = MountPoint::of(&rig, &at(sequence), &format!("at-{sequence}"));
        facts::of(&point.0);
    }
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "after the power cut");
}

#[test]
fn a_restore_takes_what_the_standby_has_and_checks_it() {
    let rig = Rig::new();
    all_kinds(&rig.source());
    std::fs::write(rig.source().join("c/large"), vec![3; 6 << 20]).unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let restore = |to: &str| {
        let request = understudy::restore::request::RestoreRequest {
            local: Some(depot(&rig).local_objects()),
            ..rig.restore_request(to)
        };
        let before = rig.repository.requests();
        let report = rig::restore_at(&rig.store(), Moment::Latest, &request).unwrap();
        assert_same(&rig.source(), &request.destination, to);
        (report, rig.repository.requests().since(&before).received_bytes)
    };
    let (report, received_bytes) = restore("whole");
    assert!(report.files_local > 45 && report.files_written - report.files_local <= 1, "{report:?}");
    assert!(received_bytes < 30_000, "{received_bytes}");
    // Damaged objects are replaced by the repository's bytes.
    depot(&rig)
        .each_object(|path, _| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[0] ^= 1;
            std::fs::write(path, bytes).unwrap();
            Ok(())
        })
        .unwrap();
    assert_eq!(restore("damaged").0.files_local, 0);
}

#[test]
fn a_standby_is_checked_and_repaired_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.env("XDG_DATA_HOME", dir.path().join("data")).args(args);
        command
    };
    ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
    ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
    let said = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said(ok(&mut command(&["verify", "acme", "--standby"]))).ends_with("sound\n"));
    let standby = dir.path().join("data/understudy/standby");
    let object = walkdir::WalkDir::new(standby.join("acme/objects"));
    let object = object.into_iter().map(Result::unwrap).find(|entry| entry.file_type().is_file()).unwrap();
    std::fs::write(object.path(), b"altered").unwrap();
    let at = format!("--standby={}", standby.display());
    let named = command(&["verify", "acme", &at]).output().unwrap();
    assert_eq!(named.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&named.stderr).into_owned();
    assert!(errors.contains(object.path().to_str().unwrap()) && errors.contains("acme@1: "), "{errors}");
    let repaired = ok(&mut command(&["verify", "acme", &at, "--repair"]));
    assert!(said(repaired).contains("1 repaired"));
    ok(&mut command(&["verify", "acme", "--standby"]));
}

#[test]
fn a_record_that_drops_history_empties_no_standby_and_what_it_holds_is_still_checked() {
    let rig = Rig::new();
    let keep = FollowRequest { keep: 3, ..request() };
    std::fs::write(rig.source().join("always"), b"the same").unwrap();
    for round in 1..=3 {
        std::fs::write(rig.source().join("changes"), vec![round; 5000]).unwrap();
        rig.resync();
        follow_by(&rig.repository, &depot(&rig), &keep).unwrap();
    }
    // Any party that may append can write this record, without anything else.
    let (store, writer) = (rig.store(), WriterId("primary".into()));
    let mut state = store.log().state().unwrap();
    let snapshots = vec![Sequence(1), Sequence(2)];
    let event = Event::Pruned(Box::new(PruneRecord { snapshots, ..Default::default() }));
    store.log().append(&mut state, &writer, event).unwrap();
    assert_eq!(follow_by(&rig.repository, &depot(&rig), &keep).unwrap().snapshots_dropped, 0);
    let here = |numbers: &[u64]| {
        assert_eq!(
            depot(&rig).snapshots().unwrap(),
            numbers.iter().map(|n| Sequence(*n)).collect::<Vec<_>>()
        );
    };
    let looked = |repair| check(&store, &depot(&rig), repair, 2).unwrap();
    here(&[1, 2, 3]);
    let well = looked(false);
    assert_eq!(
        (well.snapshots, well.unknown_snapshots, well.problem_count, well.is_sound()),
        (3, 2, 0, true)
    );
    // Objects that only these snapshots need cannot be fetched again; those that others need can.
    let object = |bytes: &[u8]| depot(&rig).object(ContentHash::of(bytes));
    std::fs::remove_file(object(&[1; 5000])).unwrap();
    std::fs::write(object(b"the same"), b"something else").unwrap();
    let ill = looked(true);
    assert_eq!((ill.problem_count, ill.repaired, ill.lost, ill.is_sound()), (2, 1, 1, false));
    let problem = &ill.problems[1];
    assert_eq!((problem.reason, problem.needed_for.as_deref()), ("missing", Some("acme@1: changes")));
    let still = looked(true);
    assert_eq!(
        (still.problem_count, still.lost, still.is_sound()),
        (1, 1, false),
        "it is lost, and said each time"
    );
    // These snapshots are dropped like any other.
    std::fs::write(rig.source().join("changes"), vec![4; 5000]).unwrap();
    rig.resync();
    let next = follow_by(&rig.repository, &depot(&rig), &FollowRequest { keep: 2, ..request() }).unwrap();
    here(&[3, 5]);
    assert_eq!(
        (next.snapshots_dropped, next.objects_dropped),
        (2, 1),
        "the one that was lost had gone before"
    );
    assert!(looked(false).is_sound());
}

#[test]
fn what_is_published_on_a_repository_that_takes_no_note_is_published_and_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.env("XDG_DATA_HOME", dir.path().join("data")).args(args);
        command.env("UNDERSTUDY_REPOSITORY", dir.path().join("repo"));
        command
    };
    ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
    let repo = MountPoint(dir.path().join("repo"));
    let mount = |options: &str| {
        let done = Command::new("mount").args(["-o", options]).arg(&repo.0).arg(&repo.0).status().unwrap();
        assert!(done.success());
    };
    mount("bind");
    mount("remount,bind,ro");
    let followed = command(&["follow", "acme", "--once"]).output().unwrap();
    let errors = String::from_utf8_lossy(&followed.stderr).into_owned();
    assert_eq!(followed.status.code(), Some(3), "{errors}");
    assert!(
        errors.contains("does not know what is published here") && errors.contains("Read-only"),
        "{errors}"
    );
    assert!(String::from_utf8_lossy(&followed.stdout).contains("acme@1 published"));
    let drilled = command(&["drill", "acme"]).output().unwrap();
    let errors = String::from_utf8_lossy(&drilled.stderr).into_owned();
    assert_eq!(drilled.status.code(), Some(3), "{errors}");
    assert!(String::from_utf8_lossy(&drilled.stdout).contains("acme@1 is proven restorable"));
    let verified = command(&["verify", "acme", "--read-data=50"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(3), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn a_mount_that_was_taken_away_by_other_means_is_forgotten_by_umount() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.env("XDG_DATA_HOME", dir.path().join("data")).args(args);
        command
    };
    ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
    ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
    let point = MountPoint::new(&dir.path().join("shown"));
    let at = point.0.to_str().unwrap();
    ok(&mut command(&["mount", "acme", at, "--quiet"]));
    overlay::detach(&point.0, false).unwrap();
    let pinned = Depot::new(&dir.path().join("data/understudy/standby"), &rig::name());
    assert_eq!(pins(&pinned).unwrap().len(), 1);
    let said = ok(&mut command(&["umount", at]));
    assert!(String::from_utf8_lossy(&said.stdout).contains("acme@1 is no longer kept for it"));
    assert_eq!(pins(&pinned).unwrap(), []);
    assert_eq!(command(&["umount", at]).output().unwrap().status.code(), Some(1), "nothing was there");
}

#[test]
fn what_lies_among_pins_and_arrivals_and_is_neither_stops_nothing() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    for dir in [depot(&rig).pins(), depot(&rig).objects().join(".arriving")] {
        std::fs::create_dir(dir.join("a directory")).unwrap();
        std::fs::write(dir.join("a directory/file"), b"x").unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.join("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
    }
    std::fs::write(depot(&rig).objects().join(".arriving/note"), b"x").unwrap();
    std::fs::write(rig.source().join("new"), b"another").unwrap();
    rig.resync();
    assert!(follow_by(&rig.repository, &depot(&rig), &request()).unwrap().published);
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "beside oddities");
}

/// Returns a standby with one snapshot, and a second one that is not here yet.
fn behind() -> (Rig, facts::Facts) {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let before = facts::of(&rig.source());
    std::fs::write(rig.source().join("c/new"), vec![5; 30_000]).unwrap();
    std::fs::remove_file(rig.source().join("a/b/f8")).unwrap();
    let mut medium = std::fs::read(rig.source().join("c/medium")).unwrap();
    medium.splice(700_000..700_000, *b"inserted");
    std::fs::write(rig.source().join("c/medium"), medium).unwrap();
    rig.resync();
    (rig, before)
}

fn strike(fault: Fault, call: u64, on: bool) -> u64 {
    let (rig, before) = behind();
    let faulty = FaultyStore::new(rig.objects.clone(), fault, call, on);
    let patience = understudy::repository::objects::Patience {
        timeout: Duration::from_millis(30),
        ..rig::patience(if on { 2 } else { 3 })
    };
    let result = follow_by(&rig::repository(faulty.clone(), patience), &depot(&rig), &request());
    let what = format!("{fault:?} at call {call}{}", if on { " and after" } else { "" });
    let published = depot(&rig).snapshots().unwrap();
    assert!(published.contains(&Sequence(1)), "{what}");
    assert!(facts::of(&MountPoint::of(&rig, &at(1), "first").0) == before, "{what}: the snapshot before");
    // A published snapshot is complete, whether its note reached the repository or not.
    if result.is_ok() || published.contains(&Sequence(2)) {
        assert_same(&rig.source(), &MountPoint::of(&rig, &at(2), "second").0, &what);
    }
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert_same(&rig.source(), &MountPoint::of(&rig, &at(2), "second").0, &what);
    faulty.calls()
}

fn strike_everywhere(on: bool) {
    for fault in ALL {
        let calls = strike(fault, u64::MAX, on);
        assert!(calls > 4, "a run makes {calls} calls");
        for call in 1..=calls {
            strike(fault, call, on);
        }
    }
}

#[test]
fn nothing_unverified_is_published_whatever_call_fails_once() {
    strike_everywhere(false);
}

#[test]
fn nothing_unverified_is_published_whatever_call_fails_and_all_after() {
    strike_everywhere(true);
}

#[test]
fn of_damaged_packs_nothing_is_published_and_the_snapshot_before_stays_mounted() {
    for kind in Damage::ALL {
        let (rig, before) = behind();
        let mounted = MountPoint::of(&rig, &at(1), "first");
        let packs = keys(&rig, "/packs/");
        let mut struck = 0;
        for key in &packs {
            let sound = read(&rig, key);
            damage(&rig, key, kind);
            // The content of the first snapshot's packs may be here already.
            let result = follow_by(&rig.repository, &depot(&rig), &request());
            write(&rig, key, sound);
            match result {
                Err(error) => {
                    struck += 1;
                    assert_eq!(depot(&rig).snapshots().unwrap(), [Sequence(1)], "{kind:?} of {key}: {error}");
                }
                Ok(_) => {
                    assert_same(&rig.source(), &MountPoint::of(&rig, &at(2), "second").0, "not needed");
                    std::fs::remove_file(depot(&rig).image(Sequence(2))).unwrap();
                }
            }
            assert!(facts::of(&mounted.0) == before, "{kind:?} of {key}");
        }
        // The flipped bit may be in block entries, which a follow does not need.
        assert!(struck > 0 || kind == Damage::Flip, "{kind:?}");
        follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
        assert_same(&rig.source(), &MountPoint::of(&rig, &at(2), "second").0, "mended");
    }
}

#[test]
fn a_full_disk_leaves_the_snapshot_before_and_the_next_run_goes_on() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    // An image on tmpfs needs a loop device.
    let disk = SmallDisk::mount(rig.dir.path().join("standby"), 8 << 20);
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let before = facts::of(&rig.source());
    for number in 0..8u8 {
        std::fs::write(rig.source().join(format!("c/new-{number}")), random(&[number], 2 << 20)).unwrap();
    }
    rig.resync();
    let error = follow_by(&rig.repository, &depot(&rig), &request()).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    {
        let point = MountPoint::of(&rig, &latest(), "mounted");
        assert!(facts::of(&point.0) == before, "the snapshot before");
    }
    disk.grow(64 << 20);
    let report = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert!(report.objects_made < 8, "some were made before: {report:?}");
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "after the disk grew");
}

#[test]
fn a_follow_killed_at_any_step_leaves_the_snapshot_before() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.env("UNDERSTUDY_STANDBY", dir.path().join("standby")).args(args).arg("--quiet");
        command
    };
    let resync = || ok(&mut command(&["resync", "source", "--store", "acme", "--accept"]));
    let follow = || command(&["follow", "acme", "--once"]);
    let judge = |wanted: &facts::Facts, what: &str| {
        let point = MountPoint::new(&dir.path().join("mounted"));
        ok(command(&["mount", "acme"]).arg(&point.0));
        assert!(facts::of(&point.0) == *wanted, "{what}");
        ok(command(&["umount"]).arg(&point.0));
    };
    resync();
    ok(&mut follow());
    for step in ["opened", "fetched", "synced", "committed"] {
        let before = facts::of(&source);
        std::fs::write(source.join(format!("c/{step}")), step.repeat(9000)).unwrap();
        resync();
        let status = follow().env("UNDERSTUDY_TEST_KILL_AT", step).status().unwrap();
        assert_eq!(status.signal(), Some(9), "{step}");
        let after = facts::of(&source);
        judge(if step == "committed" { &after } else { &before }, &format!("killed at {step}"));
        ok(&mut follow());
        judge(&after, &format!("after a kill at {step}"));
    }
    // Kills at random moments.
    for ms in [1, 3, 5, 8, 13, 20, 30] {
        let before = facts::of(&source);
        let mut random = vec![0; 5 << 20];
        blake3::Hasher::new().update(&[ms as u8]).finalize_xof().fill(&mut random);
        std::fs::write(source.join("c/large"), random).unwrap();
        resync();
        let mut running = follow().spawn().unwrap();
        std::thread::sleep(Duration::from_millis(ms));
        running.kill().unwrap();
        running.wait().unwrap();
        let after = facts::of(&source);
        let published = std::fs::read_dir(dir.path().join("standby/acme/images")).unwrap();
        let newest =
            published.filter(|f| !f.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
        let is_new = newest.count() as u64
            == 5 + [1, 3, 5, 8, 13, 20, 30].iter().position(|m| *m == ms).unwrap() as u64 + 1;
        judge(if is_new { &after } else { &before }, &format!("killed after {ms} ms"));
        ok(&mut follow());
        judge(&after, &format!("after a kill after {ms} ms"));
    }
}

#[test]
fn a_report_that_did_not_get_through_is_told_by_the_next_run() {
    let (rig, _) = behind();
    let told =
        || rig.store().notes().standbys().unwrap().iter().map(|report| report.snapshot).collect::<Vec<_>>();
    assert_eq!(told(), [Sequence(1)]);
    // The note is the last call of a run.
    let calls = strike(Fault::Fails, u64::MAX, false);
    let faulty = FaultyStore::new(rig.objects.clone(), Fault::Fails, calls, true);
    let report = follow_by(&rig::repository(faulty, rig::patience(2)), &depot(&rig), &request()).unwrap();
    let untold = report.untold.unwrap();
    assert!(report.published && untold.contains("standbys/standby-1"), "{untold}");
    assert_eq!((depot(&rig).snapshots().unwrap().len(), told()), (2, vec![Sequence(1)]));
    let again = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert_eq!((again.published, told()), (false, vec![Sequence(2)]));
    // A note that was written is not written again.
    let puts = rig.repository.requests().put;
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert_eq!(rig.repository.requests().put, puts);
}

#[test]
fn two_followers_do_not_meet() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let depot = depot(&rig);
    let lock = depot.lock().unwrap();
    let error = follow_by(&rig.repository, &depot, &request()).unwrap_err();
    assert!(matches!(error, FollowError::Locked(_)), "{error}");
    drop(lock);
    follow_by(&rig.repository, &depot, &request()).unwrap();
}
