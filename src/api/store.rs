//! One store's state, as a daemon knows it.

use super::progress::ProgressFigures;
use super::run::RunReport;
use super::upkeep::UpkeepStatus;
use crate::model::id::{Sequence, StoreName};
use crate::model::plan::PlanName;
use crate::model::role::{Permission, Role};
use crate::support::failure::FailureKind;
use serde::{Deserialize, Serialize};

/// State of one store. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub store: StoreName,
    /// What this host may be, by its configuration.
    pub role: Permission,
    /// What it is, by the log as it was read last.
    #[serde(default)]
    pub log_role: Role,
    pub plan: PlanName,
    /// When its runs are due: a cron expression, or `every N s`.
    pub schedule: String,
    /// The lag that the plan promises.
    pub objective_seconds: u64,
    /// The last snapshot that was committed, or published here.
    pub snapshot: Option<Sequence>,
    /// Since the START of that snapshot's scan; none when that lies in the future, since nobody knows it then.
    pub lag_seconds: Option<f64>,
    /// How far that start lies in the future; 0 when it does not, by more than clocks are apart.
    pub clock_skew_seconds: Option<f64>,
    /// What is known of a clock that is wrong.
    pub clock: Option<String>,
    pub running: bool,
    pub next_run: Option<f64>,
    /// When the last run began.
    pub last_run: Option<f64>,
    /// Runs that failed since the last that did not.
    pub failures: u32,
    pub last_error: Option<String>,
    /// What is to be done about it.
    pub last_error_kind: Option<FailureKind>,
    /// What holds its runs: figures of a run that was held, or an operator's reason.
    pub held: Option<String>,
    /// Whether another host is the primary.
    pub fenced: bool,
    /// The daemons that resync it by turns, where the log shows two.
    pub rivals: Option<String>,
    pub totals: Totals,
    /// None before the daemon's first look.
    pub upkeep: Option<UpkeepStatus>,
    /// Report of the last run that did not fail.
    pub last_report: Option<RunReport>,
    /// How far the run is that is under way.
    pub progress: Option<ProgressFigures>,
}

/// Sums since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub runs_done: u64,
    pub runs_held: u64,
    pub runs_failed: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub torn_files: u64,
    pub unreadable_files: u64,
}
