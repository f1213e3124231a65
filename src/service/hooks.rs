//! Commands around a scan: freeze, flush, make a snapshot of the filesystem.
//!
//! A hook runs as every program of the user's does ([`crate::support::program`]): without a shell, in a clean
//! environment, and no longer than its limit.

use super::config::Hooks;
use crate::model::id::StoreName;
use crate::support::child::{ChildError, Confinement, User};
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::program::{Program, ProgramError, run_until};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use thiserror::Error;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

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
    let Some(program) = command.first().cloned() else { return Ok(()) };
    let told = Program {
        this: around.this,
        command,
        how: how.clone(),
        variables: vec![
            ("UNDERSTUDY_STORE", around.store.to_string()),
            ("UNDERSTUDY_OUTCOME", outcome.to_owned()),
        ],
        limit: bounds.timeout,
    };
    let ended = run_until(around.env, told, bounds.stop, |command| {
        change(command);
        command.env("UNDERSTUDY_PATH", around.path);
    });
    let failed = |program, how, said| Err(HookError::Failed { when, program, how, said });
    match ended {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => failed(program, format!("ended with {}", ended.status), ended.said),
        Err(ProgramError::Empty) => Ok(()),
        Err(ProgramError::Start { program, source }) => Err(HookError::Start { when, program, source }),
        Err(ProgramError::Child { program, source }) => Err(HookError::Child { when, program, source }),
        Err(ProgramError::Stopped { program }) => Err(HookError::Stopped { when, program }),
        Err(ProgramError::Late { program, limit, said }) => {
            failed(program, format!("took longer than {} s", limit.as_secs()), said)
        }
    }
}
