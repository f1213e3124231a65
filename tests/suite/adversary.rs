//! A scan under an adversary that acts between any two of its calls: thousands of schedules, each given by a
//! seed, on a model of a live tree; then deploys on a real filesystem in parallel with real threads.
//!
//! Each path of every snapshot must be some state that the path had during the scan, or be named in a warning
//! and be as in the snapshot before; each path that was present all the time must be present. Once the tree
//! is at rest, the next run must be exact.

use crate::support::dice::Dice;
use crate::support::model_tree::{Act, Adversary, Model, Path8, Quiet, State, World};
use crate::support::rig::{self, Rig};
use crate::support::tree::{random, sample_tree};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use understudy::api::resync::{ResyncReport, WarningKind};
use understudy::format::frame::Compressor;
use understudy::model::closure::Closure;
use understudy::model::entry::{Entry, Kind};
use understudy::model::hold::FilesystemId;
use understudy::model::id::WriterId;
use understudy::model::record::{SnapshotRecord, SnapshotStatistics};
use understudy::model::snapshot_ref::Moment;
use understudy::replicate::error::ResyncError;
use understudy::replicate::resync::{Request, ResyncContext, resync};
use understudy::repository::chunks::ChunkReader;
use understudy::repository::index::Index;
use understudy::repository::manifest::{ManifestReader, ManifestWriter};
use understudy::repository::session::WriteSession;
use understudy::support::clock::{BootNanos, Now, UnixNanos};
use understudy::support::env::{Clock, Env};
use understudy::support::mutant::{self, Mutant};
use understudy::support::progress::Progress;

type Snapshot = BTreeMap<Path8, Entry>;

/// An adversary that does what users and deploys do, and lets calls fail, as its seed says.
struct Chaos {
    dice: Dice,
    acts_left: u32,
    errors_left: u32,
    queue: VecDeque<Act>,
    one_in: u64,
}

const NAMES: [&str; 7] = ["a", "b", "vendor", "vendor.new", "vendor.old", "link", "z"];
const ERRORS: [Errno; 9] = [
    Errno::IO,
    Errno::ACCESS,
    Errno::NOTCONN,
    Errno::STALE,
    Errno::NOENT,
    Errno::LOOP,
    Errno::PERM,
    Errno::TOOBIG,
    Errno::HOSTDOWN,
];

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let acts_left = dice.below(40) as u32;
        let errors_left = if dice.below(3) == 0 { dice.below(4) as u32 } else { 0 };
        let one_in = 1 + dice.below(12);
        Self { dice, acts_left, errors_left, queue: VecDeque::new(), one_in }
    }

    fn draw(&mut self, world: &World) -> Vec<Act> {
        let dice = &mut self.dice;
        let directories = world.directories();
        let paths = world.paths();
        let at = |dice: &mut Dice| dice.one_of(&paths).clone();
        let new = |dice: &mut Dice| {
            let mut path = dice.one_of(&directories).clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(dice.one_of(&NAMES).as_bytes());
            path
        };
        let body = |dice: &mut Dice| format!("body {}", dice.below(50)).into_bytes();
        let top = |name: &str| name.as_bytes().to_vec();
        match dice.below(19) {
            0 => vec![Act::Write(new(dice), body(dice))],
            1 => vec![Act::Write(at(dice), body(dice))],
            2 => vec![Act::Mkdir(new(dice))],
            3 => vec![Act::Symlink(new(dice), top(dice.one_of::<&str>(&NAMES)))],
            4 => vec![Act::Link(at(dice), new(dice))],
            5 => vec![Act::Chmod(at(dice), 0o700 + dice.below(8) as u16)],
            6 => vec![Act::Rename(at(dice), new(dice))],
            7 => vec![Act::Exchange(at(dice), at(dice))],
            8 => vec![Act::Unlink(at(dice))],
            9 => vec![Act::RemoveAll(at(dice))],
            10 => {
                // The file is deleted, and made again with the same inode.
                let path = at(dice);
                vec![Act::Unlink(path.clone()), Act::Write(path, body(dice))]
            }
            11 => {
                let (temporary, path) = (new(dice), at(dice));
                vec![Act::Write(temporary.clone(), body(dice)), Act::Rename(temporary, path)]
            }
            12 => vec![Act::Mount(dice.one_of(&directories).clone())],
            13 => vec![Act::Unmount(dice.one_of(&directories).clone())],
            14 => vec![
                Act::Rename(top("vendor"), top("vendor.old")),
                Act::Rename(top("vendor.new"), top("vendor")),
                Act::RemoveAll(top("vendor.old")),
            ],
            15 => vec![Act::Exchange(top("vendor"), top("vendor.new")), Act::RemoveAll(top("vendor.new"))],
            16 | 17 => vec![Act::Haunt(at(dice)), Act::Haunt(at(dice))],
            _ => vec![
                Act::Symlink(top(".t"), top(dice.one_of::<&str>(&NAMES))),
                Act::Rename(top(".t"), top("link")),
            ],
        }
    }
}

