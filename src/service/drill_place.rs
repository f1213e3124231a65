//! Where a drill mounts its snapshot: a directory of its own, which goes with it.
//!
//! What a drill starts ends with it, also when it is killed: the kernel tells its children (the process that serves a FUSE mount takes the
//! mount away then). What a killed drill leaves behind, a directory and perhaps a mount, goes with the next drill, and when a daemon starts.
//!
//! Why that is safe: a drill holds a lock in its directory as long as it lives, whatever its number. Taken away is only what has a drill's name,
//! is this user's alone (owner, mode, no symlink) and is locked by nobody; and never what is in it: it is unmounted, and removed when it is empty.

use super::hooks;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::process::Signal;
use serde::Deserialize;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use thiserror::Error;

const PREFIX: &str = "understudy-drill-";
/// Held as long as the drill lives.
const LOCK: &str = "lock";
/// What the snapshot is mounted on.
const MOUNTED: &str = "snapshot";
/// How long the process that serves a mount may take to be gone once that is unmounted.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no such place.
#[derive(Debug, Error)]
pub enum PlaceError {
    #[error("{}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("`understudy {what}` failed: {said}")]
    Command { what: &'static str, said: String },
}

impl Failure for PlaceError {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

/// How this program is called: its path, and what it is told before the command.
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

impl Program {
    /// `what` of this program, with nothing to read.
    fn command(&self, what: &'static str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg("--quiet").arg(what).stdin(Stdio::null());
        command
    }

    /// A program that is sent a signal when the thread that starts it ends, and so when this process does. This program asks the kernel for
    /// that in the place of the other, before it becomes it.
    pub fn with_this_process(&self, signal: Signal, program: &OsStr) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(["with-parent", &std::process::id().to_string(), &signal.as_raw().to_string()])
            .arg(program);
        command
    }
}

/// Becomes `program`, which is sent `signal` when its parent, `parent`, ends. Returns why it did not.
pub fn become_with_parent(
    parent: u32,
    signal: i32,
    program: &OsStr,
    arguments: &[std::ffi::OsString],
) -> std::io::Error {
    let Some(signal) = Signal::from_named_raw(signal) else {
        return std::io::ErrorKind::InvalidInput.into();
    };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(signal)) {
        return error.into();
    }
    // It may have ended before the kernel was asked.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != i32::try_from(parent).ok() {
        return std::io::Error::other("who started it is gone");
    }
    std::os::unix::process::CommandExt::exec(Command::new(program).args(arguments))
}

/// A snapshot that is mounted for a drill.
pub struct Place<'a> {
    program: &'a Program,
    /// What is mounted; the directory around it is this user's, so that nobody else looks at the store through the drill.
    dir: PathBuf,
    _lock: File,
    is_mounted: bool,
    server: Option<Child>,
    env: Env,
}

/// What `mount --json` says of it.
#[derive(Deserialize)]
struct Said {
    method: String,
}

impl<'a> Place<'a> {
    pub fn new(
        program: &'a Program,
        snapshot: &str,
        env: &Env,
        seed: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, PlaceError> {
        tidy(program);
        let around = std::env::temp_dir().join(format!("{PREFIX}{}-{seed:016x}", std::process::id()));
        let wrong = |source| PlaceError::Directory { path: around.clone(), source };
        std::fs::DirBuilder::new().mode(0o700).create(&around).map_err(wrong)?;
        // It has its name once it is locked: another, who tidies, never finds it free.
        let new = around.join("lock.new");
        let locked = File::create_new(&new).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            std::fs::rename(&new, around.join(LOCK))?;
            std::fs::create_dir(around.join(MOUNTED)).map(|()| file)
        });
        let lock = locked.map_err(|source| {
            let _ = remove(&around);
            wrong(source)
        })?;
        let dir = around.join(MOUNTED);
        let mut place = Self { program, dir, _lock: lock, is_mounted: false, server: None, env: env.clone() };
        place.mount(snapshot, stop)?;
        Ok(place)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets a group get to what is mounted, by its path; nobody but this user sees what else is around it. Where that cannot be, who works
    /// in it gets no further than that directory itself: false.
    pub fn let_in(&self, gid: u32) -> bool {
        let (around, mode) = (self.around(), std::os::unix::fs::PermissionsExt::from_mode(0o710));
        std::os::unix::fs::chown(&around, None, Some(gid)).is_ok()
            && std::fs::set_permissions(&around, mode).is_ok()
    }

