//! The memory and time that a tree or a repository can cost this program are bounded, whoever made it.

use crate::support::command::{ok, understudy};
use crate::support::disk::SmallDisk;
use crate::support::forge::{forge, leaf, root_of};
use crate::support::mount::MountPoint;
use crate::support::rig::{self, Rig, entry};
use crate::support::standby::{depot, follow_by, latest, request};
use crate::support::tree::sample_tree;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use understudy::format::page::{Child, NodeWriter};
use understudy::model::entry::Kind;
use understudy::model::id::ChunkId;
use understudy::model::record::ManifestRoot;
use understudy::model::tree_path::TreePath;

const MEMORY_MAX_MIB: u64 = 256;

/// Runs a command, and returns its peak of memory in MiB together with its output.
fn measured(command: &mut Command) -> (Output, u64) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watch = std::thread::spawn(move || {
        let mut peak_kib = 0;
        // Ends when the process is a zombie, which has no memory.
        while let Some(now) = std::fs::read_to_string(&status).ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        }) {
            peak_kib = now.max(peak_kib);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        peak_kib
    });
    let output = child.wait_with_output().unwrap();
    (output, watch.join().unwrap() >> 10)
}

/// Runs every command that reads a manifest. Each must end with an error about a page.
fn all_readers_refuse(rig: &Rig, what: &str) {
    let dir = rig.dir.path();
    for args in [
        &["verify", "acme"][..],
        &["restore", "acme", "out"],
        &["follow", "acme", "--once"],
        &["diff", "acme", "1", "2"],
        &["resync", "source", "--store", "acme"],
        &["drill", "acme"],
    ] {
        let (output, peak_mib) = measured(understudy(dir).env("XDG_DATA_HOME", dir.join("data")).args(args));
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_told = errors.contains("page") || errors.contains("does not sort after");
        assert!(
            !output.status.success() && is_told,
            "{what}, {args:?}: {}",
            errors.get(..2000).unwrap_or(&errors)
        );
        assert!(peak_mib <= MEMORY_MAX_MIB, "{what}, {args:?}: {peak_mib} MiB");
    }
}

#[test]
fn a_page_that_is_its_own_cousin_is_refused_by_every_reader() {
    let rig = Rig::on_disk();
    sample_tree(&rig.source());
    rig.resync();
    let node = |child: ChunkId, entries: u64| {
        let mut node = NodeWriter::default();
        for number in 0..20_000 {
            let first = if number == 0 { String::new() } else { format!("{number:05}") };
            let first = TreePath::parse(first.as_bytes()).unwrap();
            node.push(&Child { first, page: child, entries, size_bytes: 0 });
        }
        node.finish()
    };
    let bottom = leaf(&[entry("", Kind::Directory)]);
    let middle = node(ChunkId::of(&bottom), 1);
    let top = node(ChunkId::of(&middle), 20_000);
    let root = ManifestRoot { height: 2, ..root_of(&top) };
    assert_eq!(root.entries, 400_000_000);
    forge(&rig, root, &[&bottom, &middle, &top]);
    all_readers_refuse(&rig, "cousins");
}

