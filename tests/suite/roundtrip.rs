//! A restored tree equals the tree that was replicated.

use crate::support::facts::{self, assert_same};
use crate::support::rig::{self, Rig};
use crate::support::tree::{all_kinds, sample_tree};
use proptest::prelude::*;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use understudy::model::snapshot_ref::Moment;
use understudy::model::tree_path::TreePath;

fn mkdirs(path: impl AsRef<Path>) {
    std::fs::create_dir_all(path).unwrap();
}

#[test]
fn every_kind_of_entry_and_metadata_comes_back() {
    let rig = Rig::new();
    let root = rig.source();
    all_kinds(&root);
    rig.resync();
    assert_same(&root, &rig.restored(Moment::Latest), "all kinds");
    assert!(rig.verify().is_sound());
    // Restores over a tree that differs in everything.
    let request = understudy::restore::request::RestoreRequest {
        existing: understudy::restore::request::Existing::Mirror,
        ..rig.restore_request("other")
    };
    mkdirs(request.destination.join("c/medium/was a directory"));
    mkdirs(request.destination.join("too much/below"));
    std::fs::write(request.destination.join("a"), b"was a file").unwrap();
    std::fs::write(request.destination.join("fifo"), b"was a file").unwrap();
    rig::restore_at(&rig.store(), Moment::Latest, &request).unwrap();
    assert_same(&root, &request.destination, "overwritten");
    // A second restore has nothing to do except for hardlinks, whose names are always made again.
    let again = rig::restore_at(&rig.store(), Moment::Latest, &request).unwrap();
    assert_eq!((again.files_written, again.removed), (1, 0), "{again:?}");
    assert_same(&root, &request.destination, "overwritten twice");
}

#[test]
fn holes_stay_holes() {
    let rig = Rig::new();
    let root = rig.source();
    let sparse = |name: &str, size: u64, at: &[u64]| {
        let file = std::fs::File::create_new(root.join(name)).unwrap();
        file.set_len(size).unwrap();
        at.iter().for_each(|at| file.write_all_at(&[9; 5000], *at).unwrap());
    };
    sparse("small", 500_000, &[100_000]);
    sparse("all-hole", 3 << 20, &[]);
    sparse("large", 40 << 20, &[0, 4 << 20, (9 << 20) - 100, 30 << 20]);
    sparse("ends-with-data", (20 << 20) + 5000, &[20 << 20]);
    rig.resync();
    let restored = rig.restored(Moment::Latest);
    assert_same(&root, &restored, "sparse");
    for name in ["small", "all-hole", "large", "ends-with-data"] {
        let blocks = |at: &Path| at.join(name).metadata().unwrap().blocks();
        assert!(blocks(&restored) <= blocks(&root), "{name}: {} > {}", blocks(&restored), blocks(&root));
    }
}

