//! A scan by hints sees what a full scan sees.

use crate::support::dice::Dice;
use crate::support::disk::SmallDisk;
use crate::support::rig::{self, Rig};
use crate::support::tree::sample_tree;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use understudy::api::resync::ResyncReport;
use understudy::model::id::Sequence;
use understudy::replicate::resync::{Request, Watched};
use understudy::repository::diff::changes;
use understudy::repository::error::RepositoryError;
use understudy::source::hints::{Hints, Watch};

fn watch(rig: &Rig) -> Arc<Watch> {
    Arc::new(Watch::new(&rig.source(), || {}).unwrap())
}

/// Makes a run by hints, if there are any.
fn hinted(rig: &Rig, watch: &Arc<Watch>) -> (ResyncReport, bool) {
    run(rig, watch, watch.take(false))
}

fn run(rig: &Rig, watch: &Arc<Watch>, hints: Option<Hints>) -> (ResyncReport, bool) {
    let by_hints = hints.is_some();
    let request =
        Request { watched: Some(Watched { watch: watch.clone(), hints }), ..rig::request(&rig.source()) };
    (rig::run(&rig.repository, &request).unwrap(), by_hints)
}

/// Returns the differences that a full scan finds in addition to the snapshot before it.
fn missed(rig: &Rig, snapshot: Sequence) -> Vec<String> {
    let full = rig.resync().snapshot;
    let (store, state) = (rig.store(), rig.store().log().state().unwrap());
    let mut missed = Vec::new();
    changes(&store, &state, &state.snapshots[&snapshot], &state.snapshots[&full], |change, entry| {
        missed.push(format!("{change:?} {}", entry.path));
        Ok::<_, RepositoryError>(())
    })
    .unwrap();
    missed
}

/// Returns a path of one to four names.
fn place(dice: &mut Dice, root: &Path) -> PathBuf {
    let mut path = root.to_owned();
    for _ in 0..=dice.index(4) {
        path.push(["a", "b", "c", "dd"][dice.index(4)]);
    }
    path
}

/// Does one random operation, which may fail.
fn act(dice: &mut Dice, root: &Path) {
    let path = place(dice, root);
    let _ = match dice.index(12) {
        0..=2 => std::fs::create_dir_all(&path),
        3..=5 => {
            let _ = std::fs::create_dir_all(path.parent().unwrap());
            std::fs::write(path.with_extension("txt"), dice.index(1 << 30).to_string())
        }
        6 if dice.index(3) == 0 => {
            std::fs::hard_link(path.with_extension("txt"), place(dice, root).with_extension("txt"))
        }
        6 => std::fs::rename(&path, place(dice, root)),
        7 => std::fs::rename(path.with_extension("txt"), place(dice, root).with_extension("txt")),
        8 => std::fs::remove_dir_all(&path),
        9 => std::fs::remove_file(path.with_extension("txt")),
        10 => std::fs::set_permissions(
            &path,
            std::os::unix::fs::PermissionsExt::from_mode(0o700 | dice.index(0o77) as u32),
        ),
        // Moves a directory out and in again under another name, with everything below it.
        _ => {
            let away = root.with_file_name("away");
            let _ = std::fs::rename(&path, &away);
            let back = std::fs::rename(&away, place(dice, root));
            let _ = std::fs::remove_dir_all(&away);
            back
        }
    };
}

#[test]
fn after_a_storm_hints_and_a_full_scan_give_the_same_manifest() {
    for seed in 1..=6u64 {
        let rig = Rig::new();
        let watch = watch(&rig);
        let mut dice = Dice::new(seed);
        let mut by_hints = 0;
        for round in 0..25 {
            for _ in 0..dice.index(40) {
                act(&mut dice, &rig.source());
            }
            let (report, was) = hinted(&rig, &watch);
            by_hints += u32::from(was);
            let missed = missed(&rig, report.snapshot);
            assert!(missed.is_empty(), "seed {seed}, round {round}: {missed:?}");
        }
        assert_eq!(by_hints, 24, "all but the first");
    }
}

