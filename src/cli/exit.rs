//! Exit codes: 0 done · 1 failed, nothing committed · 2 wrong use or configuration · 3 committed with
//! warnings · 4 held · 5 fenced · 6 repository unavailable.

use super::error::Error;
use crate::api::run::RunReport;
use crate::repository::error::RepositoryError;
use crate::service::board::RunResult;
use crate::support::chain::chain;
use crate::support::failure::FailureKind;
use std::process::ExitCode;

/// How a command ended. A command that does several things returns the most serious one; the variants are in
/// ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    Done,
    Warnings,
    /// The failure passes by itself.
    Unavailable,
    /// An operator must decide.
    Held,
    Fenced,
    /// An operator must change something.
    Usage,
    Failed,
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Warnings => 3,
            Self::Held => 4,
            Self::Fenced => 5,
            Self::Unavailable => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

impl From<FailureKind> for Exit {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Usage | FailureKind::Missing => Self::Usage,
            FailureKind::Held => Self::Held,
            FailureKind::Fenced => Self::Fenced,
            FailureKind::Unavailable => Self::Unavailable,
            FailureKind::Stopped | FailureKind::Damaged | FailureKind::Failed => Self::Failed,
        }
    }
}

/// Prints an error and returns its exit code.
pub(super) fn report(error: &Error) -> ExitCode {
    complain!("understudy: {}", chain(error.as_ref()));
    Exit::from(error.kind()).into()
}

/// Returns the exit code for the result of a daemon's run.
pub(super) fn of_ended(ended: &RunResult) -> Exit {
    match &ended.result {
        Ok(RunReport::Resync(report)) if report.has_warnings() => Exit::Warnings,
        Ok(_) => Exit::Done,
        Err(failure) => failure.outcome.into(),
    }
}

/// Warns when the repository took no note of what was done, for example because it is read-only. What was
/// done stays done.
pub(super) fn noted_or_warned(noted: Result<(), RepositoryError>) -> Exit {
    match noted {
        Ok(()) => Exit::Done,
        Err(error) => {
            complain!(
                "understudy: warning: the result could not be written to the repository: {}",
                chain(&error)
            );
            Exit::Warnings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::error::ContentError;
    use crate::mounts::error::StageError;
    use crate::replicate::error::ResyncError;
    use crate::restore::error::RestoreError;
    use crate::service::alert::Alert;
    use crate::service::api_error;
    use crate::service::host::HostError;
    use crate::service::run::RunError;
    use crate::service::scheduler::RunOutcome;
    use crate::service::upkeep::UpkeepError;
    use crate::standby::error::FollowError;

    #[test]
    fn each_kind_has_one_exit_code_one_status_one_retry_and_one_word() {
        use FailureKind::{Damaged, Failed, Fenced, Held, Missing, Stopped, Unavailable, Usage};
        let table = [
            (Usage, 2, 500, RunOutcome::Failed, "misconfigured"),
            (Missing, 2, 404, RunOutcome::Waiting, "waiting"),
            (Held, 4, 409, RunOutcome::Held, "held"),
            (Fenced, 5, 409, RunOutcome::Fenced, "fenced"),
            (Unavailable, 6, 503, RunOutcome::Failed, "unreachable"),
            (Stopped, 1, 500, RunOutcome::Waiting, "stopped"),
            (Damaged, 1, 500, RunOutcome::Failed, "damaged"),
            (Failed, 1, 500, RunOutcome::Failed, "failing"),
        ];
        assert_eq!(table.map(|row| row.0), FailureKind::ALL);
        for (kind, code, status, outcome, word) in table {
            assert_eq!(Exit::from(kind).code(), code, "{kind:?}");
            assert_eq!(api_error::status(kind).as_u16(), status, "{kind:?}");
            assert_eq!(RunOutcome::from(kind), outcome, "{kind:?}");
            assert_eq!(Alert::from(kind).word, word, "{kind:?}");
        }
    }

    #[test]
    fn the_most_serious_of_several_exits_counts() {
        let worst = |exits: [Exit; 2]| exits.into_iter().max().map(Exit::code);
        assert_eq!(worst([Exit::Warnings, Exit::Failed]), Some(1));
        assert_eq!(worst([Exit::Unavailable, Exit::Held]), Some(4));
        assert_eq!(worst([Exit::Usage, Exit::Unavailable]), Some(2));
        assert_eq!(worst([Exit::Warnings, Exit::Unavailable]), Some(6));
        assert_eq!(worst([Exit::Done, Exit::Warnings]), Some(3));
    }

    #[test]
    fn a_repository_that_is_away_is_unavailable_whatever_it_was_asked_for() {
        let away = || RepositoryError::Request {
            operation: "get",
            key: "acme/log/1".into(),
            reason: "no answer".into(),
            kind: FailureKind::Unavailable,
        };
        let errors: [Error; 7] = [
            away().into(),
            HostError::from(away()).into(),
            UpkeepError::from(HostError::from(away())).into(),
            RunError::from(ResyncError::from(away())).into(),
            RunError::from(FollowError::from(ContentError::from(away()))).into(),
            StageError::from(FollowError::from(away())).into(),
            RestoreError::from(away()).into(),
        ];
        for error in errors {
            assert_eq!(error.kind(), FailureKind::Unavailable, "{error}");
        }
    }
}
