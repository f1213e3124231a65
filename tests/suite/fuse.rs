//! A snapshot that is served straight from the repository equals the snapshot, whatever the repository does.

use crate::support::command::{ok, understudy};
use crate::support::facts::{self, assert_same};
use crate::support::faulty::{ALL, Fault, FaultyStore};
use crate::support::mount::MountPoint;
use crate::support::objects::{Damage, damage, keys};
use crate::support::rig::{self, Rig, name};
use crate::support::standby::{depot, follow_by, latest, request};
use crate::support::tree::{all_kinds, random, sample_tree};
use crate::support::wait::wait_until;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use understudy::model::entry::Kind;
use understudy::model::snapshot_ref::Moment;
use understudy::mounts::tree::SnapshotTree;
use understudy::repository::store::Repository;
use understudy::standby::depot::Depot;
use understudy::vfs::fuse::{FuseOptions, ROOT, Tree, serve_detached};

fn view(
    repository: &Repository,
    depot: Option<Depot>,
) -> Result<SnapshotTree, understudy::repository::error::RepositoryError> {
    let store = repository.store(&name());
    let state = store.log().state()?;
    let (_, record) = store.log().find(&state, Moment::Latest)?;
    SnapshotTree::open(&store, &state, &record, depot, 32 << 20, Box::new(|_| {}))
}

/// Mounts a snapshot that this process serves, until it is dropped.
fn served(rig: &Rig, depot: Option<Depot>, at: &str) -> MountPoint {
    let options = FuseOptions { source: "understudy:test@1".into(), trusted: true };
    let (mount, _) = serve_detached(view(&rig.repository, depot).unwrap(), &options).unwrap();
    let point = MountPoint::new(&rig.dir.path().join(at));
    mount.attach(&point.0).unwrap();
    point
}

/// Creates nested directories, with entries on many pages.
fn deep_tree(root: &Path) {
    for number in 0..3000u32 {
        let dir = root.join(format!("deep/{}/{}/{}", number % 7, number % 31, number % 3));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(
            dir.join(format!("{number}-{}", "n".repeat(number as usize % 90))),
            number.to_string(),
        )
        .unwrap();
    }
}

#[test]
fn a_tree_is_the_same_by_fuse_by_the_kernel_and_by_a_restore() {
    let rig = Rig::new();
    let source = rig.source();
    all_kinds(&source);
    deep_tree(&source);
    for length in [1, 4000, 4095] {
        std::os::unix::fs::symlink("t".repeat(length), source.join(format!("to-{length}"))).unwrap();
    }
    let large = random(b"large", 9 << 20);
    std::fs::write(source.join("c/large"), &large).unwrap();
    rig.resync();
    // Some files must consist of extents.
    let edited = [&large[..4_000_000], b"inserted", &large[4_000_000..]].concat();
    std::fs::write(source.join("c/large"), edited).unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let fuse = served(&rig, None, "fuse");
    assert_same(&source, &fuse.0, "FUSE");
    assert_same(&source, &served(&rig, Some(depot(&rig)), "local").0, "FUSE on a standby");
    assert_same(&source, &MountPoint::of(&rig, &latest(), "kernel").0, "the kernel");
    assert_same(&source, &rig.restored(Moment::Latest), "a restore");
    let write = std::fs::write(fuse.0.join("new"), b"x").unwrap_err();
    assert_eq!(write.raw_os_error(), Some(30), "read-only: {write}");
    assert!(!fuse.0.join("deep/8").exists() && !fuse.0.join("deep/1/nothing").exists());
    let names = ["c/hard", "a/b/f2"].map(|name| fuse.0.join(name).metadata().unwrap());
    assert_eq!((names[0].ino(), names[0].nlink()), (names[1].ino(), names[1].nlink()));
}

