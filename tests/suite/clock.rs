//! Clocks that are set, ahead by years and back, with the real binary: no run is put off, and no output says
//! that all is well.

use crate::support::command::{ok, understudy};
use crate::support::host::Host;
use crate::support::tree::sample_tree;
use crate::support::wait::wait_until;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the command with another wall clock; the machine's clock is unchanged.
fn by_clock(command: &mut Command, clock: &Path) {
    let mut libraries =
        walkdir::WalkDir::new("/usr/lib").into_iter().flatten().map(walkdir::DirEntry::into_path);
    let library: PathBuf = libraries
        .find(|path| path.file_name().is_some_and(|name| name == "libfaketimeMT.so.1"))
        .expect("tests/tools.sh installs faketime");
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", clock).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
}

fn set(clock: &Path, to: &str) {
    std::fs::write(clock, format!("{to}\n")).unwrap();
}

#[test]
fn after_a_run_years_ahead_the_next_is_due_and_until_then_status_says_clock() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let config = "[[store]]\nname = \"acme\"\npath = \"source\"\nplan = \"private\"\n[store.upkeep]\n";
    std::fs::write(dir.join("understudy.toml"), config).unwrap();
    let clock = dir.join("clock");
    set(&clock, "+9y");
    let mut ahead = understudy(dir);
    by_clock(ahead.args(["resync", "--due", "--quiet"]), &clock);
    ok(&mut ahead);
    let status = || -> serde_json::Value {
        let output = ok(understudy(dir).args(["status", "--json"]));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()[0].clone()
    };
    let row = status();
    assert_eq!(row["lag_seconds"], serde_json::Value::Null, "{row}");
    assert!(row["clock_skew_seconds"].as_f64().unwrap() > 8.0 * 365.0 * 86_400.0, "{row}");
    assert!(row["clock"].as_str().unwrap().contains("in the future"), "{row}");
    let output = ok(understudy(dir).args(["status"]));
    let (table, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains(" clock ") && table.contains(" due ") && !table.contains(" ok "), "{table}");
    assert!(told.contains("clock of this host or of its writer is wrong"), "{told}");
    let said = ok(understudy(dir).args(["resync", "--due"])).stdout;
    assert!(
        String::from_utf8_lossy(&said).contains("acme@2 committed"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    let row = status();
    assert!(row["lag_seconds"].as_f64().unwrap() < 600.0 && row["clock"].is_null(), "{row}");
    assert_eq!(row["clock_skew_seconds"], 0.0);
    let said = ok(understudy(dir).args(["resync", "--due"])).stdout;
    assert_eq!(String::from_utf8_lossy(&said), "nothing is due\n");
}

#[test]
fn what_was_changed_silently_is_found_by_the_first_run_after_one_years_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let file = dir.join("source/a");
    std::fs::create_dir(dir.join("source")).unwrap();
    std::fs::write(&file, "one").unwrap();
    let clock = dir.join("clock");
    set(&clock, "+9y");
    let resync = || {
        let mut command = understudy(dir);
        command.args(["resync", "source", "--store", "acme", "--json"]);
        command
    };
    let mut ahead = resync();
    by_clock(&mut ahead, &clock);
    ok(&mut ahead);
    let report: serde_json::Value = serde_json::from_slice(&ok(&mut resync()).stdout).unwrap();
    assert_eq!(report["read_bytes"], 3, "what nobody knows when it was read last is read: {report}");
}

#[test]
fn a_standby_knows_no_lag_of_a_snapshot_of_the_future_and_goes_on_following() {
    let mut host = Host::new(1);
    let repository = host.path("data/understudy/repository").display().to_string();
    let clock = host.path("clock");
    set(&clock, "+6h");
    let mut ahead = host.command(&["resync"]);
    by_clock(ahead.arg(host.path("s0")).args(["--store", "a", "--quiet"]), &clock);
    ok(&mut ahead);
    host.configure(&format!("[[store]]\nname='a'\nrole='standby'\nrepository='{repository}'\n"));
    host.start();
    wait_until("it is published", || host.store("a")["snapshot"] == 1);
    let status = host.store("a");
    assert!(status["lag_seconds"].is_null() && status["clock"].is_string(), "{status}");
    let figures = host.get("/metrics").unwrap();
    let skew = figures.lines().find_map(|line| line.strip_prefix("understudy_clock_skew_seconds{"));
    let skew: f64 = skew.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(skew > 5.0 * 3600.0, "{skew}");
    assert!(!figures.contains("understudy_lag_seconds{"), "no lag is better than one of 0");
    // The daemon looks again by the machine's clock, so it soon finds a snapshot of today.
    std::fs::write(host.path("s0/new"), b"new").unwrap();
    let mut next = host.command(&["resync"]);
    ok(next.arg(host.path("s0")).args(["--store", "a", "--quiet"]).arg("--repository").arg(&repository));
    wait_until("it follows", || host.store("a")["snapshot"] == 2);
    let status = host.store("a");
    assert!(status["lag_seconds"].is_number() && status["clock"].is_null(), "{status}");
}

#[test]
fn a_clock_set_back_under_a_daemon_makes_its_stores_due() {
    let mut host = Host::new(2);
    let clock = host.path("clock");
    set(&clock, "+20y");
    let store =
        |n: u32| format!("[[store]]\nname='{}'\npath='s{n}'\n[store.upkeep]\n", ["a", "b"][n as usize]);
    host.configure(&(store(0) + &store(1)));
    let log = std::fs::File::create(host.path("log")).unwrap();
    let at = clock.clone();
    host.start_with(|command| {
        by_clock(command, &at);
        command.stderr(log)
    });
    for name in ["a", "b"] {
        wait_until("it has a snapshot", || host.store(name)["snapshot"] == 1);
    }
    set(&clock, "+0");
    assert!(host.store("a")["clock"].is_string(), "{}", host.store("a"));
    // The daemon would look within half a minute; a run of another store makes it look now.
    assert_eq!(host.ask("POST", "/api/v1/stores/b/resync", Some(&host.token())).0, 200);
    wait_until("it is due", || host.store("a")["snapshot"] == 2);
    assert!(host.store("a")["clock"].is_null(), "{}", host.store("a"));
    host.end();
}
