//! What a guard is given: `[store.gate]`, `[store.database]` and the store's services.

use crate::failover::services::settings::ServiceSettings;
use crate::model::id::StoreName;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Stack of each of a guard's threads; all of it is locked into memory.
pub(crate) const STACK_BYTES: usize = 256 << 10;

/// The gate of a store, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSettings {
    /// Address where the gate takes the customers' requests.
    pub listen: SocketAddr,
    /// Address of the store's web server.
    pub upstream: SocketAddr,
    /// Ports that lead to the store without the gate; rejected while the gate is not open, where nftables is
    /// there.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Socket at which the daemon reaches the guard.
    pub socket: Option<PathBuf>,
    /// Command for a fence that did not hold, such as one that resets the host.
    #[serde(default)]
    pub last_resort: Vec<String>,
}

/// The database of a store, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// Command that makes the database refuse writes, and succeeds once it does.
    #[serde(default)]
    pub fence: Vec<String>,
    /// Command that makes the database of this host take writes, after its files are ready.
    #[serde(default)]
    pub promote: Vec<String>,
    /// Command that makes the database of this host follow the primary's again.
    #[serde(default)]
    pub demote: Vec<String>,
    /// Maximum run time of a command in seconds; it is ended after that.
    pub timeout_seconds: Option<u64>,
    /// User that the commands run as; default: the user of this process.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to the commands.
    #[serde(default)]
    pub environment: Vec<String>,
}

/// All that a guard needs. It reads this from its standard input when it starts, and nothing later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    pub store: StoreName,
    pub gate: GateSettings,
    pub services: Vec<ServiceSettings>,
    pub database: DatabaseSettings,
    /// Path of the socket.
    pub socket: PathBuf,
    /// Whether the socket's path was not configured; its directory is then made, and closed to others.
    pub socket_is_default: bool,
    /// Whether an edge tells the epoch that it was given with each request, in place of whatever a customer says.
    #[serde(default)]
    pub edge_tells_epoch: bool,
}

impl Setup {
    /// Returns a hash by which two setups are told apart.
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        blake3::hash(&text).to_hex()[..32].to_owned()
    }
}
