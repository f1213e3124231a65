//! What only a former primary has: committed before anything is overwritten, taken without replacing anything,
//! and kept until a person has settled it. With the real binary; the promotion is made through the library.

use crate::support::command::{fails, ok, said};
use crate::support::facts;
use crate::support::faulty::{Fault, FaultyStore};
use crate::support::host::Host;
use crate::support::members::{decide, join, member};
use crate::support::rig::{self, disk_patience, name, patience};
use crate::support::tree::{random, sample_tree};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use understudy::failover::stranded::rejoin::rejoin;
use understudy::model::decision::{Cause, Decision, Loss, Promoted};
use understudy::model::id::{Sequence, WriterId};
use understudy::replicate::resync::ResyncContext;
use understudy::repository::decide::Maker;
use understudy::repository::error::RepositoryError;
use understudy::repository::store::{Repository, RepositoryOptions, Store};
use understudy::source::disk::Disk;
use understudy::support::progress::Progress;
use understudy::support::signature::SigningKey;

/// Returns a host with this name, and the store `acme` at `s0` in a repository.
fn host(repository: &Path, writer: &str) -> Host {
    let host = Host::new(1);
    let text = format!(
        "repository = '{}'\nwriter = '{writer}'\n[[store]]\nname = 'acme'\npath = 's0'\n[store.stranded]\ntransient = ['var/cache/']\n[store.retention]\nlast = 1\n",
        repository.display(),
    );
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host
}

fn key_of(host: &Host) -> SigningKey {
    let text = std::fs::read_to_string(host.path("state/understudy/member.key")).unwrap();
    let seed = STANDARD_NO_PAD.decode(text.lines().last().unwrap()).unwrap();
    SigningKey::of(&seed.try_into().unwrap())
}

fn forced(host: &str, base: u64) -> Decision {
    Decision::Promoted(Promoted {
        primary: WriterId(host.into()),
        incarnation: None,
        cause: Cause::Forced { person: "ops".into(), attested: true },
        base: Some(Sequence(base)),
        loss: Loss::default(),
        reason: "a test".into(),
    })
}

/// Time after which a file's last change is in the past for a scan.
const SETTLED: Duration = Duration::from_millis(200);

/// Two hosts of a store, before or after the second took over.
struct Pair {
    dir: tempfile::TempDir,
    one: Host,
    two: Host,
}

