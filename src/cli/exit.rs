//! Exit codes: 0 done · 1 failed, nothing committed · 2 wrong use or configuration · 3 committed with
//! warnings · 4 held · 5 fenced · 6 repository unavailable.

use crate::api::run::RunReport;
use crate::maintain::prune::PruneError;
use crate::model::id::IdError;
use crate::model::snapshot_ref::SnapshotRefError;
use crate::mounts::error::StageError;
use crate::replicate::error::ResyncError;
use crate::repository::error::{RepositoryError, RepositoryErrorKind};
use crate::restore::error::RestoreError;
use crate::service::board::Ended;
use crate::service::config::ConfigError;
use crate::service::drill::DrillError;
use crate::service::host::HostError;
use crate::service::scheduler::Outcome;
use crate::service::upkeep::UpkeepError;
use crate::source::error::SourceError;
use crate::standby::error::FollowError;
use crate::support::chain::chain;
use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Warnings = 3,
    Held = 4,
    Fenced = 5,
    Unavailable = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A mistake in how a command was called.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub String);

pub(super) fn of_repository(error: &RepositoryError) -> Exit {
    match error.kind() {
        RepositoryErrorKind::Unavailable => Exit::Unavailable,
        RepositoryErrorKind::Configuration | RepositoryErrorKind::Missing => Exit::Usage,
        RepositoryErrorKind::Damaged | RepositoryErrorKind::Local => Exit::Failed,
    }
}

pub(super) fn of(error: &anyhow::Error) -> Exit {
    if error.is::<ConfigError>()
        || error.is::<UsageError>()
        || error.is::<SnapshotRefError>()
        || error.is::<IdError>()
    {
        return Exit::Usage;
    }
    match error.downcast_ref::<HostError>() {
        Some(HostError::Repository(error)) => return of_repository(error),
        Some(
            HostError::Config(_) | HostError::Cache(_) | HostError::Standby(_) | HostError::NoPlace { .. },
        ) => return Exit::Usage,
        None => {}
    }
    if let Some(error) = error.downcast_ref::<RepositoryError>() {
        return of_repository(error);
    }
    match error.downcast_ref::<PruneError>() {
        Some(PruneError::Repository(error)) => return of_repository(error),
        Some(PruneError::Held { .. } | PruneError::Missing { .. }) => return Exit::Held,
        None => {}
    }
    match error.downcast_ref::<UpkeepError>() {
        Some(UpkeepError::Repository(error)) => return of_repository(error),
        Some(UpkeepError::Host(_)) => return Exit::Usage,
        _ => {}
    }
    if let Some(DrillError::Repository(error)) = error.downcast_ref::<DrillError>() {
        return of_repository(error);
    }
    match (error.downcast_ref::<FollowError>(), error.downcast_ref::<StageError>()) {
        (Some(error), _) | (_, Some(StageError::Depot(error))) => return super::follow::of_follow(error),
        (
            _,
            Some(
                StageError::NotHere { .. }
                | StageError::Bound { .. }
                | StageError::Foreign(_)
                | StageError::NotOurs { .. }
                | StageError::Shown(_)
                | StageError::InTheWay(_),
            ),
        ) => {
            return Exit::Usage;
        }
        _ => {}
    }
    match (error.downcast_ref::<ResyncError>(), error.downcast_ref::<RestoreError>()) {
        (Some(ResyncError::Held { .. }), _) => Exit::Held,
        (Some(ResyncError::Fenced { .. }), _) => Exit::Fenced,
        (Some(ResyncError::Repository(error)), _) => of_repository(error),
        (Some(ResyncError::Source(SourceError::Exclude { .. } | SourceError::NotADirectory(_))), _) => {
            Exit::Usage
        }
        (_, Some(RestoreError::Repository(error))) => of_repository(error),
        (
            _,
            Some(
                RestoreError::NotEmpty(_)
                | RestoreError::Own { .. }
                | RestoreError::Taken(_)
                | RestoreError::Unfinished(_)
                | RestoreError::NotADirectory(_)
                | RestoreError::NoSuchPath(_),
            ),
        ) => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// Prints an error and gives its exit code.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    complain!("understudy: {}", chain(error.as_ref()));
    of(error).into()
}

/// Of a run that the daemon's parts made.
pub(super) fn of_ended(ended: &Ended) -> Exit {
    match (&ended.result, ended.outcome) {
        (Ok(RunReport::Resync(report)), _) if report.has_warnings() => Exit::Warnings,
        (Ok(_), _) => Exit::Done,
        (Err(_), Outcome::Held) => Exit::Held,
        (Err(_), Outcome::Fenced) => Exit::Fenced,
        (Err(_), _) if ended.unavailable => Exit::Unavailable,
        (Err(_), _) => Exit::Failed,
    }
}

/// What was done is done: a repository that takes no note of it, as one that may only be read, is a warning.
pub(super) fn noted_or_warned(noted: Result<(), RepositoryError>) -> Exit {
    match noted {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain!("understudy: warning: the repository could not be told of it: {}", chain(&error));
            Exit::Warnings
        }
    }
}
