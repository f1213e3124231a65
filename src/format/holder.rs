//! The holders of a keyring, the secrets that open it, and its opened content: the same in both versions.

use super::age::{Identity, Recipient};
use super::passphrase::{PASSPHRASES_MAX, Passphrase};
use super::seal::Key;
use super::wire::FormatError;
use crate::model::escape;
use crate::model::id::{ContentHash, StoreName};
use crate::model::record::RingRef;
use crate::support::env::Random;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const NAME_MAX_BYTES: usize = 200;

/// A holder, who can open a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    pub recipient: Recipient,
    /// The holder's identity, under a passphrase.
    pub passphrase: Option<Passphrase>,
}

/// A holder as seen without a key; nothing vouches for these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownHolder {
    pub name: String,
    pub is_passphrase: bool,
    /// Readable only in version 1.
    pub recipient: Option<Recipient>,
}

/// Reference to an earlier keyring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlierRing {
    pub sequence: u32,
    pub hash: ContentHash,
    /// Number of data keys in it.
    pub keys: u32,
}

/// An opened keyring.
#[derive(Clone, Debug)]
pub struct Opened {
    pub version: u8,
    pub reference: RingRef,
    pub master: Key,
    /// The data keys, the oldest first.
    pub generations: Vec<Key>,
    pub holders: Vec<Holder>,
    /// The identity that opened it.
    pub identity: Identity,
    pub slot: usize,
    /// The holder who made it, as proven to the holder who opened it; none in version 1.
    pub maker: Option<usize>,
    /// The earlier keyrings, as far as this one lists them.
    pub before: Vec<EarlierRing>,
}

/// A caller's means to open keyrings.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    pub identities: Vec<Identity>,
    pub passphrase: Option<Zeroizing<String>>,
}

pub fn key(random: &dyn Random) -> Key {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(bytes.as_mut());
    Key(bytes)
}

/// Returns whether a holder may have this name.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.chars().any(escape::is_steering)
}

impl Holder {
    pub(crate) fn of_recipient(name: &str, recipient: &Recipient) -> Self {
        Self { name: name.to_owned(), recipient: *recipient, passphrase: None }
    }

    /// Makes a holder who has a passphrase, and the identity that it opens.
    pub(crate) fn of_passphrase(
        name: &str,
        passphrase: &str,
        random: &dyn Random,
    ) -> Result<(Self, Identity), FormatError> {
        let (passphrase, identity) = Passphrase::close(passphrase, random)?;
        let recipient = identity.recipient();
        Ok((Self { name: name.to_owned(), recipient, passphrase: Some(passphrase) }, identity))
    }
}

/// Content of a new keyring.
pub struct RingPlan<'a> {
    pub store: &'a StoreName,
    pub holders: &'a [Holder],
    pub master: &'a Key,
    /// The data keys, the oldest first.
    pub generations: &'a [Key],
    /// The keyring that it follows.
    pub before: Option<&'a Opened>,
}

impl Opened {
    /// Returns the reference by which the next keyring lists this one.
    pub(crate) fn as_before(&self) -> EarlierRing {
        let RingRef { sequence, hash } = self.reference;
        EarlierRing { sequence, hash, keys: self.generations.len() as u32 }
    }

    /// Returns the number of data keys of keyring `named`, if it is this one or one that this one lists.
    pub(crate) fn keys_of(&self, named: &RingRef) -> Option<u32> {
        let own = self.as_before();
        let mut known = self.before.iter().chain([&own]);
        known.find(|ring| (ring.sequence, ring.hash) == (named.sequence, named.hash)).map(|ring| ring.keys)
    }
}

/// Finds the slot of one of these identities, else the one that the passphrase opens.
pub(super) fn find_slot<'a>(
    secrets: &Secrets,
    fits: impl Fn(&Identity) -> Option<usize>,
    passphrases: impl Iterator<Item = &'a Passphrase>,
) -> Result<(Identity, usize), FormatError> {
    let fitting = |identity: &Identity| Some((identity.clone(), fits(identity)?));
    if let Some(found) = secrets.identities.iter().find_map(fitting) {
        return Ok(found);
    }
    let words = secrets.passphrase.as_ref().ok_or(FormatError::Tampered)?;
    let opened = passphrases.take(PASSPHRASES_MAX).find_map(|slot| slot.open(words).ok());
    opened.as_ref().and_then(fitting).ok_or(FormatError::Tampered)
}