impl Pair {
    /// Makes the two, with equal trees; `prepare` adds to the tree before its first snapshot.
    fn new(prepare: impl Fn(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repository");
        std::fs::create_dir(&repository).unwrap();
        let one = host(&repository, "web-1");
        prepare(&one.path("s0"));
        ok(&mut one.command(&["resync", "acme", "--quiet"]));
        let two = host(&repository, "web-2");
        std::fs::remove_dir_all(two.path("s0")).unwrap();
        ok(&mut two.command(&["restore", "acme", "s0", "--quiet"]));
        ok(&mut one.command(&["member", "found", "acme"]));
        join(&one, &two, &[]);
        Self { dir, one, two }
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    fn store(&self) -> Store {
        let local = object_store::local::LocalFileSystem::new_with_prefix(self.repository()).unwrap();
        let options =
            RepositoryOptions { patience: disk_patience(3), keys: rig::key_source(), ..Default::default() };
        Repository::over(Arc::new(local), "test", options, rig::runtime()).store(&name())
    }

    /// Makes the second host the primary, from the first snapshot.
    fn promote(&self) {
        decide(&self.store(), "web-2", &key_of(&self.two), forced("web-2", 1));
        ok(&mut self.two.command(&["resync", "acme", "--quiet", "--accept"]));
    }

    /// Rejoins once no file is so new that its fingerprint would be left out: the same tree, scanned later, has a
    /// manifest with it.
    fn rejoin(&self) -> serde_json::Value {
        std::thread::sleep(SETTLED);
        json(&self.one, &["rejoin", "acme"])
    }

    fn shown(&self, record: u64) -> BTreeMap<String, String> {
        let output =
            ok(self.two.command(&["stranded", "show", "acme", &record.to_string(), "--json"]).arg("-q"));
        let rows = String::from_utf8(output.stdout).unwrap();
        let rows = rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        rows.map(|row| (text(&row["path"]), text(&row["class"]))).collect()
    }

    fn stranded(&self) -> usize {
        self.store().log().state().unwrap().authority.stranded.len()
    }
}

fn json(host: &Host, args: &[&str]) -> serde_json::Value {
    let output = ok(host.command(args).arg("--json"));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn write(host: &Host, path: &str, content: &str) {
    let path = host.path("s0").join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn read(host: &Host, path: &str) -> String {
    std::fs::read_to_string(host.path("s0").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(path, class)| (path.to_owned(), class.to_owned())).collect()
}

#[test]
fn every_class_is_told_and_what_only_the_former_primary_has_is_taken() {
    let pair = Pair::new(|tree| {
        std::fs::create_dir_all(tree.join("var/cache")).unwrap();
        for name in ["changed-here", "changed-both", "changed-there", "deleted-here", "deleted-there"] {
            std::fs::write(tree.join(name), name).unwrap();
        }
    });
    let (one, two) = (&pair.one, &pair.two);
    fails(&mut one.command(&["rejoin", "acme"]), 2, "is its primary");
    fails(&mut two.command(&["rejoin", "acme"]), 2, "never was its primary");
    write(one, "media/new/image.jpg", "only one has it");
    std::fs::set_permissions(one.path("s0/media/new/image.jpg"), PermissionsExt::from_mode(0o640)).unwrap();
    write(one, "changed-here", "by one");
    write(one, "changed-both", "by one");
    write(two, "changed-both", "by two");
    write(two, "changed-there", "by two");
    write(one, "deleted-there", "changed by one");
    std::fs::remove_file(two.path("s0/deleted-there")).unwrap();
    std::fs::remove_file(one.path("s0/deleted-here")).unwrap();
    write(one, "var/cache/page", "made again");
    // The same file on both sides, with its time.
    for host in [one, two] {
        write(host, "same", "alike");
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        std::fs::File::options().write(true).open(host.path("s0/same")).unwrap().set_modified(time).unwrap();
    }
    pair.promote();
    fails(&mut one.command(&["resync", "acme"]), 5, "fenced");
    let before = facts::of(&one.path("s0"));
    let report = pair.rejoin();
    assert_eq!(facts::of(&one.path("s0")), before, "the tree is only read");
    let record = report["record"].as_u64().unwrap();
    assert!(
        !report["already"].as_bool().unwrap() && report["of_epoch"] == 1 && report["base"] == 1,
        "{report}"
    );
    let told = pairs([
        ("changed-both", "both"),
        ("changed-here", "only"),
        ("deleted-here", "deleted"),
        ("deleted-there", "both"),
        ("media", "only"),
        ("media/new", "only"),
        ("media/new/image.jpg", "only"),
        ("same", "same"),
        ("var/cache/page", "transient"),
    ]);
    assert_eq!(pair.shown(record), told);
    assert_eq!(report["counts"]["only"], 4);
    let listed = json(two, &["stranded", "list", "acme"]);
    assert_eq!((&listed[0]["record"], &listed[0]["host"]), (&record.into(), &"web-1".into()), "{listed}");
    assert_eq!(listed[0]["counts"], report["counts"]);
    let loss = &listed[0]["loss"];
    assert_eq!((loss, &loss["verdict"]), (&report["loss"], &"as_stated".into()), "{listed}");
    assert_eq!((&loss["found_paths"], &loss["changed_after"]), (&7.into(), &0.into()), "{listed}");
    // Only what is new, first: nothing that is there is replaced, so what has other content goes beside.
    let number = record.to_string();
    fails(&mut one.command(&["stranded", "take", "acme", &number, "--new"]), 2, "is not its primary");
    fails(&mut two.command(&["stranded", "take", "acme", &number, "no-such"]), 2, "nothing can be taken");
    let mut take = two.command(&["stranded", "take", "acme", &number, "--new"]);
    fails(&mut take, 3, "something else has its name");
    assert_eq!(read(two, "media/new/image.jpg"), "only one has it");
    let mode = std::fs::metadata(two.path("s0/media/new/image.jpg")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(read(two, "changed-here"), "changed-here");
    assert_eq!(read(two, &format!("changed-here.stranded-{record}")), "by one");
    assert!(!two.path("s0/deleted-there").exists() && !two.path("s0/var/cache/page").exists());
    assert_eq!(pair.stranded(), 1, "two paths remain");
    // Then the rest, which ends it.
    fails(
        two.command(&["stranded", "take", "acme", &number, "."]).args(["--person", "ada"]),
        3,
        "something else has its name",
    );
    assert_eq!(read(two, "changed-both"), "by two");
    assert_eq!(read(two, &format!("changed-both.stranded-{record}")), "by one");
    assert_eq!(read(two, "deleted-there"), "changed by one");
    assert_eq!(read(two, "changed-there"), "by two");
    assert!(!two.path("s0/var/cache/page").exists());
    assert_eq!(pair.stranded(), 0);
    let history = json(two, &["history", "acme"]);
    let last = history.as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["kind"], &last["person"]), (&"settled".into(), &"ada".into()), "{last}");
    fails(&mut two.command(&["stranded", "show", "acme", &number]), 2, "nothing that is not settled");
    // The former primary has nothing new.
    let report = pair.rejoin();
    assert_eq!((&report["record"], &report["already"]), (&record.into(), &true.into()), "{report}");
    ok(&mut two.command(&["verify", "acme", "--read-data"]));
}

#[test]
fn a_tree_that_was_written_to_after_another_host_had_taken_over_is_reported() {
    let pair = Pair::new(|_| {});
    write(&pair.one, "before", "the new primary was told of this");
    pair.promote();
    // Longer than two clocks may differ.
    std::thread::sleep(Duration::from_secs(6));
    write(&pair.one, "after", "what fenced this host did not hold");
    std::thread::sleep(SETTLED);
    let said = ok(&mut pair.one.command(&["rejoin", "acme"]));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("1 paths changed after another host had become the primary"), "{said}");
    let listed = json(&pair.two, &["stranded", "list", "acme"]);
    let loss = &listed[0]["loss"];
    assert_eq!((&loss["verdict"], &loss["changed_after"]), (&"after".into(), &1.into()), "{listed}");
}

#[test]
fn a_second_rejoin_finds_it_done_and_a_changed_tree_is_committed_again() {
    let pair = Pair::new(|_| {});
    write(&pair.one, "order.pdf", "one");
    pair.promote();
    let first = pair.rejoin();
    let second = pair.rejoin();
    assert_eq!((&second["record"], &second["already"]), (&first["record"], &true.into()));
    assert_eq!(pair.stranded(), 1);
    // A mode that was changed and changed back, and a directory's time, are nothing new.
    let path = pair.one.path("s0/order.pdf");
    let mode = std::fs::metadata(&path).unwrap().permissions();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&path, mode).unwrap();
    assert_eq!(pair.rejoin()["record"], first["record"]);
    write(&pair.one, "order-2.pdf", "two");
    let third = pair.rejoin();
    assert!(third["record"].as_u64() > first["record"].as_u64() && third["already"] == false, "{third}");
    assert_eq!(pair.stranded(), 2);
}

#[test]
fn with_nothing_stranded_there_is_no_record() {
    let pair = Pair::new(|tree| std::fs::write(tree.join("both"), "old").unwrap());
    write(&pair.one, "var/cache/page", "made again");
    // Both have removed it.
    for host in [&pair.one, &pair.two] {
        std::fs::remove_file(host.path("s0/both")).unwrap();
    }
    // The directories above the cache are the deploy's, on both hosts.
    for dir in ["var/cache", "var"] {
        let from = pair.one.path("s0").join(dir);
        std::fs::create_dir_all(pair.two.path("s0").join(dir)).unwrap();
        std::fs::set_permissions(from, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(pair.two.path("s0").join(dir), PermissionsExt::from_mode(0o755)).unwrap();
    }
    pair.promote();
    let head = pair.store().log().state().unwrap().head;
    let report = pair.rejoin();
    assert!(report["record"].is_null() && report["counts"]["transient"] == 1, "{report}");
    let told = said(&ok(&mut pair.one.command(&["rejoin", "acme"])));
    assert!(told.contains("nothing is stranded here; no record was needed"), "{told}");
    assert_eq!(pair.store().log().state().unwrap().head, head);
    let listed = said(&ok(&mut pair.two.command(&["stranded", "list", "acme"])));
    assert!(listed.contains("nothing is stranded"), "{listed}");
}

#[test]
fn an_empty_tree_is_held_and_not_taken_for_a_deletion_of_everything() {
    let pair = Pair::new(|_| {});
    pair.promote();
    let tree = pair.one.path("s0");
    std::fs::rename(&tree, pair.one.path("aside")).unwrap();
    std::fs::create_dir(&tree).unwrap();
    fails(&mut pair.one.command(&["rejoin", "acme"]), 4, "--accept");
    assert_eq!(pair.stranded(), 0);
    ok(&mut pair.one.command(&["rejoin", "acme", "--accept"]));
    assert_eq!(pair.stranded(), 1);
}

#[test]
fn what_the_former_primary_committed_after_the_base_is_stranded_too() {
    let pair = Pair::new(|_| {});
    write(&pair.one, "late", "in its last snapshot, not in the base");
    ok(&mut pair.one.command(&["resync", "acme", "--quiet"]));
    // Promoted from the first snapshot, and without one of its own so far.
    decide(&pair.store(), "web-2", &key_of(&pair.two), forced("web-2", 1));
    let report = pair.rejoin();
    assert!(report["base"] == 1 && report["compared"] == 1 && report["counts"]["added"] == 1, "{report}");
    assert_eq!(pair.shown(report["record"].as_u64().unwrap()), pairs([("late", "only")]));
}

#[test]
fn a_rejoin_killed_at_any_step_or_moment_leaves_the_tree_and_the_next_one_goes_on() {
    let pair = Pair::new(|_| {});
    let one = &pair.one;
    pair.promote();
    let rejoin = || one.command(&["rejoin", "acme", "--json"]);
    for (round, step) in ["opened", "scanned", "shipped", "committed"].into_iter().enumerate() {
        write(one, &format!("large-{round}"), &format!("{round}").repeat(200_000));
        let (before, records) = (facts::of(&one.path("s0")), pair.stranded());
        let mut killed = rejoin();
        let status = killed.env("UNDERSTUDY_TEST_KILL_AT", step).stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.signal(), Some(9), "{step}");
        assert_eq!(facts::of(&one.path("s0")), before, "{step}");
        assert_eq!(pair.stranded() - records, usize::from(step == "committed"), "{step}");
        let report = pair.rejoin();
        assert_eq!(report["already"], step == "committed", "{step}: {report}");
        assert_eq!(pair.stranded() - records, 1, "{step}");
    }
    let mut killed = 0;
    for round in 0..20 {
        write(one, &format!("small-{round}"), "small");
        let (before, records) = (facts::of(&one.path("s0")), pair.stranded());
        let mut child = rejoin().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(getrandom::u64().unwrap() % 120_000));
        let _ = child.kill();
        killed += usize::from(child.wait().unwrap().signal() == Some(9));
        assert_eq!(facts::of(&one.path("s0")), before, "round {round}");
        pair.rejoin();
        assert_eq!(pair.stranded() - records, 1, "round {round}");
        // A store keeps few of them unsettled.
        let record = pair.store().log().state().unwrap().authority.stranded.keys().next().unwrap().0;
        ok(pair.two.command(&["stranded", "drop", "acme", &record.to_string(), "--yes"]).arg("-q"));
    }
    assert!(killed > 0, "no run was killed: the delays are too long");
    ok(&mut pair.two.command(&["verify", "acme", "--read-data"]));
}

