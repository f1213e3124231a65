//! Commands around a scan: freeze, flush, make a snapshot of the filesystem. Run without a shell, with what [`super::child`] gives them, ended
//! when they take too long.
//!
//! A hook is what was started, not what that leaves behind: a helper that keeps standard error open holds nobody up. What a hook says is read
//! by the thread that waits for it, as it comes, and this end is closed with it, so nothing is left that waits for a helper's end. What cannot
//! even be killed (it waits in the kernel, for a filesystem that hangs) is left to itself, and reaped with a later hook.

use super::child::{self, ChildError, Confinement, User};
use super::config::Hooks;
use crate::model::id::StoreName;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;

pub const TIMEOUT: Duration = Duration::from_secs(300);
/// So much of what a hook says is told when it fails.
const SAID_MAX_BYTES: usize = 2000;
/// Between looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a hook that was killed may take to be gone.
const KILLED_LIMIT: Duration = Duration::from_secs(2);

/// Those that did not even end when they were killed.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Why a hook is no success.
#[derive(Debug, Error)]
pub enum HookError {
    #[error("hook `{when}` ({program}): {source}")]
    Start { when: &'static str, program: String, source: std::io::Error },
    #[error("hook `{when}` ({program}): {source}")]
    Child { when: &'static str, program: String, source: ChildError },
    #[error("hook `{when}` ({program}) was ended: this process was asked to end")]
    Stopped { when: &'static str, program: String },
    #[error("hook `{when}` ({program}) {how}{said}")]
    Failed { when: &'static str, program: String, how: String, said: String },
}

impl Failure for HookError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Child { source, .. } => source.kind(),
            Self::Start { .. } | Self::Failed { .. } => FailureKind::Failed,
            Self::Stopped { .. } => FailureKind::Stopped,
        }
    }
}

/// What a hook is told by its environment, and who starts it.
pub struct HookContext<'a> {
    pub store: &'a StoreName,
    pub path: &'a Path,
    /// This program.
    pub this: &'a Path,
    pub env: &'a Env,
}

/// How long a hook may go on.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    pub timeout: Duration,
    /// Whether this process is asked to end: a hook that runs then is ended.
    pub stop: &'a dyn Fn() -> bool,
}

/// Runs `work` between the hooks: nothing when `before` fails; `after` always, with what came of it, and to its end. That it failed
/// is told beside what was done, which it does not undo.
pub fn around<T, E: From<HookError>>(
    hooks: &Hooks,
    around: &HookContext,
    stop: &dyn Fn() -> bool,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Option<HookError>), E> {
    let timeout = hooks.timeout_seconds.map_or(TIMEOUT, Duration::from_secs);
    let run = |when, command: &[String], outcome, stop| {
        let Some((program, _)) = command.split_first() else { return Ok(()) };
        let child = |source| HookError::Child { when, program: program.clone(), source };
        let user = hooks.user.as_deref().map(User::find).transpose().map_err(child)?;
        let how = Confinement { user, environment: hooks.environment.clone(), ..Confinement::default() };
        run(when, command, &how, around, outcome, |_| {}, Bounds { timeout, stop })
    };
    let before = run("before", &hooks.before, "", stop);
    let done = match before {
        Ok(()) => work(),
        Err(error) => Err(error.into()),
    };
    let outcome = if done.is_ok() { "done" } else { "failed" };
    let after = run("after", &hooks.after, outcome, &|| false);
    Ok((done?, after.err()))
}

/// Runs one command: a program and its arguments. `change` may say more of how.
pub fn run(
    when: &'static str,
    command: &[String],
    how: &Confinement,
    around: &HookContext,
    outcome: &str,
    change: impl FnOnce(&mut Command),
    bounds: Bounds,
) -> Result<(), HookError> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let made = child::command(around.this, program, arguments, how);
    let mut command = made.map_err(|source| HookError::Child { when, program: program.clone(), source })?;
    change(&mut command);
    LEFT.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain_mut(|child| child.try_wait().is_ok_and(|s| s.is_none()));
    let start = |source| HookError::Start { when, program: program.clone(), source };
    let mut child = command
        .env("UNDERSTUDY_STORE", around.store.as_str())
        .env("UNDERSTUDY_PATH", around.path)
        .env("UNDERSTUDY_OUTCOME", outcome)
        // The leash: see `child`.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let leash = child.stdin.take();
    let mut said = Said { stderr: child.stderr.take(), text: Vec::new() };
    let begun = around.env.stopwatch();
    let how = loop {
        match child.try_wait().map_err(start)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => break format!("ended with {status}"),
            None if begun.elapsed() >= bounds.timeout => {
                end(around.env, child, leash);
                break format!("took longer than {} s", bounds.timeout.as_secs());
            }
            None if (bounds.stop)() => {
                end(around.env, child, leash);
                return Err(HookError::Stopped { when, program: program.clone() });
            }
            None => said.listen(around.env, LOOK_EVERY),
        }
    };
    Err(HookError::Failed { when, program: program.clone(), how, said: said.all(around.env) })
}

/// Ends a hook and what is in its group. Who stands between does it, once the leash is let go; where that does not come to it, this does.
fn end(env: &Env, mut child: Child, leash: Option<ChildStdin>) {
    drop(leash);
    if wait(env, &mut child, KILLED_LIMIT).is_some() {
        return;
    }
    let _ = child.kill();
    if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    if wait(env, &mut child, KILLED_LIMIT).is_none() {
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }
}

/// How it ended; none when it did not within `limit`, or nobody knows.
pub fn wait(env: &Env, child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = env.stopwatch();
    loop {
        match child.try_wait() {
            Ok(None) if begun.elapsed() < limit => env.sleep(LOOK_EVERY),
            other => return other.ok().flatten(),
        }
    }
}

/// What a hook says on standard error.
struct Said {
    /// None once nobody holds the other end.
    stderr: Option<ChildStderr>,
    text: Vec<u8>,
}

impl Said {
    /// Takes what comes within `time`. A hook that goes on talking is not to wait for a reader: what is beyond the bound is forgotten.
    fn listen(&mut self, env: &Env, time: Duration) {
        let Some(stderr) = &mut self.stderr else { return env.sleep(time) };
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut ends = [PollFd::new(&*stderr, PollFlags::IN)];
        if !poll(&mut ends, Some(&time)).is_ok_and(|ready| ready > 0) {
            return;
        }
        // There is something, or the end: this does not wait.
        let mut part = [0; 4096];
        match stderr.read(&mut part) {
            Ok(0) => self.stderr = None,
            Ok(count) => {
                let room = SAID_MAX_BYTES - self.text.len();
                self.text.extend_from_slice(&part[..count.min(room)]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => self.stderr = None,
        }
    }

    /// What it has said until now, as it is told.
    fn all(mut self, env: &Env) -> String {
        // What is in the pipe still; a helper may go on talking.
        let mut before = usize::MAX;
        while self.stderr.is_some() && self.text.len() < SAID_MAX_BYTES && self.text.len() != before {
            before = self.text.len();
            self.listen(env, Duration::ZERO);
        }
        let text = String::from_utf8_lossy(&self.text);
        match text.trim() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }
}
