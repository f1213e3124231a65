//! The scanner's walk beside `walkdir`: 101,021 entries, each with its attributes, from the kernel's caches:
//! `cargo bench --bench walk`. Medians of nine.

// Figures are what it prints.
#![allow(clippy::disallowed_macros)]
// What is timed is this program as it is.
#![allow(clippy::disallowed_methods)]

use std::path::Path;
use std::time::Instant;
use understudy::model::entry::Timestamp;
use understudy::source::disk::Disk;
use understudy::source::exclude::Excludes;
use understudy::source::tree::Tree;
use understudy::source::walk::{Listing, Walk, WalkOptions};

const DIRECTORIES: u32 = 1000;
const FILES_EACH: u32 = 100;
const RUNS: usize = 9;

/// The entries below a listing, and itself.
fn count(walk: &Walk, listing: &Listing) -> u64 {
    let mut entries = 1;
    for child in &listing.children {
        child.stat.as_ref().unwrap();
        entries += child.below.as_ref().map_or(1, |slot| count(walk, &walk.take(slot).unwrap()));
    }
    entries
}

fn scanner(root: &Path, helpers: usize) -> u64 {
    let excludes = Excludes::parse(&[]).unwrap();
    let since = Timestamp { seconds: 0, nanos: 0 };
    let course = WalkOptions { excludes: &excludes, own: &[], only_device: None, since, listings_max: 256 };
    let walk = Walk::new(&course);
    std::thread::scope(|scope| {
        (0..helpers).for_each(|_| drop(scope.spawn(|| walk.help())));
        let counted = count(&walk, &walk.root(Disk::default().open_root(root).unwrap()).unwrap());
        walk.close();
        counted
    })
}

fn by_walkdir(root: &Path) -> u64 {
    let mut entries = 0;
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        entry.unwrap().metadata().unwrap();
        entries += 1;
    }
    entries
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    for directory in 0..DIRECTORIES {
        let path = dir.path().join(format!("m{:02}/module-{directory:04}", directory / 50));
        std::fs::create_dir_all(&path).unwrap();
        for file in 0..FILES_EACH {
            std::fs::write(path.join(format!("Controller{file:03}.php")), "<?php\n").unwrap();
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let walks: [(&str, &dyn Fn() -> u64); 3] = [
        ("walkdir", &|| by_walkdir(dir.path())),
        ("understudy, one thread", &|| scanner(dir.path(), 0)),
        ("understudy, all cores", &|| scanner(dir.path(), cores)),
    ];
    println!("| 101,021 entries, {cores} cores | wall ms |\n| --- | ---: |");
    for (name, walk) in walks {
        let mut runs: Vec<_> = (0..RUNS)
            .map(|_| {
                let begun = Instant::now();
                assert_eq!(
                    walk(),
                    u64::from(1 + DIRECTORIES / 50 + DIRECTORIES * (FILES_EACH + 1)),
                    "{name}"
                );
                begun.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        runs.sort_by(f64::total_cmp);
        println!("| {name} | {:.0} |", runs[RUNS / 2]);
    }
}
