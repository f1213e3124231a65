//! A source that changes while it is read, and trees that are held.

use crate::support::facts::{self, assert_same};
use crate::support::rig::{self, Rig};
use crate::support::tree::sample_tree;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use understudy::model::id::{ContentHash, WriterId};
use understudy::model::record::{Event, StoreState};
use understudy::model::snapshot_ref::Moment;
use understudy::replicate::error::ResyncError;
use understudy::replicate::resync::Request;
use understudy::repository::append::Appended;

/// Ends a thread that changes the tree, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_tree_in_motion_gives_whole_snapshots() {
    let rig = Rig::new();
    let root = rig.source();
    sample_tree(&root);
    std::fs::write(root.join("c/large"), vec![1; 9 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Grows, shrinks, vanishes, becomes a symlink or a directory, as fast as possible.
        scope.spawn(|| {
            let mut round = 0u32;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let at = root.join(format!("a/b/f{}", round % 40));
                let _ = std::fs::OpenOptions::new()
                    .append(true)
                    .open(root.join("c/large"))
                    .and_then(|mut f| f.write_all(&[2; 5000]));
                let _ = match round % 6 {
                    0 => std::fs::write(&at, vec![3; (round % 9000) as usize]),
                    1 => std::fs::remove_file(&at),
                    2 => std::os::unix::fs::symlink("/etc/passwd", &at),
                    3 => std::fs::remove_file(&at).and_then(|()| std::fs::create_dir(&at)),
                    4 => std::fs::remove_dir(&at),
                    _ => std::fs::rename(root.join("c/medium"), &at)
                        .and_then(|()| std::fs::rename(&at, root.join("c/medium"))),
                };
                if round.is_multiple_of(50) {
                    let _ = std::fs::File::options()
                        .write(true)
                        .open(root.join("c/large"))
                        .and_then(|f| f.set_len(8 << 20));
                    let _ = std::fs::rename(root.join("a/b"), root.join("c/b"))
                        .and_then(|()| std::fs::rename(root.join("c/b"), root.join("a/b")));
                }
            }
        });
        let stop = Stop(&stop);
        for _ in 0..20 {
            let report = rig.resync();
            // A file that shrinks during every reading is left to the next run, with a warning.
            let shrank = report.warnings.first.iter().filter(|w| w.reason.contains("shrank")).count() as u64;
            assert_eq!(report.warnings.unreadable, shrank, "{:?}", report.warnings);
            // Every snapshot can be restored, and every file in it is one that was read completely.
            rig.restored(Moment::At(report.snapshot));
        }
        drop(stop);
    });
    assert!(rig.verify().is_sound());
    let report = rig.resync();
    assert_eq!(report.warnings.torn, 0);
    assert_same(&root, &rig.restored(Moment::Latest), "at rest");
}

#[test]
fn a_file_that_never_rests_is_taken_as_torn_and_read_again() {
    let rig = Rig::new();
    let root = rig.source();
    sample_tree(&root);
    std::fs::write(root.join("log"), vec![0; 30 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = std::fs::OpenOptions::new().append(true).open(root.join("log")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                log.write_all(b"line\n").unwrap();
            }
        });
        let stop = Stop(&stop);
        let report = rig.resync();
        drop(stop);
        assert_eq!(report.warnings.torn, 1, "{:?}", report.warnings);
        assert_eq!(report.warnings.first[0].path, "log");
    });
    let report = rig.resync();
    assert_eq!(report.warnings.torn, 0);
    assert_same(&root, &rig.restored(Moment::Latest), "at rest");
}

#[test]
fn a_silent_change_is_found_when_its_turn_comes() {
    let rig = Rig::new();
    let root = rig.source();
    sample_tree(&root);
    // A filesystem whose clock stands still hides a change from `stat`. Here the snapshot is older than the
    // period, so every file is due to be read again.
    std::thread::sleep(std::time::Duration::from_millis(60));
    let mut request = rig::request(&root);
    request.plan.reread_days = 30;
    rig::run(&rig.repository, &request).unwrap();
    let again = rig::run(&rig.repository, &request).unwrap();
    assert_eq!(again.read_bytes, 0);
    let later = rig.repository.with_env(rig::env_at(|| rig::now_ns() + 31 * 86_400_000_000_000));
    let progress = Default::default();
    let around = understudy::replicate::resync::ResyncContext {
        tree: &understudy::source::disk::Disk::default(),
        progress: &progress,
        on_step: &|_| {},
    };
    let late = understudy::replicate::resync::resync(&later, &request, &around).unwrap();
    let all: u64 = facts::of(&root).len() as u64;
    assert!(late.read_bytes > 2_500_000, "{all} entries, {} bytes read", late.read_bytes);
    assert_eq!((late.new_bytes, late.warnings.changed_silently), (0, 0));
}

