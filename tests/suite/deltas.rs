//! Changed files are shipped by their differences, and restored completely.

use crate::support::dice::Dice;
use crate::support::rig::{Rig, key_source, patience, request, run, runtime};
use crate::support::tree::{self, sample_tree};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use understudy::model::id::Sequence;
use understudy::model::snapshot_ref::Moment;
use understudy::repository::store::{Repository, RepositoryOptions};

fn random(seed: u64, length: usize) -> Vec<u8> {
    tree::random(&seed.to_le_bytes(), length)
}

fn edit(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.index(bytes.len());
    let count = 1 + dice.index(5000);
    let end = (at + count).min(bytes.len());
    match dice.index(6) {
        0 => drop(bytes.splice(at..at, random(dice.roll(), count))),
        1 => drop(bytes.drain(at..end)),
        2 | 3 => bytes[at..end].copy_from_slice(&random(dice.roll(), end - at)),
        4 => bytes.extend(random(dice.roll(), count * 40)),
        _ => {
            let moved: Vec<u8> = bytes.drain(at..end).collect();
            let to = dice.index(bytes.len());
            drop(bytes.splice(to..to, moved));
        }
    }
}

/// Returns the content of a file in a snapshot.
fn restored(rig: &Rig, sequence: u64, name: &str) -> Vec<u8> {
    std::fs::read(rig.restored(Moment::At(Sequence(sequence))).join(name)).unwrap()
}