#[test]
fn a_storm_during_the_scans_is_seen_by_the_next() {
    let rig = Rig::new();
    let watch = watch(&rig);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 1..=2u64 {
            let (root, stop) = (rig.source(), &stop);
            scope.spawn(move || {
                let mut dice = Dice::new(100 + seed);
                while !stop.load(Ordering::Relaxed) {
                    act(&mut dice, &root);
                }
            });
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            let hints = watch.take(false);
            let request = Request {
                watched: Some(Watched { watch: watch.clone(), hints }),
                ..rig::request(&rig.source())
            };
            rig::run(&rig.repository, &request).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (report, _) = hinted(&rig, &watch);
    assert_eq!(missed(&rig, report.snapshot), Vec::<String>::new());
    assert!(rig.verify().is_sound());
}

#[test]
fn what_did_not_change_is_not_looked_at_and_its_pages_stay() {
    let rig = Rig::new();
    for directory in 0..120 {
        let path = rig.source().join(format!("d{directory:03}"));
        std::fs::create_dir(&path).unwrap();
        for file in 0..60 {
            std::fs::write(
                path.join(format!("file-with-a-name-{file:02}.php")),
                format!("{directory} {file}"),
            )
            .unwrap();
        }
    }
    // The files must be older than a clock's tick, so that they are not read again for that reason.
    std::thread::sleep(Duration::from_millis(50));
    let watch = watch(&rig);
    let (first, by_hints) = hinted(&rig, &watch);
    assert!(!by_hints);
    let (same, by_hints) = hinted(&rig, &watch);
    assert!(by_hints);
    assert_eq!((same.entries, same.changes.unchanged), (first.entries, first.entries));
    let state = rig.store().log().state().unwrap();
    let page = |report: &ResyncReport| state.snapshots[&report.snapshot].manifest.clone();
    assert_eq!(page(&first), page(&same), "the same manifest");
    // Changes one file of 7,200.
    std::fs::write(rig.source().join("d077/file-with-a-name-30.php"), b"changed").unwrap();
    let (one, _) = hinted(&rig, &watch);
    assert_eq!((one.changes.modified, one.changes.unchanged, one.read_bytes), (1, first.entries - 1, 7));
    // A failed run gives its hints back.
    std::fs::write(rig.source().join("d001/new"), b"new").unwrap();
    let hints = watch.take(false);
    assert!(!watch.is_due());
    watch.give_back(hints);
    assert!(watch.is_due());
    let (two, _) = hinted(&rig, &watch);
    assert_eq!(two.changes.added, 1);
    assert_eq!(missed(&rig, two.snapshot), Vec::<String>::new());
    // The last full scan's time is kept, since it decides which files are due to be read again.
    let state = rig.store().log().state().unwrap();
    let full = |report: &ResyncReport| state.snapshots[&report.snapshot].full_scan_start;
    assert_eq!(
        (full(&first), full(&same), full(&two)),
        (None, Some(first.scan_start), Some(first.scan_start))
    );
}

#[test]
fn a_volume_that_is_mounted_late_is_watched_from_the_next_full_scan_on() {
    let rig = Rig::new();
    std::fs::create_dir_all(rig.source().join("media/deep")).unwrap();
    std::fs::write(rig.source().join("file"), b"file").unwrap();
    let watch = watch(&rig);
    hinted(&rig, &watch);
    let volume = SmallDisk::mount(rig.source().join("media"), 1 << 20);
    std::fs::create_dir(volume.0.join("deep")).unwrap();
    run(&rig, &watch, watch.take(true));
    std::fs::write(volume.0.join("deep/new"), b"new").unwrap();
    let (report, by_hints) = hinted(&rig, &watch);
    assert!(by_hints);
    assert_eq!((report.changes.added, missed(&rig, report.snapshot)), (1, Vec::new()));
    // Checks the root itself: another directory needs another watch.
    assert!(watch.is_of(&rig.source()));
    let _over = SmallDisk::mount(rig.source(), 1 << 20);
    assert!(!watch.is_of(&rig.source()));
}

#[test]
fn a_file_that_changes_under_one_of_its_names_changes_under_all() {
    let rig = Rig::new();
    for directory in ["a", "b", "c"] {
        std::fs::create_dir(rig.source().join(directory)).unwrap();
        std::fs::write(rig.source().join(directory).join("other"), directory).unwrap();
    }
    std::fs::write(rig.source().join("a/file"), b"before").unwrap();
    std::fs::hard_link(rig.source().join("a/file"), rig.source().join("b/file")).unwrap();
    let watch = watch(&rig);
    hinted(&rig, &watch);
    // No event reports the other name.
    std::fs::write(rig.source().join("b/file"), b"behind").unwrap();
    let (report, by_hints) = hinted(&rig, &watch);
    assert!(by_hints);
    assert_eq!((report.changes.modified, missed(&rig, report.snapshot)), (2, Vec::new()));
    // Files with one name are still scanned by hints, once no file is younger than the clock's tick.
    std::thread::sleep(Duration::from_millis(50));
    rig.resync();
    std::fs::write(rig.source().join("c/other"), b"changed").unwrap();
    let (report, _) = hinted(&rig, &watch);
    let state = rig.store().log().state().unwrap();
    assert!(state.snapshots[&report.snapshot].full_scan_start.is_some());
    assert_eq!(missed(&rig, report.snapshot), Vec::<String>::new());
}

#[test]
fn a_volume_that_is_mounted_anew_is_looked_at_though_nothing_tells_of_it() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    let at = rig.source().join("volume");
    std::fs::create_dir(&at).unwrap();
    let volume = rig.dir.path().join("data");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("kept"), "before").unwrap();
    let mount = || {
        let done = std::process::Command::new("mount").arg("--bind").args([&volume, &at]).status();
        assert!(done.unwrap().success());
    };
    let unmount = || assert!(std::process::Command::new("umount").arg(&at).status().unwrap().success());
    mount();
    let watch = watch(&rig);
    hinted(&rig, &watch);
    let (_, by_hints) = hinted(&rig, &watch);
    assert!(by_hints);
    unmount();
    std::fs::write(volume.join("kept"), "behind").unwrap();
    std::fs::write(volume.join("added"), "new").unwrap();
    mount();
    let (report, by_hints) = hinted(&rig, &watch);
    unmount();
    mount();
    assert!(by_hints);
    assert_eq!((report.changes.added, report.changes.modified), (1, 1), "{:?}", report.changes);
    assert_eq!(missed(&rig, report.snapshot), Vec::<String>::new());
    unmount();
}

