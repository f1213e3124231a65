//! One run of a user's program, with a limit on its time: hooks, commands of drills, services, fences.
//!
//! It runs without a shell, in the environment that [`super::child`] gives it, and is ended when it exceeds
//! its limit. The program is the process that was started, not the helpers that it leaves running: a helper
//! that keeps standard error open delays nothing. The thread that waits for the program reads its output as
//! it comes and closes it when the program ends, so that no thread waits for a helper. A program that cannot
//! even be killed, because it waits in the kernel for a filesystem that hangs, is abandoned and reaped with a
//! later one.

use super::child::{self, ChildError, Confinement};
use super::env::Env;
use super::failure::{Failure, FailureKind};
use super::lock::lock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use thiserror::Error;

/// Maximum number of bytes of standard error that are kept, for a message.
const SAID_MAX_BYTES: usize = 2000;
/// Maximum number of bytes of standard output that are kept.
const PRINTED_MAX_BYTES: usize = 64 << 10;
/// Interval between checks whether a program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Maximum time for a killed program to end.
const KILLED_LIMIT: Duration = Duration::from_secs(2);

/// Programs that did not end even when they were killed.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// The reason why a program did not run to its end.
#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("{program}: {source}")]
    Child { program: String, source: ChildError },
    #[error("{program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("the command is empty; name a program")]
    Empty,
    #[error("{program} took longer than {} s and was ended{said}", limit.as_secs())]
    Late { program: String, limit: Duration, said: String },
    #[error("{program} was stopped: this process is shutting down")]
    Stopped { program: String },
}

impl Failure for ProgramError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Child { source, .. } => source.kind(),
            Self::Empty => FailureKind::Usage,
            Self::Start { .. } => FailureKind::Failed,
            Self::Late { .. } => FailureKind::Unavailable,
            Self::Stopped { .. } => FailureKind::Stopped,
        }
    }
}

/// A program, and what it is given.
pub(crate) struct Program<'a> {
    /// Path of this program, which starts the other one.
    pub this: &'a Path,
    /// The program and its arguments.
    pub command: &'a [String],
    pub how: Confinement,
    /// Variables in addition to the usual ones.
    pub variables: Vec<(&'static str, String)>,
    pub limit: Duration,
}

/// How a program ended, and what it printed.
pub(crate) struct Output {
    pub status: ExitStatus,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error, as it ends a message: empty, or with a colon before it.
    pub said: String,
}

/// Runs a program in the root directory and waits for its end.
///
/// # Errors
/// It was not started, or it was ended. An exit code other than 0 is no error here.
pub(crate) fn run(env: &Env, program: Program) -> Result<Output, ProgramError> {
    run_until(env, program, &|| false, |command| {
        command.current_dir("/");
    })
}

/// Runs a program like [`run`], until `stop` returns true. `change` adjusts how it is started.
pub(crate) fn run_until(
    env: &Env,
    program: Program,
    stop: &dyn Fn() -> bool,
    change: impl FnOnce(&mut Command),
) -> Result<Output, ProgramError> {
    let Some((name, arguments)) = program.command.split_first() else { return Err(ProgramError::Empty) };
    let start = |source| ProgramError::Start { program: name.clone(), source };
    let mut command = child::command(program.this, name, arguments, &program.how)
        .map_err(|source| ProgramError::Child { program: name.clone(), source })?;
    change(&mut command);
    lock(&LEFT).retain_mut(|child| child.try_wait().is_ok_and(|s| s.is_none()));
    let mut child = command
        .envs(program.variables)
        // The leash: see `child`.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let leash = child.stdin.take();
    let mut stdout = Kept::new(child.stdout.take().map(OwnedFd::from), PRINTED_MAX_BYTES);
    let mut stderr = Kept::new(child.stderr.take().map(OwnedFd::from), SAID_MAX_BYTES);
    let begun = env.stopwatch();
    loop {
        match child.try_wait().map_err(start)? {
            Some(status) => {
                return Ok(Output { status, stdout: stdout.rest(env), said: stderr.said(env) });
            }
            None if begun.elapsed() >= program.limit => {
                end(env, child, leash);
                let (program, limit) = (name.clone(), program.limit);
                return Err(ProgramError::Late { program, limit, said: stderr.said(env) });
            }
            None if stop() => {
                end(env, child, leash);
                return Err(ProgramError::Stopped { program: name.clone() });
            }
            None => {
                stdout.listen(env, Duration::ZERO);
                stderr.listen(env, LOOK_EVERY);
            }
        }
    }
}

/// Ends a program and its group. The intermediate process does it once the leash is closed; if that fails,
/// this function kills the group.
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

/// The beginning of a program's output.
struct Kept {
    /// The pipe; none once all writers have closed it.
    pipe: Option<File>,
    text: Vec<u8>,
    max_bytes: usize,
}

impl Kept {
    fn new(pipe: Option<OwnedFd>, max_bytes: usize) -> Self {
        Self { pipe: pipe.map(File::from), text: Vec::new(), max_bytes }
    }

    /// Reads the output that comes within `time`. Output beyond the maximum is read and discarded, so that a
    /// program never blocks on a full pipe.
    fn listen(&mut self, env: &Env, time: Duration) {
        let Some(pipe) = &mut self.pipe else {
            if !time.is_zero() {
                env.sleep(time);
            }
            return;
        };
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut ends = [PollFd::new(&*pipe, PollFlags::IN)];
        if !poll(&mut ends, Some(&time)).is_ok_and(|ready| ready > 0) {
            return;
        }
        // There is data or the end of the pipe, so this does not block.
        let mut part = [0; 4096];
        match pipe.read(&mut part) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = self.max_bytes - self.text.len();
                self.text.extend_from_slice(&part[..count.min(room)]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.pipe = None,
        }
    }

    /// Returns the output until now.
    fn rest(mut self, env: &Env) -> Vec<u8> {
        // Reads what is still in the pipe. A helper may continue to write, so this is limited.
        let mut before = usize::MAX;
        while self.pipe.is_some() && self.text.len() < self.max_bytes && self.text.len() != before {
            before = self.text.len();
            self.listen(env, Duration::ZERO);
        }
        self.text
    }

    /// Returns the output until now, as it ends a message.
    fn said(self, env: &Env) -> String {
        match String::from_utf8_lossy(&self.rest(env)).trim() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }
}