#[test]
fn every_version_of_files_of_all_sizes_comes_back() {
    let rig = Rig::new();
    let sizes = [
        ("small", 200_000),
        ("signed", 300_000),
        ("chunk", 1 << 20),
        ("some", 3_000_001),
        ("segment", 4 << 20),
        ("beyond", (4 << 20) + 1),
        ("large", 13_000_000),
    ];
    let mut files: Vec<(&str, Vec<u8>)> = sizes.iter().map(|(n, s)| (*n, random(*s as u64, *s))).collect();
    let mut dice = Dice::new(1);
    let mut versions = Vec::new();
    for _ in 0..6 {
        for (name, bytes) in &files {
            std::fs::write(rig.source().join(name), bytes).unwrap();
        }
        rig.resync();
        versions.push(files.clone());
        for (_, bytes) in &mut files {
            (0..1 + dice.index(6)).for_each(|_| edit(bytes, &mut dice));
        }
    }
    for (number, files) in versions.iter().enumerate() {
        let out = rig.restored(Moment::At(Sequence(number as u64 + 1)));
        for (name, bytes) in files {
            assert!(std::fs::read(out.join(name)).unwrap() == *bytes, "{name} of version {}", number + 1);
        }
    }
    let report = rig.verify();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn a_change_ships_blocks_and_an_insertion_moves_nothing() {
    let rig = Rig::new();
    let path = rig.source().join("dump");
    let base = random(1, 20 << 20);
    std::fs::write(&path, &base).unwrap();
    rig.resync();
    let mut overwritten = base.clone();
    overwritten[7_000_000..7_000_100].fill(0);
    let inserted = [&base[..5000], &random(2, 100), &base[5000..]].concat();
    let appended = [&base[..], &random(3, 50_000)].concat();
    let cut = base[..15_000_000].to_vec();
    let front_gone = base[6_000_123..].to_vec();
    // In addition to the literal bytes: extents, block entries, a page, the index and the record.
    for (what, bytes, most) in [
        ("touched", &base, 2_000),
        ("overwritten", &overwritten, 2 * 2048 + 4_000),
        ("inserted", &inserted, 2148 + 5_000),
        ("appended", &appended, 50_000 + 6_000),
        ("cut", &cut, 2048 + 4_000),
        ("front gone", &front_gone, 2048 + 5_000),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let report = rig.resync();
        assert!(report.shipped_bytes < most, "{what}: {} bytes", report.shipped_bytes);
        assert!(restored(&rig, report.snapshot.0, "dump") == *bytes, "{what}");
        std::fs::write(&path, &base).unwrap();
        let back = rig.resync();
        assert!(back.shipped_bytes < 6_000, "back from {what}: {} bytes", back.shipped_bytes);
        assert!(restored(&rig, back.snapshot.0, "dump") == base);
    }
}

#[test]
fn a_rename_a_move_and_a_copy_ship_no_content() {
    let rig = Rig::new();
    let source = rig.source();
    std::fs::create_dir_all(source.join("old/deep")).unwrap();
    std::fs::write(source.join("old/deep/dump"), random(1, 9_000_000)).unwrap();
    std::fs::write(source.join("old/note"), random(2, 700_000)).unwrap();
    rig.resync();
    // Their extents are no longer those of a new file.
    for name in ["old/deep/dump", "old/note"] {
        let mut bytes = std::fs::read(source.join(name)).unwrap();
        bytes.splice(1000..1000, *b"inserted");
        bytes.extend(random(3, 3000));
        std::fs::write(source.join(name), bytes).unwrap();
    }
    rig.resync();
    let check = |what: &str| {
        let report = rig.resync();
        assert_eq!(report.new_bytes, 0, "{what}");
        assert!(report.shipped_bytes < 6_000, "{what}: {} bytes", report.shipped_bytes);
        let out = rig.restored(Moment::Latest);
        assert!(
            std::process::Command::new("diff").arg("-r").args([&source, &out]).status().unwrap().success()
        );
    };
    std::fs::rename(source.join("old/deep/dump"), source.join("old/deep/other name")).unwrap();
    check("a rename");
    std::fs::rename(source.join("old"), source.join("new")).unwrap();
    check("a move of a directory");
    std::fs::copy(source.join("new/deep/other name"), source.join("copy of the dump")).unwrap();
    std::fs::copy(source.join("new/note"), source.join("note")).unwrap();
    check("a copy");
}

#[test]
fn a_rotated_log_and_the_next_dump_of_a_series_ship_what_is_new() {
    let rig = Rig::new();
    let source = rig.source();
    let log = random(1, 5_000_000);
    let dump = random(2, 6_000_000);
    std::fs::write(source.join("access.log"), &log).unwrap();
    std::fs::write(source.join("access.log.1"), random(3, 5_000_000)).unwrap();
    std::fs::write(source.join("dump-2026-11-23.sql"), &dump).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    rig.resync();
    // It grew since the last resync, and was rotated.
    std::fs::rename(source.join("access.log"), source.join("access.log.1")).unwrap();
    let grown = [&log[..], &random(4, 40_000)].concat();
    std::fs::OpenOptions::new()
        .write(true)
        .open(source.join("access.log.1"))
        .unwrap()
        .write_all_at(&grown, 0)
        .unwrap();
    std::fs::write(source.join("access.log"), random(5, 300_000)).unwrap();
    let mut next = dump.clone();
    next.splice(3_000_000..3_000_000, *b"a row that was added in the middle");
    std::fs::write(source.join("dump-2026-11-24.sql"), &next).unwrap();
    let report = rig.resync();
    assert!(report.new_bytes < 40_000 + 300_000 + 3_000, "{} bytes", report.new_bytes);
    let out = rig.restored(Moment::Latest);
    assert!(std::fs::read(out.join("access.log.1")).unwrap() == grown);
    assert!(std::fs::read(out.join("dump-2026-11-24.sql")).unwrap() == next);
}

#[test]
fn a_mib_of_too_many_pieces_is_shipped_anew() {
    let rig = Rig::new();
    let path = rig.source().join("table");
    let mut bytes = random(1, 9 << 20);
    std::fs::write(&path, &bytes).unwrap();
    rig.resync();
    let mut dice = Dice::new(5);
    let mut anew = 0;
    for version in 0..12 {
        for _ in 0..40 {
            let at = (5 << 20) + dice.index(1 << 20);
            bytes[at..at + 16].copy_from_slice(&random(dice.roll(), 16));
        }
        std::fs::write(&path, &bytes).unwrap();
        let report = rig.resync();
        anew += u64::from(report.new_bytes >= 1 << 20);
        assert!(report.new_bytes < (1 << 20) + 41 * 4096, "version {version}: {}", report.new_bytes);
        assert!(restored(&rig, report.snapshot.0, "table") == bytes, "version {version}");
    }
    assert!((1..=4).contains(&anew), "{anew} times");
}

#[test]
fn new_images_are_not_compared_with_others() {
    let rig = Rig::new();
    for number in 0..20usize {
        std::fs::write(
            rig.source().join(format!("image-{number}.jpg")),
            random(number as u64, 300_000 + number),
        )
        .unwrap();
    }
    rig.resync();
    let before = rig.resync().requests;
    for number in 20..60usize {
        std::fs::write(
            rig.source().join(format!("image-{number}.jpg")),
            random(number as u64, 300_000 + number),
        )
        .unwrap();
    }
    let report = rig.resync();
    // The manifest is read once more, for the sizes of the files.
    assert!(report.requests.get <= before.get + 4, "{:?} after {before:?}", report.requests);
}

#[test]
fn twenty_versions_stay_cheap_to_ship_and_to_read() {
    let rig = Rig::new();
    let path = rig.source().join("dump");
    let mut bytes = random(1, 12 << 20);
    std::fs::write(&path, &bytes).unwrap();
    rig.resync();
    let mut dice = Dice::new(9);
    for version in 0..20 {
        for _ in 0..10 {
            let at = dice.index(bytes.len());
            bytes.splice(at..at, *b"a few more bytes");
        }
        std::fs::write(&path, &bytes).unwrap();
        let report = rig.resync();
        // Ten blocks, their extents (some 12 bytes each, for all versions so far), and the rest.
        assert!(
            report.shipped_bytes < 10 * 2100 + 20 * 2 * 10 * 14 + 8_000,
            "{version}: {}",
            report.shipped_bytes
        );
    }
    let before = rig.repository.requests().received_bytes;
    assert!(restored(&rig, 21, "dump") == bytes);
    // Random bytes do not compress, so the number of received bytes is that of read bytes.
    let received = rig.repository.requests().received_bytes - before;
    assert!(received < bytes.len() as u64 * 13 / 10, "{received} bytes for {}", bytes.len());
    assert!(rig.verify().is_sound());
}

/// Returns a repository over the rig's objects with a cache.
fn with_cache(rig: &Rig, cache: &Path) -> Repository {
    let options = RepositoryOptions {
        patience: patience(3),
        keys: key_source(),
        cache: Some(cache.to_owned()),
        ..Default::default()
    };
    Repository::over(rig.objects.clone(), "test", options, runtime())
}

#[test]
fn a_warm_cache_asks_for_the_head_alone() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    let cache = rig.dir.path().join("cache");
    let path = rig.source().join("dump");
    let mut bytes = random(1, 9 << 20);
    for round in 0..4u8 {
        bytes[(usize::from(round) + 1) << 20..][..100].fill(round);
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(rig.source().join("a/b/f3"), [round; 100]).unwrap();
        let report = run(&with_cache(&rig, &cache), &request(&rig.source())).unwrap();
        // The probe reads back what it wrote, and the keyring and the log's head are read.
        assert!(report.requests.get <= 3, "round {round}: {:?}", report.requests);
        assert!(restored(&rig, report.snapshot.0, "dump") == bytes);
    }
    // Without a cache: the log, pages, lists and block entries are received, but no content.
    bytes[100..200].fill(9);
    std::fs::write(&path, &bytes).unwrap();
    let report = run(&with_cache(&rig, &rig.dir.path().join("other")), &request(&rig.source())).unwrap();
    assert!(report.requests.received_bytes < bytes.len() as u64 / 50, "{:?}", report.requests);
    assert!(report.new_bytes <= 4096, "{}", report.new_bytes);
    assert!(restored(&rig, report.snapshot.0, "dump") == bytes);
}

