//! Seals: AES-256-GCM around data that a repository's owner must not read, or alter unnoticed.
//!
//! Every object has a key of its own. It is the BLAKE3 of the store's data key, the object's salt (random, so
//! that no two objects share a key or a name), the kind of object, and the store and place that it belongs
//! to. So a nonce must be unique only inside one object, and an object put in another's place does not open.
//! Without keys, an object has a hash instead: it detects damage, but not an attacker.

use super::wire::{FormatError, Reader};
use crate::model::id::StoreName;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Random bytes that make an object's name unique.
pub(crate) type Salt = [u8; 16];
/// Size of magic and version, method, generation, salt.
pub(crate) const HEAD_BYTES: usize = 8 + 1 + 4 + 16;
/// Number of bytes that a seal adds.
pub(crate) const TAG_BYTES: usize = 16;
const METHOD_NONE: u8 = 0;
const METHOD_AES_256_GCM: u8 = 1;

/// Key material: wiped from memory when it is dropped, and never printed.
#[derive(Clone)]
pub struct Key(pub Zeroizing<[u8; 32]>);

impl Key {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// Generation of the data key that an object is sealed with, and the object's salt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sealing {
    /// Number of the data key, from 1; 0 if the object is not sealed.
    pub generation: u32,
    pub salt: Salt,
}

/// A store's data keys, the oldest first; the last one seals new objects.
#[derive(Clone, Debug)]
pub struct Keys {
    pub store: StoreName,
    pub generations: Vec<Key>,
}

/// Kind and place of an object. An object of another place, or another store, does not open here.
#[derive(Clone, Copy, Debug)]
pub enum SealContext<'a> {
    Pack,
    Index,
    Record(u64),
    Checkpoint(u64),
    /// Notes of one host.
    Standby(&'a str),
    Upkeep(&'a str),
    /// The answer to an invitation, by the name of its object.
    Join(&'a str),
    /// A segment of the database's archive.
    Binlog {
        epoch: u64,
        number: u64,
    },
}

impl Keys {
    pub(crate) fn newest(&self) -> u32 {
        self.generations.len() as u32
    }

    fn sealer(&self, sealing: &Sealing, place: SealContext) -> Result<Sealer, FormatError> {
        let number = (sealing.generation as usize).checked_sub(1);
        let key = number
            .and_then(|n| self.generations.get(n))
            .ok_or(FormatError::Generation(sealing.generation))?;
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        let text;
        let (kind, number, host) = match place {
            SealContext::Pack => (0u8, 0, ""),
            SealContext::Index => (1, 0, ""),
            SealContext::Record(number) => (2, number, ""),
            SealContext::Checkpoint(number) => (3, number, ""),
            SealContext::Standby(host) => (4, 0, host),
            SealContext::Upkeep(host) => (5, 0, host),
            SealContext::Join(name) => (6, 0, name),
            SealContext::Binlog { epoch, number } => {
                text = format!("{epoch:020}");
                (7, number, &text[..])
            }
        };
        hasher.update(b"understudy seal 1");
        hasher.update(&sealing.salt).update(&[kind]).update(&number.to_le_bytes());
        hasher.update(&[self.store.as_str().len() as u8]).update(self.store.as_str().as_bytes());
        hasher.update(host.as_bytes());
        Sealer::new(&Zeroizing::new(*hasher.finalize().as_bytes()))
    }
}

/// Seals and opens the parts of one object.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// Makes a sealer with a key that seals nothing else.
    pub fn new(key: &[u8; 32]) -> Result<Self, FormatError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| FormatError::Tampered)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Seals `bytes` in place, and returns the tag. Each `nonce` may be used once.
    pub(crate) fn seal(
        &self,
        nonce: u128,
        aad: &[u8],
        bytes: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], FormatError> {
        let tag = self.0.seal_in_place_separate_tag(number(nonce), Aad::from(aad), bytes);
        let tag = tag.map_err(|_| FormatError::Tampered)?;
        let mut out = [0; TAG_BYTES];
        out.copy_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens bytes that are followed by their tag.
    pub fn open(&self, nonce: u128, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut bytes = sealed.to_vec();
        let length = self.open_in_place(nonce, aad, &mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Opens bytes that are followed by their tag, in place. Returns their number without the tag.
    pub(crate) fn open_in_place(
        &self,
        nonce: u128,
        aad: &[u8],
        sealed: &mut [u8],
    ) -> Result<usize, FormatError> {
        let opened = self.0.open_in_place(number(nonce), Aad::from(aad), sealed);
        Ok(opened.map_err(|_| FormatError::Tampered)?.len())
    }
}

fn number(nonce: u128) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.copy_from_slice(&nonce.to_le_bytes()[..NONCE_LEN]);
    Nonce::assume_unique_for_key(bytes)
}

/// Returns the sealer of one object's parts; none if the object is not sealed.
pub(crate) fn sealer(
    sealing: &Sealing,
    place: SealContext,
    keys: Option<&Keys>,
) -> Result<Option<Sealer>, FormatError> {
    match (sealing.generation, keys) {
        (0, _) => Ok(None),
        (generation, None) => Err(FormatError::Generation(generation)),
        (_, Some(keys)) => keys.sealer(sealing, place).map(Some),
    }
}

/// Returns the first bytes of an object.
pub(crate) fn head(magic: &[u8; 8], sealing: &Sealing) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(magic);
    head[8] = if sealing.generation == 0 { METHOD_NONE } else { METHOD_AES_256_GCM };
    head[9..13].copy_from_slice(&sealing.generation.to_le_bytes());
    head[13..].copy_from_slice(&sealing.salt);
    head
}

/// Reads a head, and checks that its magic (7 bytes) and version are those of `magic`.
pub(crate) fn parse_head(
    reader: &mut Reader,
    magic: &[u8; 8],
    what: &'static str,
) -> Result<Sealing, FormatError> {
    let found: [u8; 8] = reader.array(what)?;
    if found[..7] != magic[..7] {
        return Err(FormatError::Magic(what));
    }
    if found[7] != magic[7] {
        return Err(FormatError::Version { found: found[7], known: magic[7] });
    }
    let method = reader.u8(what)?;
    let generation = reader.u32_le(what)?;
    let salt = reader.array(what)?;
    match (method, generation) {
        (METHOD_NONE, 0) | (METHOD_AES_256_GCM, 1..) => Ok(Sealing { generation, salt }),
        (METHOD_NONE | METHOD_AES_256_GCM, _) => Err(FormatError::Range(what)),
        (other, _) => Err(FormatError::Seal(other)),
    }
}

/// Returns the generation of the data key that opens a whole object with `magic`; 0 for none, and for another
/// version.
pub(crate) fn generation_of(magic: &[u8; 8], bytes: &[u8]) -> u32 {
    match bytes.get(8..13) {
        Some(found) if bytes.starts_with(magic) && found[0] == METHOD_AES_256_GCM => {
            u32::from_le_bytes([found[1], found[2], found[3], found[4]])
        }
        _ => 0,
    }
}

/// Returns a whole object around `body`: sealed, or with a hash at its end.
pub fn close(
    magic: &[u8; 8],
    sealing: &Sealing,
    place: SealContext,
    keys: Option<&Keys>,
    body: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let head = head(magic, sealing);
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len() + 32);
    out.extend_from_slice(&head);
    out.extend_from_slice(body);
    match sealer(sealing, place, keys)? {
        Some(sealer) => {
            let tag = sealer.seal(0, &head, &mut out[HEAD_BYTES..])?;
            out.extend_from_slice(&tag);
        }
        None => {
            let hash = blake3::hash(&out);
            out.extend_from_slice(hash.as_bytes());
        }
    }
    Ok(out)
}

