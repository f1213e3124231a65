//! What the commands ask the daemon about a store's failover.

use crate::api::failover::FailoverStatus;
use crate::cli::context::Context;
use crate::cli::error::{LocalError, Result, UsageError};
use crate::cli::remote::Remote;
use crate::model::id::StoreName;
use url::form_urlencoded::Serializer;

/// The daemon, asked about one store.
pub(super) struct Link<'a> {
    remote: &'a Remote<'a>,
    pub store: StoreName,
}

/// Returns this host's daemon.
///
/// # Errors
/// None is running.
pub(super) fn daemon(context: &Context) -> Result<Remote<'_>> {
    Remote::find(context).ok_or_else(|| {
        let text = "no daemon with this configuration runs on this host, and a failover is the daemon's work; start it (`understudy run`)";
        LocalError::new(text).into()
    })
}

impl<'a> Link<'a> {
    pub(super) fn new(remote: &'a Remote<'a>, store: &StoreName) -> Self {
        Self { remote, store: store.clone() }
    }

    pub(super) fn status(&self) -> Result<FailoverStatus> {
        self.remote.get(&format!("/api/v1/stores/{}/failover", self.store))
    }

    /// Returns the status of a store that has an agent here.
    ///
    /// # Errors
    /// It has none; the text says why.
    pub(super) fn agent_status(&self) -> Result<FailoverStatus> {
        let status = self.status()?;
        match &status.no_agent {
            Some(why) => {
                Err(UsageError(format!("store '{}' has no failover here: {why}", self.store)).into())
            }
            None => Ok(status),
        }
    }

    /// Sends a request with these parameters; those without a value are left out.
    pub(super) fn post(&self, what: &str, parameters: &[(&str, Option<String>)]) -> Result<FailoverStatus> {
        self.remote.post(&self.path(what, parameters))
    }

    /// Asks with these parameters; those without a value are left out.
    pub(super) fn get(&self, what: &str, parameters: &[(&str, Option<String>)]) -> Result<FailoverStatus> {
        self.remote.get(&self.path(what, parameters))
    }

    fn path(&self, what: &str, parameters: &[(&str, Option<String>)]) -> String {
        let mut query = Serializer::new(String::new());
        for (name, value) in parameters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        format!("/api/v1/stores/{}/{what}?{}", self.store, query.finish())
    }
}