#[test]
fn a_damaged_cache_and_one_of_another_repository_do_no_harm() {
    let rig = Rig::new();
    sample_tree(&rig.source());
    let cache = rig.dir.path().join("cache");
    let path = rig.source().join("dump");
    let mut bytes = random(1, 5 << 20);
    std::fs::write(&path, &bytes).unwrap();
    run(&with_cache(&rig, &cache), &request(&rig.source())).unwrap();
    run(&with_cache(&rig, &cache), &request(&rig.source())).unwrap();
    for damage in ["flip", "cut", "empty"] {
        let mut damaged = 0;
        for entry in walkdir::WalkDir::new(&cache) {
            let entry = entry.unwrap();
            // The note of what this host saw is no copy of repository data: see below.
            if !entry.file_type().is_file() || entry.file_name() == "head" {
                continue;
            }
            damaged += 1;
            let mut content = std::fs::read(entry.path()).unwrap();
            match damage {
                "flip" => content.iter_mut().for_each(|byte| *byte ^= 0x55),
                "cut" => content.truncate(content.len() / 2),
                _ => content.clear(),
            }
            std::fs::write(entry.path(), content).unwrap();
        }
        assert!(damaged >= 3, "{damaged}");
        bytes[1000..2000].fill(damage.len() as u8);
        std::fs::write(&path, &bytes).unwrap();
        let report = run(&with_cache(&rig, &cache), &request(&rig.source())).unwrap();
        assert!(report.new_bytes <= 4096, "{damage}: {}", report.new_bytes);
        assert!(restored(&rig, report.snapshot.0, "dump") == bytes, "{damage}");
    }
    let head = walkdir::WalkDir::new(&cache).into_iter().flatten().find(|e| e.file_name() == "head");
    let head = head.unwrap().into_path();
    let note = std::fs::read(&head).unwrap();
    for damaged in [&note[..note.len() / 2], b"", b"{}x"] {
        std::fs::write(&head, damaged).unwrap();
        let error = run(&with_cache(&rig, &cache), &request(&rig.source())).unwrap_err().to_string();
        assert!(
            error.contains("cannot read what this host remembers") && error.contains("acme/head"),
            "{error}"
        );
    }
    std::fs::write(&head, note).unwrap();
    // A new repository, with the cache of the previous one.
    let other = Rig::new();
    std::fs::write(other.source().join("file"), b"first").unwrap();
    let error = run(&with_cache(&other, &cache), &request(&other.source())).unwrap_err().to_string();
    assert!(error.contains("rolled back") && error.contains("delete"), "{error}");
    std::fs::remove_file(error.rsplit_once("delete ").unwrap().1).unwrap();
    for round in 0..6u8 {
        std::fs::write(other.source().join("file"), [round; 5000]).unwrap();
        let report = run(&with_cache(&other, &cache), &request(&other.source())).unwrap();
        assert_eq!(report.snapshot.0, u64::from(round) + 1);
    }
    assert!(other.verify().is_sound());
    assert_eq!(restored(&other, 3, "file"), [2; 5000]);
}

