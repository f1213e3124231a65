//! What the agents need of the daemon that runs them.

use crate::api::run::RunReport;
use crate::failover::agent::run::Agent;
use crate::model::id::StoreName;
use crate::repository::store::Repository;
use crate::service::board::Duty;
use crate::service::config::StoreConfig;
use crate::service::host::{Host, HostError};
use crate::service::run::RunError;
use std::sync::Arc;

/// The daemon, as its agents use it.
pub(crate) trait Around: Send + Sync {
    /// Returns this host with the configuration in force.
    fn host(&self) -> Host;

    fn repository(&self, store: &StoreConfig) -> Result<Repository, HostError>;

    /// Returns the agent of a store; none if none runs here.
    fn failover_agent(&self, store: &StoreName) -> Option<Arc<Agent>>;

    /// Sets which runs a store has.
    fn set_duty(&self, store: &StoreName, duty: Option<Duty>);

    /// Has a store run soon, if it has runs.
    fn ask_run(&self, store: &StoreName);

    /// Runs a store in the role of `config` on this thread, once no other run of it is under way.
    fn run_now(&self, config: &StoreConfig) -> Result<RunReport, RunError>;
}

/// The daemon, shared by the agents' threads.
pub(crate) type Daemon = Arc<dyn Around>;
