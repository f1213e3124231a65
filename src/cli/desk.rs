//! A store, and this host as one of its members: for the commands that decide.

use super::Global;
use super::context::Context;
use super::error::{Result, UsageError};
use crate::model::id::{StoreName, WriterId};
use crate::model::record::StoreState;
use crate::repository::decide::Maker;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::service::config::MemberConfig;
use crate::support::signature::SigningKey;

/// A store, and this host as one of its members.
pub(super) struct Desk {
    pub context: Context,
    pub store: Store,
    pub name: WriterId,
    pub key: SigningKey,
}

impl Desk {
    pub fn open(global: &Global, store: &StoreName) -> Result<Self> {
        let context = Context::new(global)?;
        // The key comes first: a host that has one reads the log accordingly.
        let key = context.member_key()?;
        let store = context.repository_of(store)?.store(store);
        let name = context.writer();
        Ok(Self { context, store, name, key })
    }

    pub fn maker(&self) -> Maker<'_> {
        Maker { name: &self.name, key: &self.key }
    }

    pub fn state(&self) -> Result<StoreState> {
        let state = self.store.log().state()?;
        match state.head {
            Some(_) => Ok(state),
            None => Err(RepositoryError::NoStore(self.store.name().clone()).into()),
        }
    }

    /// Returns what this host tells of itself.
    pub fn told(&self) -> MemberConfig {
        let config = self.context.config.store(self.store.name().as_str());
        config.and_then(|store| store.member.clone()).unwrap_or_default()
    }

    /// Refuses before anything is shown or done what the log would refuse later.
    pub fn check_may_decide(&self, state: &StoreState) -> Result<()> {
        let name = self.store.name();
        let may_decide = state.authority.check_decider(name, &self.name, &self.key.public());
        may_decide.map_err(|error| UsageError(format!("store '{name}': {error}")).into())
    }
}
