//! The reasons for which a keyring is not changed.

use crate::format::passphrase::PASSPHRASES_MAX;
use crate::model::escape;
use crate::support::failure::{Failure, FailureKind};

/// A reason for which the keys of a store stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum KeyChange {
    #[error("there is a key '{}' already, or one that opens with the same secret", escape::line(.0))]
    Exists(String),
    #[error("there is no key '{}'; `understudy key list` shows them", escape::line(.0))]
    Missing(String),
    #[error("'{}' is the only key: without it nobody could open the store. Add another first", escape::line(.0))]
    Last(String),
    #[error("'{}' cannot be a key's name: 1 to 200 bytes, without control characters", escape::line(.0))]
    Name(String),
    #[error(
        "that is the key that is used here, and the holder who is removed cannot say who is left. Use another key (--key-file)"
    )]
    Own,
    #[error(
        "at most {PASSPHRASES_MAX} passphrases open a store: remove one first (`understudy key remove`), or add a key file or a recipient, of which there may be more"
    )]
    Passphrases,
    #[error("somebody else changed the keys meanwhile: try again")]
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
