//! A store's keyring: its data keys, sealed with a master key, which is wrapped for whoever may open it.
//!
//! ```text
//! key file, or passphrase (argon2id) ─▶ identity ─▶ master key (an age file) ─▶ data keys ─▶ every object
//! ```
//!
//! Every slot has a public key, so that a new master key is wrapped for all of them without their secrets. The seal of the data
//! keys covers the slots: nobody adds one who cannot open it.

use super::age::{self, Identity, Recipient};
use super::seal::{Key, Sealer};
use super::wire::FormatError;
use crate::model::id::StoreName;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub const KEYRING_MAX_BYTES: usize = 1 << 20;
const VERSION: u8 = 1;
const SLOTS_MAX: usize = 100;
const GENERATIONS_MAX: usize = 100_000;
/// What a new passphrase costs whoever guesses: 64 MiB, three passes.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
/// What a reader lets a keyring cost.
const MEMORY_MAX_KIB: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;

/// One who may open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    pub name: String,
    /// `age1…`
    pub recipient: String,
    /// Its identity, under a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Passphrase>,
}

/// An identity under a passphrase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passphrase {
    pub memory_kib: u32,
    pub passes: u32,
    salt: String,
    identity: String,
}

/// A keyring as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    version: u8,
    pub store: StoreName,
    /// Its number; nothing is overwritten.
    pub sequence: u32,
    pub slots: Vec<Slot>,
    master: String,
    salt: String,
    keys: String,
}

/// What a keyring opens to.
#[derive(Clone, Debug)]
pub struct Opened {
    pub master: Key,
    /// The oldest first.
    pub generations: Vec<Key>,
    /// The slot that opened it.
    pub slot: usize,
}

/// What a caller has to open keyrings with.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    pub identities: Vec<Identity>,
    pub passphrase: Option<Zeroizing<String>>,
}

/// Fills with random bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

pub fn key(random: Random) -> Key {
    let mut bytes = Zeroizing::new([0; 32]);
    random(bytes.as_mut());
    Key(bytes)
}

impl Slot {
    pub fn of_recipient(name: &str, recipient: &Recipient) -> Self {
        Self { name: name.to_owned(), recipient: recipient.to_string(), passphrase: None }
    }

    /// A slot that a passphrase opens.
    pub fn of_passphrase(name: &str, passphrase: &str, random: Random) -> Result<Self, FormatError> {
        let identity = Identity::new(*key(random).0);
        let mut salt = [0; 16];
        random(&mut salt);
        let sealer = Sealer::new(&*stretch(passphrase, &salt, MEMORY_KIB, PASSES)?)?;
        let mut sealed = identity.bytes().to_vec();
        let tag = sealer.seal(0, &[], &mut sealed)?;
        sealed.extend_from_slice(&tag);
        let passphrase = Passphrase {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            salt: STANDARD_NO_PAD.encode(salt),
            identity: STANDARD_NO_PAD.encode(sealed),
        };
        Ok(Self { passphrase: Some(passphrase), ..Self::of_recipient(name, &identity.recipient()) })
    }

    fn identity(&self, text: &str) -> Result<Identity, FormatError> {
        let slot = self.passphrase.as_ref().ok_or(FormatError::Tampered)?;
        let key = stretch(text, &decode(&slot.salt)?, slot.memory_kib, slot.passes)?;
        let bytes = Zeroizing::new(Sealer::new(&key)?.open(0, &[], &decode(&slot.identity)?)?);
        Ok(Identity::new(bytes.as_slice().try_into().map_err(|_| FormatError::Tampered)?))
    }
}

/// Argon2id, RFC 9106.
fn stretch(
    passphrase: &str,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
) -> Result<Zeroizing<[u8; 32]>, FormatError> {
    if memory_kib > MEMORY_MAX_KIB || passes > PASSES_MAX {
        return Err(FormatError::Range("the cost of a passphrase"));
    }
    let wrong = |_| FormatError::Range("the cost of a passphrase");
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(wrong)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut())
        .map_err(wrong)?;
    Ok(key)
}

impl Keyring {
    /// A keyring of these keys for these slots.
    pub fn close(
        store: &StoreName,
        sequence: u32,
        slots: Vec<Slot>,
        master: &Key,
        generations: &[Key],
        random: Random,
    ) -> Result<Self, FormatError> {
        let recipients =
            slots.iter().map(|s| Recipient::parse(&s.recipient)).collect::<Result<Vec<_>, _>>()?;
        let wrapped = age::close(&*master.0, &recipients, random)?;
        let mut salt = [0; 16];
        random(&mut salt);
        let mut ring = Self {
            version: VERSION,
            store: store.clone(),
            sequence,
            slots,
            master: STANDARD_NO_PAD.encode(wrapped),
            salt: STANDARD_NO_PAD.encode(salt),
            keys: String::new(),
        };
        let mut sealed = Zeroizing::new(generations.iter().flat_map(|k| *k.0).collect::<Vec<u8>>());
        let tag = ring.sealer(master, &salt)?.seal(0, &ring.covered(), &mut sealed)?;
        ring.keys = STANDARD_NO_PAD.encode([&sealed[..], &tag].concat());
        Ok(ring)
    }

