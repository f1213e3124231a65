//! Drills that are killed leave nothing.

use crate::support::command::{ok, understudy};
use crate::support::tree::sample_tree;
use crate::support::wait::wait_until;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("understudy-drill-"));
    names.sort();
    names
}

fn mounts(dir: &Path) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(dir.to_str().unwrap())).count()
}

/// Returns the processes that run in this directory's tree, or have it in their arguments.
fn processes(dir: &Path) -> Vec<(u32, String)> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| {
        let command = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        command.contains(&format!("{}/understudy-drill-", dir.display())).then_some((id, command))
    })
    .collect()
}

struct Rig {
    _all: tempfile::TempDir,
    dir: PathBuf,
    temporary: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let all = tempfile::tempdir().unwrap();
        let (dir, temporary) = (all.path().to_owned(), all.path().join("tmp"));
        sample_tree(&dir.join("source"));
        std::fs::create_dir(&temporary).unwrap();
        // The command runs as `nobody`, and writes its process id there.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let rig = Self { _all: all, dir, temporary };
        ok(rig.command().args(["resync", "source", "--store", "acme", "--quiet"]));
        rig
    }

    fn command(&self) -> Command {
        let mut command = understudy(&self.dir);
        command.env("TMPDIR", &self.temporary).stdout(Stdio::null());
        command
    }

    /// Starts a drill whose command waits; returns the drill and the command's process id.
    fn waiting(&self, mark: &str) -> (Child, u32) {
        let mark = self.dir.join(mark);
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 300", mark.display());
        let drill = self.command().args(["drill", "acme", "--", "sh", "-c", &script]).spawn().unwrap();
        wait_until("the command runs", || mark.exists());
        (drill, std::fs::read_to_string(mark).unwrap().trim().parse().unwrap())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for (id, _) in processes(&self.temporary) {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
        }
        for name in names(&self.temporary) {
            let _ = Command::new("umount").arg("-l").arg(self.temporary.join(name).join("snapshot")).output();
        }
    }
}

