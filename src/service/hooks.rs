//! Commands around a scan: freeze, flush, make a snapshot of the filesystem. Run without a shell, ended when they take too long.
//!
//! A hook is what was started, not what that leaves behind: a helper that keeps standard error open holds nobody up. What a hook says is read
//! by the thread that waits for it, as it comes, and this end is closed with it, so nothing is left that waits for a helper's end. What cannot
//! even be killed (it waits in the kernel, for a filesystem that hangs) is left to itself, and reaped with a later hook.

use super::config::Hooks;
use crate::model::id::StoreName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
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
    #[error("hook `{when}` ({program}) {how}{said}")]
    Failed { when: &'static str, program: String, how: String, said: String },
}

/// What a hook is told by its environment.
pub struct Around<'a> {
    pub store: &'a StoreName,
    pub path: &'a Path,
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
    around: &Around,
    stop: &dyn Fn() -> bool,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Option<HookError>), E> {
    let timeout = hooks.timeout_seconds.map_or(TIMEOUT, Duration::from_secs);
    let run = |when, command: &[String], outcome, stop| {
        let Some((program, arguments)) = command.split_first() else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments);
        run(when, program, command, around, outcome, Bounds { timeout, stop })
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

/// Runs one command, which errors call `program`.
pub fn run(
    when: &'static str,
    program: &str,
    mut command: Command,
    around: &Around,
    outcome: &str,
    bounds: Bounds,
) -> Result<(), HookError> {
    LEFT.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain_mut(|child| child.try_wait().is_ok_and(|s| s.is_none()));
    let start = |source| HookError::Start { when, program: program.to_owned(), source };
    let mut child = command
        .env("UNDERSTUDY_STORE", around.store.as_str())
        .env("UNDERSTUDY_PATH", around.path)
        .env("UNDERSTUDY_OUTCOME", outcome)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own, so that what it started ends with it.
        .process_group(0)
        .spawn()
        .map_err(start)?;
    let mut said = Said { stderr: child.stderr.take(), text: Vec::new() };
    let begun = Instant::now();
    let how = loop {
        match child.try_wait().map_err(start)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => break format!("ended with {status}"),
            None if begun.elapsed() >= bounds.timeout => {
                end(child);
                break format!("took longer than {} s", bounds.timeout.as_secs());
            }
            None if (bounds.stop)() => {
                end(child);
                break "was ended: this process was asked to end".to_owned();
            }
            None => said.listen(LOOK_EVERY),
        }
    };
    Err(HookError::Failed { when, program: program.to_owned(), how, said: said.all() })
}

/// Ends a hook and what is in its group.
fn end(mut child: Child) {
    if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    if wait(&mut child, KILLED_LIMIT).is_none() {
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }
}

/// How it ended; none when it did not within `limit`, or nobody knows.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if begun.elapsed() < limit => std::thread::sleep(LOOK_EVERY),
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
    fn listen(&mut self, time: Duration) {
        let Some(stderr) = &mut self.stderr else { return std::thread::sleep(time) };
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
    fn all(mut self) -> String {
        // What is in the pipe still; a helper may go on talking.
        let mut before = usize::MAX;
        while self.stderr.is_some() && self.text.len() < SAID_MAX_BYTES && self.text.len() != before {
            before = self.text.len();
            self.listen(Duration::ZERO);
        }
        let text = String::from_utf8_lossy(&self.text);
        match text.trim() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        before: &str,
        after: &str,
        work: impl FnOnce() -> Result<u32, HookError>,
    ) -> Result<(u32, Option<HookError>), HookError> {
        with_stop(before, after, &|| false, work)
    }

    fn with_stop(
        before: &str,
        after: &str,
        stop: &dyn Fn() -> bool,
        work: impl FnOnce() -> Result<u32, HookError>,
    ) -> Result<(u32, Option<HookError>), HookError> {
        let shell = |text: &str| vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()];
        let hooks = Hooks { before: shell(before), after: shell(after), timeout_seconds: Some(1) };
        let store = StoreName::parse("acme").unwrap();
        around(&hooks, &Around { store: &store, path: Path::new("/srv") }, stop, work)
    }

    #[test]
    fn a_hook_that_fails_before_stops_the_run_and_the_one_after_always_runs() {
        let dir = tempfile::tempdir().unwrap();
        let noted = dir.path().join("noted");
        let note =
            format!("echo $UNDERSTUDY_STORE $UNDERSTUDY_PATH $UNDERSTUDY_OUTCOME >> {}", noted.display());
        assert_eq!(with("true", &note, || Ok(7)).unwrap().0, 7);
        let error = with("echo no freeze >&2; exit 3", &note, || panic!("it must not run")).unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no freeze"), "{error}");
        assert_eq!(std::fs::read_to_string(&noted).unwrap(), "acme /srv done\nacme /srv failed\n");
        // What was done is done, whatever comes behind it.
        let (done, failed) = with("true", "false", || Ok(7)).unwrap();
        assert_eq!(done, 7);
        let error = failed.unwrap();
        assert!(error.to_string().contains("`after`"), "{error}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_ended_with_all_that_it_started() {
        let begun = Instant::now();
        let error = with("sleep 100 & sleep 100", "true", || Ok(7)).unwrap_err();
        assert!(error.to_string().contains("took longer than 1 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    /// Long enough for any machine, and a tenth of what the helpers stay.
    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn a_helper_that_keeps_standard_error_open_holds_nobody_up() {
        for (hook, told) in [
            ("setsid sleep 300 & echo cannot freeze >&2; exit 1", "exit status: 1: cannot freeze"),
            ("setsid sleep 300 & echo it takes long >&2; sleep 300", "took longer than 1 s: it takes long"),
            // It goes on talking: what was said until then is told.
            (
                "setsid sh -c 'for n in $(seq 300); do echo again; sleep 1; done' >&2 & sleep 0.5; exit 1",
                "again",
            ),
        ] {
            let begun = Instant::now();
            let error = with(hook, "true", || panic!("it must not run")).unwrap_err();
            assert!(error.to_string().contains(told), "{hook}: {error}");
            assert!(begun.elapsed() < SOON, "{hook}");
        }
        let begun = Instant::now();
        assert_eq!(with("setsid sleep 300 & exit 0", "setsid sleep 300 &", || Ok(7)).unwrap().0, 7);
        assert!(begun.elapsed() < SOON);
    }

    #[test]
    fn a_hook_that_says_more_than_a_pipe_holds_goes_on_and_its_first_words_are_told() {
        let error =
            with("(echo first; seq 100000) >&2; exit 5", "true", || panic!("it must not run")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 5: first") && text.len() < 3000, "{text}");
    }

    #[test]
    fn who_is_asked_to_end_waits_for_no_hook_but_the_one_that_undoes_it() {
        let dir = tempfile::tempdir().unwrap();
        let noted = dir.path().join("noted");
        let after = format!("sleep 0.2; echo $UNDERSTUDY_OUTCOME > {}", noted.display());
        let error = with_stop("sleep 300", &after, &|| true, || panic!("it must not run")).unwrap_err();
        assert!(error.to_string().contains("asked to end"), "{error}");
        assert_eq!(std::fs::read_to_string(noted).unwrap(), "failed\n");
    }
}