/// Returns the body of a whole object.
pub fn open(
    magic: &[u8; 8],
    what: &'static str,
    place: SealContext,
    keys: Option<&Keys>,
    bytes: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let mut reader = Reader(bytes);
    let sealing = parse_head(&mut reader, magic, what)?;
    match sealer(&sealing, place, keys)? {
        Some(sealer) => sealer.open(0, &bytes[..HEAD_BYTES], reader.0),
        None => {
            let body = reader.0.len().checked_sub(32).ok_or(FormatError::Truncated(what))?;
            let end = HEAD_BYTES + body;
            match blake3::hash(&bytes[..end]).as_bytes() == &bytes[end..] {
                true => Ok(bytes[HEAD_BYTES..end].to_vec()),
                false => Err(FormatError::Hash),
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const MAGIC: &[u8; 8] = b"USTESTS\x01";

    /// Returns keys of store acme, the same for the same seed.
    pub(crate) fn keys(seed: u8, generations: usize) -> Keys {
        let generations = (0..generations).map(|n| Key::new([seed.wrapping_add(n as u8); 32])).collect();
        Keys { store: StoreName::parse("acme").unwrap(), generations }
    }

    #[test]
    fn an_object_comes_back_with_its_key_in_its_place_and_no_other() {
        let (good, other) = (keys(1, 2), keys(9, 2));
        let sealing = Sealing { generation: 2, salt: [7; 16] };
        let place = SealContext::Record(5);
        let bytes = close(MAGIC, &sealing, place, Some(&good), b"a secret").unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"secret"));
        assert_eq!(generation_of(MAGIC, &bytes), 2);
        assert_eq!(open(MAGIC, "it", place, Some(&good), &bytes).unwrap(), b"a secret");
        let refused = |place, keys, bytes: &[u8]| open(MAGIC, "it", place, keys, bytes).unwrap_err();
        assert_eq!(refused(place, Some(&other), &bytes), FormatError::Tampered);
        assert_eq!(refused(SealContext::Record(6), Some(&good), &bytes), FormatError::Tampered);
        assert_eq!(refused(SealContext::Checkpoint(5), Some(&good), &bytes), FormatError::Tampered);
        assert_eq!(refused(place, None, &bytes), FormatError::Generation(2));
        let elsewhere = Keys { store: StoreName::parse("other").unwrap(), ..good.clone() };
        assert_eq!(refused(place, Some(&elsewhere), &bytes), FormatError::Tampered);
        for at in 0..bytes.len() {
            assert!(open(MAGIC, "it", place, Some(&good), &bytes[..at]).is_err());
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(open(MAGIC, "it", place, Some(&good), &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn without_keys_damage_is_noticed() {
        let sealing = Sealing { generation: 0, salt: [7; 16] };
        let bytes = close(MAGIC, &sealing, SealContext::Index, None, b"open").unwrap();
        assert_eq!(open(MAGIC, "it", SealContext::Index, None, &bytes).unwrap(), b"open");
        for at in 0..bytes.len() {
            assert!(open(MAGIC, "it", SealContext::Index, None, &bytes[..at]).is_err());
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(open(MAGIC, "it", SealContext::Index, None, &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", Key::new([0x41; 32])), "Key");
        assert!(!format!("{:?}", keys(0x41, 1)).contains("65"));
    }
}
