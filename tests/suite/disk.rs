//! Published means on the disk, whether the filesystem below loses data, reports an error only once, or keeps
//! half of a write.

use crate::support::command::{ok, understudy};
use crate::support::disk::SmallDisk;
use crate::support::facts::{self, assert_same};
use crate::support::mount::MountPoint;
use crate::support::objects::{delete, keys, read, write};
use crate::support::rig::{self, Rig};
use crate::support::standby::{at, depot, follow_by, latest, request};
use crate::support::tree::{random, sample_tree};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use understudy::model::id::Sequence;
use understudy::standby::check::{CheckReport, check};
use understudy::standby::depot::Depot;
use understudy::standby::pin::pins;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A filesystem that believes it has more room than there is below it.
struct ThinDisk {
    at: PathBuf,
    pool: SmallDisk,
}

impl ThinDisk {
    fn mount(dir: &Path, pool_bytes: u64) -> Self {
        let (at, pool) = (dir.join("thin"), SmallDisk::mount(dir.join("pool"), pool_bytes));
        std::fs::create_dir_all(&at).unwrap();
        let image = pool.0.join("image");
        std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let image = image.to_str().unwrap();
        // All metadata is at the start of the filesystem and gets its room now, so that only file contents
        // find none.
        let own = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,packed_meta_blocks=1";
        run(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", "-b", "4096", "-N", "4096", "-J", "size=4", "-E", own, image],
        );
        run("fallocate", &["-l", "24MiB", image]);
        run("mount", &["-o", "loop", image, at.to_str().unwrap()]);
        Self { at, pool }
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn looked_at(rig: &Rig, depot: &Depot) -> CheckReport {
    check(&rig.store(), depot, false, 2).unwrap()
}

fn arriving(depot: &Depot) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(depot.objects().join(".arriving")).unwrap();
    listed.map(|entry| entry.unwrap().path()).collect()
}

fn objects(depot: &Depot) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    depot
        .each_object(|path, _| {
            found.insert(path.to_owned());
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn what_the_pool_below_had_no_room_for_is_never_published() {
    let rig = Rig::new();
    std::fs::write(rig.source().join("first"), random(b"first", 1 << 20)).unwrap();
    rig.resync();
    let thin = ThinDisk::mount(rig.dir.path(), 64 << 20);
    let depot = Depot::new(&thin.at, &rig::name());
    follow_by(&rig.repository, &depot, &request()).unwrap();
    for number in 0..30u8 {
        std::fs::write(rig.source().join(format!("f{number}")), random(&[number], 3 << 20)).unwrap();
    }
    rig.resync();
    let error = follow_by(&rig.repository, &depot, &request()).unwrap_err();
    assert!(error.to_string().contains("write it to the disk"), "{error}");
    assert_eq!(depot.snapshots().unwrap(), [Sequence(1)]);
    assert!(arriving(&depot).is_empty(), "nobody can say which of it is on the disk");
    // The kernel has reported the error, and will not report it again. Now there is room.
    thin.pool.grow(512 << 20);
    let report = follow_by(&rig.repository, &depot, &request()).unwrap();
    assert_eq!((report.snapshot, report.published, report.objects_made), (Sequence(2), true, 30));
    let report = looked_at(&rig, &depot);
    assert_eq!((report.snapshots, report.problem_count), (2, 0), "{report:?}");
}

#[test]
fn what_a_broken_off_run_left_is_taken_by_its_bytes_and_by_no_clock() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let depot = depot(&rig);
    follow_by(&rig.repository, &depot, &request()).unwrap();
    let first = objects(&depot);
    let (whole, torn) = (random(b"whole", 300_000), random(b"torn", 300_000));
    std::fs::write(rig.source().join("whole"), &whole).unwrap();
    std::fs::write(rig.source().join("torn"), &torn).unwrap();
    rig.resync();
    // A run of this boot was killed while its clock was an hour ahead; one of its files has its length, but
    // only zeros.
    let place = |bytes: &[u8]| depot.objects().join(".arriving").join(blake3::hash(bytes).to_hex().as_str());
    std::fs::write(place(&whole), &whole).unwrap();
    std::fs::write(place(&torn), vec![0; torn.len()]).unwrap();
    std::fs::write(depot.objects().join(".arriving/no-hash"), b"").unwrap();
    for path in arriving(&depot) {
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
    }
    let report = follow_by(&rig.repository, &depot, &request()).unwrap();
    assert_eq!(report.objects_made, 1, "what was whole is not fetched again: {report:?}");
    assert!(arriving(&depot).is_empty());
    assert_eq!(objects(&depot).len(), first.len() + 2);
    let report = looked_at(&rig, &depot);
    assert_eq!((report.problem_count, report.damaged_unneeded), (0, 0), "{report:?}");
    assert_same(&rig.source(), &MountPoint::of(&rig, &latest(), "mounted").0, "after the kill");
}

#[test]
fn what_an_older_version_left_in_doubt_is_looked_at_whatever_its_marker_says() {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for (marker, ahead) in [(boot.as_str(), 0), ("another boot", 6 * 3600), ("", 0)] {
        let rig = Rig::new();
        std::fs::write(rig.source().join("one"), random(b"one", 200_000)).unwrap();
        rig.resync();
        let depot = depot(&rig);
        follow_by(&rig.repository, &depot, &request()).unwrap();
        let first = objects(&depot).pop_first().unwrap();
        // The older version named objects too early: the first snapshot's object is damaged, and so is one of
        // the second's.
        std::fs::write(rig.source().join("one"), random(b"two", 200_000)).unwrap();
        rig.resync();
        let name = blake3::hash(&random(b"two", 200_000)).to_hex();
        let second = depot.objects().join(&name[..2]).join(&name[2..]);
        for path in [&first, &second] {
            let _ = std::fs::remove_file(path);
            std::fs::write(path, vec![0; 200_000]).unwrap();
        }
        let path = depot.root().join("unfinished");
        std::fs::write(&path, marker).unwrap();
        let time = std::time::SystemTime::now() + std::time::Duration::from_secs(ahead);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let report = follow_by(&rig.repository, &depot, &request()).unwrap();
        assert_eq!((report.objects_repaired, path.exists()), (2, false), "{marker:?}");
        assert_eq!(looked_at(&rig, &depot).problem_count, 0, "{marker:?}: of both snapshots");
    }
}

#[test]
fn a_run_that_the_repository_ends_keeps_what_arrived() {
    let rig = Rig::new();
    for number in 0..8u8 {
        std::fs::write(rig.source().join(format!("f{number}")), random(&[number], 6 << 20)).unwrap();
    }
    rig.resync();
    let mut kept_in_all = 0;
    for (number, pack) in keys(&rig, "/packs/").iter().enumerate() {
        let sound = read(&rig, pack);
        delete(&rig, pack);
        let depot = Depot::new(&rig.dir.path().join(format!("standby-{number}")), &rig::name());
        follow_by(&rig.repository, &depot, &request()).unwrap_err();
        let kept = objects(&depot).len() as u64;
        assert!(arriving(&depot).is_empty() && depot.snapshots().unwrap().is_empty());
        write(&rig, pack, sound);
        let report = follow_by(&rig.repository, &depot, &request()).unwrap();
        assert_eq!(report.objects_made + kept, 8);
        kept_in_all += kept;
    }
    assert!(kept_in_all > 0);
}

#[test]
fn a_killed_run_is_gone_on_with_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..4u8 {
        std::fs::write(source.join(format!("f{number}")), random(&[number], 5 << 20)).unwrap();
    }
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.env("UNDERSTUDY_STANDBY", dir.path().join("standby")).args(args);
        command
    };
    ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
    let killed =
        command(&["follow", "acme", "--once"]).env("UNDERSTUDY_TEST_KILL_AT", "fetched").status().unwrap();
    assert_eq!(killed.signal(), Some(9));
    let output = ok(&mut command(&["follow", "acme", "--once", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["published"], &report["objects_made"]), (&true.into(), &0.into()), "{report}");
    ok(&mut command(&["verify", "acme", "--standby"]));
}

#[test]
fn damage_that_no_published_snapshot_needs_is_told_apart() {
    let rig = Rig::new();
    std::fs::write(rig.source().join("one"), b"some bytes").unwrap();
    rig.resync();
    let depot = depot(&rig);
    follow_by(&rig.repository, &depot, &request()).unwrap();
    let stray = depot.objects().join("ab").join("c".repeat(62));
    std::fs::write(&stray, b"not what its name says").unwrap();
    let report = looked_at(&rig, &depot);
    assert_eq!((report.problem_count, report.damaged_unneeded), (0, 1), "{report:?}");
    let report = check(&rig.store(), &depot, true, 2).unwrap();
    assert_eq!((report.unneeded_removed, stray.exists()), (1, false));
}

#[test]
fn pins_without_their_bytes_pin_nothing_and_stop_nobody() {
    let rig = Rig::new();
    for round in 1..=3u8 {
        std::fs::write(rig.source().join("changes"), vec![round; 5000]).unwrap();
        rig.resync();
        follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    }
    let torn = |name: &str, bytes: &[u8]| {
        let path = depot(&rig).pins().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let left = [torn("0123", b""), torn("4567", br#"{"snapshot":1,"path":"/mn"#), torn("89ab", &[0; 90])];
    let point = MountPoint::of(&rig, &at(2), "mounted");
    let keep = understudy::standby::follow::FollowRequest { keep: 1, ..request() };
    std::fs::write(rig.source().join("changes"), b"again").unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &keep).unwrap();
    assert_eq!(depot(&rig).snapshots().unwrap(), [Sequence(2), Sequence(4)]);
    assert!(left.iter().all(|path| !path.exists()), "they are tidied");
    understudy::mounts::unmount::unmount(&rig.dir.path().join("standby"), &point.0, false).unwrap();
    assert_eq!(pins(&depot(&rig)).unwrap(), []);
    // A pin that may be a writable mount's is different: nothing is dropped until an operator looks.
    let unknown = torn("cdef", br#"{"snapshot":2,"path":"/srv","writable":true,"bo"#);
    std::fs::write(rig.source().join("changes"), b"once more").unwrap();
    rig.resync();
    let error = follow_by(&rig.repository, &depot(&rig), &keep).unwrap_err().to_string();
    assert!(error.contains(unknown.to_str().unwrap()) && error.contains("delete it"), "{error}");
    assert!(depot(&rig).snapshots().unwrap().contains(&Sequence(2)));
    // Mounts are made and removed meanwhile.
    let point = MountPoint::of(&rig, &latest(), "mounted");
    understudy::mounts::unmount::unmount(&rig.dir.path().join("standby"), &point.0, false).unwrap();
    std::fs::remove_file(unknown).unwrap();
    follow_by(&rig.repository, &depot(&rig), &keep).unwrap();
}

#[test]
fn mount_points_have_names_of_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.env("UNDERSTUDY_STANDBY", dir.path().join("standby")).args(args);
        command
    };
    ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
    ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
    let wanted = facts::of(&dir.path().join("source"));
    let left = || std::fs::read_dir(dir.path().join("standby/acme/pins")).unwrap().count();
    for name in [&b"m\xff"[..], b"a b\tc", b"new\nline", b"back\\slash\\040", b"#,:=\"'", "\u{fc}".as_bytes()]
    {
        let point = MountPoint::new(&dir.path().join(std::ffi::OsStr::from_bytes(name)));
        for method in ["kernel", "fuse"] {
            ok(command(&["mount", "acme", "--method", method, "--json"]).arg(&point.0));
            assert!(facts::of(&point.0) == wanted, "{name:?} by {method}");
            let shown = ok(&mut command(&["mounts", "--json"])).stdout;
            let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
            let text = point.0.display().to_string();
            assert!(shown.as_array().unwrap().iter().any(|mount| mount["dir"] == *text), "{name:?}: {shown}");
            // A pin that cannot be read would stop this run.
            ok(&mut command(&["follow", "acme", "--once", "--quiet"]));
            ok(command(&["umount"]).arg(&point.0));
            // Only the lock remains.
            assert_eq!(left(), 1, "{name:?} by {method}");
        }
    }
}
