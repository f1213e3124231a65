//! Upkeep over years, with the real binary: pruning that is killed, drills, upkeep by plan, and repositories
//! of every released format.

use crate::support::command::{ok, said, understudy};
use crate::support::host::Host;
use crate::support::tree::{random, sample_tree};
use crate::support::wait::wait_until;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn resync(dir: &Path) {
    ok(understudy(dir).args(["resync", "source", "--store", "acme", "--quiet", "--accept"]));
}

fn status(dir: &Path) -> serde_json::Value {
    let output = understudy(dir).args(["status", "--json"]).output().unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    rows[0].clone()
}

#[test]
fn a_pruning_killed_at_any_step_loses_nothing_and_the_next_one_ends_it() {
    for step in ["deleted", "planned", "copied", "indexed", "committed"] {
        let dir = tempfile::tempdir().unwrap();
        let (dir, source) = (dir.path(), dir.path().join("source"));
        sample_tree(&source);
        for round in 0..5u8 {
            std::fs::write(source.join("changing"), random(&[round], 400_000)).unwrap();
            resync(dir);
        }
        let prune = |keep: &str| {
            let mut command = understudy(dir);
            command.args([
                "prune",
                "acme",
                "--grace",
                "0",
                "--grace-records",
                "0",
                "--orphan-age",
                "0",
                "--quiet",
            ]);
            command.args(["--max-unused", "0", "--keep-last", keep]);
            command
        };
        ok(&mut prune("4"));
        let status = prune("2").env("UNDERSTUDY_TEST_KILL_AT", step).status().unwrap();
        assert_eq!(status.signal(), Some(9), "{step}");
        ok(understudy(dir).args(["verify", "acme", "--read-data"]));
        ok(&mut prune("2"));
        ok(&mut prune("2"));
        ok(understudy(dir).args(["verify", "acme", "--read-data"]));
        ok(understudy(dir).args(["restore", "acme@4", "out", "--quiet"]));
        assert_eq!(std::fs::read(dir.join("out/changing")).unwrap(), random(&[3], 400_000), "{step}");
        let packs = walkdir::WalkDir::new(dir.join("repository/acme/packs"));
        let left: u64 = packs
            .into_iter()
            .flatten()
            .filter(|e| e.file_type().is_file())
            .map(|e| e.metadata().unwrap().len())
            .sum();
        assert!(left < 3_500_000, "{step}: {left} bytes are left");
    }
}

