//! Commands around a scan: freeze, flush, make a snapshot of the filesystem.
//!
//! They run without a shell, in the environment that [`super::child`] gives them, and are ended when they
//! exceed their time limit. A hook is the process that was started, not the helpers that it leaves running: a
//! helper that keeps standard error open delays nothing. The thread that waits for the hook reads its
//! standard error as it comes and closes it when the hook ends, so that no thread waits for a helper. A hook
//! that cannot even be killed, because it waits in the kernel for a filesystem that hangs, is abandoned and
//! reaped with a later hook.

use super::child::{self, ChildError, Confinement, User};
use super::config::Hooks;
use crate::model::id::StoreName;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::lock::lock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use thiserror::Error;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum number of bytes of a hook's standard error that are reported when it fails.
const SAID_MAX_BYTES: usize = 2000;
/// Interval between checks whether a hook has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Maximum time for a killed hook to end.
const KILLED_LIMIT: Duration = Duration::from_secs(2);

/// Hooks that did not end even when they were killed.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// The reason why a hook did not succeed.
#[derive(Debug, Error)]
pub enum HookError {
    #[error("hook `{when}` ({program}): {source}")]
    Start { when: &'static str, program: String, source: std::io::Error },
    #[error("hook `{when}` ({program}): {source}")]
    Child { when: &'static str, program: String, source: ChildError },
    #[error("hook `{when}` ({program}) was stopped: this process is shutting down")]
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

/// The values that a hook gets in its environment, and the program that starts it.
pub struct HookContext<'a> {
    pub store: &'a StoreName,
    pub path: &'a Path,
    /// Path of this program.
    pub this: &'a Path,
    pub env: &'a Env,
}

/// Limits on a hook's run time.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    pub timeout: Duration,
    /// Returns whether this process is asked to end; a running hook is ended then.
    pub stop: &'a dyn Fn() -> bool,
}

/// Runs `work` between the hooks.
///
/// If `before` fails, `work` does not run. `after` always runs, gets the outcome, and is not stopped early.
/// Its failure is returned in addition to the result of `work`, which it does not undo.
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

/// Runs one command: a program and its arguments. `change` may adjust how it is started.
pub(crate) fn run(
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
    lock(&LEFT).retain_mut(|child| child.try_wait().is_ok_and(|s| s.is_none()));
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

/// Ends a hook and its group. The intermediate process does it once the leash is closed; if that fails, this
/// function kills the group.
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
        lock(&LEFT).push(child);
    }
}

/// Waits for a process. Returns none if it did not end within `limit`, or if its status is unknown.
pub(crate) fn wait(env: &Env, child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = env.stopwatch();
    loop {
        match child.try_wait() {
            Ok(None) if begun.elapsed() < limit => env.sleep(LOOK_EVERY),
            other => return other.ok().flatten(),
        }
    }
}

/// The output of a hook on standard error.
struct Said {
    /// The pipe; none once all writers have closed it.
    stderr: Option<ChildStderr>,
    text: Vec<u8>,
}

impl Said {
    /// Reads the output that comes within `time`. Output beyond the maximum is read and discarded, so that a
    /// hook never blocks on a full pipe.
    fn listen(&mut self, env: &Env, time: Duration) {
        let Some(stderr) = &mut self.stderr else { return env.sleep(time) };
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut ends = [PollFd::new(&*stderr, PollFlags::IN)];
        if !poll(&mut ends, Some(&time)).is_ok_and(|ready| ready > 0) {
            return;
        }
        // There is data or the end of the pipe, so this does not block.
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

    /// Returns the output until now, as it appears in a message.
    fn all(mut self, env: &Env) -> String {
        // Reads what is still in the pipe. A helper may continue to write, so this is limited.
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
