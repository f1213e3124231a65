//! The reasons for which a keyring is refused.

use thiserror::Error;

/// A reason for which a keyring is refused: see `trust`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Distrust {
    #[error(
        "it is older than the one that this host took, which is not there any more: the keyring was rolled back"
    )]
    Older,
    #[error("it is another one than this host took under that number")]
    Exchanged,
    #[error("it does not have the data keys of the one before")]
    Keys,
    #[error("it does not prove who made it, and the one before does")]
    Version,
    #[error("it does not name the one before")]
    Chain,
    #[error("'{0}', who made it, held no key to the one before")]
    Maker(String),
    #[error(
        "nothing here opens keyring {0}, which leads to it, as where a key was removed and added again. Where its holders are who they should be, --trust-keyring goes on with it, once"
    )]
    Gap(u32),
    #[error("more keyrings lead to it than are looked at")]
    Long,
}
