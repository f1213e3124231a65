//! A store's keyring: its data keys, sealed with a master key, which is wrapped for whoever may open it.
//!
//! ```text
//! key file, or passphrase (argon2id) ─▶ identity ─▶ master key (an age file) ─▶ data keys ─▶ every object
//! ```
//!
//! Whoever knows a public key can wrap something for it, so that a keyring that opens proves nothing of who made it. Its maker
//! therefore proves it to each holder by a key that only the two of them can compute (X25519 between their identities), and that it
//! goes on from the keyring before by the newest data key of that one. The public keys stand under the seal: whoever holds the bucket
//! reads names alone. Keyrings of version 1 (see `keyring1`) prove none of that.

use super::age::{self, Identity, Recipient};
use super::keyring1;
use super::passphrase::{PASSPHRASES_MAX, Passphrase};
use super::seal::{Key, Sealer};
use super::wire::FormatError;
use crate::model::escape;
use crate::model::id::{ContentHash, StoreName};
use crate::model::record::RingRef;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use zeroize::{Zeroize, Zeroizing};

pub const KEYRING_MAX_BYTES: usize = 1 << 20;
const VERSION: u8 = 2;
const SLOTS_MAX: usize = 100;
const NAME_MAX_BYTES: usize = 200;
const GENERATIONS_MAX: usize = 100_000;

const HOLDER: &str = "understudy keyring 2 holder";
const SEAL: &str = "understudy keyring 2 seal";
const SLOT: &str = "understudy keyring 2 slot";
const CHAIN: &str = "understudy keyring 2 chain";

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    name: String,
    holder: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passphrase: Option<Passphrase>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    version: u8,
    store: StoreName,
    sequence: u32,
    slots: Vec<Slot>,
    master: String,
    salt: String,
    sealed: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    made: Vec<String>,
    chain: Option<String>,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    recipients: Vec<String>,
    maker: u32,
    keys: String,
    before: Vec<Before>,
}