/// A rejoin whose process dies at one of its calls to the store is, for the store, one whose later calls never
/// come.
#[test]
fn a_rejoin_that_ends_at_any_call_to_the_store_commits_nothing_or_all_and_is_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let keys = [SigningKey::of(&[1; 32]), SigningKey::of(&[2; 32])];
    let origin = InMemory::new();
    let open =
        |objects: Arc<dyn ObjectStore>, attempts| rig::repository(objects, patience(attempts)).store(&name());
    let objects: Arc<dyn ObjectStore> = Arc::new(origin.clone());
    let request = rig::request(&source);
    rig::run(&rig::repository(objects.clone(), patience(3)), &request).unwrap();
    let store = open(objects, 3);
    let [one, two] = [member("tester", &keys[0]), member("web-2", &keys[1])];
    decide(&store, "tester", &keys[0], Decision::Members { members: vec![one.clone()] });
    decide(&store, "tester", &keys[0], Decision::Members { members: vec![one, two] });
    decide(&store, "web-2", &keys[1], forced("web-2", 1));
    std::fs::write(source.join("only"), b"only".repeat(100_000)).unwrap();
    let before = facts::of(&source);
    let run = |store: &Store| {
        let progress = Progress::default();
        let around = ResyncContext { tree: &Disk::default(), progress: &progress, on_step: &|_| {} };
        let host = WriterId("tester".into());
        rejoin(store, Maker { name: &host, key: &keys[0] }, &request, &[], &around)
    };
    for fault in [Fault::Fails, Fault::ReplyLost] {
        for at in 1.. {
            let objects: Arc<dyn ObjectStore> = Arc::new(origin.fork());
            let faulty = FaultyStore::new(objects.clone(), fault, at, true);
            let broken = run(&open(faulty.clone(), 1));
            let what = format!("{fault:?} from call {at} on: {broken:?}");
            let clean = open(objects, 3);
            let records = || clean.log().state().unwrap().authority.stranded.len();
            assert!(records() == 1 || broken.is_err(), "{what}");
            let was_there = records() == 1;
            let report = run(&clean).unwrap();
            assert!(report.already == was_there && report.record.is_some(), "{what}: {report:?}");
            assert_eq!((records(), report.counts.added), (1, 1), "{what}");
            assert_eq!(facts::of(&source), before, "{what}");
            if faulty.calls() < at {
                break;
            }
        }
    }
}