fn runs(id: u32) -> bool {
    // A zombie counts as ended.
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn what_a_killed_drill_started_ends_with_it_and_what_it_left_goes_with_the_next() {
    let rig = Rig::new();
    let (mut drill, command) = rig.waiting("first");
    assert_eq!(
        (mounts(&rig.temporary), processes(&rig.temporary).len()),
        (1, 1),
        "a mount, and who serves it"
    );
    drill.kill().unwrap();
    drill.wait().unwrap();
    wait_until("the command and the server end", || !runs(command) && processes(&rig.temporary).is_empty());
    wait_until("the mount goes with its server", || mounts(&rig.temporary) == 0);
    ok(rig.command().args(["drill", "acme"]));
    assert_eq!(names(&rig.temporary), [""; 0]);
}

#[test]
fn a_mount_whose_server_was_killed_as_well_is_taken_away_and_what_others_have_is_left() {
    let rig = Rig::new();
    let (mut drill, _) = rig.waiting("first");
    // Immediately, so that the server has no time for anything.
    for (id, _) in processes(&rig.temporary) {
        ok(Command::new("kill").args(["-KILL", &id.to_string()]));
    }
    drill.kill().unwrap();
    drill.wait().unwrap();
    assert_eq!(mounts(&rig.temporary), 1, "a mount that nobody serves");
    let made = |name: &str, mode: u32| {
        let path = rig.temporary.join(name);
        std::fs::DirBuilder::new().mode(mode).create(&path).unwrap();
        path
    };
    // A living drill, one of another user, one that others may write to, a symlink, and one with a foreign
    // file in it.
    let (mut living, command) = rig.waiting("living");
    let theirs = made("understudy-drill-4194305-00", 0o700);
    std::os::unix::fs::chown(&theirs, Some(12_345), None).unwrap();
    made("understudy-drill-4194305-01", 0o770);
    let elsewhere = made("elsewhere", 0o700);
    symlink(&elsewhere, rig.temporary.join("understudy-drill-4194305-02")).unwrap();
    std::fs::write(made("understudy-drill-4194305-03", 0o700).join("kept"), b"kept").unwrap();
    // Also one of an earlier version, whose process has ended.
    std::fs::create_dir(made("understudy-drill-4194305-04", 0o700).join("snapshot")).unwrap();
    ok(rig.command().args(["drill", "acme"]));
    let alive = format!("understudy-drill-{}-", living.id());
    let left: Vec<_> = names(&rig.temporary).into_iter().filter(|name| !name.starts_with(&alive)).collect();
    let kept = ["00", "01", "02", "03"].map(|end| format!("understudy-drill-4194305-{end}"));
    assert_eq!(left, kept);
    assert_eq!(mounts(&rig.temporary), 1, "the living drill's");
    assert!(rig.temporary.join("understudy-drill-4194305-03/kept").exists() && runs(command));
    // A drill that is asked to end removes its own directory.
    ok(Command::new("kill").args(["-TERM", &living.id().to_string()]));
    assert_eq!(living.wait().unwrap().code(), Some(1));
    assert_eq!((mounts(&rig.temporary), names(&rig.temporary).len()), (0, kept.len()));
}

#[test]
fn a_daemon_takes_away_what_a_drill_left_when_it_starts() {
    let rig = Rig::new();
    let (mut drill, _) = rig.waiting("first");
    drill.kill().unwrap();
    drill.wait().unwrap();
    wait_until("its server ends", || processes(&rig.temporary).is_empty());
    assert_eq!(names(&rig.temporary).len(), 1);
    let mut daemon = rig.command().args(["run", "--listen", "off"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is taken away", || names(&rig.temporary).is_empty());
    ok(Command::new("kill").args(["-TERM", &daemon.id().to_string()]));
    assert!(daemon.wait().unwrap().success());
}

/// Requests to the repository wait, and a process that waits for them cannot be ended by a signal; neither
/// the drill nor the looking process remains.
#[test]
fn a_drill_whose_repository_hangs_ends_when_it_is_asked_to_and_when_it_is_killed() {
    let rig = Rig::new();
    let packs = walkdir::WalkDir::new(rig.dir.join("repository/acme/packs")).into_iter().flatten();
    for pack in packs.filter(|entry| entry.file_type().is_file()) {
        // Opening it waits for a writer.
        std::fs::remove_file(pack.path()).unwrap();
        ok(Command::new("mkfifo").arg(pack.path()));
    }
    for signal in ["-TERM", "-KILL"] {
        let mut drill = rig.command().args(["drill", "acme"]).spawn().unwrap();
        let looker = || processes(&rig.temporary).first().map(|(id, _)| *id);
        let reads = |id| {
            let open = std::fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
            open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .any(|path| path.starts_with(&rig.temporary))
        };
        wait_until("it reads, and waits for the repository", || looker().is_some_and(reads));
        let looker = looker().unwrap();
        let begun = std::time::Instant::now();
        ok(Command::new("kill").args([signal, &drill.id().to_string()]));
        let status = drill.wait().unwrap();
        assert_eq!(status.code(), if signal == "-TERM" { Some(1) } else { None });
        wait_until("who looks has ended, and the mount is gone", || {
            !runs(looker) && mounts(&rig.temporary) == 0
        });
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{signal}: {:?}", begun.elapsed());
    }
}

#[test]
fn nothing_that_a_drill_s_command_started_outlives_it() {
    let rig = Rig::new();
    for (command, code) in [
        ("cd /; setsid sleep 303.5 & (sleep 304.5 &) ; exit 0", 0),
        ("cd /; (setsid sh -c 'sleep 303.5 & wait' &) ; sleep 0.2; exit 1", 1),
        ("cd /; (setsid sleep 304.5 &) ; sleep 300", 1),
    ] {
        std::fs::write(
            rig.dir.join("drill.toml"),
            "[[store]]\nname = 'acme'\npath = '/nowhere'\n[store.drill]\ntimeout_seconds = 3\n",
        )
        .unwrap();
        let mut drill = rig.command();
        drill.args(["--config", "drill.toml", "drill", "acme", "--", "sh", "-c", command]);
        assert_eq!(drill.status().unwrap().code(), Some(code), "{command}");
        let left: Vec<_> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| line.starts_with(b"sleep\x00303.5") || line.starts_with(b"sleep\x00304.5"))
            .collect();
        assert!(left.is_empty(), "{command}: {left:?}");
    }
}

#[test]
fn a_drill_s_command_has_no_terminal_of_whoever_typed_it() {
    let rig = Rig::new();
    // The drill runs in a terminal of its own; a program that opens /dev/tty there could type into it.
    let terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let drill = |test: &str| {
        let typed = rig.command();
        let mut command = Command::new("python3");
        command.args(["-c", terminal]).arg(typed.get_program()).current_dir(&rig.dir);
        command.envs(typed.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.args(["drill", "acme", "--", "sh", "-c", test]).stdin(Stdio::null());
        command.output().unwrap()
    };
    let output = drill("! (exec 3</dev/tty)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let output = drill("test -e /dev/tty && exit 5");
    assert_eq!(output.status.code(), Some(1), "it ran there, and there is such a device");
}