impl Adversary for Chaos {
    fn acts(&mut self, world: &World, _: u64) -> Vec<Act> {
        if self.dice.below(self.one_in) != 0 {
            return Vec::new();
        }
        if self.queue.is_empty() && self.acts_left > 0 {
            self.acts_left -= 1;
            let acts = self.draw(world);
            self.queue.extend(acts);
        }
        // One step for each call, or all at once.
        let count = if self.dice.below(3) == 0 { self.queue.len() } else { 1 };
        (0..count).filter_map(|_| self.queue.pop_front()).collect()
    }

    fn fails(&mut self, _: u64) -> Option<Errno> {
        if self.errors_left == 0 || self.dice.below(25) != 0 {
            return None;
        }
        self.errors_left -= 1;
        Some(*self.dice.one_of(&ERRORS))
    }
}

/// A model tree and a store of it.
struct Stage {
    rig: Rig,
    model: Model,
}

struct ModelClock(Model);

impl Clock for ModelClock {
    fn now(&self) -> Now {
        let now_ns = self.0.world().now_ns();
        Now { wall: UnixNanos(now_ns), boot: BootNanos(now_ns) }
    }

    fn sleep(&self, time: Duration) {
        self.0.world().pass(time.as_nanos() as u64);
    }
}

impl Stage {
    fn new(tree: &[Act]) -> Self {
        let stage = Self { rig: Rig::plain(), model: Model::new() };
        let mut world = stage.model.world();
        for act in tree {
            world.act(act.clone());
        }
        world.pass(10_000_000_000);
        drop(world);
        stage
    }

    fn resync(&self) -> Result<ResyncReport, ResyncError> {
        let request = Request { threads: 0, ..rig::request(std::path::Path::new("/model")) };
        let progress = Progress::default();
        let around = ResyncContext { tree: &self.model, progress: &progress, on_step: &|_| {} };
        let env = Env::system().with_clock(Arc::new(ModelClock(self.model.clone())));
        let done = resync(&self.rig.repository.with_env(env), &request, &around);
        self.model.world().pass(1_000_000_000);
        done
    }

