//! Files of age-encryption.org/v1 for X25519 recipients.
//!
//! A store's master key is wrapped in such a file, so that `age` itself opens it with the key file. The code
//! follows the specification at age-encryption.org/v1: any one of several recipients can open a file. Files
//! here are small: one payload chunk. The `age` crate does more and brings a hundred packages, many of them a
//! second time.

use super::wire::FormatError;
use crate::support::env::Random;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::{Bech32, Hrp};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const VERSION: &str = "age-encryption.org/v1";
const SECRET_PREFIX: &str = "age-secret-key-";
const PUBLIC_PREFIX: &str = "age";
/// Maximum size of the payload, one chunk, including its tag.
const PAYLOAD_MAX_BYTES: usize = (64 << 10) + 16;
const RECIPIENTS_MAX: usize = 100;

/// A secret key, wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Identity(StaticSecret);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

impl Identity {
    /// Makes an identity of 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    pub fn bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Parses `AGE-SECRET-KEY-1…`.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        Ok(Self::new(*parse(text, SECRET_PREFIX, "an age identity")?))
    }

    /// Returns the text that `parse` reads.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        // Encoded in capitals directly: a conversion afterwards would leave a copy in memory.
        let text = bech32::encode_upper::<Bech32>(prefix(SECRET_PREFIX), &*self.bytes());
        Zeroizing::new(text.unwrap_or_else(|error| panic!("32 bytes fit: {error}")))
    }

    pub fn recipient(&self) -> Recipient {
        Recipient(PublicKey::from(&self.0).to_bytes())
    }

    /// Returns the secret that only these two can compute: X25519 of this secret and that public key.
    ///
    /// # Errors
    /// The public key is one of the few with which every secret gives the same result.
    pub(crate) fn shared(&self, with: &Recipient) -> Result<Zeroizing<[u8; 32]>, FormatError> {
        let shared = self.0.diffie_hellman(&PublicKey::from(with.0));
        match shared.was_contributory() {
            true => Ok(Zeroizing::new(shared.to_bytes())),
            false => Err(FormatError::Range("an age recipient")),
        }
    }
}

impl Recipient {
    /// Parses `age1…`.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        Ok(Self(*parse(text, PUBLIC_PREFIX, "an age recipient")?))
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = bech32::encode::<Bech32>(prefix(PUBLIC_PREFIX), &self.0);
        f.write_str(&text.unwrap_or_else(|error| panic!("32 bytes fit: {error}")))
    }
}

fn prefix(text: &str) -> Hrp {
    Hrp::parse(text).unwrap_or_else(|error| panic!("a constant: {error}"))
}

fn parse(text: &str, prefix: &str, what: &'static str) -> Result<Zeroizing<[u8; 32]>, FormatError> {
    let wrong = || FormatError::Magic(what);
    let (found, bytes) = bech32::decode(text.trim()).map_err(|_| wrong())?;
    let bytes = Zeroizing::new(bytes);
    if found.to_lowercase() != prefix {
        return Err(wrong());
    }
    Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| wrong())?))
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, FormatError> {
    let mut key = Zeroizing::new([0; 32]);
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let info = [info];
    let expanded = extracted.expand(&info, Length(32)).map_err(|_| FormatError::Tampered)?;
    expanded.fill(key.as_mut()).map_err(|_| FormatError::Tampered)?;
    Ok(key)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, FormatError> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| FormatError::Tampered)?))
}

/// Returns the key that wraps the file key, derived from an ephemeral key and a recipient's.
fn wrapping_key(
    shared: &[u8; 32],
    share: &[u8; 32],
    recipient: &[u8; 32],
) -> Result<LessSafeKey, FormatError> {
    let salt = [*share, *recipient].concat();
    cipher(&*derive(shared, &salt, b"age-encryption.org/v1/X25519")?)
}

fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Returns the nonce of the first payload chunk, which is also the last.
fn only_chunk() -> Nonce {
    let mut nonce = [0; 12];
    nonce[11] = 1;
    Nonce::assume_unique_for_key(nonce)
}

/// Encrypts `payload` (at most 64 KiB) to `recipients`.
pub fn close(payload: &[u8], recipients: &[Recipient], random: &dyn Random) -> Result<Vec<u8>, FormatError> {
    let mut file_key = Zeroizing::new([0; 16]);
    random.fill(file_key.as_mut());
    let mut header = format!("{VERSION}\n");
    for recipient in recipients {
        let mut ephemeral = Zeroizing::new([0; 32]);
        random.fill(ephemeral.as_mut());
        let ephemeral = StaticSecret::from(*ephemeral);
        let share = PublicKey::from(&ephemeral).to_bytes();
        let shared = ephemeral.diffie_hellman(&PublicKey::from(recipient.0));
        if !shared.was_contributory() {
            return Err(FormatError::Range("an age recipient"));
        }
        let mut wrapped = file_key.to_vec();
        wrapping_key(shared.as_bytes(), &share, &recipient.0)?
            .seal_in_place_append_tag(zero(), Aad::empty(), &mut wrapped)
            .map_err(|_| FormatError::Tampered)?;
        let (share, wrapped) = (STANDARD_NO_PAD.encode(share), STANDARD_NO_PAD.encode(wrapped));
        header += &format!("-> X25519 {share}\n{wrapped}\n");
    }
    header += "---";
    let mac = hmac::sign(&mac_key(&file_key)?, header.as_bytes());
    let mut out = format!("{header} {}\n", STANDARD_NO_PAD.encode(mac)).into_bytes();
    let mut nonce = [0; 16];
    random.fill(&mut nonce);
    let mut sealed = payload.to_vec();
    cipher(&*derive(&*file_key, &nonce, b"payload")?)?
        .seal_in_place_append_tag(only_chunk(), Aad::empty(), &mut sealed)
        .map_err(|_| FormatError::Tampered)?;
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Ok(out)
}

