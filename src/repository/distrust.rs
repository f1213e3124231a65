//! The reasons for which a keyring is refused.

use thiserror::Error;

/// A reason for which a keyring is refused: see `trust`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Distrust {
    #[error(
        "it is older than the keyring that this host accepted, which is missing now: the keyring was rolled back"
    )]
    Older,
    #[error("it differs from the keyring that this host accepted under this number")]
    Exchanged,
    #[error("it lacks data keys of the previous keyring")]
    Keys,
    #[error("it does not prove who made it, but the previous keyring does")]
    Version,
    #[error("it does not name the previous keyring")]
    Chain,
    #[error("its maker '{0}' held no key to the previous keyring")]
    Maker(String),
    #[error(
        "no key here opens keyring {0}, which leads to it; this happens when a key was removed and added again. If its holders are the right ones, give --trust-keyring once to accept it"
    )]
    Gap(u32),
    #[error("too many keyrings lead to it to be checked")]
    Long,
}