#[test]
fn acls_are_obeyed_by_fuse() {
    let rig = Rig::new();
    let file = rig.source().join("secret");
    std::fs::write(&file, b"for 1234 and root").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(rig.source(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(rig.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    ok(Command::new("setfacl").args(["-m", "u:1234:r"]).arg(&file));
    rig.resync();
    let point = served(&rig, None, "fuse");
    let may_read = |user: &str| {
        let as_user = [&format!("--reuid={user}"), "--regid=4321", "--clear-groups", "cat"];
        let mut cat = Command::new("setpriv");
        cat.args(as_user).arg(point.0.join("secret"));
        cat.stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
    };
    assert!(may_read("1234") && !may_read("1235"));
}

#[test]
fn holes_are_seen_by_fuse() {
    let rig = Rig::new();
    let file = std::fs::File::create(rig.source().join("sparse")).unwrap();
    file.set_len(50 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 9000], 20 << 20).unwrap();
    rig.resync();
    let point = served(&rig, None, "fuse");
    assert_same(&rig.source(), &point.0, "sparse");
    let shown = std::fs::File::open(point.0.join("sparse")).unwrap();
    let seek = |from| rustix::fs::seek(&shown, from).unwrap();
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), 20 << 20);
    assert!((20 << 20..21 << 20).contains(&seek(rustix::fs::SeekFrom::Hole(20 << 20))));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(21 << 20)), 21 << 20);
}

#[test]
fn a_reader_fetches_what_it_reads_and_a_little_ahead() {
    let rig = Rig::new();
    deep_tree(&rig.source());
    let large = random(b"large", 48 << 20);
    std::fs::write(rig.source().join("z-large"), &large).unwrap();
    rig.resync();
    let since = |before: &understudy::api::requests::Requests| rig.repository.requests().since(before);
    let before = rig.repository.requests();
    let point = served(&rig, None, "fuse");
    let opened = since(&before);
    assert!(opened.received_bytes < 300_000, "{opened:?}");
    // Reads one small file of three thousand: its page and its chunk are fetched.
    let before = rig.repository.requests();
    let dir = point.0.join("deep/1/1/1");
    let first = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap();
    std::fs::read(first.path()).unwrap();
    let one = since(&before);
    assert!(one.get <= 4 && one.received_bytes < 60_000, "{one:?}");
    // Reads all of them in order: many are fetched by one request.
    let before = rig.repository.requests();
    assert_eq!(facts::of(&point.0.join("deep")), facts::of(&rig.source().join("deep")));
    let all = since(&before);
    assert!(all.get < 150, "{all:?}");
    // A second reading fetches nothing.
    let before = rig.repository.requests();
    facts::of(&point.0.join("deep"));
    assert_eq!(since(&before).get, 0);
    // Reads random parts of a large file: a chunk or two are fetched.
    let before = rig.repository.requests();
    let file = std::fs::File::open(point.0.join("z-large")).unwrap();
    let mut part = vec![0; 5000];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 40_000_000).unwrap();
    assert!(part == large[40_000_000..40_005_000]);
    let random = since(&before);
    assert!(random.get <= 3 && random.received_bytes < 3 << 20, "{random:?}");
    // Reads all of it: no chunk is fetched twice, and several are fetched by one request.
    let before = rig.repository.requests();
    assert!(std::fs::read(point.0.join("z-large")).unwrap() == large);
    let whole = since(&before);
    assert!(whole.received_bytes < 52 << 20 && whole.get < 48, "{whole:?}");
}

#[test]
fn on_a_standby_nothing_is_fetched_that_lies_there() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    std::fs::write(rig.source().join("c/large"), random(b"large", 9 << 20)).unwrap();
    rig.resync();
    follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    let point = served(&rig, Some(depot(&rig)), "fuse");
    let before = rig.repository.requests();
    assert_same(&rig.source(), &point.0, "local");
    assert_eq!(rig.repository.requests().since(&before).get, 0);
    // Objects that were removed meanwhile are fetched.
    let view = view(&rig.repository, Some(depot(&rig))).unwrap();
    std::fs::remove_dir_all(depot(&rig).objects()).unwrap();
    assert_eq!(all_of(&view).unwrap(), all_of(&self::view(&rig.repository, None).unwrap()).unwrap());
}

