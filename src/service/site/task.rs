//! What the process of a drill says to the one in the namespaces, and hears from it: lines of JSON.

use super::sink::Seen;
use crate::database::site_copy::CopyTask;
use crate::failover::guard::settings::Setup;
use crate::failover::services::settings::ServiceSettings;
use crate::failover::watch::settings::ProbeSettings;
use crate::model::id::{Sequence, StoreName, WriterId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Maximum length of a task in bytes.
pub(super) const TASK_MAX_BYTES: u64 = 4 << 20;

/// Everything that is to be done in the namespaces. It has no key, and no account of the repository's.
#[derive(Serialize, Deserialize)]
pub(super) struct Task {
    pub store: StoreName,
    /// This host, as a probe's command is told of the primary.
    pub host: WriterId,
    /// Directory that filesystems are made on; it is empty, and only this user's.
    pub place: PathBuf,
    pub memory_bytes: u64,
    pub files: Option<Files>,
    pub database: Option<CopyTask>,
    pub services: Vec<ServiceSettings>,
    /// Programs in place of the services.
    pub foreground: Vec<Vec<String>>,
    /// The gate in front of them, which fences nothing.
    pub gate: Option<Setup>,
    pub probes: Vec<ProbeSettings>,
    pub command: Vec<String>,
    pub user: Option<String>,
    pub environment: Vec<String>,
    pub limit: Duration,
    /// Ports of the shop's own.
    pub ports: Vec<u16>,
}

/// The snapshot that is mounted writable.
#[derive(Serialize, Deserialize)]
pub(super) struct Files {
    pub depot: PathBuf,
    pub snapshot: Sequence,
    /// The store's path.
    pub path: PathBuf,
}

/// The names of the steps, as the journal of a failover has them.
pub(super) const FILES: &str = "files";
pub(super) const DATABASE: &str = "database";
pub(super) const SERVICES: &str = "services";
pub(super) const GATE: &str = "gate";
pub(super) const PROBES: &str = "probes";
pub(super) const CONSUMERS: &str = "consumers";
pub(super) const COMMAND: &str = "command";

/// A line from the namespaces.
#[derive(Serialize, Deserialize)]
pub(super) enum Told {
    /// The namespaces are there; the process namespace has this name.
    Within(String),
    /// A directory is not shown there, or is empty, for a reason.
    NotShown(String),
    Did {
        step: String,
        seconds: f64,
    },
    Failed {
        step: String,
        how: String,
        seen: Seen,
    },
    Ended(Seen),
}