#[test]
fn a_take_writes_through_no_symlink_over_nothing_and_takes_hostile_names() {
    let pair = Pair::new(|_| {});
    let (one, two) = (&pair.one, &pair.two);
    let outside = pair.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let tree = one.path("s0");
    let hostile = [&b"new\nline"[..], b"\xff\xfe", b"-rf", b"\x1b[2J", b"a b", "ü".as_bytes()];
    for hostile in hostile {
        std::fs::write(tree.join(OsStr::from_bytes(hostile)), "hostile").unwrap();
    }
    std::fs::write(tree.join("n".repeat(255)), "long").unwrap();
    for path in ["led-out/passwd", "file-there/below", "dir-there", "first-name", "link"] {
        write(one, path, "by one");
    }
    std::fs::hard_link(tree.join("first-name"), tree.join("second-name")).unwrap();
    symlink("/etc/passwd", tree.join("symlink")).unwrap();
    // On the new primary the same names lead elsewhere.
    symlink(&outside, two.path("s0/led-out")).unwrap();
    symlink(outside.join("link"), two.path("s0/link")).unwrap();
    write(two, "file-there", "a file");
    write(two, "dir-there/file", "in a directory");
    write(two, "first-name", "newer");
    write(two, &"n".repeat(255), "newer");
    pair.promote();
    let record = pair.rejoin()["record"].as_u64().unwrap();
    let mut take = two.command(&["stranded", "take", "acme", &record.to_string(), "."]);
    let output = take.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(!said(&output).contains('\u{1b}'), "{}", said(&output));
    for hostile in hostile {
        let path = two.path("s0").join(OsStr::from_bytes(hostile));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "hostile");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing is written through a symlink");
    let beside = |name: &str| format!("{name}.stranded-{record}");
    for (path, content) in [
        ("file-there", "a file"),
        ("dir-there/file", "in a directory"),
        ("first-name", "newer"),
        (&*"n".repeat(255), "newer"),
        (&*format!("{}/passwd", beside("led-out")), "by one"),
        (&*format!("{}/below", beside("file-there")), "by one"),
        (&*beside("dir-there"), "by one"),
        (&*beside("link"), "by one"),
        (&*beside("first-name"), "by one"),
        ("second-name", "by one"),
    ] {
        assert_eq!(read(two, path), content, "{path}");
    }
    let long = beside(&"n".repeat(255 - beside("").len()));
    assert_eq!(read(two, &long), "long");
    assert_eq!(std::fs::read_link(two.path("s0/symlink")).unwrap(), Path::new("/etc/passwd"));
    let left = walkdir::WalkDir::new(two.path("s0")).into_iter().map(Result::unwrap);
    let left: Vec<_> = left.filter(|e| e.file_name().to_string_lossy().starts_with(".understudy")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(pair.stranded(), 0, "all of it is there");
}

#[test]
fn a_take_killed_at_random_adds_whole_files_and_the_next_one_goes_on() {
    let pair = Pair::new(|_| {});
    for number in 0..200 {
        write(&pair.one, &format!("media/{number}"), &format!("{number}").repeat(5_000));
    }
    pair.promote();
    let record = pair.rejoin()["record"].as_u64().unwrap().to_string();
    let take = || pair.two.command(&["stranded", "take", "acme", &record, "--new", "--quiet"]);
    for _ in 0..12 {
        let mut child = take().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(getrandom::u64().unwrap() % 100_000));
        let _ = child.kill();
        child.wait().unwrap();
        for number in 0..200 {
            if let Ok(content) = std::fs::read_to_string(pair.two.path(&format!("s0/media/{number}"))) {
                assert_eq!(content, format!("{number}").repeat(5_000), "half a file has its name");
            }
        }
    }
    if pair.stranded() == 1 {
        ok(&mut take());
    }
    assert_eq!(pair.stranded(), 0);
    let names = std::fs::read_dir(pair.two.path("s0/media")).unwrap().count();
    assert_eq!(names, 200, "and nothing else is left there");
}

