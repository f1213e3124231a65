//! Whether a host may decide about a store. Pure.

use super::authority::Authority;
use super::id::{StoreName, WriterId};
use crate::support::failure::{Failure, FailureKind};
use crate::support::signature::PublicKey;
use thiserror::Error;

/// Reason why a host may not decide about a store: the log would give its decisions no effect.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NoDecider {
    #[error("it has no members; found it on its primary: understudy member found {0}")]
    NotFounded(StoreName),
    #[error(
        "this host's key is not the one that member '{0}' joined with; another member can remove and invite it"
    )]
    OtherKey(WriterId),
    #[error("'{0}' is no member that may serve, so it cannot decide; another member can invite it")]
    MayNotServe(WriterId),
}

impl Failure for NoDecider {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

impl Authority {
    /// Checks that the host `me` with this key may decide about `store`, whose authority this is.
    ///
    /// # Errors
    /// The reason why its decisions would have no effect.
    pub fn check_decider(&self, store: &StoreName, me: &WriterId, key: &PublicKey) -> Result<(), NoDecider> {
        match self.member(me) {
            _ if !self.is_founded() => Err(NoDecider::NotFounded(store.clone())),
            Some(member) if !member.may_serve() => Err(NoDecider::MayNotServe(me.clone())),
            Some(member) if member.key != *key => Err(NoDecider::OtherKey(me.clone())),
            Some(_) => Ok(()),
            None => Err(NoDecider::MayNotServe(me.clone())),
        }
    }
}
