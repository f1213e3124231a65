//! Commands around a scan: freeze, flush, make a snapshot of the filesystem. Run without a shell, ended when they take too long.

use super::config::Hooks;
use crate::model::id::StoreName;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

pub const TIMEOUT: Duration = Duration::from_secs(300);
/// So much of what a hook says is told when it fails.
const SAID_MAX_BYTES: u64 = 2000;

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

/// Runs `work` between the hooks: nothing when `before` fails; `after` always, with what came of it.
pub fn around<T, E: From<HookError>>(
    hooks: &Hooks,
    around: &Around,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let timeout = hooks.timeout_seconds.map_or(TIMEOUT, Duration::from_secs);
    let run = |when, command, outcome| run(when, command, around, outcome, timeout, None);
    let before = run("before", &hooks.before, "");
    let done = match before {
        Ok(()) => work(),
        Err(error) => Err(error.into()),
    };
    let outcome = if done.is_ok() { "done" } else { "failed" };
    let after = run("after", &hooks.after, outcome);
    let done = done?;
    after?;
    Ok(done)
}

/// Runs one command; in `dir` where one is given.
pub fn run(
    when: &'static str,
    command: &[String],
    around: &Around,
    outcome: &str,
    timeout: Duration,
    dir: Option<&Path>,
) -> Result<(), HookError> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let start = |source| HookError::Start { when, program: program.clone(), source };
    let mut command = Command::new(program);
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let mut child = command
        .args(arguments)
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
    let stderr = child.stderr.take();
    let told = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.by_ref().take(SAID_MAX_BYTES).read_to_end(&mut said);
            // A hook that goes on talking is not to wait for a reader.
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        }
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    let begun = Instant::now();
    let how = loop {
        match child.try_wait().map_err(start)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => break format!("ended with {status}"),
            None if begun.elapsed() >= timeout => {
                let group = rustix::process::Pid::from_raw(child.id() as i32);
                if let Some(group) = group {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                let _ = child.wait();
                break format!("took longer than {} s", timeout.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let said = told.join().unwrap_or_default();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    Err(HookError::Failed { when, program: program.clone(), how, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        before: &str,
        after: &str,
        work: impl FnOnce() -> Result<u32, HookError>,
    ) -> Result<u32, HookError> {
        let shell = |text: &str| vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()];
        let hooks = Hooks { before: shell(before), after: shell(after), timeout_seconds: Some(1) };
        let store = StoreName::parse("acme").unwrap();
        around(&hooks, &Around { store: &store, path: Path::new("/srv") }, work)
    }

    #[test]
    fn a_hook_that_fails_before_stops_the_run_and_the_one_after_always_runs() {
        let dir = tempfile::tempdir().unwrap();
        let noted = dir.path().join("noted");
        let note =
            format!("echo $UNDERSTUDY_STORE $UNDERSTUDY_PATH $UNDERSTUDY_OUTCOME >> {}", noted.display());
        assert_eq!(with("true", &note, || Ok(7)).unwrap(), 7);
        let error = with("echo no freeze >&2; exit 3", &note, || panic!("it must not run")).unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no freeze"), "{error}");
        assert_eq!(std::fs::read_to_string(&noted).unwrap(), "acme /srv done\nacme /srv failed\n");
        let error = with("true", "false", || Ok(7)).unwrap_err();
        assert!(error.to_string().contains("`after`"), "{error}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_ended_with_all_that_it_started() {
        let begun = Instant::now();
        let error = with("sleep 100 & sleep 100", "true", || Ok(7)).unwrap_err();
        assert!(error.to_string().contains("took longer than 1 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