#[test]
fn a_prune_frees_what_is_stranded_only_after_a_person_has_dropped_it() {
    let pair = Pair::new(|_| {});
    let (one, two) = (&pair.one, &pair.two);
    let large = random(b"stranded", 3_000_000);
    std::fs::write(one.path("s0/only"), &large).unwrap();
    pair.promote();
    let record = pair.rejoin()["record"].as_u64().unwrap().to_string();
    let packed = || -> u64 {
        let packs = walkdir::WalkDir::new(pair.repository().join("acme/packs")).into_iter();
        packs.map(|entry| entry.unwrap().metadata().unwrap()).filter(|m| m.is_file()).map(|m| m.len()).sum()
    };
    let prune = || {
        for round in 0..3 {
            write(two, "round", &format!("{round}"));
            ok(&mut two.command(&["resync", "acme", "--quiet"]));
            prune_now(&pair.store());
        }
    };
    let before = packed();
    prune();
    assert!(packed() >= large.len() as u64, "{before}: it is kept");
    ok(two.command(&["verify", "acme", "--read-data"]).arg("-q"));
    // The answer is the store's name, or nothing happens.
    let mut drop = two.command(&["stranded", "drop", "acme", &record]);
    let mut asked = drop.stdin(Stdio::piped()).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    asked.stdin.take().unwrap().write_all(b"yes\n").unwrap();
    assert_eq!(asked.wait().unwrap().code(), Some(2));
    assert_eq!(pair.stranded(), 1);
    let mut drop = two.command(&["stranded", "drop", "acme", &record]);
    let mut asked = drop.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    asked.stdin.take().unwrap().write_all(b"acme\n").unwrap();
    assert!(asked.wait().unwrap().success());
    assert_eq!(pair.stranded(), 0);
    prune();
    assert!(packed() + large.len() as u64 <= before + 200_000, "{} of {before}: it is gone", packed());
    ok(two.command(&["verify", "acme", "--read-data"]).arg("-q"));
}

