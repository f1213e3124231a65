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

pub(crate) mod control;
pub(crate) mod distribution;
pub(crate) mod function;
pub mod names;
pub(crate) mod needs;
pub(crate) mod settle;
pub mod setup;
pub(crate) mod store;

use super::aws::client::{AwsClient, CallFailure};
use super::aws::credentials::Place;
use super::config::{CloudfrontConfig, OriginConfig};
use super::context::{Deadline, EdgeContext};
use super::error::EdgeError;
use super::held::Held;
use super::mark::Mark;
use super::switch::{Edge, Finding, Switch, There, Verdict};
use crate::model::id::StoreName;
use control::Control;
use distribution::mark_of;
use names::{FunctionName, StoreKey};
use std::sync::Arc;
use std::time::Duration;
use store::KeyValueStore;

/// Maximum number of tries of an update that is refused because another one came between.
const TRIES: u32 = 5;
/// The longest wait before such a try.
const AGAIN_MAX: Duration = Duration::from_millis(300);

/// An edge of kind `cloudfront`.
pub struct CloudfrontEdge(Arc<Inner>);

pub(crate) struct Inner {
    name: String,
    config: CloudfrontConfig,
    function: FunctionName,
    control: Control,
    key_value_store: Option<KeyValueStore>,
    client: AwsClient,
    limit: Duration,
    context: EdgeContext,
}

impl CloudfrontEdge {
    pub fn new(
        store: &StoreName,
        config: CloudfrontConfig,
        limit: Duration,
        context: &EdgeContext,
    ) -> Result<Self, EdgeError> {
        let name = format!("edge cloudfront {}", config.distribution);
        let wrong = |reason: String| EdgeError::wrong(&name, reason);
        let endpoint = config.endpoint.as_ref().map(|endpoint| endpoint.url());
        let control = Control::new(config.distribution.clone(), endpoint).map_err(wrong)?;
        let key = config.key.clone().map_or_else(|| StoreKey::parse(store.as_str()), Ok).map_err(wrong)?;
        let function = config.function.clone();
        let function = function.map_or_else(|| default_function(store), Ok).map_err(wrong)?;
        let arn = config.key_value_store.clone();
        let key_value_store =
            arn.map(|arn| KeyValueStore::new(arn, key, endpoint)).transpose().map_err(wrong)?;
        let place = Place { file: config.credentials_file.clone(), profile: config.profile.clone() };
        let client = AwsClient::new(place, context).map_err(wrong)?;
        let context = context.clone();
        let inner = Inner { name, config, function, control, key_value_store, client, limit, context };
        Ok(Self(Arc::new(inner)))
    }
}

/// Returns the function's name where none is configured.
fn default_function(store: &StoreName) -> Result<FunctionName, String> {
    FunctionName::parse(&format!("understudy-{}", store.as_str().replace('.', "_")))
        .map_err(|reason| format!("`function`: {reason}"))
}

impl Inner {
    /// Returns the origin of the host of a switch.
    fn origin_of(&self, switch: &Switch) -> Result<&OriginConfig, EdgeError> {
        let found = self.config.origins.iter().find(|origin| origin.host == switch.to.0);
        found.ok_or_else(|| {
            let reason = format!("`origins` names no origin of host '{}'", switch.to);
            EdgeError::wrong(&self.name, reason)
        })
    }

    fn error(&self, what: &str) -> impl Fn(CallFailure) -> EdgeError {
        move |failure| failure.into_error(&self.name, what)
    }

    /// Returns what the distribution holds.
    fn distribution_there(&self, deadline: &Deadline) -> Result<There, EdgeError> {
        let (distribution, _) =
            self.control.config(&self.client, deadline).map_err(self.error("reading the distribution"))?;
        distribution.there(&self.config.origins).map_err(|reason| EdgeError::refused(&self.name, reason))
    }

    /// Waits a little before another try, so that two hosts do not go on in step.
    fn wait(&self) {
        let part = u32::try_from(self.context.env.nonce() % 256).unwrap_or(0);
        self.context.env.sleep(AGAIN_MAX / 256 * part);
    }

    /// Gives the key its mark, unless it holds one that is not older.
    fn switch_key(&self, keys: &KeyValueStore, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        loop {
            // The version is read first: what is read after it is at least as new.
            let etag =
                keys.etag(&self.client, deadline).map_err(self.error("reading the key value store"))?;
            let mark = keys.mark(&self.client, deadline).map_err(self.error("reading the key"))?;
            if self.is_done(There { mark, is_whole: true }, wanted)? {
                return Ok(());
            }
            match keys.put(&self.client, wanted, &etag, deadline) {
                Ok(_) => return Ok(()),
                // Any other key of the store may have changed.
                Err(failure) if failure.is(409) || failure.is(412) => {
                    deadline.left(&self.name, self.limit)?;
                    self.wait();
                }
                Err(failure) => return Err(failure.into_error(&self.name, "writing the key")),
            }
        }
    }

    /// Changes the distribution's target and the header of its origin, unless it holds a mark that is not older.
    fn update(&self, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        let refused = |reason: String| EdgeError::refused(&self.name, reason);
        let to = self
            .config
            .origins
            .iter()
            .find(|origin| mark_of(origin, wanted.epoch).is_ok_and(|mark| mark == *wanted));
        let to = to.ok_or_else(|| refused(format!("`origins` names none for {wanted}")))?;
        let mut tries = 0;
        loop {
            let (distribution, etag) = self
                .control
                .config(&self.client, deadline)
                .map_err(self.error("reading the distribution"))?;
            let there = distribution.there(&self.config.origins).map_err(refused)?;
            if self.is_done(there, wanted)? {
                return Ok(());
            }
            let text = distribution.switched(&self.config.origins, to, wanted.epoch).map_err(refused)?;
            match self.control.update(&self.client, text, &etag, deadline) {
                Ok(()) => return Ok(()),
                Err(failure) if is_outdated(&failure) && tries < TRIES => {
                    tries += 1;
                    self.wait();
                }
                Err(failure) => return Err(failure.into_error(&self.name, "updating the distribution")),
            }
        }
    }

    fn is_done(&self, there: There, wanted: &Mark) -> Result<bool, EdgeError> {
        Ok(super::switch::judge_or_fence(&self.name, &there, wanted)? == Verdict::Done)
    }
}

/// Returns whether another change came between.
fn is_outdated(failure: &CallFailure) -> bool {
    let words = ["PreconditionFailed", "InvalidIfMatchVersion"];
    failure.is(412) || matches!(failure, CallFailure::Refused { code, .. } if words.contains(&code.as_str()))
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

    fn setup(&self, apply: bool) -> Result<Vec<String>, EdgeError> {
        setup::setup(&self.0, apply)
    }
}
