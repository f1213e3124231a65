//! The real binary, killed with SIGKILL at every named step and at random moments.

use crate::support::command::{ok, understudy};
use crate::support::facts::{self, assert_same};
use crate::support::tree::sample_tree;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `understudy resync source`, as store acme.
fn resync(dir: &Path) -> Command {
    let mut command = understudy(dir);
    command.args(["resync", "source", "--store", "acme", "--accept", "--quiet"]);
    command
}

/// Restores the head and verifies everything.
fn judge(dir: &Path, to: &str) -> facts::Facts {
    ok(understudy(dir).args(["restore", "acme", to, "--quiet"]));
    ok(understudy(dir).args(["verify", "acme", "--read-data"]));
    facts::of(&dir.join(to))
}

fn changed(source: &Path, round: usize) {
    std::fs::write(source.join(format!("c/round-{round}")), format!("{round}").repeat(9000)).unwrap();
    // Every second round rewrites a file; the others insert bytes.
    let mut random = vec![0; 6 << 20];
    blake3::Hasher::new().update(&(round / 2).to_le_bytes()).finalize_xof().fill(&mut random);
    random.splice(round * 10_000..round * 10_000, *b"inserted");
    std::fs::write(source.join("c/large"), random).unwrap();
}

#[test]
fn a_resync_killed_at_any_step_leaves_the_old_or_the_new_head() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let resync = || resync(dir.path());
    ok(&mut resync());
    for (round, step) in ["opened", "scanned", "shipped", "committed"].into_iter().enumerate() {
        let before = facts::of(&source);
        changed(&source, round);
        let status = resync().env("UNDERSTUDY_TEST_KILL_AT", step).status().unwrap();
        assert_eq!(status.signal(), Some(9), "{step}");
        let head = judge(dir.path(), &format!("at-{step}"));
        let wanted = if step == "committed" { facts::of(&source) } else { before };
        assert_eq!(head, wanted, "killed at {step}");
        let output = ok(resync().arg("--json"));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if step == "shipped" {
            // Chunks that the killed run shipped are adopted, not shipped again.
            assert_eq!(report["new_bytes"], 0, "{report}");
        }
        assert_same(
            &source,
            &{
                judge(dir.path(), &format!("after-{step}"));
                dir.path().join(format!("after-{step}"))
            },
            step,
        );
    }
}

#[test]
fn a_resync_killed_at_random_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    let resync = || resync(dir.path());
    ok(&mut resync());
    let mut old = facts::of(&source);
    let mut killed = 0;
    for round in 0..25 {
        changed(&source, round);
        let new = facts::of(&source);
        let mut child = resync().stderr(Stdio::null()).spawn().unwrap();
        let micros = getrandom::u64().unwrap() % 60_000;
        std::thread::sleep(Duration::from_micros(micros));
        let _ = child.kill();
        killed += usize::from(child.wait().unwrap().signal() == Some(9));
        let head = judge(dir.path(), &format!("round-{round}"));
        assert!(head == old || head == new, "round {round}, killed after {micros} µs");
        old = head;
    }
    assert!(killed > 0, "no run was killed: the delays are too long");
    ok(&mut resync());
    judge(dir.path(), "last");
    assert_same(&source, &dir.path().join("last"), "the run after");
}

#[test]
fn a_restore_killed_at_random_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    changed(&source, 0);
    ok(understudy(dir.path()).args(["resync", "source", "--store", "acme", "--quiet"]));
    for round in 0..15 {
        let to = format!("out-{round}");
        let restore = || {
            let mut command = understudy(dir.path());
            command.args(["restore", "acme", &to, "--quiet"]);
            command
        };
        let mut child = restore().spawn().unwrap();
        std::thread::sleep(Duration::from_micros(getrandom::u64().unwrap() % 40_000));
        let _ = child.kill();
        let finished = child.wait().unwrap().success();
        // A restore that was killed between its rename and its end is complete, but did not report it.
        let exists = dir.path().join(&to).exists();
        assert!(exists || !finished);
        if !exists {
            ok(&mut restore());
        }
        assert_same(&source, &dir.path().join(&to), &to);
    }
}