#[test]
fn a_dry_run_says_what_goes_and_why_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    for round in 0..3u8 {
        std::fs::write(dir.join("source/changing"), [round; 100]).unwrap();
        resync(dir);
    }
    ok(understudy(dir).args(["pin", "acme@1", "--note", "before the sale"]));
    let listing = || {
        let mut all: Vec<_> = walkdir::WalkDir::new(dir.join("repository"))
            .into_iter()
            .map(|e| e.unwrap().into_path())
            .collect();
        all.sort();
        all
    };
    let before = listing();
    let text = said(&ok(understudy(dir).args(["prune", "acme", "--dry-run", "--keep-last", "1"])));
    let line = |snapshot: &str| text.lines().find(|l| l.starts_with(snapshot)).unwrap_or_default().to_owned();
    assert!(line("acme@1").contains("keep") && line("acme@1").contains("pinned: before the sale"), "{text}");
    assert!(line("acme@2").contains("drop") && line("acme@2").contains("no rule keeps it"), "{text}");
    assert!(line("acme@3").contains("keep") && line("acme@3").contains("latest"), "{text}");
    assert!(text.contains("would be dropped"), "{text}");
    assert_eq!(listing(), before);
    ok(understudy(dir).args(["unpin", "acme@1"]));
    let wrong = understudy(dir).args(["unpin", "acme@1"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(understudy(dir).args(["prune", "nobody"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_drill_proves_what_can_be_restored_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, source) = (dir.path(), dir.path().join("source"));
    sample_tree(&source);
    resync(dir);
    let temporary = dir.join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let drill = |more: &[&str]| {
        let mut command = understudy(dir);
        command.env("TMPDIR", &temporary).args(["drill", "acme"]).args(more).output().unwrap()
    };
    assert!(said(&ok(understudy(dir).args(["status"]))).contains("never"));
    let output = drill(&[
        "--",
        "sh",
        "-c",
        "test -f c/medium && test \"$UNDERSTUDY_STORE\" = acme && ! touch c/new 2>/dev/null",
    ]);
    assert!(
        output.status.success() && said(&output).contains("acme@1 is proven restorable"),
        "{}",
        said(&output)
    );
    assert_eq!(status(dir)["upkeep"]["proven_snapshot"], 1);
    let output = drill(&["--", "sh", "-c", "echo the shop is empty >&2; false"]);
    assert!(!output.status.success() && said(&output).contains("the shop is empty"), "{}", said(&output));
    // A failed drill removes no proof, and is reported.
    let row = status(dir);
    assert_eq!(row["upkeep"]["proven_snapshot"], 1);
    assert!(row["upkeep"]["drill_error"].as_str().unwrap().contains("the shop is empty"));
    // Lost objects are found.
    let packs = walkdir::WalkDir::new(dir.join("repository/acme/packs")).into_iter().flatten();
    let largest =
        packs.filter(|e| e.file_type().is_file()).max_by_key(|e| e.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(largest.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest.path(), bytes).unwrap();
    let output = drill(&[]);
    assert!(!output.status.success() && said(&output).contains("medium"), "{}", said(&output));
    // Nothing stays mounted, and no directory remains. Other tests may drill at the same time.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(temporary.to_str().unwrap()), "{mounts}");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
    // They are shipped again from what the source still has.
    let output = ok(understudy(dir).args(["verify", "acme", "--repair", "--source", "source"]));
    assert!(said(&output).contains("sound"), "{}", said(&output));
    assert!(drill(&[]).status.success());
}

#[test]
fn upkeep_does_what_is_due_once_and_remembers_it() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, source) = (dir.path(), dir.path().join("source"));
    sample_tree(&source);
    let upkeep = "prune_hours = 24\nverify_hours = 24\nverify_days = 1\ndrill_hours = 24";
    let config = format!(
        "[[store]]\nname = \"acme\"\npath = \"source\"\n[store.retention]\nlast = 1\n[store.upkeep]\n{upkeep}\n[store.drill]\ncommand = [\"test\", \"-d\", \"a/b\"]\n"
    );
    std::fs::write(dir.join("understudy.toml"), config).unwrap();
    let keep_up = |json: &str| {
        let mut command = understudy(dir);
        // A configuration that is named causes no remark.
        command.env("UNDERSTUDY_CONFIG", dir.join("understudy.toml"));
        command.args(["upkeep"]).args(Some(json).filter(|j| !j.is_empty()));
        command
    };
    // A store without a snapshot needs no upkeep.
    assert_eq!(said(&ok(&mut keep_up(""))), "");
    let first = said(&ok(understudy(dir).args(["resync", "--due"])));
    for done in ["pruned", "verified", "sound", "proven restorable", "the command succeeded"] {
        assert!(first.contains(done), "{done}: {first}");
    }
    assert_eq!(said(&ok(&mut keep_up(""))), "");
    let row = status(dir);
    for key in ["pruned", "verified", "read_whole", "proven"] {
        assert!(row["upkeep"][key].as_f64().unwrap() > 1e9, "{row}");
    }
    assert_eq!(row["upkeep"]["problems"], 0);
}

#[test]
fn a_daemon_keeps_its_stores_up_beside_their_runs_and_ends_a_drill_when_asked() {
    let mut host = Host::new(2);
    let hours = "prune_hours = 24\nverify_hours = 24\nverify_days = 1\ndrill_hours = 24";
    let store = |number: usize, command: &str| {
        let store = format!("[[store]]\nname = 's{number}'\npath = 's{number}'\n[store.upkeep]\n{hours}\n");
        format!("{store}[store.drill]\ncommand = [{command}]\n")
    };
    let first = format!("upkeep_seconds = 1\n{}", store(0, "'true'"));
    host.configure(&first);
    let (temporary, log) = (host.path("temporary"), std::fs::File::create(host.path("log")).unwrap());
    std::fs::create_dir(&temporary).unwrap();
    host.start_with(|command| command.env("TMPDIR", &temporary).stderr(log));
    wait_until("it is proven", || host.store("s0")["upkeep"]["proven_snapshot"] == 1);
    for key in ["pruned", "verified", "read_whole", "proven"] {
        assert!(host.store("s0")["upkeep"][key].as_f64().unwrap() > 1e9, "{}", host.store("s0"));
    }
    let failed = "understudy_drill_failed{store=\"s0\",role=\"primary\"} 0";
    assert!(host.get("/metrics").unwrap().contains(failed));
    // A store that is added gets its upkeep as well, and runs while its drill is running.
    host.configure(&(first + &store(1, "'sleep', '600'")));
    host.signal("-HUP");
    let drills = || {
        let all = std::fs::read_dir(&temporary).unwrap().flatten();
        all.filter(|entry| entry.file_name().to_string_lossy().starts_with("understudy-drill")).count()
    };
    wait_until("it is drilled", || drills() == 1);
    std::fs::write(host.path("s1/new"), b"new").unwrap();
    ok(&mut host.command(&["resync", "s1", "--quiet"]));
    assert_eq!((host.store("s1")["snapshot"].as_u64(), drills()), (Some(2), 1));
    let begun = Instant::now();
    host.end();
    assert!(begun.elapsed() < Duration::from_secs(9), "it ends the drill, and waits for no limit");
    assert_eq!(drills(), 0, "the drill took away what it mounted on");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(temporary.to_str().unwrap()), "{mounts}");
}

#[test]
fn what_was_dropped_is_there_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    for round in 0..3u8 {
        std::fs::write(dir.join("source/changing"), [round; 100]).unwrap();
        resync(dir);
    }
    ok(understudy(dir).args(["prune", "acme", "--keep-last", "1", "--quiet"]));
    let listed = |more: &[&str]| said(&ok(understudy(dir).args(["snapshots", "acme"]).args(more)));
    assert!(!listed(&[]).contains("acme@1") && listed(&["--until-record", "3"]).contains("acme@1"));
    assert!(!understudy(dir).args(["restore", "acme@1", "no", "--quiet"]).status().unwrap().success());
    ok(understudy(dir).args(["restore", "acme@1", "out", "--until-record", "3", "--quiet"]));
    assert_eq!(std::fs::read(dir.join("out/changing")).unwrap(), [0; 100]);
}