/// Returns all paths and contents, as the kernel would ask for them.
fn all_of(view: &SnapshotTree) -> Result<BTreeMap<String, Vec<u8>>, Errno> {
    let mut found = BTreeMap::new();
    let mut open = vec![ROOT];
    while let Some(directory) = open.pop() {
        let mut place = 0;
        while let Some((node, next)) = view.child(directory, place)? {
            assert!(next > place, "a listing goes on");
            place = next;
            let entry = node.entry();
            let (_, name) = entry.path.split().unwrap();
            assert_eq!(view.lookup(directory, name)?.unwrap().entry(), entry);
            let mut content = Vec::new();
            match &entry.kind {
                Kind::Directory => open.push(node.number),
                Kind::File(file) => {
                    while (content.len() as u64) < file.size_bytes {
                        content.extend(view.read(node.number, content.len() as u64, 100_000)?);
                    }
                }
                _ => {}
            }
            found.insert(entry.path.to_string(), content);
        }
    }
    Ok(found)
}

fn changed_store() -> Rig {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let mut medium = std::fs::read(rig.source().join("c/medium")).unwrap();
    medium.splice(700_000..700_000, *b"inserted");
    std::fs::write(rig.source().join("c/medium"), medium).unwrap();
    rig.resync();
    rig
}

#[test]
fn whatever_call_fails_a_reader_sees_the_truth_or_an_error() {
    let rig = changed_store();
    let wanted = all_of(&view(&rig.repository, None).unwrap()).unwrap();
    let strike = |fault: Fault, call: u64, on: bool| {
        let faulty = FaultyStore::new(rig.objects.clone(), fault, call, on);
        let patience = understudy::repository::objects::Patience {
            timeout: Duration::from_millis(30),
            ..rig::patience(if on { 1 } else { 3 })
        };
        let repository = rig::repository(faulty.clone(), patience);
        let opened = view(&repository, None);
        if !on {
            assert!(opened.is_ok(), "{fault:?} at call {call} of opening");
        }
        if let Ok(view) = opened {
            match all_of(&view) {
                Ok(found) => assert!(found == wanted, "{fault:?} at call {call}"),
                Err(error) => {
                    assert!(on && [Errno::IO, Errno::TIMEDOUT].contains(&error), "{fault:?} {error}")
                }
            }
        }
        faulty.calls()
    };
    for fault in ALL {
        for on in [false, true] {
            let calls = strike(fault, u64::MAX, on);
            assert!(calls > 5, "{calls}");
            for call in 1..=calls {
                strike(fault, call, on);
            }
        }
    }
}

#[test]
fn of_damaged_packs_nothing_is_shown_and_of_sound_ones_all() {
    for kind in Damage::ALL {
        for number in 0..keys(&changed_store(), "/packs/").len() {
            let rig = changed_store();
            let wanted = all_of(&view(&rig.repository, None).unwrap()).unwrap();
            let key = &keys(&rig, "/packs/")[number];
            damage(&rig, key, kind);
            let Ok(view) = view(&rig.repository, None) else { continue };
            // Each file is read separately.
            let mut wrong = 0;
            for (path, content) in &wanted {
                let mut node = Some(view.node(ROOT).unwrap());
                for name in path.split('/') {
                    node = match node.map(|node| view.lookup(node.number, name.as_bytes())) {
                        Some(Ok(found)) => found,
                        _ => None,
                    };
                }
                let read = node.map(|node| view.read(node.number, 0, 8 << 20));
                match read {
                    Some(Ok(bytes)) => assert!(bytes == *content, "{path}"),
                    Some(Err(Errno::INVAL)) => {}
                    _ => wrong += 1,
                }
            }
            assert!(wrong > 0 || kind == Damage::Flip, "{kind:?} of {key} touches something");
        }
    }
}