    /// Once for each salt.
    fn sealer(&self, master: &Key, salt: &[u8]) -> Result<Sealer, FormatError> {
        Sealer::new(
            blake3::Hasher::new_keyed(&master.0)
                .update(b"understudy keyring 1")
                .update(salt)
                .finalize()
                .as_bytes(),
        )
    }

    /// What the seal of the data keys covers besides.
    fn covered(&self) -> Vec<u8> {
        serde_json::to_vec(&(self.version, &self.store, self.sequence, &self.slots)).unwrap_or_default()
    }

    /// Opens it with whatever fits.
    pub fn open(&self, secrets: &Secrets) -> Result<Opened, FormatError> {
        let mut identities = secrets.identities.clone();
        let fits = |identity: &Identity, slots: &[Slot]| {
            let recipient = identity.recipient().to_string();
            slots.iter().position(|slot| slot.recipient == recipient)
        };
        let mut slot = identities.iter().find_map(|identity| fits(identity, &self.slots));
        if slot.is_none()
            && let Some(passphrase) = &secrets.passphrase
        {
            let opened = self
                .slots
                .iter()
                .filter(|s| s.passphrase.is_some())
                .find_map(|s| s.identity(passphrase).ok());
            slot = opened.as_ref().and_then(|identity| fits(identity, &self.slots));
            identities.extend(opened);
        }
        let slot = slot.ok_or(FormatError::Tampered)?;
        let master = age::open(&decode(&self.master)?, &identities)?;
        let master = Key::new(master.as_slice().try_into().map_err(|_| FormatError::Tampered)?);
        let sealer = self.sealer(&master, &decode(&self.salt)?)?;
        let keys = Zeroizing::new(sealer.open(0, &self.covered(), &decode(&self.keys)?)?);
        let (keys, rest) = keys.as_chunks::<32>();
        if !rest.is_empty() || keys.is_empty() || keys.len() > GENERATIONS_MAX {
            return Err(FormatError::Range("data keys"));
        }
        Ok(Opened { master, generations: keys.iter().map(|k| Key::new(*k)).collect(), slot })
    }
}

fn decode(text: &str) -> Result<Vec<u8>, FormatError> {
    STANDARD_NO_PAD.decode(text).map_err(|_| FormatError::Range("a keyring's field"))
}

pub fn encode(ring: &Keyring) -> Vec<u8> {
    serde_json::to_vec_pretty(ring).unwrap_or_default()
}

pub fn decode_ring(bytes: &[u8]) -> Result<Keyring, FormatError> {
    let ring: Keyring = serde_json::from_slice(bytes).map_err(|e| FormatError::Text(e.to_string()))?;
    if ring.version != VERSION {
        return Err(FormatError::Version { found: ring.version, known: VERSION });
    }
    if ring.slots.len() > SLOTS_MAX {
        return Err(FormatError::Range("slots"));
    }
    Ok(ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyring_opens_for_its_slots_and_notices_every_change() {
        let mut reader = blake3::Hasher::new().finalize_xof();
        let mut random = |bytes: &mut [u8]| reader.fill(bytes);
        let store = StoreName::parse("acme").unwrap();
        let [file, friend, stranger] = [1, 2, 3].map(|n| Identity::new([n; 32]));
        let slots = vec![
            Slot::of_recipient("file", &file.recipient()),
            Slot::of_recipient("friend", &friend.recipient()),
            Slot::of_passphrase("words", "correct horse", &mut random).unwrap(),
        ];
        let (master, data) = (key(&mut random), [key(&mut random), key(&mut random)]);
        let ring = Keyring::close(&store, 4, slots, &master, &data, &mut random).unwrap();
        let ring = decode_ring(&encode(&ring)).unwrap();
        let with = |identity: &Identity| Secrets { identities: vec![identity.clone()], passphrase: None };
        let words = |text: &str| Secrets {
            identities: vec![stranger.clone()],
            passphrase: Some(text.to_owned().into()),
        };
        for (slot, secrets) in [with(&file), with(&friend), words("correct horse")].iter().enumerate() {
            let opened = ring.open(secrets).unwrap();
            assert_eq!(opened.slot, slot);
            assert!(
                opened.generations.iter().zip(&data).all(|(a, b)| a.0 == b.0)
                    && opened.generations.len() == 2
            );
        }
        assert!(ring.open(&with(&stranger)).is_err() && ring.open(&words("wrong horse")).is_err());
        let mut added = ring.clone();
        added.slots.push(Slot::of_recipient("attacker", &stranger.recipient()));
        assert_eq!(added.open(&with(&file)).unwrap_err(), FormatError::Tampered);
        let renumbered = Keyring { sequence: 5, ..ring.clone() };
        assert_eq!(renumbered.open(&with(&file)).unwrap_err(), FormatError::Tampered);
        let text = String::from_utf8(encode(&ring)).unwrap();
        assert!(!text.contains("horse"));
    }

    #[test]
    fn a_keyring_that_would_take_all_memory_is_refused() {
        assert!(stretch("x", &[0; 16], u32::MAX, 1).is_err() && stretch("x", &[0; 16], 64, 1000).is_err());
    }
}