#[test]
fn what_the_repository_lost_is_shipped_again_of_a_standby() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, source) = (dir.path(), dir.path().join("source"));
    sample_tree(&source);
    resync(dir);
    ok(understudy(dir).args(["follow", "acme", "--once", "--quiet", "--standby", "standby"]));
    let packs = walkdir::WalkDir::new(dir.join("repository/acme/packs")).into_iter().flatten();
    let largest =
        packs.filter(|e| e.file_type().is_file()).max_by_key(|e| e.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest.path()).unwrap();
    // The source and this host's cache of pages are gone; the lost pack is made again of the standby's objects.
    std::fs::rename(&source, dir.join("gone")).unwrap();
    let repair = || {
        let mut command = understudy(dir);
        command.args(["verify", "acme", "--repair"]).env("UNDERSTUDY_STANDBY", dir.join("standby"));
        command
    };
    let output = ok(&mut repair());
    assert!(said(&output).contains("sound"), "{}", said(&output));
    ok(understudy(dir).args(["restore", "acme", "out", "--quiet"]));
    crate::support::facts::assert_same(
        &dir.join("gone"),
        &dir.join("out"),
        "made again of the standby's objects",
    );
    assert!(said(&ok(&mut repair())).contains("sound"));
}

/// Every released format can be read: fixtures/ has the repositories, and what each of their snapshots holds.
#[test]
fn repositories_of_every_released_format_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/repositories");
    let mut formats = Vec::new();
    for entry in std::fs::read_dir(&fixtures).unwrap() {
        let format = entry.unwrap().path();
        if !format.is_dir() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        // Works on a copy, since a released repository must not change.
        ok(Command::new("cp").arg("-a").arg(format.join("repository")).arg(dir.join("repository")));
        ok(understudy(dir).args(["verify", "acme", "--read-data"]));
        for snapshot in 1..=3 {
            let to = format!("out-{snapshot}");
            ok(understudy(dir).args(["restore", &format!("acme@{snapshot}"), &to, "--quiet"]));
            let found = ok(Command::new("bash").arg(fixtures.join("facts.sh")).arg(dir.join(&to)));
            let wanted = std::fs::read_to_string(format.join(format!("facts.{snapshot}"))).unwrap();
            assert_eq!(String::from_utf8(found.stdout).unwrap(), wanted, "{} @{snapshot}", format.display());
        }
        // This version also continues it, prunes it, and still reads all of it.
        sample_tree(&dir.join("source"));
        // A host that never saw the store writes to it only after an operator confirmed that it is meant to
        // be unencrypted, or who made its keyring. A store of this version needs no confirmation.
        let name = format.file_name().unwrap().to_string_lossy().into_owned();
        let word = match name.as_str() {
            "2" | "3" => Some("--allow-unencrypted"),
            "3-encrypted" => Some("--trust-keyring"),
            _ => None,
        };
        if let Some(word) = word {
            let refused = understudy(dir).args(["resync", "source", "--store", "acme"]).output().unwrap();
            assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
            assert!(said(&refused).contains(word), "{}", said(&refused));
        }
        ok(understudy(dir).args(["resync", "source", "--store", "acme", "--quiet", "--accept"]).args(word));
        ok(understudy(dir).args([
            "prune",
            "acme",
            "--keep-last",
            "2",
            "--grace",
            "0",
            "--grace-records",
            "0",
            "--quiet",
        ]));
        ok(understudy(dir).args([
            "prune",
            "acme",
            "--keep-last",
            "2",
            "--grace",
            "0",
            "--grace-records",
            "0",
            "--quiet",
        ]));
        ok(understudy(dir).args(["verify", "acme", "--read-data"]));
        ok(understudy(dir).args(["restore", "acme@3", "again", "--quiet"]));
        formats.push(name);
    }
    formats.sort();
    assert_eq!(formats, ["2", "3", "3-encrypted", "4-encrypted"]);
}

#[test]
fn a_format_that_is_too_new_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    resync(dir);
    let record = dir.join("repository/acme/log/00000000000000000001");
    let mut bytes = std::fs::read(&record).unwrap();
    bytes[7] = 9;
    std::fs::write(&record, bytes).unwrap();
    let output = understudy(dir).args(["snapshots", "acme"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("format version 9") && said(&output).contains("use a newer understudy"),
        "{}",
        said(&output)
    );
    // A format from before those that are supported.
    let mut bytes = std::fs::read(&record).unwrap();
    bytes[7] = 1;
    std::fs::write(&record, bytes).unwrap();
    let output = understudy(dir).args(["snapshots", "acme"]).output().unwrap();
    assert!(said(&output).contains("start a new repository"), "{}", said(&output));
}