#[test]
fn paths_beyond_path_max_are_walked_and_restored() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let rig = Rig::new();
    let name = "d".repeat(200);
    let open = |dir: &rustix::fd::OwnedFd| openat(dir, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut dir = openat(CWD, rig.source(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..60 {
        mkdirat(&dir, &name, Mode::RWXU).unwrap();
        dir = open(&dir);
    }
    let file = openat(&dir, "deep", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"12,000 bytes down").unwrap();
    assert_eq!(rig.resync().entries, 62);
    let restored = rig.restored(Moment::Latest);
    let mut dir = openat(CWD, &restored, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..60 {
        dir = open(&dir);
    }
    let file = openat(&dir, "deep", OFlags::RDONLY, Mode::empty()).unwrap();
    let mut buffer = [0; 64];
    let length = rustix::io::read(&file, &mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"12,000 bytes down");
    // Restores over the existing tree, by the same handles.
    let request = understudy::restore::request::RestoreRequest {
        existing: understudy::restore::request::Existing::Replace,
        destination: restored,
        ..rig.restore_request("")
    };
    assert_eq!(rig::restore_at(&rig.store(), Moment::Latest, &request).unwrap().files_kept, 1);
    let _ = Command::new("rm").arg("-rf").arg(rig.dir.path()).status();
}

#[test]
fn an_unchanged_run_reads_nothing_and_ships_a_record_only() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    // Waits beyond the clock tick within which a change could go unnoticed.
    std::thread::sleep(std::time::Duration::from_millis(60));
    rig.resync();
    let report = rig.resync();
    assert_eq!((report.read_bytes, report.new_bytes), (0, 0));
    assert_eq!(report.changes.unchanged, report.entries);
    // The requests are the probe's two objects and the record.
    assert_eq!(report.requests.put, 3, "requests: {:?}", report.requests);
}

#[test]
fn a_rename_a_move_and_a_copy_ship_no_content() {
    let rig = Rig::new();
    let root = rig.source();
    sample_tree(&root);
    rig.resync();
    std::fs::rename(root.join("a"), root.join("z")).unwrap();
    std::fs::rename(root.join("c/medium"), root.join("elsewhere")).unwrap();
    std::fs::copy(root.join("elsewhere"), root.join("copy")).unwrap();
    let report = rig.resync();
    assert_eq!(report.new_bytes, 0);
    assert_same(&root, &rig.restored(Moment::Latest), "renamed");
}

#[test]
fn one_path_of_a_snapshot_is_restored() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    rig.resync();
    let only = |path: &str, to: &str| understudy::restore::request::RestoreRequest {
        path: TreePath::parse(path.as_bytes()).unwrap(),
        ..rig.restore_request(to)
    };
    rig::restore_at(&rig.store(), Moment::Latest, &only("a/b", "below")).unwrap();
    let (mut wanted, mut got) =
        (facts::of(&rig.source().join("a/b")), facts::of(&rig.dir.path().join("below")));
    // The other name of `f2` is outside.
    wanted.remove(&b"f2"[..]);
    got.remove(&b"f2"[..]);
    assert_eq!(wanted, got);
    rig::restore_at(&rig.store(), Moment::Latest, &only("c/medium", "file")).unwrap();
    assert_eq!(
        std::fs::read(rig.dir.path().join("file/medium")).unwrap(),
        std::fs::read(rig.source().join("c/medium")).unwrap()
    );
    let missing = rig::restore_at(&rig.store(), Moment::Latest, &only("no/such", "nothing"));
    assert!(missing.unwrap_err().to_string().contains("no/such"));
}

#[test]
fn excluded_entries_are_left_out() {
    let rig = Rig::new();
    let root = rig.source();
    sample_tree(&root);
    let mut request = rig::request(&root);
    request.excludes = vec!["a/".into(), "med*".into()];
    rig::run(&rig.repository, &request).unwrap();
    let restored = facts::of(&rig.restored(Moment::Latest));
    assert!(!restored.contains_key(&b"a"[..]) && !restored.contains_key(&b"c/medium"[..]));
    assert!(restored.contains_key(&b"c/hard"[..]));
}

/// One step of a store's life.
#[derive(Clone, Debug)]
enum Operation {
    Write(u8, u16, u8),
    Append(u8, u16),
    Overwrite(u8, u16),
    Truncate(u8, u16),
    Remove(u8),
    Rename(u8, u8),
    Mkdir(u8),
    Link(u8, u8),
    Symlink(u8, u8),
    Chmod(u8, u16),
    Attribute(u8, u8),
    /// Changes content and restores size and mtime.
    Cheat(u8),
    Resync,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    use Operation::*;
    let n = || 0u8..14;
    let operation = prop_oneof![
        6 => (n(), any::<u16>(), any::<u8>()).prop_map(|(a, b, c)| Write(a, b, c)),
        3 => (n(), any::<u16>()).prop_map(|(a, b)| Append(a, b)),
        3 => (n(), any::<u16>()).prop_map(|(a, b)| Overwrite(a, b)),
        2 => (n(), any::<u16>()).prop_map(|(a, b)| Truncate(a, b)),
        3 => n().prop_map(Remove),
        3 => (n(), n()).prop_map(|(a, b)| Rename(a, b)),
        3 => n().prop_map(Mkdir),
        2 => (n(), n()).prop_map(|(a, b)| Link(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Symlink(a, b)),
        2 => (n(), 0u16..0o7777).prop_map(|(a, b)| Chmod(a, b)),
        2 => (n(), any::<u8>()).prop_map(|(a, b)| Attribute(a, b)),
        2 => n().prop_map(Cheat),
        3 => Just(Resync),
    ];
    prop::collection::vec(operation, 5..60)
}

/// Returns one of fourteen places, some inside others, so that operations affect each other.
fn place(root: &Path, number: u8) -> std::path::PathBuf {
    let names =
        ["a", "b", "c", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a.b", "a-b", "c/x", "c/y/z", "c/y", "d"];
    root.join(names[usize::from(number) % names.len()])
}

/// Applies an operation. Failures (no such directory, not a file) are part of the test.
fn apply(root: &Path, operation: &Operation) {
    use Operation::*;
    let at = |n: &u8| place(root, *n);
    let is_file = |n: &u8| at(n).symlink_metadata().is_ok_and(|m| m.is_file());
    let bytes = |seed: u8, length: u16| vec![seed; usize::from(length) * usize::from(seed % 4) * 20];
    let _ = match operation {
        Write(n, length, seed) => {
            if at(n).is_symlink() {
                Ok(())
            } else {
                std::fs::write(at(n), bytes(*seed, *length))
            }
        }
        Append(n, length) if is_file(n) => std::fs::OpenOptions::new()
            .append(true)
            .open(at(n))
            .and_then(|mut f| std::io::Write::write_all(&mut f, &bytes(3, *length))),
        Overwrite(n, offset) if is_file(n) => std::fs::OpenOptions::new()
            .write(true)
            .open(at(n))
            .and_then(|f| f.write_all_at(b"changed", u64::from(*offset))),
        Truncate(n, length) if is_file(n) => {
            std::fs::OpenOptions::new().write(true).open(at(n)).and_then(|f| f.set_len(u64::from(*length)))
        }
        Remove(n) if at(n).is_dir() && !at(n).is_symlink() => std::fs::remove_dir_all(at(n)),
        Remove(n) => std::fs::remove_file(at(n)),
        Rename(a, b) => std::fs::rename(at(a), at(b)),
        Mkdir(n) => std::fs::create_dir(at(n)),
        Link(a, b) => std::fs::hard_link(at(a), at(b)),
        Symlink(a, b) => std::os::unix::fs::symlink(at(a), at(b)),
        Chmod(n, mode) if !at(n).is_symlink() => {
            std::fs::set_permissions(at(n), PermissionsExt::from_mode((*mode).into()))
        }
        Attribute(n, value) if !at(n).is_symlink() => {
            let _ = rustix::fs::setxattr(at(n), "user.x", &[*value], rustix::fs::XattrFlags::empty());
            Ok(())
        }
        Cheat(n) if is_file(n) => std::fs::File::options().write(true).open(at(n)).and_then(|f| {
            let meta = f.metadata()?;
            f.write_all_at(&vec![b'!'; meta.len().min(9) as usize], 0)?;
            f.set_modified(meta.modified()?)
        }),
        _ => Ok(()),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_life_of_operations_and_resyncs_comes_back(operations in operations()) {
        let rig = Rig::new();
        let root = rig.source();
        let mut kept = Vec::new();
        for operation in operations.iter().chain([&Operation::Resync]) {
            if matches!(operation, Operation::Resync) {
                let report = rig.resync();
                kept.push((report.snapshot, facts::of(&root)));
            } else {
                apply(&root, operation);
            }
        }
        // Every snapshot, not only the last, equals the tree at its time.
        for (snapshot, facts) in kept {
            let restored = rig.restored(Moment::At(snapshot));
            prop_assert_eq!(facts::of(&restored), facts, "snapshot {}", snapshot);
        }
        prop_assert!(rig.verify().is_sound());
    }
}
