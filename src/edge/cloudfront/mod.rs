//! CloudFront: which of the store's hosts its points of presence ask.
//!
//! With a key value store a switch is one key that a function reads at each request, which takes seconds. The
//! distribution itself follows afterwards, in the background and not on the clock: it is what holds where the
//! key cannot be read. Without a key value store a switch is the distribution's update, which takes minutes to
//! reach all points of presence.
//!
//! Why it is safe: each change carries the version that was read (`If-Match`) after the epochs were compared, so
//! of two hosts that switch at once one is refused, reads again, and is fenced if it is the older. The epoch is
//! also a header of each request to a host: a gate of an older epoch answers 503.
//!
//! What can race: two processes that settle one distribution. Each compares the epochs before each change.

pub(crate) mod access;
pub(crate) mod control;
pub(crate) mod distribution;
pub(crate) mod function;
pub mod names;
pub(crate) mod needs;
pub(crate) mod settle;
pub(crate) mod setup;
pub(crate) mod store;

use super::config::CloudfrontConfig;
use super::context::{Deadline, EdgeContext};
use super::error::EdgeError;
use super::held::Held;
use super::mark::Mark;
use super::switch::{Edge, Finding, Setup, Switch, There};
use crate::model::id::StoreName;
use access::Access;
use distribution::mark_of;
use std::sync::Arc;
use std::time::Duration;

/// An edge of kind `cloudfront`.
pub struct CloudfrontEdge(Arc<Access>);

impl CloudfrontEdge {
    pub fn new(
        store: &StoreName,
        config: CloudfrontConfig,
        limit: Duration,
        context: &EdgeContext,
    ) -> Result<Self, EdgeError> {
        Ok(Self(Arc::new(Access::new(store, config, limit, context)?)))
    }
}

impl Edge for CloudfrontEdge {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn deadline(&self) -> Deadline {
        Deadline::of(&self.0.context.env, self.0.limit)
    }

    fn hold(&self, _: &Deadline) -> Result<Option<Held>, EdgeError> {
        Ok(None)
    }

    /// The address in the mark is the origin's, as customers' requests go there.
    fn wanted(&self, switch: &Switch) -> Result<Mark, EdgeError> {
        let origin = self.0.origin_of(switch)?;
        mark_of(origin, switch.epoch).map_err(|reason| EdgeError::wrong(&self.0.name, reason))
    }

    fn there(&self, deadline: &Deadline) -> Result<Option<There>, EdgeError> {
        let Some(keys) = &self.0.key_value_store else {
            return self.0.distribution_there(deadline).map(Some);
        };
        let mark = keys.mark(&self.0.client, deadline).map_err(self.0.error("reading the key"))?;
        Ok(Some(There { is_whole: mark.is_some(), mark }))
    }

    fn apply(&self, _: &Switch, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        match &self.0.key_value_store {
            Some(keys) => self.0.switch_key(keys, wanted, deadline),
            None => self.0.update(wanted, deadline),
        }
    }

    fn settle(&self, wanted: &Mark) {
        settle::begin(&self.0, wanted);
    }

    fn test(&self) -> Result<(), EdgeError> {
        match self.check().into_iter().find(|finding| finding.is_wrong) {
            Some(finding) => Err(EdgeError::refused(&self.0.name, finding.what)),
            None => Ok(()),
        }
    }

    fn check(&self) -> Vec<Finding> {
        setup::check(&self.0)
    }

    fn setup(&self, what: &Setup) -> Result<Vec<String>, EdgeError> {
        setup::setup(&self.0, what)
    }
}
