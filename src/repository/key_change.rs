//! The reasons for which a keyring is not changed.

use crate::format::passphrase::PASSPHRASES_MAX;
use crate::model::escape;
use crate::support::failure::{Failure, FailureKind};

/// A reason for which the keys of a store stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum KeyChange {
    #[error("key '{}' exists already, or another key has the same secret", escape::line(.0))]
    Exists(String),
    #[error("there is no key '{}'; `understudy key list` shows the keys", escape::line(.0))]
    Missing(String),
    #[error("'{}' is the only key: without it the store could not be opened. Add another key first", escape::line(.0))]
    Last(String),
    #[error("'{}' is not a valid key name: use 1 to 200 bytes without control characters", escape::line(.0))]
    Name(String),
    #[error(
        "this command uses that key itself, and a removed holder cannot decide who remains. Use another key (--key-file)"
    )]
    Own,
    #[error(
        "a store can have at most {PASSPHRASES_MAX} passphrases: remove one first (`understudy key remove`), or add a key file or a recipient, of which there may be more"
    )]
    Passphrases,
    #[error("another process changed the keys meanwhile: try again")]
    Raced,
}

impl Failure for KeyChange {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Raced => FailureKind::Unavailable,
            Self::Exists(_)
            | Self::Missing(_)
            | Self::Last(_)
            | Self::Name(_)
            | Self::Own
            | Self::Passphrases => FailureKind::Usage,
        }
    }
}