fn mac_key(file_key: &Zeroizing<[u8; 16]>) -> Result<hmac::Key, FormatError> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &*derive(&**file_key, b"", b"header")?))
}

/// Decrypts a small file with any of `identities`. If none of them fits: [`FormatError::Tampered`].
pub fn open(file: &[u8], identities: &[Identity]) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let what = "an age file";
    let end = file.windows(5).position(|w| w == b"\n--- ").ok_or(FormatError::Magic(what))? + 4;
    let header = std::str::from_utf8(&file[..end]).map_err(|_| FormatError::Magic(what))?;
    let mut lines = header.lines();
    if lines.next() != Some(VERSION) {
        return Err(FormatError::Magic(what));
    }
    let mut stanzas = Vec::new();
    while let Some(line) = lines.next().filter(|line| *line != "---") {
        let body = lines.next().ok_or(FormatError::Truncated(what))?;
        // Recipients of other kinds are skipped.
        if let Some(share) = line.strip_prefix("-> X25519 ") {
            stanzas.push((decode::<32>(share)?, decode::<32>(body)?));
        }
        if stanzas.len() > RECIPIENTS_MAX {
            return Err(FormatError::Range("recipients"));
        }
    }
    let rest = &file[end..];
    let line = rest.iter().position(|b| *b == b'\n').ok_or(FormatError::Truncated(what))?;
    let mac = std::str::from_utf8(&rest[1..line]).map_err(|_| FormatError::Magic(what))?;
    let mac = decode::<32>(mac)?;
    let (nonce, sealed) = rest[line + 1..].split_at_checked(16).ok_or(FormatError::Truncated(what))?;
    if sealed.len() > PAYLOAD_MAX_BYTES {
        return Err(FormatError::Range("an age file's payload"));
    }
    let file_key = identities
        .iter()
        .flat_map(|identity| stanzas.iter().map(move |stanza| (identity, stanza)))
        .find_map(|(identity, (share, wrapped))| unwrap(identity, share, wrapped))
        .ok_or(FormatError::Tampered)?;
    hmac::verify(&mac_key(&file_key)?, &file[..end], &mac).map_err(|_| FormatError::Tampered)?;
    let mut payload = Zeroizing::new(sealed.to_vec());
    let length = cipher(&*derive(&*file_key, nonce, b"payload")?)?
        .open_in_place(only_chunk(), Aad::empty(), &mut payload)
        .map_err(|_| FormatError::Tampered)?
        .len();
    payload.truncate(length);
    Ok(payload)
}

fn unwrap(identity: &Identity, share: &[u8; 32], wrapped: &[u8; 32]) -> Option<Zeroizing<[u8; 16]>> {
    let shared = identity.0.diffie_hellman(&PublicKey::from(*share));
    if !shared.was_contributory() {
        return None;
    }
    let key = wrapping_key(shared.as_bytes(), share, &identity.recipient().0).ok()?;
    let mut bytes = Zeroizing::new(*wrapped);
    let opened = key.open_in_place(zero(), Aad::empty(), bytes.as_mut()).ok()?;
    Some(Zeroizing::new((*opened).try_into().ok()?))
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], FormatError> {
    let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| FormatError::Range("an age header"))?;
    bytes.try_into().map_err(|_| FormatError::Range("an age header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> impl Random {
        let reader = std::sync::Mutex::new(blake3::Hasher::new().finalize_xof());
        move |bytes: &mut [u8]| reader.lock().unwrap().fill(bytes)
    }

    #[test]
    fn each_recipient_opens_it_and_nobody_else() {
        let [a, b, c] = [1, 2, 3].map(|n| Identity::new([n; 32]));
        let file = close(b"the master key", &[a.recipient(), b.recipient()], &random()).unwrap();
        for identity in [a.clone(), b] {
            assert_eq!(&open(&file, &[c.clone(), identity]).unwrap()[..], b"the master key");
        }
        assert_eq!(open(&file, &[c]).unwrap_err(), FormatError::Tampered);
        for at in 0..file.len() {
            assert!(open(&file[..at], std::slice::from_ref(&a)).is_err());
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(open(&bad, std::slice::from_ref(&a)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn keys_come_back_from_their_text() {
        // This recipient is from age's own documentation of the format.
        let known = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
        assert_eq!(Recipient::parse(known).unwrap().to_string(), known);
        let identity = Identity::new([7; 32]);
        assert!(identity.text().starts_with("AGE-SECRET-KEY-1"));
        assert_eq!(Identity::parse(&identity.text()).unwrap().recipient(), identity.recipient());
        assert!(Recipient::parse(&identity.text()).is_err() && Identity::parse("AGE-SECRET-KEY-1").is_err());
    }
}