    fn snapshot(&self) -> Snapshot {
        let store = self.rig.store();
        let state = store.log().state().unwrap();
        let Some((_, record)) = state.latest() else { return Snapshot::new() };
        let index = Arc::new(Index::open(&store, &state).unwrap());
        let mut closure = Closure::default();
        let entries = ManifestReader::new(ChunkReader::new(store, index)).entries(&record.manifest);
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                closure.push(&entry.path, entry.kind == Kind::Directory).unwrap();
                (entry.path.as_bytes().to_vec(), entry)
            })
            .collect()
    }

    /// Makes a run while `adversary` acts, and compares what it committed with what was true meanwhile.
    fn run_under(&self, adversary: Box<dyn Adversary>) -> Result<(), String> {
        let before = self.snapshot();
        self.model.let_act(adversary);
        self.model.world().calls = 0;
        self.model.world().watch();
        let done = self.resync();
        self.model.let_act(Box::new(Quiet));
        match done {
            Ok(report) => check(&self.model.world(), &before, &self.snapshot(), &report),
            // Nothing was committed, with a reason: the root itself could not be read.
            Err(ResyncError::Source(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Checks that a run at rest is exact.
    fn settle(&self) -> Result<(), String> {
        self.model.finish();
        let report = self.resync().map_err(|error| error.to_string())?;
        if report.warnings.total() > 0 {
            return Err(format!("at rest: {:?}", report.warnings));
        }
        let (snapshot, states) = (self.snapshot(), self.model.world().states());
        let told: BTreeMap<_, _> = snapshot.iter().map(|(path, e)| (path.clone(), State::of(e))).collect();
        let wanted: BTreeMap<_, _> =
            states.iter().map(|(path, (state, _))| (path.clone(), state.clone())).collect();
        if told != wanted {
            return Err(format!("at rest: {} and not {}", shown(&told), shown(&wanted)));
        }
        // Names are hardlinks in the snapshot exactly where they are in the tree.
        let mut groups: HashMap<u64, usize> = HashMap::new();
        for (path, entry) in &snapshot {
            let inode = states[path].1;
            let Some(number) = entry.hardlink else { continue };
            if *groups.entry(number).or_insert(inode) != inode {
                return Err(format!("at rest: {} is joined to another file", entry.path));
            }
        }
        let mut numbers: HashMap<usize, Option<u64>> = HashMap::new();
        for (path, entry) in snapshot.iter().filter(|(_, entry)| entry.kind != Kind::Directory) {
            if *numbers.entry(states[path].1).or_insert(entry.hardlink) != entry.hardlink {
                return Err(format!("at rest: {} has come apart from its other names", entry.path));
            }
        }
        Ok(())
    }
}

fn shown(states: &BTreeMap<Path8, State>) -> String {
    let all: Vec<_> = states
        .iter()
        .map(|(path, state)| {
            format!("{}={} {:o} {}", String::from_utf8_lossy(path), state.kind, state.mode, state.mtime)
        })
        .collect();
    all.join(", ")
}

fn check(world: &World, before: &Snapshot, after: &Snapshot, report: &ResyncReport) -> Result<(), String> {
    let named = |path: &[u8], kinds: &[WarningKind]| {
        report.warnings.first.iter().any(|warning| {
            let top = if warning.path == "." { b"" } else { warning.path.as_bytes() };
            let within = top.is_empty() || path == top || path.starts_with(&[top, b"/"].concat());
            kinds.contains(&warning.kind) && within
        })
    };
    let lost = [WarningKind::Unreadable, WarningKind::Unsettled];
    for path in &world.always {
        let shown = String::from_utf8_lossy(path);
        if after.contains_key(path) {
            continue;
        }
        if !named(path, &lost) {
            return Err(format!(
                "'{shown}' was there all the time, is not in the snapshot, and is not named"
            ));
        }
        // A path that cannot be read keeps its last state.
        if before.contains_key(path) && !named(path, &[WarningKind::Unsettled]) {
            return Err(format!("'{shown}' could not be read, and the last state of it was dropped"));
        }
    }
    for (path, entry) in after {
        let state = State::of(entry);
        let shown = &entry.path;
        let was_true = world.seen.get(path).is_some_and(|seen| seen.contains(&state));
        if was_true || named(path, &[WarningKind::Torn, WarningKind::Unsettled]) {
            continue;
        }
        if !named(path, &lost) {
            return Err(format!("'{shown}' never was {state:?}; it was {:?}", world.seen.get(path)));
        }
        if before.get(path).map(State::of) != Some(state) {
            return Err(format!("'{shown}' could not be read, and is not what it was before"));
        }
    }
    let mut groups: HashMap<u64, &Entry> = HashMap::new();
    for entry in after.values() {
        let Some(number) = entry.hardlink else { continue };
        let first = *groups.entry(number).or_insert(entry);
        let inodes = |entry: &Entry| world.inodes_of.get(entry.path.as_bytes()).cloned().unwrap_or_default();
        if !first.same_to_a_user(entry) || inodes(first).is_disjoint(&inodes(entry)) {
            return Err(format!("{} and {} are joined, and never were one file", first.path, entry.path));
        }
    }
    Ok(())
}

/// Returns the acts that create a shop with a new release next to it.
fn shop() -> Vec<Act> {
    let path = |text: &str| text.as_bytes().to_vec();
    let mut acts = vec![Act::Mkdir(path("a")), Act::Mkdir(path("a/deep")), Act::Mkdir(path("pub"))];
    for (dir, names) in [("vendor", ["one", "two", "x"]), ("vendor.new", ["one", "three", "x"])] {
        acts.push(Act::Mkdir(path(dir)));
        acts.push(Act::Mkdir(path(&format!("{dir}/lib"))));
        for name in names {
            acts.push(Act::Write(path(&format!("{dir}/{name}")), path(&format!("{dir} {name}"))));
            acts.push(Act::Write(path(&format!("{dir}/lib/{name}")), path(&format!("{dir} lib {name}"))));
        }
    }
    acts.extend([
        Act::Write(path("a/deep/file"), path("deep")),
        Act::Link(path("a/deep/file"), path("pub/hard")),
        Act::Write(path("index.php"), path("<?php")),
        Act::Symlink(path("link"), path("vendor")),
        Act::Write(path("zz"), path("last")),
    ]);
    acts
}

fn schedule(seed: u64) -> Result<(), String> {
    let stage = Stage::new(&shop());
    let mut dice = Dice::new(seed ^ 0x5eed);
    if dice.below(3) > 0 {
        stage.settle()?;
    }
    for round in 0..1 + dice.below(3) {
        stage.run_under(Box::new(Chaos::new(seed.wrapping_mul(31).wrapping_add(round))))?;
    }
    stage.settle()
}

fn schedules(seeds: std::ops::Range<u64>) {
    if let Ok(seed) = std::env::var("UNDERSTUDY_TEST_SEED") {
        return schedule(seed.parse().unwrap()).unwrap();
    }
    let failed: Vec<_> =
        seeds.clone().filter_map(|seed| Some(format!("seed {seed}: {}", schedule(seed).err()?))).collect();
    assert!(
        failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        seeds.count(),
        failed[..failed.len().min(10)].join("\n")
    );
}

#[test]
fn no_schedule_of_an_adversary_makes_a_snapshot_untrue_1() {
    schedules(0..500);
}

#[test]
fn no_schedule_of_an_adversary_makes_a_snapshot_untrue_2() {
    schedules(500..1000);
}

#[test]
fn no_schedule_of_an_adversary_makes_a_snapshot_untrue_3() {
    schedules(1000..1500);
}

#[test]
fn no_schedule_of_an_adversary_makes_a_snapshot_untrue_4() {
    schedules(1500..2000);
}

#[test]
#[ignore = "many more schedules: `cargo nextest run --run-ignored only schedules`"]
fn a_hundred_thousand_schedules_of_an_adversary() {
    schedules(2000..102_000);
}

/// Each mutant is a former bug, or a check that could be forgotten.
#[test]
fn every_mutant_of_the_scan_is_caught_by_a_schedule() {
    for chosen in
        [Mutant::VanishedForUnreadable, Mutant::SingleAbsent, Mutant::NoLeave, Mutant::GroupsByInode]
    {
        mutant::choose(Some(chosen));
        let caught = (0..2000).find_map(|seed| Some((seed, schedule(seed).err()?)));
        mutant::choose(None);
        let (seed, error) = caught.unwrap_or_else(|| panic!("{chosen:?} is not caught"));
        eprintln!("{chosen:?} is caught by seed {seed}: {error}");
        // Without the mutant the schedule passes.
        schedule(seed).unwrap();
    }
}

/// A manifest that lacks a directory, as a writer without its check would make it.
#[test]
fn a_manifest_without_a_directory_is_refused_by_its_writer_and_found_by_verify() {
    for is_checked in [true, false] {
        mutant::choose((!is_checked).then_some(Mutant::NoClosingCheck));
        let rig = Rig::plain();
        let store = rig.store();
        let mut session = WriteSession::begin(&store, &WriterId("tester".into())).unwrap();
        let packer = session.packer();
        let mut writer = ManifestWriter::new(&packer, Compressor::new(1).unwrap());
        writer.push(&rig::entry("", Kind::Directory)).unwrap();
        let pushed = writer.push(&rig::entry("vendor/f10", Kind::Fifo));
        if is_checked {
            let error = pushed.unwrap_err().to_string();
            assert!(error.starts_with("vendor/f10: its directory is not in the manifest"), "{error}");
            continue;
        }
        let (manifest, _) = writer.finish().unwrap();
        packer.close().unwrap();
        let record = SnapshotRecord {
            manifest,
            scan_start: UnixNanos(1),
            scan_end: UnixNanos(2),
            source_path: String::new(),
            filesystem: FilesystemId { magic: 0, id: 0, root_inode: 0, mounts: None },
            statistics: SnapshotStatistics::default(),
            new_packs: Vec::new(),
            new_index: Vec::new(),
            index: Vec::new(),
            merged_index: Vec::new(),
            database_position: None,
            full_scan_start: None,
        };
        session.commit(&record).unwrap();
        mutant::choose(None);
        let report = rig.verify();
        assert!(!report.is_sound());
        assert_eq!(report.touched[0].path, "vendor/f10", "{:?}", report.touched);
        // A run that finds such a snapshot continues from what is there, and its own snapshot is sound.
        sample_tree(&rig.source());
        let next = rig.resync();
        assert_eq!(next.warnings.total(), 0, "{:?}", next.warnings);
        rig.restored(Moment::At(next.snapshot));
    }
}

/// An adversary that begins at a given call, and takes a step at every `every`th call.
struct Deploy {
    begins: u64,
    every: u64,
    steps: VecDeque<Act>,
}

impl Adversary for Deploy {
    fn acts(&mut self, _: &World, call: u64) -> Vec<Act> {
        if call < self.begins {
            return Vec::new();
        }
        if self.every == 0 {
            return self.steps.drain(..).collect();
        }
        let is_time = (call - self.begins).is_multiple_of(self.every);
        (0..u32::from(is_time)).filter_map(|_| self.steps.pop_front()).collect()
    }

    fn fails(&mut self, _: u64) -> Option<Errno> {
        None
    }
}

/// Runs a deploy of `steps` beginning at each of a scan's calls: the snapshot has the old release or the new
/// one, complete.
fn deploys(steps: &[Act], is_whole: impl Fn(&Snapshot, &[Path8]) -> bool) {
    let mut tried = 0;
    for (has_snapshot, every) in [(false, 1), (true, 0), (true, 3)] {
        for begins in 1.. {
            let stage = Stage::new(&shop());
            if has_snapshot {
                stage.settle().unwrap();
                // Makes the scan read a part of it again.
                stage.model.world().act(Act::Write(path("vendor/added"), path("added")));
                stage.model.world().act(Act::Chmod(path("vendor/lib"), 0o750));
            }
            let deploy = Deploy { begins, every, steps: steps.iter().cloned().collect() };
            let case = format!("from call {begins}, every {every}, {has_snapshot}");
            let old = release(stage.model.world().states().into_keys());
            stage.run_under(Box::new(deploy)).unwrap_or_else(|error| panic!("{case}: {error}"));
            let calls = stage.model.world().calls;
            let found = stage.snapshot();
            assert!(is_whole(&found, &old), "{case}: {}", names(&found));
            if begins % 5 == 0 {
                stage.settle().unwrap_or_else(|error| panic!("{case}: {error}"));
            }
            tried += 1;
            if begins > calls {
                break;
            }
        }
    }
    assert!(tried > 200, "{tried}");
}

fn path(text: &str) -> Path8 {
    text.as_bytes().to_vec()
}

/// Returns whether the snapshot has the old release or the new one.
fn is_old_or_new(found: &Snapshot, old: &[Path8]) -> bool {
    let now = release(found.keys().cloned());
    let new = ["lib", "lib/one", "lib/three", "lib/x", "one", "three", "x"];
    let new: Vec<_> = new.iter().map(|name| path(&format!("vendor/{name}"))).collect();
    found.contains_key(&path("vendor")) && (now == old || now == new)
}

#[test]
fn a_release_that_is_moved_in_at_any_call_of_a_scan_is_whole_or_the_old_one_is() {
    let steps = [
        Act::Rename(path("vendor"), path("vendor.old")),
        Act::Rename(path("vendor.new"), path("vendor")),
        Act::RemoveAll(path("vendor.old")),
    ];
    deploys(&steps, is_old_or_new);
}

#[test]
fn a_release_that_is_exchanged_at_any_call_of_a_scan_is_whole_or_the_old_one_is() {
    deploys(
        &[Act::Exchange(path("vendor"), path("vendor.new")), Act::RemoveAll(path("vendor.new"))],
        is_old_or_new,
    );
}

#[test]
fn a_symlink_that_is_pointed_elsewhere_at_any_call_of_a_scan_points_there_or_where_it_did() {
    let steps = [Act::Symlink(path(".t"), path("vendor.new")), Act::Rename(path(".t"), path("link"))];
    deploys(&steps, |found, _| match found.get(&path("link")).map(|entry| &entry.kind) {
        Some(Kind::Symlink { target }) => [path("vendor"), path("vendor.new")].contains(target),
        _ => false,
    });
}

fn names(snapshot: &Snapshot) -> String {
    snapshot.values().map(|entry| entry.path.to_string()).collect::<Vec<_>>().join(", ")
}

fn release(paths: impl Iterator<Item = Path8>) -> Vec<Path8> {
    paths.filter(|path| path.starts_with(b"vendor/")).collect()
}

/// The same on a disk, with the threads of both scheduled by the kernel.
#[test]
fn deploys_beside_a_scan_leave_a_whole_release_on_a_real_filesystem() {
    let rig = Rig::new();
    let root = rig.source();
    let release = |dir: &std::path::Path, body: &str| {
        std::fs::create_dir_all(dir.join("lib")).unwrap();
        for number in 0..150 {
            std::fs::write(dir.join(format!("f{number}")), format!("{body} {number}")).unwrap();
            std::fs::write(dir.join(format!("lib/g{number}")), format!("{body} lib {number}")).unwrap();
        }
    };
    release(&root.join("vendor"), "0");
    for number in 0..200 {
        std::fs::write(root.join(format!("before{number}")), vec![7; 20_000]).unwrap();
    }
    rig.resync();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1u32.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                release(&root.join("vendor.new"), &round.to_string());
                if round.is_multiple_of(2) {
                    std::fs::rename(root.join("vendor"), root.join("vendor.old")).unwrap();
                    std::fs::rename(root.join("vendor.new"), root.join("vendor")).unwrap();
                } else {
                    rustix::fs::renameat_with(
                        rustix::fs::CWD,
                        root.join("vendor"),
                        rustix::fs::CWD,
                        root.join("vendor.new"),
                        rustix::fs::RenameFlags::EXCHANGE,
                    )
                    .unwrap();
                    std::fs::rename(root.join("vendor.new"), root.join("vendor.old")).unwrap();
                }
                std::fs::remove_dir_all(root.join("vendor.old")).unwrap();
            }
        });
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        for _ in 0..8 {
            std::fs::write(root.join("before0"), random(&rig::nonce().to_le_bytes(), 20_000)).unwrap();
            let report = rig.resync();
            let restored = rig.restored(Moment::At(report.snapshot));
            let mut bodies = std::collections::BTreeSet::new();
            let mut count = 0;
            for dir in ["vendor", "vendor/lib"] {
                // A path that moved at every look is named in a warning, and may be missing.
                let entries = std::fs::read_dir(restored.join(dir)).into_iter().flatten();
                for entry in entries.map(|entry| entry.unwrap()) {
                    if entry.file_type().unwrap().is_file() {
                        count += 1;
                        let body = std::fs::read_to_string(entry.path()).unwrap();
                        bodies.insert(body.split(' ').next().unwrap().to_owned());
                    }
                }
            }
            let is_named = report.warnings.first.iter().any(|warning| warning.path.starts_with("vendor"));
            assert!(
                (bodies.len() == 1 && count == 300) || is_named,
                "{count} of {bodies:?}: {:?}",
                report.warnings
            );
            std::fs::remove_dir_all(restored).unwrap();
        }
    });
    assert!(rig.verify().is_sound());
}
