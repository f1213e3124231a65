//! Signatures: Ed25519. A host's member key, which never leaves it, and what the key signed.
//!
//! The key is a small file of this host's state, made when it is first needed, whole or not at all (see
//! `durable`), and read only if no other user could have written it (see `trusted`). Two processes that make
//! it at the same time end with one key.

use super::env::Env;
use super::{durable, private, trusted};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A public key. Its text is Base64 without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A signature. Its text is Base64 without padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl PublicKey {
    /// Returns whether the holder of this key signed `message`.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).is_ok()
    }

    /// Returns a short text by which people compare keys: the first half of the key's BLAKE3.
    pub fn fingerprint(&self) -> String {
        blake3::hash(&self.0).to_hex()[..32].to_owned()
    }
}

macro_rules! base64_text {
    ($name:ident, $bytes:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let bytes = STANDARD_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
                let wrong = || serde::de::Error::custom(concat!("not Base64 of ", $bytes, " bytes"));
                Ok(Self(bytes.ok_or_else(wrong)?))
            }
        }
    };
}

base64_text!(PublicKey, 32);
base64_text!(Signature, 64);

/// A key that signs. It is never printed.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// Makes a key of 32 random bytes.
    pub fn of(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        Self(pair.unwrap_or_else(|error| panic!("32 bytes are a seed: {error}")))
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        Signature(bytes)
    }

    /// Returns where the key in `dir` is.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(FILE_NAME)
    }

    /// Returns whether there is a key in `dir`.
    pub(crate) fn exists(dir: &Path) -> bool {
        durable::is_made(&Self::path(dir))
    }

    /// Reads the key in `dir`, a directory of this program's.
    ///
    /// # Errors
    /// `NotFound` when none was made yet, `InvalidData` when the file holds none; else as [`trusted`] says.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let text = trusted::read_to_string(&Self::path(dir)).map(Zeroizing::new)?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let decoded = lines.next().and_then(|line| STANDARD_NO_PAD.decode(line).ok()).map(Zeroizing::new);
        let seed = decoded.as_ref().and_then(|bytes| <&[u8; 32]>::try_from(bytes.as_slice()).ok());
        match (seed, lines.next()) {
            (Some(seed), None) => Ok(Self::of(seed)),
            _ => {
                let text = "the file holds no member key; put its copy back, or remove it, so that this host gets a new key and joins again";
                Err(io::Error::new(ErrorKind::InvalidData, text))
            }
        }
    }

    /// Reads the key in `dir`, and makes both if they do not exist.
    ///
    /// # Errors
    /// As [`SigningKey::read`], and those of making a file.
    pub(crate) fn read_or_make(env: &Env, dir: &Path) -> io::Result<Self> {
        match Self::read(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // A process that was making it ended early: there is no key in it.
            Err(_) if !Self::exists(dir) => {}
            read => return read,
        }
        private::own(dir)?;
        let mut seed = Zeroizing::new([0; 32]);
        env.fill(&mut *seed);
        let text = Zeroizing::new(format!(
            "# understudy's member key: with it this host signs its decisions. It stays on this host.\n# public key: {}\n{}\n",
            Self::of(&seed).public(),
            *Zeroizing::new(STANDARD_NO_PAD.encode(*seed))
        ));
        match durable::create(env, &Self::path(dir), 0o600, text.as_bytes()) {
            // Another process made it first.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        Self::read(dir)
    }
}

/// Name of the file with a host's member key.
const FILE_NAME: &str = "member.key";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_signer_s_key_verifies_and_only_the_message_that_was_signed() {
        let (one, two) = (SigningKey::of(&[1; 32]), SigningKey::of(&[2; 32]));
        let signature = one.sign(b"a message");
        assert!(one.public().has_signed(b"a message", &signature));
        assert!(!two.public().has_signed(b"a message", &signature));
        assert!(!one.public().has_signed(b"another", &signature));
        for at in 0..64 {
            let mut bad = signature;
            bad.0[at] ^= 1;
            assert!(!one.public().has_signed(b"a message", &bad), "byte {at}");
        }
        let text = serde_json::to_string(&(one.public(), signature)).unwrap();
        assert_eq!(serde_json::from_str::<(PublicKey, Signature)>(&text).unwrap(), (one.public(), signature));
        for bad in ["\"\"", "\"AAAA\"", "7", "\"=\""] {
            assert!(serde_json::from_str::<PublicKey>(bad).is_err(), "{bad}");
        }
    }

    /// The first test vector of RFC 8032.
    #[test]
    fn it_is_ed25519_as_the_standard_writes_it() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let bytes = |hex: &str| *blake3::Hash::from_hex(hex).unwrap().as_bytes();
        let key = SigningKey::of(&bytes(seed));
        assert_eq!(key.public().0, bytes(public));
        assert!(key.sign(b"").0.starts_with(&[0xe5, 0x56, 0x43, 0x00, 0xc3, 0x60]));
    }

    #[test]
    fn a_host_makes_its_key_once_for_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state/understudy");
        assert_eq!(SigningKey::read(&state).unwrap_err().kind(), ErrorKind::NotFound);
        let env = Env::system();
        let made = SigningKey::read_or_make(&env, &state).unwrap().public();
        assert_eq!(SigningKey::read_or_make(&env, &state).unwrap().public(), made);
        let path = state.join(FILE_NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A file without a key is not replaced: the old one may be in a backup.
        std::fs::write(&path, "nonsense\n").unwrap();
        assert_eq!(SigningKey::read_or_make(&env, &state).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nonsense\n");
    }
}