/// A keyring as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    hash: ContentHash,
    stored: Stored,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stored {
    First(Box<keyring1::Keyring>),
    Second(Box<Body>, Proof),
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

/// Fills with random bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

pub fn key(random: Random) -> Key {
    let mut bytes = Zeroizing::new([0; 32]);
    random(bytes.as_mut());
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
        random: Random,
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

/// The bytes of a keyring that `maker`, one of its holders, makes.
pub fn close(plan: &Plan, maker: &Identity, random: Random) -> Result<Vec<u8>, FormatError> {
    let what = "a keyring's maker";
    let recipients: Vec<_> = plan.holders.iter().map(|holder| holder.recipient).collect();
    let at = recipients.iter().position(|recipient| *recipient == maker.recipient());
    let sequence = plan.before.map_or(0, |ring| ring.reference.sequence).checked_add(1);
    let sequence = sequence.ok_or(FormatError::Range("a keyring's number"))?;
    let mut salt = [0; 16];
    random(&mut salt);
    let mut before = plan.before.map_or_else(Vec::new, |ring| ring.before.clone());
    before.extend(plan.before.map(Opened::as_before));
    let chain = plan.before.map(|ring| chain_key(&ring.generations, &ring.as_before())).transpose()?;
    let mut inner = Inner {
        recipients: recipients.iter().map(Recipient::to_string).collect(),
        maker: at.ok_or(FormatError::Range(what))? as u32,
        keys: STANDARD_NO_PAD
            .encode(&*Zeroizing::new(plan.generations.iter().flat_map(|key| *key.0).collect::<Vec<u8>>())),
        before,
    };
    let slot = |holder: &Holder| Slot {
        name: holder.name.clone(),
        holder: STANDARD_NO_PAD.encode(shadow(&salt, &holder.recipient)),
        passphrase: holder.passphrase.clone(),
    };
    let text = |error: serde_json::Error| FormatError::Text(error.to_string());
    let mut sealed = Zeroizing::new(serde_json::to_vec(&inner).map_err(text)?);
    inner.keys.zeroize();
    let tag = sealer(plan.master, &salt)?.seal(0, &[], &mut sealed)?;
    let body = Body {
        version: VERSION,
        store: plan.store.clone(),
        sequence,
        slots: plan.holders.iter().map(slot).collect(),
        master: STANDARD_NO_PAD.encode(age::close(&*plan.master.0, &recipients, random)?),
        salt: STANDARD_NO_PAD.encode(salt),
        sealed: STANDARD_NO_PAD.encode([&sealed[..], &tag].concat()),
    };
    check(&body)?;
    let mut bytes = serde_json::to_vec(&body).map_err(text)?;
    bytes.push(b'\n');
    let hash = ContentHash::of(&bytes);
    let made = recipients.iter().map(|recipient| {
        let key = slot_key(maker, recipient, &maker.recipient(), recipient)?;
        Ok(STANDARD_NO_PAD.encode(mac(&key, &hash).as_bytes()))
    });
    let proof = Proof {
        made: made.collect::<Result<_, FormatError>>()?,
        chain: chain.map(|key| STANDARD_NO_PAD.encode(mac(&key, &hash).as_bytes())),
    };
    bytes.extend(serde_json::to_vec(&proof).map_err(text)?);
    bytes.push(b'\n');
    Ok(bytes)
}

/// What stands for a recipient where anybody reads.
fn shadow(salt: &[u8], recipient: &Recipient) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(HOLDER);
    let hash = hasher.update(salt).update(recipient.bytes()).finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

fn sealer(master: &Key, salt: &[u8]) -> Result<Sealer, FormatError> {
    let mut hasher = blake3::Hasher::new_derive_key(SEAL);
    Sealer::new(&Zeroizing::new(*hasher.update(&*master.0).update(salt).finalize().as_bytes()))
}

/// The key that the maker and one holder have in common: computed with the secret of either, and the recipient of the other.
fn slot_key(
    ours: &Identity,
    theirs: &Recipient,
    maker: &Recipient,
    holder: &Recipient,
) -> Result<Zeroizing<[u8; 32]>, FormatError> {
    let shared = ours.shared(theirs)?;
    let mut hasher = blake3::Hasher::new_derive_key(SLOT);
    let hash = hasher.update(&*shared).update(maker.bytes()).update(holder.bytes()).finalize();
    Ok(Zeroizing::new(*hash.as_bytes()))
}

/// The key that whoever can open the keyring `before` has; `generations` begin with its data keys.
fn chain_key(generations: &[Key], before: &Before) -> Result<Zeroizing<[u8; 32]>, FormatError> {
    let newest = (before.keys as usize).checked_sub(1).and_then(|at| generations.get(at));
    let newest = newest.ok_or(FormatError::Range("data keys"))?;
    let mut hasher = blake3::Hasher::new_derive_key(CHAIN);
    let hash = hasher.update(&*newest.0).update(&before.hash.0).finalize();
    Ok(Zeroizing::new(*hash.as_bytes()))
}

fn mac(key: &[u8; 32], hash: &ContentHash) -> blake3::Hash {
    blake3::keyed_hash(key, &hash.0)
}

fn binary<const N: usize>(text: &str) -> Result<[u8; N], FormatError> {
    bytes(text)?.try_into().map_err(|_| FormatError::Range("a keyring's field"))
}

fn bytes(text: &str) -> Result<Vec<u8>, FormatError> {
    STANDARD_NO_PAD.decode(text).map_err(|_| FormatError::Range("a keyring's field"))
}

/// What can be seen without a key.
fn check(body: &Body) -> Result<(), FormatError> {
    let passphrases = body.slots.iter().filter(|slot| slot.passphrase.is_some()).count();
    if body.slots.is_empty() || body.slots.len() > SLOTS_MAX || passphrases > PASSPHRASES_MAX {
        return Err(FormatError::Range("slots"));
    }
    if !body.slots.iter().all(|slot| is_name(&slot.name)) {
        return Err(FormatError::Range("a holder's name"));
    }
    let differ = |field: fn(&Slot) -> &str| {
        body.slots.iter().map(field).collect::<BTreeSet<_>>().len() == body.slots.len()
    };
    match differ(|slot| &slot.name) && differ(|slot| &slot.holder) && body.sequence > 0 {
        true => Ok(()),
        false => Err(FormatError::Range("slots")),
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

impl Keyring {
    pub fn version(&self) -> u8 {
        match self.stored {
            Stored::First(_) => 1,
            Stored::Second(..) => VERSION,
        }
    }

    pub fn store(&self) -> &StoreName {
        match &self.stored {
            Stored::First(ring) => &ring.store,
            Stored::Second(body, _) => &body.store,
        }
    }

    /// Its number, and the hash that it is named by.
    pub fn reference(&self) -> RingRef {
        let sequence = match &self.stored {
            Stored::First(ring) => ring.sequence,
            Stored::Second(body, _) => body.sequence,
        };
        RingRef { sequence, hash: self.hash }
    }

    /// Who opens it, as far as it can be read without a key.
    pub fn shown(&self) -> Vec<Shown> {
        match &self.stored {
            Stored::First(ring) => ring.shown(),
            Stored::Second(body, _) => body
                .slots
                .iter()
                .map(|slot| Shown {
                    name: slot.name.clone(),
                    is_passphrase: slot.passphrase.is_some(),
                    recipient: None,
                })
                .collect(),
        }
    }

    /// Opens it with whatever fits.
    ///
    /// # Errors
    /// [`FormatError::Tampered`] when nothing fits, [`FormatError::Maker`] when it opens, and was not made by the holder that it names.
    pub fn open(&self, secrets: &Secrets) -> Result<Opened, FormatError> {
        match &self.stored {
            Stored::First(ring) => ring.open(secrets, self.hash),
            Stored::Second(body, proof) => open(body, proof, self.reference(), secrets),
        }
    }
}

fn open(body: &Body, proof: &Proof, reference: RingRef, secrets: &Secrets) -> Result<Opened, FormatError> {
    let salt = bytes(&body.salt)?;
    let shadows = body.slots.iter().map(|slot| binary::<16>(&slot.holder)).collect::<Result<Vec<_>, _>>()?;
    let fits = |identity: &Identity| {
        let ours = shadow(&salt, &identity.recipient());
        shadows.iter().position(|found| *found == ours)
    };
    let (identity, slot) =
        find_slot(secrets, fits, body.slots.iter().filter_map(|slot| slot.passphrase.as_ref()))?;
    let master = age::open(&bytes(&body.master)?, std::slice::from_ref(&identity))?;
    let master = Key::new(master.as_slice().try_into().map_err(|_| FormatError::Tampered)?);
    let inner = Zeroizing::new(sealer(&master, &salt)?.open(0, &[], &bytes(&body.sealed)?)?);
    let mut inner: Inner =
        serde_json::from_slice(&inner).map_err(|error| FormatError::Text(error.to_string()))?;
    let recipients =
        inner.recipients.iter().map(|text| Recipient::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if !recipients.iter().map(|recipient| shadow(&salt, recipient)).eq(shadows) {
        return Err(FormatError::Range("recipients"));
    }
    let maker = *recipients.get(inner.maker as usize).ok_or(FormatError::Range("a keyring's maker"))?;
    let keys = bytes(&inner.keys).map(Zeroizing::new);
    inner.keys.zeroize();
    let keys = keys?;
    let (keys, rest) = keys.as_chunks::<32>();
    if !rest.is_empty() || keys.is_empty() || keys.len() > GENERATIONS_MAX {
        return Err(FormatError::Range("data keys"));
    }
    let generations: Vec<_> = keys.iter().map(|key| Key::new(*key)).collect();
    check_before(&inner.before, reference.sequence, generations.len())?;

    let key = slot_key(&identity, &maker, &maker, &identity.recipient())?;
    let made = proof.made.get(slot).ok_or(FormatError::Maker)?;
    // `blake3::Hash` is compared in constant time.
    if proof.made.len() != recipients.len()
        || mac(&key, &reference.hash) != blake3::Hash::from_bytes(binary(made)?)
    {
        return Err(FormatError::Maker);
    }
    match (inner.before.last(), &proof.chain) {
        (None, None) => {}
        (Some(before), Some(chain))
            if mac(&*chain_key(&generations, before)?, &reference.hash)
                == blake3::Hash::from_bytes(binary(chain)?) => {}
        _ => return Err(FormatError::Maker),
    }
    let holder = |(slot, recipient): (&Slot, &Recipient)| Holder {
        name: slot.name.clone(),
        recipient: *recipient,
        passphrase: slot.passphrase.clone(),
    };
    Ok(Opened {
        version: VERSION,
        reference,
        master,
        generations,
        holders: body.slots.iter().zip(&recipients).map(holder).collect(),
        identity,
        slot,
        maker: Some(inner.maker as usize),
        before: inner.before,
    })
}

fn check_before(before: &[Before], sequence: u32, keys: usize) -> Result<(), FormatError> {
    let first = sequence.checked_sub(before.len() as u32).filter(|first| *first > 0);
    let is_whole = match before.is_empty() {
        true => sequence == 1,
        false => first.is_some_and(|first| before.iter().map(|ring| ring.sequence).eq(first..sequence)),
    };
    let counts = before.iter().map(|ring| ring.keys as usize).chain([keys]);
    match is_whole && before.iter().all(|ring| ring.keys > 0) && counts.is_sorted() {
        true => Ok(()),
        false => Err(FormatError::Range("the keyrings before")),
    }
}

pub fn decode_ring(bytes: &[u8]) -> Result<Keyring, FormatError> {
    let text = |error: serde_json::Error| FormatError::Text(error.to_string());
    #[derive(Deserialize)]
    struct Version {
        version: u8,
    }
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (first, rest) = bytes.split_at(end);
    // Version 1 is written on many lines.
    let version = serde_json::from_slice::<Version>(first).map_or(1, |found| found.version);
    match version {
        1 => {
            let ring = keyring1::decode(bytes)?;
            Ok(Keyring { hash: ContentHash::of(bytes), stored: Stored::First(Box::new(ring)) })
        }
        VERSION => {
            let body: Body = serde_json::from_slice(first).map_err(text)?;
            check(&body)?;
            let line = rest.strip_suffix(b"\n").ok_or(FormatError::Truncated("a keyring"))?;
            let proof: Proof = serde_json::from_slice(line).map_err(text)?;
            Ok(Keyring { hash: ContentHash::of(first), stored: Stored::Second(Box::new(body), proof) })
        }
        found => Err(FormatError::Version { found, known: VERSION }),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn random() -> impl FnMut(&mut [u8]) {
        let mut reader = blake3::Hasher::new().finalize_xof();
        move |bytes| reader.fill(bytes)
    }

    fn store() -> StoreName {
        StoreName::parse("acme").unwrap()
    }

    pub fn with(identity: &Identity) -> Secrets {
        Secrets { identities: vec![identity.clone()], passphrase: None }
    }

    #[test]
    fn a_keyring_opens_for_its_holders_and_proves_its_maker() {
        let mut random = random();
        let [file, friend, stranger] = [1, 2, 3].map(|n| Identity::new([n; 32]));
        let (words, _) = Holder::of_passphrase("words", "correct horse", &mut random).unwrap();
        let holders = [
            Holder::of_recipient("file", &file.recipient()),
            Holder::of_recipient("friend", &friend.recipient()),
            words,
        ];
        let (master, data) = (key(&mut random), [key(&mut random), key(&mut random)]);
        let (store, one) = (store(), &data[..1]);
        let plan = Plan { store: &store, holders: &holders, master: &master, generations: one, before: None };
        let first = decode_ring(&close(&plan, &file, &mut random).unwrap()).unwrap();
        let before = first.open(&with(&friend)).unwrap();
        assert_eq!((before.maker, before.slot, before.before.len()), (Some(0), 1, 0));
        let plan = Plan { before: Some(&before), generations: &data, ..plan };
        let bytes = close(&plan, &friend, &mut random).unwrap();
        let ring = decode_ring(&bytes).unwrap();
        let words = |text: &str| Secrets {
            identities: vec![stranger.clone()],
            passphrase: Some(text.to_owned().into()),
        };
        for (slot, secrets) in [with(&file), with(&friend), words("correct horse")].iter().enumerate() {
            let opened = ring.open(secrets).unwrap();
            assert_eq!((opened.slot, opened.maker, opened.reference.sequence), (slot, Some(1), 2));
            assert!(opened.generations.iter().zip(&data).all(|(a, b)| a.0 == b.0));
            assert_eq!(opened.holders, holders);
            assert_eq!(opened.keys_of(&first.reference()), Some(1));
            assert_eq!(opened.keys_of(&ring.reference()), Some(2));
        }
        assert_eq!(ring.open(&with(&stranger)).unwrap_err(), FormatError::Tampered);
        assert_eq!(ring.open(&words("wrong horse")).unwrap_err(), FormatError::Tampered);
        // Nobody is read in it, and every changed byte is noticed by each of whom it concerns.
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(!text.contains("age1") && !text.contains("horse"));
        let concerns = text.lines().last().unwrap().find(',').unwrap() + text.find('\n').unwrap();
        for at in (0..concerns).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(
                decode_ring(&bad).is_err_and(|_| true)
                    || decode_ring(&bad).unwrap().open(&with(&file)).is_err(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn whoever_knows_the_recipients_alone_makes_nothing_that_opens() {
        let mut random = random();
        let (owner, attacker) = (Identity::new([1; 32]), Identity::new([2; 32]));
        let holders = [
            Holder::of_recipient("key-file", &owner.recipient()),
            Holder::of_recipient("attacker", &attacker.recipient()),
        ];
        let (store, master, data) = (store(), key(&mut random), [key(&mut random)]);
        let plan =
            Plan { store: &store, holders: &holders, master: &master, generations: &data, before: None };
        // As themselves: it opens, and says whose it is.
        let ring = decode_ring(&close(&plan, &attacker, &mut random).unwrap()).unwrap();
        assert_eq!(ring.open(&with(&owner)).unwrap().maker, Some(1));
        // In the owner's name: the proof wants the owner's secret.
        let bytes = String::from_utf8(close(&plan, &attacker, &mut random).unwrap()).unwrap();
        let alone = Plan { holders: &holders[..1], ..plan };
        assert!(close(&alone, &attacker, &mut random).is_err());
        let mut lines = bytes.lines();
        let (body, proof) = (lines.next().unwrap(), lines.next().unwrap());
        let mut proof: Proof = serde_json::from_str(proof).unwrap();
        proof.made.swap(0, 1);
        let bytes = format!("{body}\n{}\n", serde_json::to_string(&proof).unwrap());
        assert_eq!(
            decode_ring(bytes.as_bytes()).unwrap().open(&with(&owner)).unwrap_err(),
            FormatError::Maker
        );
    }

    #[test]
    fn names_that_steer_a_terminal_are_refused() {
        let mut random = random();
        let owner = Identity::new([1; 32]);
        let (store, master, data) = (store(), key(&mut random), [key(&mut random)]);
        for name in ["", "a\x1b]0;x\x07", "a\u{202e}b", "a\nb", &"x".repeat(201)] {
            let holders = [Holder::of_recipient(name, &owner.recipient())];
            let plan =
                Plan { store: &store, holders: &holders, master: &master, generations: &data, before: None };
            assert_eq!(
                close(&plan, &owner, &mut random).unwrap_err(),
                FormatError::Range("a holder's name"),
                "{name:?}"
            );
        }
    }
}
