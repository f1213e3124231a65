//! Why a member's request was not answered: at the host that was asked, and at the one that asks.

use super::question::ASK_MAX_BYTES;
use crate::model::escape;
use crate::model::id::WriterId;
use crate::support::failure::{Failure, FailureKind};
use thiserror::Error;

/// Reason why a request is not answered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AskError {
    #[error("the request has more than {ASK_MAX_BYTES} bytes")]
    TooLarge,
    #[error("this is no request of a member; members of another version may ask in another form")]
    Unreadable,
    /// What it lacks is not said to somebody who may be no member.
    #[error("no member that may serve a store of this host signed this request")]
    Stranger,
    #[error("'{}' is asked, and this is '{me}'; see the address of '{}' in the list of members", escape::line(&asked.0), escape::line(&asked.0))]
    AnotherHost { asked: WriterId, me: WriterId },
    #[error(
        "the request is too old, or the clock of the host that asks is ahead; see whether both clocks are right, and ask again"
    )]
    NotNew,
    #[error("this request was heard already")]
    Again,
    #[error("too many requests within a minute; ask again later")]
    TooMany,
    #[error("the person who asks has no name of 1 to 200 bytes without control characters")]
    Person,
    #[error("the store's agent did not answer; it may be ending")]
    NoAgent,
}

impl Failure for AskError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::TooLarge | Self::Unreadable | Self::Stranger | Self::Person => FailureKind::Usage,
            Self::AnotherHost { .. } => FailureKind::Missing,
            Self::NotNew | Self::Again => FailureKind::Held,
            Self::TooMany | Self::NoAgent => FailureKind::Unavailable,
        }
    }
}

/// Reason why a member did not answer.
#[derive(Debug, Error)]
pub enum PeerError {
    #[error("member '{}' has no address; set `address` under [store.member] there, and let it join again", escape::line(&member.0))]
    NoAddress { member: WriterId },
    #[error("member '{}': its address '{}' is no host and port", escape::line(&member.0), escape::line(address))]
    Address { member: WriterId, address: String },
    #[error("member '{}' at {address}: {how}", escape::line(&member.0))]
    NoAnswer { member: WriterId, address: String, how: String },
    #[error("member '{}' at {address} refuses: {}", escape::line(&member.0), escape::line(how))]
    Refused { member: WriterId, address: String, how: String },
    #[error("member '{}' at {address}: its key did not sign this answer; another program may answer there, or the member has a new key", escape::line(&member.0))]
    Forged { member: WriterId, address: String },
    #[error("no requests to members can be made: {0}")]
    Client(String),
}

impl Failure for PeerError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::NoAddress { .. } | Self::Address { .. } => FailureKind::Usage,
            Self::NoAnswer { .. } => FailureKind::Unavailable,
            Self::Refused { .. } | Self::Forged { .. } | Self::Client(_) => FailureKind::Failed,
        }
    }
}