#[test]
fn a_page_whose_paths_expand_beyond_the_bound_is_refused_by_every_reader() {
    let rig = Rig::on_disk();
    sample_tree(&rig.source());
    rig.resync();
    let long = [&[b'a'; 249][..], b"/"].concat().repeat(240);
    let page = leaf(&[entry("", Kind::Directory)]);
    let mut page = understudy::format::wire::Writer(page);
    page.number(0);
    page.bytes(&[&long[..], b"0"].concat());
    page.raw(&[7, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in 1..40_000u32 {
        // Each path continues the one before except for its end.
        page.number(long.len() as u64);
        page.bytes(format!("{number:06}").as_bytes());
        page.raw(&[7, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert!(page.0.len() < 1 << 20);
    forge(&rig, ManifestRoot { entries: 40_001, ..root_of(&page.0) }, &[&page.0]);
    all_readers_refuse(&rig, "paths");
}

#[test]
fn a_tree_of_eighteen_thousand_levels_is_named_and_the_rest_is_in_the_snapshot() {
    let rig = Rig::on_disk();
    sample_tree(&rig.source());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = rustix::fs::openat(CWD, rig.source(), flags, Mode::empty()).unwrap();
    for _ in 0..18_000 {
        rustix::fs::mkdirat(&dir, "a-deep", 0o755.into()).unwrap();
        dir = rustix::fs::openat(&dir, "a-deep", flags, Mode::empty()).unwrap();
    }
    drop(dir);
    let (output, peak_mib) =
        measured(understudy(rig.dir.path()).args(["resync", "source", "--store", "acme", "--json"]));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("a-deep/a-deep") && errors.contains("name too long"), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["warnings"]["unreadable"], 1, "{report}");
    assert!(peak_mib <= MEMORY_MAX_MIB, "{peak_mib} MiB");
    let (restored, peak_mib) =
        measured(understudy(rig.dir.path()).args(["restore", "acme", "out", "--quiet"]));
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert!(peak_mib <= MEMORY_MAX_MIB, "{peak_mib} MiB");
    assert!(rig.dir.path().join("out/a/b/f39").exists());
    // The removal of a temporary directory would hold a handle for each level, so `rm` does it.
    for name in ["source", "out"] {
        assert!(Command::new("rm").arg("-rf").arg(rig.dir.path().join(name)).status().unwrap().success());
    }
}

#[test]
fn holes_beyond_the_limit_are_named_at_once_and_a_limit_may_be_set() {
    let rig = Rig::on_disk();
    let sparse = |name: &str, size_bytes: u64| {
        std::fs::File::create(rig.source().join(name)).unwrap().set_len(size_bytes).unwrap();
    };
    sparse("huge", 8 << 40);
    sparse("large", 40 << 20);
    std::fs::write(rig.source().join("small"), b"small").unwrap();
    let resync = |limit: &str| {
        let config = rig.dir.path().join("understudy.toml");
        std::fs::write(&config, format!("[limits]\nholes = {limit}\n")).unwrap();
        let mut command = understudy(rig.dir.path());
        command.args(["resync", "source", "--store", "acme", "--config"]).arg(config);
        command.output().unwrap()
    };
    let output = resync("\"1GiB\"");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("huge: could not be read") && errors.contains("holes"), "{errors}");
    assert!(!errors.contains("large"), "{errors}");
    ok(understudy(rig.dir.path()).args(["restore", "acme", "out", "--quiet"]));
    assert_eq!(std::fs::metadata(rig.dir.path().join("out/large")).unwrap().len(), 40 << 20);
    assert!(!rig.dir.path().join("out/huge").exists());
    // Of several files, as many are hashed as the limit allows.
    std::fs::remove_file(rig.source().join("huge")).unwrap();
    sparse("large", 41 << 20);
    sparse("larger", 30 << 20);
    let errors = String::from_utf8_lossy(&resync("\"50MiB\"").stderr).into_owned();
    assert!(errors.contains("larger: could not be read") && !errors.contains("large:"), "{errors}");
}

#[test]
fn a_file_with_all_the_attributes_that_an_inode_can_have_keeps_its_bytes_on_a_mount() {
    let rig = Rig::new();
    let disk = SmallDisk::mount(rig.dir.path().join("tmpfs"), 64 << 20);
    let source = disk.0.join("source");
    std::fs::create_dir(&source).unwrap();
    // The sizes of the last attribute lie around the maximum that an inode of the image can hold, with and
    // without the attributes that name the object.
    for last_bytes in (65_390..65_440).chain(65_500..65_530) {
        let path = source.join(format!("file-{last_bytes}"));
        std::fs::write(&path, last_bytes.to_string()).unwrap();
        for number in 0..4 {
            let value = vec![number; if number < 3 { 65_528 } else { last_bytes }];
            rustix::fs::lsetxattr(&path, format!("user.{number}"), &value, XattrFlags::empty()).unwrap();
        }
    }
    rig::run(&rig.repository, &rig::request(&source)).unwrap();
    let report = follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    assert!(report.attributes_left_out > 0);
    let point = MountPoint::of(&rig, &latest(), "mounted");
    for found in std::fs::read_dir(&source).unwrap() {
        let name = found.unwrap().file_name();
        let read = |dir: &Path| std::fs::read(dir.join(&name)).unwrap();
        assert_eq!(read(&point.0), read(&source), "{name:?}");
    }
}

#[test]
fn a_note_of_any_length_breaks_no_table() {
    let rig = Rig::on_disk();
    sample_tree(&rig.source());
    rig.resync();
    let dir = rig.dir.path();
    let long = "x".repeat(100_000);
    let refused = understudy(dir).args(["pin", "acme@1", "--note", &long]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    // Another program may have written such a record, even a hostile one.
    let mut state = rig.store().log().state().unwrap();
    let writer = understudy::model::id::WriterId("other".into());
    let event =
        understudy::model::record::Event::Pinned { snapshot: understudy::model::id::Sequence(1), note: long };
    rig.store().log().append(&mut state, &writer, event).unwrap();
    for args in [&["snapshots", "acme"][..], &["prune", "acme", "--dry-run"]] {
        let output = ok(understudy(dir).args(args));
        assert!(output.stdout.len() < 4000, "{args:?}");
    }
}

#[test]
fn a_file_in_more_pieces_than_its_bytes_can_be_is_named_in_bounded_memory() {
    use understudy::format::extent_list;
    use understudy::model::entry::{Content, Extent, File};
    use understudy::model::id::ContentHash;
    let rig = Rig::on_disk();
    sample_tree(&rig.source());
    rig.resync();
    // Lists of single bytes: each is within the limit of a list, and one file has many of them.
    let chunk = ChunkId::of(b"payload");
    let part = |offset_bytes| Extent::Chunk { chunk, blocks: None, offset_bytes, length_bytes: 1 };
    let list = extent_list::encode_chunk(&(0..500).map(|n| part(n % 7)).collect::<Vec<_>>());
    assert!(extent_list::decode_chunk(&list).is_ok());
    let dense = extent_list::encode_chunk(&(0..600).map(|n| part(n % 7)).collect::<Vec<_>>());
    assert!(extent_list::decode_chunk(&dense).is_err());
    let count = 25_000;
    let content = Content::Lists(vec![ChunkId::of(&list); count]);
    let file = File { size_bytes: 500 * count as u64, hash: ContentHash([3; 32]), content, torn: false };
    let page = leaf(&[entry("", Kind::Directory), entry("f", Kind::File(file))]);
    forge(&rig, root_of(&page), &[&list, &page, b"payload"]);
    let dir = rig.dir.path();
    for args in [&["verify", "acme"][..], &["restore", "acme", "out"], &["follow", "acme", "--once"]] {
        let begun = std::time::Instant::now();
        let (output, peak_mib) = measured(understudy(dir).env("XDG_DATA_HOME", dir.join("data")).args(args));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("f"), "{args:?}: {errors}");
        assert!(peak_mib <= MEMORY_MAX_MIB, "{args:?}: {peak_mib} MiB");
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{args:?}");
    }
}
