//! The steps of a failover that touch the world, in the form in which they change nothing.

use super::report::{Form, SiteError, Step};
use crate::edge::context::EdgeContext;
use crate::edge::edges::Edges;
use crate::model::id::Epoch;
use crate::repository::store::Store;
use crate::service::agents::gate::StoreGate;
use crate::service::config::StoreConfig;
use crate::service::host::Host;
use crate::support::child::THIS;
use crate::support::configured::Configured;
use crate::support::env::Env;
use std::path::Path;

/// Where they are tried.
pub(crate) struct World<'a> {
    pub host: &'a Host,
    pub store: &'a Store,
    pub config: &'a StoreConfig,
}

/// Measures a step.
pub(super) fn timed(
    env: &Env,
    step: &str,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<Step, SiteError> {
    let begun = env.stopwatch();
    work().map_err(|how| SiteError::Step { step: step.to_owned(), how })?;
    Ok(Step { step: step.to_owned(), form: Form::Dry, seconds: begun.seconds() })
}

impl World<'_> {
    /// Returns what the edges' clients are made of.
    fn edges(&self) -> Result<Edges, String> {
        let config = self.config;
        let context = EdgeContext {
            env: self.host.env().clone(),
            runtime: self.host.runtime.clone(),
            this: THIS.into(),
        };
        Edges::new(&config.name, &config.edge, config.customer_url.as_ref(), &context)
            .map_err(|error| error.to_string())
    }

    /// Returns the epoch that the edges have; none where there is none, or it is not known.
    pub fn epoch_at_edges(&self) -> Option<Epoch> {
        self.edges().ok()?.epoch_there().ok()?
    }

    /// Tries what comes before the store's own files: the record in the log, the former primary's end, the gate.
    pub fn before(&self, not_proven: &mut Vec<String>) -> Result<Vec<Step>, SiteError> {
        let (env, config) = (self.host.env(), self.config);
        let mut steps = Vec::new();
        // As a record is created, and one more request or two.
        let append = || self.store.repository().probe().map_err(|error| error.to_string());
        steps.push(timed(env, "log", append)?);
        let site = &config.drill.site;
        match (config.fence.command.is_empty(), site.fence_test.is_empty()) {
            (_, false) => steps.push(timed(env, "fence", || self.fence_test())?),
            (false, true) => not_proven.push(
                "the fence's command: no `fence_test` in [store.drill.site] shows that it would work".into(),
            ),
            (true, true) => {}
        }
        let setup = config.guard().map_err(|error| SiteError::Impossible(error.to_string()))?;
        if let Some(setup) = setup {
            steps.push(timed(env, "gate's address", || StoreGate::may_begin(&setup))?);
        }
        Ok(steps)
    }

    /// Tries what comes after the store serves: the edges.
    pub fn after(&self) -> Result<Option<Step>, SiteError> {
        if self.config.edge.is_empty() {
            return Ok(None);
        }
        let test = || self.edges()?.test().map_err(|error| error.to_string());
        timed(self.host.env(), "edge", test).map(Some)
    }

    fn fence_test(&self) -> Result<(), String> {
        let (fence, site) = (&self.config.fence, &self.config.drill.site);
        let configured = Configured {
            what: "the test of a fence",
            command: &site.fence_test,
            user: fence.user.as_deref(),
            environment: &fence.environment,
            timeout_seconds: fence.timeout_seconds,
        };
        let store = ("UNDERSTUDY_STORE", self.config.name.to_string());
        configured.run(self.host.env(), Path::new(THIS), vec![store]).map(drop)
    }
}
