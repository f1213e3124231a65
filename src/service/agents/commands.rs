//! What an agent runs as programs: services, the command that stops another host, and the edges.

use crate::edge::address::Address;
use crate::edge::context::EdgeContext;
use crate::edge::edges::Edges;
use crate::edge::switch::{Cause as EdgeCause, Switch};
use crate::failover::services::attend::{Manner, Services};
use crate::failover::services::kind::Standing;
use crate::failover::services::order::Part;
use crate::model::authority::LastPromotion;
use crate::model::decision::Cause;
use crate::model::id::{Epoch, WriterId};
use crate::service::config::StoreConfig;
use crate::support::child::THIS;
use crate::support::configured::Configured;
use crate::support::env::Env;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Handle;

/// Maximum time for the customers' address to show an epoch, in one attempt.
const CUSTOMER_LIMIT: Duration = Duration::from_secs(20);

/// The programs of one store on this host.
pub(crate) struct Commands<'a> {
    pub config: &'a StoreConfig,
    pub env: &'a Env,
}

impl Commands<'_> {
    fn services<'a>(&'a self, stop: &'a dyn Fn() -> bool) -> Services<'a> {
        let StoreConfig { name, service, .. } = self.config;
        Services { store: name, list: service, this: Path::new(THIS), env: self.env, stop }
    }

    pub(crate) fn start(&self, part: Part, stop: &dyn Fn() -> bool) -> Result<(), String> {
        self.services(stop).start(part).map_err(|error| error.to_string())
    }

    /// Returns whether all services that serve customers run.
    pub(crate) fn serve(&self) -> bool {
        self.stopped().is_empty()
    }

    /// Returns the services that serve customers and do not run, each with what is known of it.
    pub(crate) fn stopped(&self) -> Vec<String> {
        let last: BTreeSet<_> =
            self.config.service.iter().filter(|s| s.last).map(|s| s.name.as_str()).collect();
        let services = self.services(&|| false);
        let down = |(name, standing): (&str, Standing)| match standing {
            Standing::Running => None,
            Standing::Stopped => Some(name.to_owned()),
            Standing::Unclear(how) => Some(format!("{name} ({how})")),
        };
        let serving = services.standings().into_iter().filter(|(name, _)| !last.contains(name));
        serving.filter_map(down).collect()
    }

    /// Stops a part of the services; each that is not seen stopped is named.
    pub(crate) fn stop(&self, part: Part) -> Result<(), String> {
        let failed = self.services(&|| false).stop(part, Manner::Orderly);
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }

    /// Stops another host. Returns false where no command is configured.
    pub(crate) fn stop_host(&self, host: &WriterId) -> Result<bool, String> {
        let fence = &self.config.fence;
        let configured = Configured {
            what: "the fence of a host",
            command: &fence.command,
            user: fence.user.as_deref(),
            environment: &fence.environment,
            timeout_seconds: fence.timeout_seconds,
        };
        let store = ("UNDERSTUDY_STORE", self.config.name.to_string());
        configured.run(self.env, Path::new(THIS), vec![store, ("UNDERSTUDY_HOST", host.to_string())])?;
        Ok(!fence.command.is_empty())
    }

    /// Sends the customers here, and returns after their address shows the epoch.
    pub(crate) fn switch_edges(
        &self,
        runtime: &Handle,
        me: &WriterId,
        epoch: Epoch,
        promotion: Option<&LastPromotion>,
    ) -> Result<(), String> {
        let StoreConfig { name, edge, customer_url, member, .. } = self.config;
        let address = member.as_ref().and_then(|member| member.customers.clone());
        let Some(address) = address.or_else(|| self.listen()).filter(|_| customer_url.is_some()) else {
            return Ok(());
        };
        let context = EdgeContext { env: self.env.clone(), runtime: runtime.clone(), this: THIS.into() };
        let cause = match promotion.map(|promotion| &promotion.cause) {
            Some(Cause::Handover { .. }) => EdgeCause::Handover,
            Some(Cause::Forced { .. }) => EdgeCause::Forced,
            Some(Cause::Automatic { .. }) => EdgeCause::Automatic,
            Some(Cause::Rollback { .. }) => EdgeCause::Rollback,
            Some(Cause::Founding) | None => EdgeCause::Founding,
        };
        let from = promotion.and_then(|promotion| promotion.former.clone());
        let switch = Switch { store: name.clone(), epoch, from, to: me.clone(), address, cause };
        let edges = Edges::new(name, edge, customer_url.as_ref(), &context).map_err(|e| e.to_string())?;
        edges.switch(&switch, CUSTOMER_LIMIT).map(drop).map_err(|error| error.to_string())
    }

    /// Returns the address at which the gate listens.
    fn listen(&self) -> Option<Address> {
        self.config.gate.as_ref()?.listen.to_string().parse().ok()
    }
}
