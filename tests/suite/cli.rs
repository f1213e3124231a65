//! The command line as a user meets it: exit codes, errors that say what to do, and output that can be
//! parsed.

use crate::support::command::{ok, understudy};
use crate::support::tree::sample_tree;
use std::path::Path;

fn fails(dir: &Path, args: &[&str], code: i32) -> String {
    let output = understudy(dir).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn out(dir: &Path, args: &[&str]) -> String {
    String::from_utf8(ok(understudy(dir).args(args)).stdout).unwrap()
}

#[test]
fn the_first_command_works_with_nothing_set_up() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("My Shop"));
    let text = String::from_utf8(
        ok(understudy(dir.path()).env_remove("UNDERSTUDY_REPOSITORY").args(["resync", "My Shop"])).stdout,
    )
    .unwrap();
    assert!(text.contains("my-shop@1 committed"), "{text}");
    assert!(dir.path().join(".local/share/understudy/repository/my-shop/log").is_dir());
}

#[test]
fn the_commands_of_a_store_s_life() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    out(dir, &["init"]);
    assert!(fails(dir, &["init"], 2).contains("exists"));
    std::fs::write(
        dir.join("understudy.toml"),
        "[[store]]\nname = 'acme'\npath = 'source'\nexclude = ['*.tmp']\n",
    )
    .unwrap();
    std::fs::write(dir.join("source/x.tmp"), b"").unwrap();
    assert!(out(dir, &["status"]).contains("never"));
    out(dir, &["resync", "acme"]);
    std::fs::write(dir.join("source/c/new"), b"1").unwrap();
    std::fs::write(dir.join("source/c/empty"), b"2").unwrap();
    std::fs::remove_dir(dir.join("source/empty")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&out(dir, &["resync", "acme", "--json"])).unwrap();
    assert_eq!(report["changes"]["added"], 1);
    assert_eq!(report["changes"]["removed"], 1);
    assert_eq!(report["snapshot"], 2);
    for key in ["read_bytes", "new_bytes", "shipped_bytes", "requests", "phases", "warnings", "vanished"] {
        assert!(!report[key].is_null(), "{key} is missing");
    }
    let diff = out(dir, &["diff", "acme", "1", "2"]);
    for line in ["+ c/new", "M c/empty", "- empty/", "1 added, 1 modified, 2 metadata only, 1 removed"] {
        assert!(diff.contains(line), "{line}:\n{diff}");
    }
    assert!(out(dir, &["snapshots", "acme"]).contains("acme@2"));
    let status: serde_json::Value = serde_json::from_str(&out(dir, &["status", "--json"])).unwrap();
    assert_eq!(status[0]["latest"], 2);
    out(dir, &["restore", "acme@1", "one"]);
    assert!(dir.join("one/empty").is_dir() && !dir.join("one/x.tmp").exists());
    assert!(out(dir, &["verify", "acme", "--read-data=50"]).contains("sound"));
}

#[test]
fn wrong_use_says_what_is_wrong_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    out(dir, &["resync", "source", "--store", "acme"]);
    out(dir, &["restore", "acme", "out"]);
    for (args, code, words) in [
        (&["resync", "nowhere"][..], 2, "neither a directory nor a configured store"),
        (&["resync", "./nowhere", "--store", "x"], 1, "nowhere"),
        (&["resync", "./out/c/medium", "--store", "x"], 2, "not a directory"),
        (&["resync", "source", "--store", "Bad Name"], 2, "is not a valid store name"),
        (&["resync", "source", "--exclude", "{a"], 2, "{a"),
        (&["restore", "acme", "out"], 2, "--overwrite"),
        (&["restore", "acme@99", "other"], 2, "has no snapshot 99;"),
        (&["restore", "acme@soon", "other"], 2, "2026-11-23T10:00"),
        (&["restore", "nobody", "other"], 2, "nobody"),
        (&["restore", "acme", "other", "--path", "../x"], 2, "--path"),
        (&["restore", "acme", "other", "--path", "no/such"], 2, "no/such"),
        (&["restore", "acme", "other", "--delete"], 2, "--overwrite"),
        (&["snapshots", "nobody"], 2, "nobody"),
        (&["verify", "nobody"], 2, "nobody"),
        (&["verify", "acme", "--read-data=0"], 2, "1 to 100"),
        (&["diff", "acme", "1", "7"], 2, "no snapshot 7;"),
        (&["status", "--repository", "ftp://x"], 2, "ftp"),
        (&["status", "--config", "missing.toml"], 2, "missing.toml"),
    ] {
        let error = fails(dir, args, code);
        assert!(error.contains(words), "{args:?}: {error}");
    }
    std::fs::write(dir.join("understudy.toml"), "repositorry = 'x'\n").unwrap();
    let error = fails(dir, &["status"], 2);
    assert!(error.contains("did you mean `repository`?") && error.contains("understudy.toml"), "{error}");
}

#[test]
fn a_held_run_is_exit_code_4_and_accept_lets_it_through() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    out(dir, &["resync", "source", "--store", "acme"]);
    std::fs::remove_dir_all(dir.join("source")).unwrap();
    std::fs::create_dir(dir.join("source")).unwrap();
    assert!(fails(dir, &["resync", "source", "--store", "acme"], 4).contains("--accept"));
    out(dir, &["resync", "source", "--store", "acme", "--accept"]);
}

#[test]
fn a_bandwidth_limit_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    std::fs::write(dir.join("understudy.toml"), "[limits]\nbandwidth = '4MiB'\n").unwrap();
    // 2.4 MiB of random bytes at 4 MiB/s: the record follows the pack after at least half a second.
    let started = std::time::Instant::now();
    out(dir, &["resync", "source", "--store", "acme"]);
    assert!(started.elapsed().as_secs_f64() > 0.5);
}
