//! Keyrings of version 1, which earlier versions made.
//!
//! They do not prove who made them: anyone who knows the recipients, which are in the clear, could have. They
//! are still read; every change of one makes a keyring of version 2.

use super::age::{self, Identity, Recipient};
use super::holder::{Holder, Opened, Secrets, ShownHolder, find_slot};
use super::passphrase::Passphrase;
use super::seal::{Key, Sealer};
use super::wire::FormatError;
use crate::model::id::{ContentHash, StoreName};
use crate::model::record::RingRef;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const SLOTS_MAX: usize = 100;
const GENERATIONS_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    name: String,
    /// The public key, `age1…`.
    recipient: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passphrase: Option<Passphrase>,
}

/// A keyring as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keyring {
    version: u8,
    pub store: StoreName,
    pub sequence: u32,
    slots: Vec<Slot>,
    master: String,
    salt: String,
    keys: String,
}

fn bytes(text: &str) -> Result<Vec<u8>, FormatError> {
    STANDARD_NO_PAD.decode(text).map_err(|_| FormatError::Range("a keyring's field"))
}

impl Keyring {
    pub(crate) fn shown(&self) -> Vec<ShownHolder> {
        let shown = |slot: &Slot| ShownHolder {
            name: slot.name.clone(),
            is_passphrase: slot.passphrase.is_some(),
            recipient: Recipient::parse(&slot.recipient).ok(),
        };
        self.slots.iter().map(shown).collect()
    }

    fn sealer(&self, master: &Key, salt: &[u8]) -> Result<Sealer, FormatError> {
        let mut hasher = blake3::Hasher::new_keyed(&master.0);
        let hash = hasher.update(b"understudy keyring 1").update(salt).finalize();
        Sealer::new(&Zeroizing::new(*hash.as_bytes()))
    }

    /// Returns the associated data that the seal of the data keys also covers.
    fn covered(&self) -> Vec<u8> {
        serde_json::to_vec(&(self.version, &self.store, self.sequence, &self.slots)).unwrap_or_default()
    }

    pub fn open(&self, secrets: &Secrets, hash: ContentHash) -> Result<Opened, FormatError> {
        let fits = |identity: &Identity| {
            let recipient = identity.recipient().to_string();
            self.slots.iter().position(|slot| slot.recipient == recipient)
        };
        let passphrases = self.slots.iter().filter_map(|slot| slot.passphrase.as_ref());
        let (identity, slot) = find_slot(secrets, fits, passphrases)?;
        let master = age::open(&bytes(&self.master)?, std::slice::from_ref(&identity))?;
        let master = Key::new(master.as_slice().try_into().map_err(|_| FormatError::Tampered)?);
        let sealer = self.sealer(&master, &bytes(&self.salt)?)?;
        let keys = Zeroizing::new(sealer.open(0, &self.covered(), &bytes(&self.keys)?)?);
        let (keys, rest) = keys.as_chunks::<32>();
        if !rest.is_empty() || keys.is_empty() || keys.len() > GENERATIONS_MAX {
            return Err(FormatError::Range("data keys"));
        }
        let holder = |slot: &Slot| {
            let (name, passphrase) = (slot.name.clone(), slot.passphrase.clone());
            Ok(Holder { name, recipient: Recipient::parse(&slot.recipient)?, passphrase })
        };
        Ok(Opened {
            version: 1,
            reference: RingRef { sequence: self.sequence, hash },
            master,
            generations: keys.iter().map(|key| Key::new(*key)).collect(),
            holders: self.slots.iter().map(holder).collect::<Result<_, FormatError>>()?,
            identity,
            slot,
            maker: None,
            before: Vec::new(),
        })
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Keyring, FormatError> {
    let ring: Keyring = serde_json::from_slice(bytes).map_err(|e| FormatError::Text(e.to_string()))?;
    match ring.version {
        1 if ring.slots.len() > SLOTS_MAX => Err(FormatError::Range("slots")),
        1 if ring.sequence == 0 => Err(FormatError::Range("a keyring's number")),
        1 => Ok(ring),
        found => Err(FormatError::Version { found, known: 2 }),
    }
}
