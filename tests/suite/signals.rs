//! SIGTERM and SIGINT, also to the first process of a container: every command ends, and its exit code says
//! what it did.

use crate::support::command::{ok, understudy};
use crate::support::tree::{random, sample_tree};
use crate::support::wait::wait_until;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// `understudy` as process 1 of a new namespace, like a container's entry point.
struct First {
    outside: Child,
    id: String,
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.id]).stderr(Stdio::null()).status();
        let _ = self.outside.wait();
    }
}

impl First {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let plain = understudy(dir);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc"]).arg(plain.get_program()).args(args);
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("TMPDIR", dir.join("tmp"));
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let outside = command.spawn().unwrap();
        let mut id = String::new();
        wait_until("it begins", || {
            let of = outside.id();
            id = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
            id = id.trim().to_owned();
            // The process must also have executed the program.
            let name = std::fs::read_link(format!("/proc/{id}/exe"));
            !id.is_empty() && name.is_ok_and(|name| name == Path::new(plain.get_program()))
        });
        Self { outside, id }
    }

    fn signal(&self, signal: &str) {
        ok(Command::new("kill").args([signal, &self.id]));
    }

    fn ends(&mut self, what: &str) -> ExitStatus {
        let mut status = None;
        wait_until(what, || {
            status = self.outside.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

/// Creates a store that takes minutes to ship, and one that exists already.
fn stores(dir: &Path) {
    std::fs::create_dir(dir.join("tmp")).unwrap();
    sample_tree(&dir.join("small"));
    ok(understudy(dir).args(["resync", "small", "--store", "small", "--quiet"]));
    std::fs::create_dir(dir.join("large")).unwrap();
    for number in 0..20u8 {
        std::fs::write(dir.join(format!("large/{number}")), random(&[number], 4 << 20)).unwrap();
    }
    ok(understudy(dir).args(["resync", "large", "--store", "there", "--quiet"]));
    let config = "[limits]\nbandwidth = \"1MiB\"\n[[store]]\nname = \"large\"\npath = \"large\"\n";
    std::fs::write(dir.join("understudy.toml"), config).unwrap();
    // This host has no cache of the store any more.
    std::fs::remove_dir_all(dir.join("cache")).unwrap();
}

#[test]
fn every_command_that_takes_long_ends_when_it_is_asked_to_as_the_first_process() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    stores(dir);
    let commands = [
        (&["resync", "large"][..], "-TERM", 1),
        (&["resync", "large"], "-INT", 1),
        (&["resync", "--due"], "-TERM", 1),
        (&["restore", "there", "out"], "-TERM", 1),
        (&["verify", "there", "--read-data"], "-INT", 1),
        (&["follow", "there", "--once", "--standby", "standby-1"], "-TERM", 1),
        (&["follow", "there", "--standby", "standby-2"], "-TERM", 0),
        (&["follow", "small", "--standby", "standby-3"], "-INT", 0),
        (&["drill", "small", "--", "sleep", "300"], "-TERM", 1),
        (&["status", "--watch=1"], "-INT", 1),
        (&["run", "--listen", "off"], "-TERM", 0),
    ];
    std::thread::scope(|scope| {
        for (args, signal, code) in commands {
            scope.spawn(move || {
                let mut first = First::start(dir, args);
                std::thread::sleep(Duration::from_millis(1500));
                first.signal(signal);
                let status = first.ends(&format!("{args:?} ends"));
                assert_eq!(status.code(), Some(code), "{args:?}");
            });
        }
    });
    let left: Vec<_> = understudy(dir).args(["snapshots", "large"]).output().unwrap().stdout;
    assert!(left.is_empty(), "nothing was committed: {}", String::from_utf8_lossy(&left));
    let drills = std::fs::read_dir(dir.join("tmp")).unwrap().flatten();
    let drills = drills.filter(|entry| entry.file_name().to_string_lossy().starts_with("understudy-drill"));
    assert_eq!(drills.count(), 0, "the drill took away what it mounted on");
}

#[test]
fn a_mount_in_the_foreground_goes_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    ok(understudy(dir).args(["resync", "source", "--store", "acme", "--quiet"]));
    let point = dir.join("mounted");
    std::fs::create_dir(&point).unwrap();
    let mut command = understudy(dir);
    command.args(["mount", "acme", "mounted", "--method", "fuse", "--foreground"]).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until("it is mounted", || point.join("c/medium").exists());
    ok(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    assert!(!point.join("c").exists());
}

#[test]
fn the_first_signal_waits_for_the_hook_that_undoes_and_the_second_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("tmp")).unwrap();
    sample_tree(&dir.join("source"));
    let begun = dir.join("begun");
    let after = format!("[\"sh\", \"-c\", \"touch {}; sleep 300\"]", begun.display());
    let config = format!("[[store]]\nname = \"acme\"\npath = \"source\"\n[store.hooks]\nafter = {after}\n");
    std::fs::write(dir.join("understudy.toml"), config).unwrap();
    let mut first = First::start(dir, &["resync", "acme", "--quiet"]);
    wait_until("the hook runs", || begun.exists());
    first.signal("-TERM");
    std::thread::sleep(Duration::from_secs(1));
    assert!(first.outside.try_wait().unwrap().is_none(), "it waits");
    first.signal("-TERM");
    assert_eq!(first.ends("it ends").code(), Some(128 + 15));
}
