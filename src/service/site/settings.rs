//! `[store.drill.site]`: what a drill of a failover does in addition to what the failover's own configuration says.

use crate::support::child::may_be_handed_on;
use serde::Deserialize;
use std::time::Duration;

/// Default of the time for the services to serve, and for the command.
const LIMIT: Duration = Duration::from_secs(300);
/// Default of the memory for what is written.
const MEMORY_MIB: u64 = 1024;

/// Settings of a drill of a failover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteDrillConfig {
    /// Programs that are the shop, each in the foreground, in place of the store's services.
    #[serde(default)]
    pub services: Vec<Vec<String>>,
    /// Command that must succeed once all probes answer.
    #[serde(default)]
    pub command: Vec<String>,
    /// User that the command runs as; default: nobody.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to services, probes and the command.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Command outside of the drill's network that shows, without a change, that the fence's command would work.
    #[serde(default)]
    pub fence_test: Vec<String>,
    /// Ports at which the shop itself listens, at all addresses: the sink leaves them to it.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Maximum time in seconds for the probes to answer, and for the command.
    pub timeout_seconds: Option<u64>,
    /// Maximum memory in MiB for what is written.
    pub memory_mib: Option<u64>,
}

impl SiteDrillConfig {
    pub(crate) fn limit(&self) -> Duration {
        self.timeout_seconds.map_or(LIMIT, Duration::from_secs)
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_mib.unwrap_or(MEMORY_MIB) << 20
    }

    /// Checks what belongs together. An error is a reason in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let wrong = |reason: &str| Err(format!("[store.drill.site]: {reason}"));
        if self.services.iter().any(Vec::is_empty) {
            return wrong("a service is a program and its arguments; one of `services` is empty");
        }
        if let Some(name) = self.environment.iter().find(|name| !may_be_handed_on(name)) {
            return Err(format!("[store.drill.site]: `environment` cannot contain '{name}'"));
        }
        match self.memory_mib {
            Some(mib) if !(16..=1 << 20).contains(&mib) => wrong("`memory_mib` must be 16 to 1048576"),
            _ => Ok(()),
        }
    }

    /// Returns the commands whose relative programs lie beside the configuration.
    pub(crate) fn programs(&mut self) -> impl Iterator<Item = &mut Vec<String>> {
        self.services.iter_mut().chain([&mut self.command, &mut self.fence_test])
    }
}