#[test]
fn what_could_not_be_read_is_looked_at_by_the_next_run_by_hints() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    let watch = watch(&rig);
    hinted(&rig, &watch);
    // A name that its directory lists but that cannot be opened, like a mount whose server is dead.
    let at = rig.source().join("c/dead");
    std::fs::create_dir(&at).unwrap();
    let unreachable = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "dead"])
        .arg(&at)
        .status()
        .unwrap();
    assert!(unreachable.success());
    std::fs::write(at.join("file"), "x").unwrap();
    let (first, _) = hinted(&rig, &watch);
    assert_eq!(first.retry, Some(Vec::new()));
    assert!(std::process::Command::new("umount").arg(&at).status().unwrap().success());
    // The next run looks at the paths that a run's warnings name.
    let mut warnings = understudy::replicate::warnings::WarningLog::default();
    let path = understudy::model::tree_path::TreePath::parse(b"a/b/f3").unwrap();
    warnings.add(understudy::api::resync::WarningKind::Unreadable, &path, String::new());
    let retried = Hints::new(Default::default(), warnings.to_be_retried().unwrap().into_iter().collect());
    watch.give_back(Some(retried));
    let hints = watch.take(false).unwrap();
    assert!(
        !hints.is_clean(&path)
            && hints.is_clean(&understudy::model::tree_path::TreePath::parse(b"empty").unwrap())
    );
    // If there are more than are named, the next run looks at everything.
    for number in 0..200 {
        warnings.add(understudy::api::resync::WarningKind::Unreadable, &path, number.to_string());
    }
    assert_eq!(warnings.to_be_retried(), None);
}