#[test]
fn holes_stay_holes_and_what_is_between_them_is_matched() {
    let rig = Rig::new();
    let path = rig.source().join("image");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(40 << 20).unwrap();
    for place in [0u64, 9 << 20, (20 << 20) + 4096, 39 << 20] {
        file.write_all_at(&random(place, 1 << 20), place).unwrap();
    }
    rig.resync();
    for round in 0..3u64 {
        file.write_all_at(&random(round, 5000), (9 << 20) + 100_000 * round + 77).unwrap();
        file.write_all_at(&random(round, 5000), (30 << 20) + (round << 16)).unwrap();
        let report = rig.resync();
        assert!(report.new_bytes < 40_000, "{round}: {}", report.new_bytes);
        let out = rig.restored(Moment::Latest).join("image");
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&path).unwrap());
        let (found, real) = (out.metadata().unwrap().blocks(), path.metadata().unwrap().blocks());
        assert!(found <= real + 256, "{found} blocks for {real}");
    }
}

/// The file has the block size of a smaller file, and so more blocks than one basis may hold.
#[test]
fn a_file_that_outgrows_one_basis_is_matched_by_parts() {
    let rig = Rig::new();
    let path = rig.source().join("image");
    let file = std::fs::File::create(&path).unwrap();
    let stretch = |number: u64| (number << 28, random(number, 1 << 20));
    file.set_len(1 << 31).unwrap();
    for (at, bytes) in (0..8).map(stretch) {
        file.write_all_at(&bytes, at + 123).unwrap();
    }
    rig.resync();
    file.set_len(5 << 29).unwrap();
    for (at, bytes) in (8..10).map(stretch) {
        file.write_all_at(&bytes, at + 123).unwrap();
    }
    let grown = rig.resync();
    assert!(grown.new_bytes < (2 << 20) + 40_000, "{}", grown.new_bytes);
    for number in 0..10 {
        file.write_all_at(b"edited", (number << 28) + 500_000 + number * 1000).unwrap();
    }
    let edited = rig.resync();
    assert!(edited.new_bytes <= 10 * 4096 + 40_000, "{}", edited.new_bytes);
    let out = rig.restored(Moment::Latest).join("image");
    let same = std::process::Command::new("cmp").args([&path, &out]).status().unwrap();
    assert!(same.success());
}

#[test]
fn a_file_that_grows_and_shrinks_across_all_limits_comes_back() {
    let rig = Rig::new();
    let path = rig.source().join("file");
    let all = random(1, 9_000_000);
    let sizes =
        [100, 262_143, 262_144, 5_000_000, 300_000, 4_194_304, 4_194_305, 0, 9_000_000, 1_048_576, 1_048_577];
    for (number, size) in sizes.into_iter().enumerate() {
        std::fs::write(&path, &all[..size]).unwrap();
        let report = rig.resync();
        assert_eq!(report.snapshot.0, number as u64 + 1);
    }
    for (number, size) in sizes.into_iter().enumerate() {
        assert!(restored(&rig, number as u64 + 1, "file") == all[..size], "{size}");
    }
}