    fn mount(&mut self, snapshot: &str, stop: &dyn Fn() -> bool) -> Result<(), PlaceError> {
        let failed = |said: String| PlaceError::Command { what: "mount", said };
        let mut mount = self.program.with_this_process(Signal::TERM, self.program.path.as_os_str());
        mount
            .args(&self.program.arguments)
            .args(["--json", "mount", "--foreground", snapshot])
            .arg(&self.dir);
        let mut child = mount
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut line = String::new();
        // Its first line, or its end: it ends when this end goes, so the thread does as well.
        std::thread::spawn(move || {
            let read = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut line));
            let _ = sender.send(read.and_then(Result::ok).map(|_| line));
        });
        let line = loop {
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => break line.unwrap_or_default(),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) if !stop() => {}
                Err(_) => {
                    if let Some(id) = rustix::process::Pid::from_raw(child.id() as i32) {
                        let _ = rustix::process::kill_process(id, Signal::TERM);
                    }
                    break String::new();
                }
            }
        };
        self.server = Some(child);
        match serde_json::from_str::<Said>(&line) {
            Ok(said) => {
                self.is_mounted = true;
                if said.method == "kernel" {
                    self.end_server();
                }
                Ok(())
            }
            Err(_) => {
                self.end_server();
                let mut said = String::new();
                let _ = stderr.map(|stderr| stderr.take(4000).read_to_string(&mut said));
                Err(failed(said.trim().to_owned()))
            }
        }
    }

    /// Unmounts it, and removes the directories; never with what is in them.
    pub fn take_away(mut self) -> Result<(), PlaceError> {
        self.unmount(&[])?;
        let around = self.around();
        remove(&around).map_err(|source| PlaceError::Directory { path: around, source })
    }

    fn around(&self) -> PathBuf {
        self.dir.parent().unwrap_or(&self.dir).to_owned()
    }

    fn unmount(&mut self, how: &[&str]) -> Result<(), PlaceError> {
        let done = match self.is_mounted {
            true => umount(self.program, &self.dir, how),
            false => Ok(()),
        };
        self.is_mounted &= done.is_err();
        // Whatever came of it: asked to end, it lets go of the mount as well.
        self.end_server();
        done
    }

    /// It ends by itself once its mount is gone, or there is none, and else when it is asked to.
    fn end_server(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        if hooks::wait(&self.env, &mut server, if self.is_mounted { Duration::ZERO } else { END_LIMIT })
            .is_some()
        {
            return;
        }
        if let Some(id) = rustix::process::Pid::from_raw(server.id() as i32) {
            let _ = rustix::process::kill_process(id, Signal::TERM);
        }
        if hooks::wait(&self.env, &mut server, END_LIMIT).is_none() {
            let _ = server.kill();
            let _ = hooks::wait(&self.env, &mut server, END_LIMIT);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // As far as that goes; what stays is the next drill's.
        let _ = self.unmount(&["--lazy"]);
        let _ = remove(&self.around());
    }
}

fn umount(program: &Program, dir: &Path, how: &[&str]) -> Result<(), PlaceError> {
    let failed = |said: String| PlaceError::Command { what: "umount", said };
    let output = program.command("umount").args(how).arg(dir).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// The directories of a drill, once nothing is mounted there.
fn remove(around: &Path) -> std::io::Result<()> {
    let gone = |done: std::io::Result<()>| match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(std::fs::remove_dir(around.join(MOUNTED)))?;
    gone(std::fs::remove_file(around.join(LOCK)))?;
    gone(std::fs::remove_dir(around))
}

/// Takes away what this user's killed drills left. What cannot be is told, and tried again another time.
pub fn tidy(program: &Program) {
    let all = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for around in all.map(|entry| entry.path()).filter(|path| has_name(path)) {
        let Some(lock) = is_left(&around) else { continue };
        let dir = around.join(MOUNTED);
        if is_mount_point(&dir, &around) {
            let _ = umount(program, &dir, &["--lazy"]);
            // A mount that the command does not know as understudy's is one all the same: nobody else mounts here.
            while rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).is_ok() {}
        }
        match remove(&around) {
            Ok(()) => {
                tracing::info!(path = %around.display(), "took away what a drill that was killed had left")
            }
            Err(error) => {
                tracing::warn!(path = %around.display(), %error, "a drill that was killed left this")
            }
        }
        drop(lock);
    }
}

fn has_name(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(PREFIX))
}

/// Whether this is a directory that a drill of this user's made, and no living one's. Holds its lock where there is one.
fn is_left(around: &Path) -> Option<Option<File>> {
    let meta = std::fs::symlink_metadata(around).ok()?;
    let is_closed = matches!(meta.mode() & 0o777, 0o700 | 0o710);
    let is_ours = meta.uid() == rustix::process::geteuid().as_raw() && is_closed;
    if !meta.is_dir() || !is_ours {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, around.join(LOCK), flags, Mode::empty()) {
        Ok(lock) => {
            let is_free = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            is_free.then(|| Some(lock.into()))
        }
        // Made just now, or by a version that had no lock: it is its process's, by the number in its name.
        Err(rustix::io::Errno::NOENT) => {
            let name = around.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            let pid: u32 = name.split('-').next()?.parse().ok()?;
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(None)
        }
        Err(_) => None,
    }
}

/// Of one whose server is gone not even the attributes are known.
fn is_mount_point(dir: &Path, around: &Path) -> bool {
    match (std::fs::symlink_metadata(dir), std::fs::symlink_metadata(around)) {
        (Ok(dir), Ok(around)) => dir.dev() != around.dev(),
        (Err(error), _) => error.kind() != std::io::ErrorKind::NotFound,
        _ => false,
    }
}