#[test]
fn what_cannot_be_read_keeps_its_last_state() {
    let rig = Rig::new();
    let root = rig.source();
    sample_tree(&root);
    let first = rig.resync();
    assert_eq!(first.warnings.unreadable, 0);
    let before = facts::of(&root);
    // Root can read everything; another user cannot.
    let run_as_nobody = |source: &std::path::Path| {
        let dir = rig.dir.path();
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(dir.join("repository")).unwrap();
        std::os::unix::fs::chown(dir.join("repository"), Some(65534), Some(65534)).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_understudy"), dir.join("understudy")).unwrap();
        std::fs::copy(rig::key_file(), dir.join("key")).unwrap();
        std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(dir.join("understudy"))
            .args(["resync", "--store", "acme", "--json", "--repository"])
            .args([&dir.join("repository"), source])
            .current_dir(dir)
            .env("UNDERSTUDY_KEY_FILE", dir.join("key"))
            .env("HOME", dir.join("repository"))
            .output()
            .unwrap()
    };
    let first = run_as_nobody(&root);
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stderr));
    std::fs::set_permissions(root.join("a/b"), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::set_permissions(root.join("c/medium"), PermissionsExt::from_mode(0o600)).unwrap();
    let second = run_as_nobody(&root);
    assert_eq!(second.status.code(), Some(3), "{}", String::from_utf8_lossy(&second.stderr));
    let report: serde_json::Value = serde_json::from_slice(&second.stdout).unwrap();
    assert_eq!(report["warnings"]["unreadable"], 2, "{report}");
    assert_eq!(report["changes"]["removed"], 0);
    let local =
        object_store::local::LocalFileSystem::new_with_prefix(rig.dir.path().join("repository")).unwrap();
    let store = rig::repository(std::sync::Arc::new(local), rig::disk_patience(2)).store(&rig::name());
    rig::restore_at(&store, Moment::Latest, &rig.restore_request("kept")).unwrap();
    let kept = facts::of(&rig.dir.path().join("kept"));
    for path in [&b"a/b/f1"[..], b"c/medium", b"c/hard"] {
        assert_eq!(kept[path], before[path], "{}", String::from_utf8_lossy(path));
    }
}

fn held(rig: &Rig) -> String {
    let request = Request { accept: false, ..rig::request(&rig.source()) };
    match rig::run(&rig.repository, &request) {
        Err(error @ ResyncError::Held { .. }) => error.to_string(),
        other => panic!("not held: {:?}", other.map(|r| r.snapshot).map_err(|e| e.to_string())),
    }
}

#[test]
fn a_missing_an_empty_and_a_foreign_root_and_a_mass_deletion_are_held() {
    let rig = Rig::new();
    let root = rig.source();
    sample_tree(&root);
    for number in 0..200 {
        std::fs::write(root.join(format!("c/many{number}")), b"x").unwrap();
    }
    rig.resync();
    let head = rig.head();
    // The files are deleted by a user.
    (0..200).for_each(|number| std::fs::remove_file(root.join(format!("c/many{number}"))).unwrap());
    assert!(held(&rig).contains("200 of"));
    for entry in std::fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
    }
    assert!(held(&rig).contains("empty"));
    // The volume is not mounted: the bare directory below it is in its place.
    std::fs::rename(&root, rig.dir.path().join("away")).unwrap();
    std::fs::create_dir(&root).unwrap();
    assert!(held(&rig).contains("is the volume mounted?"));
    std::fs::remove_dir(&root).unwrap();
    let missing = rig::run(&rig.repository, &rig::request(&root)).unwrap_err().to_string();
    assert!(missing.contains("source") && missing.contains("mounted"), "{missing}");
    assert_eq!(rig.head(), head, "nothing was committed");
    std::fs::create_dir(&root).unwrap();
    assert_eq!(rig.resync().entries, 1, "an operator lets it through");
}

