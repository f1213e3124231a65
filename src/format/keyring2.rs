//! Keyrings of version 2: how one is made, and how it opens.
//!
//! A keyring has two lines. The hash of the first names the keyring, and is what its maker proves to each
//! holder. The second holds the proofs and is not part of the name: an altered proof affects only the holder
//! that it is for.

use super::age::{self, Identity, Recipient};
use super::holder::{EarlierRing, Holder, Opened, RingPlan, Secrets, ShownHolder, find_slot, is_name};
use super::passphrase::{PASSPHRASES_MAX, Passphrase};
use super::seal::{Key, Sealer};
use super::wire::FormatError;
use crate::model::id::{ContentHash, StoreName};
use crate::model::record::RingRef;
use crate::support::env::Random;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use zeroize::{Zeroize, Zeroizing};

pub(super) const VERSION: u8 = 2;
const SLOTS_MAX: usize = 100;
const GENERATIONS_MAX: usize = 100_000;

const HOLDER: &str = "understudy keyring 2 holder";
const SEAL: &str = "understudy keyring 2 seal";
const SLOT: &str = "understudy keyring 2 slot";
const CHAIN: &str = "understudy keyring 2 chain";

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
pub(super) struct Body {
    version: u8,
    pub store: StoreName,
    pub sequence: u32,
    slots: Vec<Slot>,
    master: String,
    salt: String,
    sealed: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proof {
    pub made: Vec<String>,
    chain: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    recipients: Vec<String>,
    maker: u32,
    keys: String,
    before: Vec<EarlierRing>,
}

/// Returns the bytes of a keyring made by `maker`, one of its holders.
pub fn close(plan: &RingPlan, maker: &Identity, random: &dyn Random) -> Result<Vec<u8>, FormatError> {
    let what = "a keyring's maker";
    if !admits_passphrases(plan.before, plan.holders) {
        return Err(FormatError::Range("passphrases"));
    }
    let recipients: Vec<_> = plan.holders.iter().map(|holder| holder.recipient).collect();
    let at = recipients.iter().position(|recipient| *recipient == maker.recipient());
    let sequence = plan.before.map_or(0, |ring| ring.reference.sequence).checked_add(1);
    let sequence = sequence.ok_or(FormatError::Range("a keyring's number"))?;
    let mut salt = [0; 16];
    random.fill(&mut salt);
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

/// Returns whether the keyring after `before` may have the passphrases of `holders`: up to
/// [`PASSPHRASES_MAX`], or as many as `before` has.
///
/// Earlier versions allowed more, and their keyrings stay valid; a reader tries only the first ones in any
/// case.
pub fn admits_passphrases(before: Option<&Opened>, holders: &[Holder]) -> bool {
    let count = |holders: &[Holder]| holders.iter().filter(|holder| holder.passphrase.is_some()).count();
    count(holders) <= before.map_or(0, |ring| count(&ring.holders)).max(PASSPHRASES_MAX)
}

/// Returns the value that stands for a recipient in the part that can be read without a key.
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

/// Returns the key that the maker and one holder share: it is computed with the secret of either, and the
/// recipient of the other.
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

/// Returns the key that every holder of keyring `before` can compute; `generations` begin with its data keys.
fn chain_key(generations: &[Key], before: &EarlierRing) -> Result<Zeroizing<[u8; 32]>, FormatError> {
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

/// Checks all that can be checked without a key.
fn check(body: &Body) -> Result<(), FormatError> {
    if body.slots.is_empty() || body.slots.len() > SLOTS_MAX {
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

pub(super) fn open(
    body: &Body,
    proof: &Proof,
    reference: RingRef,
    secrets: &Secrets,
) -> Result<Opened, FormatError> {
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

fn check_before(before: &[EarlierRing], sequence: u32, keys: usize) -> Result<(), FormatError> {
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

impl Body {
    /// Returns the holders, as far as they can be read without a key.
    pub(crate) fn shown(&self) -> Vec<ShownHolder> {
        let shown = |slot: &Slot| ShownHolder {
            name: slot.name.clone(),
            is_passphrase: slot.passphrase.is_some(),
            recipient: None,
        };
        self.slots.iter().map(shown).collect()
    }
}

/// Decodes the two lines, and returns them with the hash of the first.
pub(super) fn decode(bytes: &[u8]) -> Result<(Body, Proof, ContentHash), FormatError> {
    let text = |error: serde_json::Error| FormatError::Text(error.to_string());
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (first, rest) = bytes.split_at(end);
    let body: Body = serde_json::from_slice(first).map_err(text)?;
    check(&body)?;
    let line = rest.strip_suffix(b"\n").ok_or(FormatError::Truncated("a keyring"))?;
    Ok((body, serde_json::from_slice(line).map_err(text)?, ContentHash::of(first)))
}
