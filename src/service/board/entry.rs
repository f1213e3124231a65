//! The entry of one store on the board, composed of its parts.

use super::duty::Duty;
use super::holds::Holds;
use super::last_run::LastRun;
use super::standing::Standing;
use crate::api::run::RunReport;
use crate::api::store::StoreStatus;
use crate::api::upkeep::UpkeepStatus;
use crate::model::role::Role;
use crate::service::config::StoreConfig;
use crate::service::run::RunError;
use crate::service::schedule::Schedule;
use crate::service::scheduler::{JobId, RunOutcome, Scheduler};
use crate::support::clock::{Now, UnixNanos, seconds};

/// The state that the daemon knows of one store.
pub(crate) struct StoreEntry {
    pub config: StoreConfig,
    pub schedule: Schedule,
    pub standing: Standing,
    /// The role of this host, by the log as it was read last.
    pub role: Role,
    pub last_run: LastRun,
    pub holds: Holds,
    /// The upkeep done; none before the first look.
    pub upkeep: Option<UpkeepStatus>,
    /// What the store's failover agent wants of its runs; none without an agent.
    pub duty: Option<Duty>,
    /// Whether the store was removed from the configuration.
    pub is_gone: bool,
}

impl StoreEntry {
    pub fn new(config: StoreConfig, schedule: Schedule, standing: Standing) -> Self {
        let role = standing.role.unwrap_or(config.role.into());
        Self {
            role,
            config,
            schedule,
            standing,
            last_run: LastRun::default(),
            holds: Holds::default(),
            upkeep: None,
            duty: None,
            is_gone: false,
        }
    }

    /// Records how a run ended and where the store stands since.
    pub(crate) fn end_run(
        &mut self,
        result: Result<RunReport, RunError>,
        outcome: RunOutcome,
        standing: Standing,
    ) {
        self.role = match &result {
            Ok(RunReport::Resync(_)) => Role::Primary,
            Ok(RunReport::Follow(report)) => report.role,
            Err(_) if outcome == RunOutcome::Fenced => Role::Fenced,
            // The error does not show what the log says.
            Err(_) => self.role,
        };
        match &result {
            Ok(_) => {
                self.standing = standing;
                self.holds.set_run(None);
            }
            Err(error) => {
                if let Some(hold) = error.hold() {
                    self.holds.set_run(Some(hold.to_string()));
                }
            }
        }
        self.last_run.end(result, outcome);
    }

    pub(crate) fn status(&self, id: JobId, scheduler: &Scheduler, now: Now) -> StoreStatus {
        StoreStatus {
            store: self.config.name.clone(),
            role: self.config.role,
            log_role: self.role,
            plan: self.config.plan,
            schedule: self.schedule.to_string(),
            objective_seconds: u64::from(self.config.plan.plan().objective_minutes) * 60,
            snapshot: self.standing.snapshot,
            lag_seconds: self.standing.lag(now.wall).map(seconds),
            clock_skew_seconds: self.standing.clock_skew(now.wall).map(seconds),
            clock: self.standing.clock_text(now.wall),
            running: self.last_run.is_running(),
            next_run: scheduler.due(id, now).map(UnixNanos::seconds),
            last_run: self.last_run.begun().map(UnixNanos::seconds),
            failures: scheduler.failures(id),
            last_error: self.last_run.failure().map(|failure| failure.error.clone()),
            last_error_kind: self.last_run.failure().map(|failure| failure.outcome),
            held: self.holds.reason().cloned(),
            fenced: self.role == Role::Fenced,
            rivals: self.last_run.rivals(),
            failover: None,
            watch: None,
            database: None,
            totals: self.last_run.totals(),
            upkeep: self.upkeep.clone(),
            last_report: self.last_run.report().cloned(),
            progress: self.last_run.progress(),
        }
    }
}
