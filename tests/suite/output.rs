//! Output without a reader, or without room, costs the output and nothing else.

use crate::support::command::{ok, understudy};
use crate::support::host::Host;
use crate::support::tree::sample_tree;
use crate::support::wait::wait_until;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Returns a full pipe, and its reader, which does not read.
fn stuck() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(writer.as_fd()).unwrap();
    rustix::fs::fcntl_setfl(writer.as_fd(), flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::fs::fcntl_setfl(writer.as_fd(), flags).unwrap();
    (reader, writer)
}

/// Returns a pipe whose reader is closed.
fn broken() -> PipeWriter {
    std::io::pipe().unwrap().1
}

fn survives(log: Stdio) {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start_with(|command| command.stderr(log));
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    for round in 2..4 {
        std::fs::write(host.path("s0/new"), format!("{round}")).unwrap();
        assert_eq!(host.ask("POST", "/api/v1/stores/a/resync", Some(&host.token())).0, 200);
        assert_eq!(host.store("a")["snapshot"], round);
    }
    host.end();
}

#[test]
fn a_daemon_whose_log_nobody_reads_runs_its_stores_and_ends_when_asked() {
    survives(broken().into());
    let (_reader, writer) = stuck();
    survives(writer.into());
}

#[test]
fn a_daemon_whose_log_has_no_room_counts_the_lines_and_goes_on() {
    survives(full().into());
    let mut host = Host::new(0);
    host.configure("");
    host.start_with(|command| command.stderr(full()));
    let lost = host.get("/metrics").unwrap();
    let lost = lost.lines().find_map(|line| line.strip_prefix("understudy_log_lines_lost_total "));
    assert!(lost.unwrap().parse::<f64>().unwrap() >= 1.0);
}

/// Creates a store with a file that its runs' user cannot read, so that each run commits with warnings.
fn with_warnings(dir: &Path) -> impl Fn(&[&str]) -> Command {
    sample_tree(&dir.join("source"));
    for path in [dir.to_owned(), dir.join("source")] {
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
    }
    std::fs::set_permissions(
        dir.join("source/c/medium"),
        std::os::unix::fs::PermissionsExt::from_mode(0o000),
    )
    .unwrap();
    let program = dir.join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_understudy"), &program).unwrap();
    let key = dir.join("key");
    std::fs::copy(crate::support::rig::key_file(), &key).unwrap();
    std::os::unix::fs::chown(&key, Some(65_534), Some(65_534)).unwrap();
    let dir = dir.to_owned();
    move |args| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        command.env("UNDERSTUDY_REPOSITORY", dir.join("repository")).env("XDG_CACHE_HOME", dir.join("cache"));
        command.env("UNDERSTUDY_KEY_FILE", &key).env("HOME", &dir).current_dir(&dir).stdin(Stdio::null());
        command.args(args);
        command
    }
}

#[test]
fn a_committed_run_ends_as_one_whoever_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let command = with_warnings(dir);
    let resync = || command(&["resync", "source", "--store", "acme"]);
    let (_reader, writer) = stuck();
    let commands: Vec<(&str, Command)> = vec![
        ("all is read", resync()),
        ("no room for output", {
            let mut command = resync();
            command.stdout(full());
            command
        }),
        ("no room for anything", {
            let mut command = resync();
            command.stdout(full()).stderr(full());
            command
        }),
        ("no reader", {
            let mut command = resync();
            command.stdout(broken()).stderr(broken());
            command
        }),
        ("a reader that sleeps", {
            let mut command = resync();
            command.arg("--json").stdout(writer.try_clone().unwrap()).stderr(writer);
            command
        }),
    ];
    for (number, (what, mut asked)) in commands.into_iter().enumerate() {
        let mut child = asked.spawn().unwrap();
        let mut status = None;
        wait_until(what, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(3), "{what}");
        let snapshots = ok(&mut command(&["snapshots", "acme", "--json"])).stdout;
        let snapshots: serde_json::Value = serde_json::from_slice(&snapshots).unwrap();
        assert_eq!(snapshots.as_array().unwrap().len(), number + 1, "{what}");
    }
    // Where standard error works, it reports the lost output.
    let output = resync().stdout(full()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("standard output: No space left on device") && said.contains("the work is done"),
        "{said}"
    );
}

#[test]
fn what_only_prints_fails_when_there_is_no_room_and_not_when_a_reader_has_enough() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    ok(understudy(dir).args(["resync", "source", "--store", "acme", "--quiet"]));
    std::fs::write(dir.join("source/new"), b"new").unwrap();
    ok(understudy(dir).args(["resync", "source", "--store", "acme", "--quiet"]));
    for args in [&["snapshots", "acme"][..], &["status"], &["diff", "acme", "1"], &["mounts"]] {
        let code = |to: Stdio| understudy(dir).args(args).stdout(to).output().unwrap().status.code();
        assert_eq!(code(full().into()), Some(1), "{args:?}");
        assert_eq!(code(broken().into()), Some(0), "{args:?}");
    }
}
