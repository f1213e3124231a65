//! Access to one distribution and its key: what a switch, what follows it and a setup have in common.
//!
//! Each change carries the version that was read after the epochs were compared. One that was refused because
//! another change came between is tried again from the reading.

use super::control::Control;
use super::distribution::mark_of;
use super::names::{FunctionName, StoreKey};
use super::store::KeyValueStore;
use crate::edge::aws::client::{AwsClient, CallFailure};
use crate::edge::aws::credentials::Place;
use crate::edge::config::{CloudfrontConfig, OriginConfig};
use crate::edge::context::{Deadline, EdgeContext};
use crate::edge::error::EdgeError;
use crate::edge::mark::Mark;
use crate::edge::switch::{Switch, There, Verdict, judge_or_fence};
use crate::model::id::StoreName;
use std::time::Duration;

/// Maximum number of tries of an update that is refused because another one came between.
pub(crate) const TRIES: u32 = 5;
/// The longest wait before such a try.
const AGAIN_MAX: Duration = Duration::from_millis(300);

/// A distribution, and its key in a key value store.
pub(crate) struct Access {
    pub name: String,
    pub config: CloudfrontConfig,
    pub function: FunctionName,
    pub control: Control,
    pub key_value_store: Option<KeyValueStore>,
    pub client: AwsClient,
    pub limit: Duration,
    pub context: EdgeContext,
}

impl Access {
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
        Ok(Self { name, config, function, control, key_value_store, client, limit, context })
    }

    /// Returns the origin of the host of a switch.
    pub fn origin_of(&self, switch: &Switch) -> Result<&OriginConfig, EdgeError> {
        let found = self.config.origins.iter().find(|origin| origin.host == switch.to.0);
        found.ok_or_else(|| {
            let reason = format!("`origins` names no origin of host '{}'", switch.to);
            EdgeError::wrong(&self.name, reason)
        })
    }

    pub fn error(&self, what: &str) -> impl Fn(CallFailure) -> EdgeError {
        move |failure| failure.into_error(&self.name, what)
    }

    /// Returns what the distribution holds.
    pub fn distribution_there(&self, deadline: &Deadline) -> Result<There, EdgeError> {
        let (distribution, _) =
            self.control.config(&self.client, deadline).map_err(self.error("reading the distribution"))?;
        distribution.there(&self.config.origins).map_err(|reason| EdgeError::refused(&self.name, reason))
    }

    /// Waits a little before another try, so that two hosts do not go on in step.
    pub fn wait(&self) {
        let part = u32::try_from(self.context.env.nonce() % 256).unwrap_or(0);
        self.context.env.sleep(AGAIN_MAX / 256 * part);
    }

    /// Gives the key its mark, unless it holds one that is not older.
    pub fn switch_key(
        &self,
        keys: &KeyValueStore,
        wanted: &Mark,
        deadline: &Deadline,
    ) -> Result<(), EdgeError> {
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
    pub fn update(&self, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
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
        Ok(judge_or_fence(&self.name, &there, wanted)? == Verdict::Done)
    }
}

/// Returns whether another change came between.
pub(crate) fn is_outdated(failure: &CallFailure) -> bool {
    let words = ["PreconditionFailed", "InvalidIfMatchVersion"];
    failure.is(412) || matches!(failure, CallFailure::Refused { code, .. } if words.contains(&code.as_str()))
}

/// Returns the function's name where none is configured.
fn default_function(store: &StoreName) -> Result<FunctionName, String> {
    FunctionName::parse(&format!("understudy-{}", store.as_str().replace('.', "_")))
        .map_err(|reason| format!("`function`: {reason}"))
}
