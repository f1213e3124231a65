//! The holders of a keyring, the secrets that open it, and what it opens to: the same in both versions.

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

/// One who may open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    pub recipient: Recipient,
    /// Its identity, under a passphrase.
    pub passphrase: Option<Passphrase>,
}

/// A holder as whoever has no key sees it: what is said here nobody vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub is_passphrase: bool,
    /// Readable in version 1 alone.
    pub recipient: Option<Recipient>,
}

/// A keyring before this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    pub sequence: u32,
    pub hash: ContentHash,
    /// How many data keys it has.
    pub keys: u32,
}

/// What a keyring opens to.
#[derive(Clone, Debug)]
pub struct Opened {
    pub version: u8,
    pub reference: RingRef,
    pub master: Key,
    /// The oldest first.
    pub generations: Vec<Key>,
    pub holders: Vec<Holder>,
    /// What opened it, and whose slot that is.
    pub identity: Identity,
    pub slot: usize,
    /// Who made it, as was proven to whoever opened it; none in version 1.
    pub maker: Option<usize>,
    /// The keyrings before, as far as they are told of.
    pub before: Vec<Before>,
}

/// What a caller has to open keyrings with.
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

/// Whether a holder may be called so.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.chars().any(escape::is_steering)
}

impl Holder {
    pub fn of_recipient(name: &str, recipient: &Recipient) -> Self {
        Self { name: name.to_owned(), recipient: *recipient, passphrase: None }
    }

    /// One who has a passphrase, and the identity that it opens.
    pub fn of_passphrase(
        name: &str,
        passphrase: &str,
        random: &dyn Random,
    ) -> Result<(Self, Identity), FormatError> {
        let (passphrase, identity) = Passphrase::close(passphrase, random)?;
        let recipient = identity.recipient();
        Ok((Self { name: name.to_owned(), recipient, passphrase: Some(passphrase) }, identity))
    }
}

/// What a new keyring is to be.
pub struct Plan<'a> {
    pub store: &'a StoreName,
    pub holders: &'a [Holder],
    pub master: &'a Key,
    /// The oldest first.
    pub generations: &'a [Key],
    /// The keyring that it follows.
    pub before: Option<&'a Opened>,
}

impl Opened {
    /// As the next one tells of it.
    pub fn as_before(&self) -> Before {
        let RingRef { sequence, hash } = self.reference;
        Before { sequence, hash, keys: self.generations.len() as u32 }
    }

    /// The keyring that is named, if it is this one or one that this one tells of: how many data keys it has.
    pub fn keys_of(&self, named: &RingRef) -> Option<u32> {
        let own = self.as_before();
        let mut known = self.before.iter().chain([&own]);
        known.find(|ring| (ring.sequence, ring.hash) == (named.sequence, named.hash)).map(|ring| ring.keys)
    }
}

/// The slot of one of these identities, else the one that the passphrase opens.
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
