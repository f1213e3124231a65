//! The state of one store, as a daemon knows it.

use super::database::DatabaseStatus;
use super::failover::{FailoverBrief, WatchStatus};
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
    /// The role that this host may have, by its configuration.
    pub role: Permission,
    /// The role of this host by the log, as it was read last.
    #[serde(default)]
    pub log_role: Role,
    pub plan: PlanName,
    /// The schedule: a cron expression, or `every N s`.
    pub schedule: String,
    /// The lag that the plan promises.
    pub objective_seconds: u64,
    /// The last snapshot that was committed, or published here.
    pub snapshot: Option<Sequence>,
    /// Time since the START of that snapshot's scan; none when that lies in the future, since the lag is then
    /// unknown.
    pub lag_seconds: Option<f64>,
    /// How far that start lies in the future; 0 when it does not, or by no more than clocks differ.
    pub clock_skew_seconds: Option<f64>,
    /// A text about a wrong clock.
    pub clock: Option<String>,
    pub running: bool,
    pub next_run: Option<f64>,
    /// When the last run began.
    pub last_run: Option<f64>,
    /// Number of failed runs since the last one that succeeded.
    pub failures: u32,
    pub last_error: Option<String>,
    /// The kind of the last error, which says what to do.
    pub last_error_kind: Option<FailureKind>,
    /// The reason why runs are held: the figures of a held run, or an operator's reason.
    pub held: Option<String>,
    /// Whether another host is the primary.
    pub fenced: bool,
    /// The daemons that resync the store by turns, if the log shows two.
    pub rivals: Option<String>,
    /// The failover of the store here; none where the daemon runs no failover agent for it.
    #[serde(default)]
    pub failover: Option<FailoverBrief>,
    /// What is seen of the store's primary from this host; none where it does not watch.
    #[serde(default)]
    pub watch: Option<WatchStatus>,
    /// The store's database here; none where the configuration names none.
    #[serde(default)]
    pub database: Option<DatabaseStatus>,
    pub totals: Totals,
    /// The upkeep done; none before the daemon's first look.
    pub upkeep: Option<UpkeepStatus>,
    /// Report of the last run that succeeded.
    pub last_report: Option<RunReport>,
    /// Progress of the run that is under way.
    pub progress: Option<ProgressFigures>,
}

impl StoreStatus {
    /// Returns the status as the store's customer may see it: without hosts, repositories, commands and errors,
    /// whose words may name them.
    pub fn for_customer(self) -> Self {
        let failover =
            self.failover.map(|brief| FailoverBrief { primary: None, failing: Vec::new(), ..brief });
        let watch = self.watch.map(|watch| WatchStatus { reasons: Vec::new(), ..watch });
        let database = self.database.map(DatabaseStatus::for_customer);
        let upkeep = self.upkeep.map(|upkeep| UpkeepStatus {
            drill_error: upkeep.drill_error.map(|_| "the last drill failed".to_owned()),
            ..upkeep
        });
        Self {
            failover,
            watch,
            database,
            upkeep,
            clock: self.clock.map(|_| "a clock is wrong".to_owned()),
            last_error: self.last_error.map(|_| "the last run failed".to_owned()),
            held: self.held.map(|_| "held by whoever runs it".to_owned()),
            rivals: self.rivals.map(|_| "two daemons run it".to_owned()),
            last_report: None,
            ..self
        }
    }
}

/// Totals since the daemon started.
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