fn promote(rig: &Rig, state: &StoreState, primary: &str) {
    let event = Event::Promoted { primary: WriterId(primary.into()) };
    let appended = rig.store().log().append(&mut state.clone(), &WriterId(primary.into()), event);
    assert!(matches!(appended, Ok(Appended::Committed(_))));
}

#[test]
fn a_fenced_writer_stops_and_says_so() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    promote(&rig, &rig.store().log().state().unwrap(), "standby-1");
    let error = rig::run(&rig.repository, &rig::request(&rig.source())).unwrap_err();
    assert!(matches!(error, ResyncError::Fenced { .. }), "{error}");
    assert!(error.to_string().contains("standby-1"));
    let new_primary = Request { writer: WriterId("standby-1".into()), ..rig::request(&rig.source()) };
    rig::run(&rig.repository, &new_primary).unwrap();
}

#[test]
fn a_writer_fenced_in_the_middle_of_its_run_commits_nothing() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let before = rig.store().log().state().unwrap();
    let progress = Default::default();
    let around = understudy::replicate::resync::ResyncContext {
        tree: &understudy::source::disk::Disk::default(),
        progress: &progress,
        on_step: &|step| {
            if step == understudy::support::progress::Step::Shipped {
                promote(&rig, &before, "standby-1");
            }
        },
    };
    std::fs::write(rig.source().join("late"), b"after the failover").unwrap();
    let error = understudy::replicate::resync::resync(&rig.repository, &rig::request(&rig.source()), &around)
        .unwrap_err();
    assert!(matches!(error, ResyncError::Fenced { .. }), "{error}");
    let state = rig.store().log().state().unwrap();
    assert_eq!(state.snapshots.len(), 1);
    assert_ne!(state.head.unwrap().1, ContentHash([0; 32]));
}

/// Volumes below the root: whatever happens to one, its content is not deleted without being asked.
#[test]
fn a_volume_that_goes_is_another_or_goes_with_its_directory_is_held() {
    let rig = Rig::new();
    let (root, at) = (rig.source(), rig.source().join("pub/media"));
    sample_tree(&root);
    for number in 0..300 {
        std::fs::write(root.join(format!("c/file{number}")), b"x").unwrap();
    }
    std::fs::create_dir_all(&at).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).arg(&at).status().unwrap();
        assert!(done.success(), "{program} {arguments:?}");
    };
    let volume = rig.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    for number in 0..40 {
        std::fs::write(volume.join(format!("image{number}")), b"jpg").unwrap();
    }
    run("mount", &["--bind", volume.to_str().unwrap()]);
    rig.resync();
    // The same volume, from which a customer deleted something.
    std::fs::remove_file(at.join("image0")).unwrap();
    rig::run(&rig.repository, &Request { accept: false, ..rig::request(&root) }).unwrap();
    // It is not mounted, and a small file is in the directory below it.
    run("umount", &[]);
    std::fs::write(at.join(".gitkeep"), b"").unwrap();
    assert!(held(&rig).starts_with("store 'acme' is held"), "{}", held(&rig));
    assert!(held(&rig).contains("pub/media: a volume was mounted here last time, and none is now"));
    // Another volume, which is empty.
    run("mount", &["-t", "tmpfs", "none"]);
    assert!(held(&rig).contains("is it the right one?"));
    run("umount", &[]);
    // The directory is removed as well.
    std::fs::remove_file(at.join(".gitkeep")).unwrap();
    std::fs::remove_dir(&at).unwrap();
    assert!(held(&rig).contains("39 of its 39 entries are missing"), "{}", held(&rig));
    // The volume is mounted again: nothing was lost.
    std::fs::create_dir(&at).unwrap();
    run("mount", &["--bind", volume.to_str().unwrap()]);
    let report = rig::run(&rig.repository, &Request { accept: false, ..rig::request(&root) }).unwrap();
    assert_eq!(report.changes.removed, 0);
    run("umount", &[]);
    // Its content is in the directory itself by now, so nothing would be lost.
    for number in 1..40 {
        std::fs::copy(volume.join(format!("image{number}")), at.join(format!("image{number}"))).unwrap();
    }
    rig::run(&rig.repository, &Request { accept: false, ..rig::request(&root) }).unwrap();
}
