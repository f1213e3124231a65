//! A live mount moves on to the next snapshot under its readers.

use crate::support::mount::MountPoint;
use crate::support::rig::{Rig, name};
use crate::support::standby::{depot, follow_by, request};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use understudy::model::id::Sequence;
use understudy::mounts::live::{self, Live, Swap};
use understudy::mounts::mount::MountOptions;
use understudy::mounts::unmount;
use understudy::standby::pin::pins;
use understudy::vfs::overlay;

/// Readers walk and read continuously while the mount moves between two snapshots that differ in every file.
fn swap(how: Swap, swaps: u64) {
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
    let place = rig.dir.path().join("live");
    if how == Swap::Beneath {
        std::fs::create_dir(&place).unwrap();
    }
    let point = MountPoint(place);
    let mut live = Live::new(&point.0, how, &name()).unwrap();
    live::move_on(&depot, &name(), Sequence(2), &mut live, &MountOptions::default()).unwrap();
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
                    // By path, each step may see another snapshot, but every file exists.
                    for number in 0..50 {
                        let path = point.0.join(format!("d{}/f{number}", number % 5));
                        let text = std::fs::read_to_string(path).unwrap();
                        assert!(text == format!("one {number}") || text == format!("two {number}"), "{text}");
                    }
                    // By one handle, all files are of one snapshot.
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
        // Moves between the two snapshots by the function that `mount --follow` calls for each new one.
        let options = MountOptions::default();
        for number in 0..swaps {
            let next = Sequence(number % 2 + 1);
            let before = live::move_on(&depot, &name(), next, &mut live, &options).unwrap();
            before.unwrap().retire(rig.repository.env(), &rig.dir.path().join("standby")).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(walks.load(Ordering::Relaxed) > 0);
    let mounts = overlay::mounts("understudy:").unwrap();
    let here: Vec<_> = mounts.iter().filter(|mount| mount.dir.starts_with(rig.dir.path())).collect();
    assert_eq!(here.len(), 1, "the mounts before are gone: {here:?}");
    assert_eq!(pins(&depot).unwrap().len(), 1, "and so are their pins");
    unmount::unmount(&rig.dir.path().join("standby"), &point.0, false).unwrap();
    assert!(pins(&depot).unwrap().is_empty());
    let left = std::fs::read_dir(rig.dir.path()).unwrap().map(|f| f.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("live")).collect();
    assert_eq!(left.len(), if how == Swap::Beneath { 1 } else { 0 }, "{left:?}");
}

#[test]
fn readers_never_see_a_swap() {
    swap(Swap::Beneath, 300);
}

#[test]
fn readers_never_see_a_symlink_exchanged() {
    swap(Swap::Link, 100);
}

/// `cargo nextest run --run-ignored only ten_thousand_swaps` takes about a minute.
#[test]
#[ignore = "a minute"]
fn ten_thousand_swaps_under_readers() {
    swap(Swap::Beneath, 10_000);
    swap(Swap::Link, 2_000);
}

#[test]
fn a_follower_that_is_started_again_takes_over_what_it_showed() {
    for how in [Swap::Beneath, Swap::Link] {
        let rig = Rig::new();
        for version in 0..2 {
            std::fs::write(rig.source().join("file"), version.to_string()).unwrap();
            rig.resync();
            follow_by(&rig.repository, &depot(&rig), &request()).unwrap();
        }
        let place = rig.dir.path().join("live");
        if how == Swap::Beneath {
            std::fs::create_dir(&place).unwrap();
        }
        let point = MountPoint(place);
        // With the same snapshot again, and then with the next one.
        for sequence in [1, 1, 2] {
            let mut live = Live::new(&point.0, how, &name()).unwrap();
            let options = MountOptions::default();
            let before = live::move_on(&depot(&rig), &name(), Sequence(sequence), &mut live, &options);
            if let Some(before) = before.unwrap() {
                before.retire(rig.repository.env(), &rig.dir.path().join("standby")).unwrap();
            }
            assert!(live.is_there().unwrap());
            assert_eq!(std::fs::read_to_string(point.0.join("file")).unwrap(), (sequence - 1).to_string());
            let mounts = overlay::mounts("understudy:").unwrap();
            let here: Vec<_> = mounts.iter().filter(|mount| mount.dir.starts_with(rig.dir.path())).collect();
            assert_eq!((here.len(), pins(&depot(&rig)).unwrap().len()), (1, 1), "{how:?} {here:?}");
        }
        unmount::unmount(&rig.dir.path().join("standby"), &point.0, false).unwrap();
    }
}