/// Prunes without grace.
fn prune_now(store: &Store) {
    use understudy::maintain::prune::{Grace, PruneRequest, prune};
    use understudy::model::retention::Retention;
    let mut request =
        PruneRequest::new(Retention { last: 1, ..Default::default() }, WriterId("pruner".into()));
    request.grace = Grace { records: 0, time: Duration::ZERO };
    request.bounds.orphan_age = Duration::ZERO;
    request.bounds.unused_percent = 0;
    prune(store, &request, &|_| {}).unwrap();
}

#[test]
fn only_a_member_that_may_serve_settles() {
    let pair = Pair::new(|_| {});
    write(&pair.one, "only", "only");
    pair.promote();
    let record = pair.rejoin()["record"].as_u64().unwrap().to_string();
    let watcher = host(&pair.repository(), "watch-1");
    join(&pair.two, &watcher, &["--watch-only"]);
    let stranger = host(&pair.repository(), "web-9");
    ok(&mut pair.two.command(&["member", "remove", "acme", "web-1"]));
    let to = pair.dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    for host in [&watcher, &stranger, &pair.one] {
        fails(
            &mut host.command(&["stranded", "drop", "acme", &record, "--yes"]),
            2,
            "no member that may serve",
        );
        let mut take = host.command(&["stranded", "take", "acme", &record, "--new", "--to"]);
        fails(take.arg(&to), 2, "no member that may serve");
    }
    fails(&mut pair.one.command(&["rejoin", "acme"]), 2, "no member that may serve");
    assert_eq!((pair.stranded(), std::fs::read_dir(&to).unwrap().count()), (1, 0));
    // Whoever signs by the library all the same has no effect either.
    let settled = Decision::Settled {
        stranded: Sequence(record.parse().unwrap()),
        taken: 0,
        dropped: 1,
        person: "mallory".into(),
    };
    for (name, host) in [("watch-1", &watcher), ("web-1", &pair.one)] {
        let (store, key) = (pair.store(), key_of(host));
        let mut state = store.log().state().unwrap();
        let name = WriterId(name.into());
        let maker = Maker { name: &name, key: &key };
        let decided = store.log().decide::<RepositoryError>(&mut state, maker, |_| Ok(Some(settled.clone())));
        assert!(matches!(decided, Err(RepositoryError::Decision { .. })), "{decided:?}");
    }
    ok(pair.two.command(&["stranded", "take", "acme", &record, "--new", "--to"]).arg(&to));
    assert_eq!(std::fs::read_to_string(to.join("only")).unwrap(), "only");
    assert_eq!(pair.stranded(), 0);
}