#[test]
fn a_mount_in_the_background_is_there_when_the_command_returns_and_ends_when_it_is_unmounted() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let command = |args: &[&str]| {
        let mut command = understudy(dir.path());
        command.args(args);
        command
    };
    ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
    let point = MountPoint::new(&dir.path().join("mounted"));
    // Without a standby on this host, FUSE is the method that works.
    let said = ok(&mut command(&["mount", "acme", "mounted", "--json"]));
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((said["method"].as_str(), said["snapshot"].as_u64()), (Some("fuse"), Some(1)), "{said}");
    assert_same(&source, &point.0, "in the background");
    let shown = ok(&mut command(&["mounts", "--json"])).stdout;
    assert!(String::from_utf8_lossy(&shown).contains(point.0.to_str().unwrap()), "{shown:?}");
    // While in use it stays mounted; with `--lazy` it is removed.
    let open = std::fs::File::open(point.0.join("a/b/f1")).unwrap();
    let busy = command(&["umount", "mounted"]).output().unwrap();
    assert!(!busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("--lazy"));
    drop(open);
    ok(&mut command(&["umount", "mounted"]));
    assert!(std::fs::read_dir(&point.0).unwrap().next().is_none());
    // A killed server leaves a mount that no process serves, which can be unmounted like any other.
    for signal in ["-TERM", "-KILL"] {
        let mut serving = command(&["mount", "acme", "mounted", "--method", "fuse", "--foreground"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("it is mounted", || point.0.join("a").exists());
        ok(Command::new("kill").arg(signal).arg(serving.id().to_string()));
        let status = serving.wait().unwrap();
        assert_eq!(status.success(), signal == "-TERM");
        if signal == "-KILL" {
            ok(&mut command(&["umount", "mounted"]));
        }
        assert!(std::fs::read_dir(&point.0).unwrap().next().is_none(), "{signal}");
    }
    // A mount that is impossible fails with the reason.
    let fails = |args: &[&str], words: &str| {
        let output = command(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{args:?}: {said}");
    };
    fails(&["mount", "acme", "mounted", "--method", "kernel"], "understudy follow acme");
    fails(&["mount", "acme@9", "mounted"], "no snapshot 9;");
    fails(&["mount", "acme", "mounted", "--method", "fuse", "--writable", "up"], "--method kernel");
    fails(&["mount", "acme", "nowhere"], "nowhere");
}

#[test]
fn a_user_without_privileges_mounts_what_the_user_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    let point = MountPoint::new(&dir.path().join("mounted"));
    std::fs::copy(rig::key_file(), dir.path().join("key")).unwrap();
    ok(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(dir.path()));
    let as_user = |program: &Path, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program).args(args);
        command.env("UNDERSTUDY_REPOSITORY", dir.path().join("repository")).env("HOME", dir.path());
        command.env("XDG_CACHE_HOME", dir.path().join("cache")).current_dir(dir.path()).stdin(Stdio::null());
        command.env("UNDERSTUDY_KEY_FILE", dir.path().join("key"));
        command
    };
    // A copy of the program that this user may run, wherever the checkout is.
    let program = dir.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_understudy"), &program).unwrap();
    ok(&mut as_user(&program, &["mount", "acme", "mounted"]));
    ok(&mut as_user(Path::new("diff"), &["-r", "--no-dereference", "source", "mounted"]));
    // Root cannot see it, as is usual with FUSE.
    assert!(std::fs::read_dir(&point.0).is_err());
    ok(&mut as_user(&program, &["umount", "mounted"]));
    assert!(std::fs::read_dir(&point.0).unwrap().next().is_none());
    // A mount by the kernel needs root, and the error says so.
    ok(Command::new("chown").args(["-R", "root:root"]).arg(dir.path()));
    ok(understudy(dir.path()).args(["follow", "acme", "--once", "--quiet"]));
    ok(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(dir.path()));
    let output = as_user(&program, &["mount", "acme", "mounted", "--method", "kernel"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("root") && said.contains("--method fuse"), "{said}");
}

#[test]
fn a_fuse_mount_moves_on_to_each_new_snapshot() {
    for swap in ["beneath", "symlink"] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        sample_tree(&source);
        let command = |args: &[&str]| {
            let mut command = understudy(dir.path());
            command.args(args);
            command
        };
        let resync = || ok(&mut command(&["resync", "source", "--store", "acme", "--quiet"]));
        resync();
        let place: PathBuf = dir.path().join("live");
        if swap == "beneath" {
            std::fs::create_dir(&place).unwrap();
        }
        let point = MountPoint(place);
        ok(&mut command(&["mount", "acme", "live", "--follow", "--every", "1", "--swap", swap]));
        // The path leads through the symlink, if there is one.
        let live = point.0.join(".");
        assert_same(&source, &live, "the first");
        for number in 0..3 {
            std::fs::write(source.join("c/new"), number.to_string()).unwrap();
            resync();
            let new = point.0.join("c/new");
            wait_until(swap, || std::fs::read_to_string(&new).is_ok_and(|text| text == number.to_string()));
            assert_same(&source, &live, swap);
        }
        ok(&mut command(&["umount", "live", "--lazy"]));
        assert_eq!(point.0.exists(), swap == "beneath");
    }
}
