//! A live mount moves on to the next snapshot under its readers.

use crate::rig::Rig;
use crate::standby::{MountPoint, depot, follow_by, latest, request};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use understudy::model::id::Sequence;
use understudy::mount::kernel;
use understudy::standby::mounted::{self, MountOptions};

/// Readers walk and read all the time while the mount moves between two snapshots that differ in every file.
fn swap(swaps: u64) {
    let rig = Rig::new();
    for version in ["one", "two"] {
        for number in 0..50 {
            let dir = rig.source().join(format!("d{}", number % 5));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("f{number}")), format!("{version} {number}")).unwrap();
        }
        rig.resync();
        follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
    }
    let depot = depot(&rig);
    let point = MountPoint::of(&rig, &latest(), "live");
    let stop = AtomicBool::new(false);
    let walks = AtomicU64::new(0);
    let read = |dir: &rustix::fd::OwnedFd, name: &str| {
        let flags = rustix::fs::OFlags::RDONLY;
        let file = rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()).unwrap();
        std::io::read_to_string(std::fs::File::from(file)).unwrap()
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // By path: each step may see another snapshot, but every one is there.
                    for number in 0..50 {
                        let path = point.0.join(format!("d{}/f{number}", number % 5));
                        let text = std::fs::read_to_string(path).unwrap();
                        assert!(text == format!("one {number}") || text == format!("two {number}"), "{text}");
                    }
                    // By one handle: one snapshot.
                    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
                    let root = rustix::fs::open(&point.0, flags, rustix::fs::Mode::empty()).unwrap();
                    let mut versions = std::collections::BTreeSet::new();
                    for number in 0..50 {
                        let text = read(&root, &format!("d{}/f{number}", number % 5));
                        versions.insert(text.split(' ').next().unwrap().to_owned());
                    }
                    assert_eq!(versions.len(), 1, "one handle shows one snapshot");
                    walks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Between the two snapshots, by what `mount --follow` does on each new one.
        let options = MountOptions::default();
        let mut shown = Sequence(2);
        for _ in 0..swaps {
            let next = if shown == Sequence(1) { Sequence(2) } else { Sequence(1) };
            let old = mounted::replace(&depot, &crate::standby::at(next.0), &point.0, &options).unwrap();
            drop(old);
            shown = next;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(walks.load(Ordering::Relaxed) > 0);
    let mounts = kernel::mounts("understudy:").unwrap();
    let here: Vec<_> = mounts.iter().filter(|mount| mount.dir == point.0).collect();
    assert_eq!(here.len(), 1, "the mounts before are gone: {here:?}");
}

#[test]
fn readers_never_see_a_swap() {
    swap(300);
}

/// `cargo nextest run --run-ignored only ten_thousand_swaps`: about half a minute.
#[test]
#[ignore = "half a minute"]
fn ten_thousand_swaps_under_readers() {
    swap(10_000);
}
