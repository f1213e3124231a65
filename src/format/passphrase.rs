//! An identity under a passphrase: Argon2id (RFC 9106), then AES-256-GCM.
//!
//! The cost of a try is stored in the keyring, and any process that can write to the bucket can change it. So
//! a reader limits it to four times the cost that this version writes.

use super::age::Identity;
use super::seal::Sealer;
use super::wire::FormatError;
use crate::support::env::Random;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Minimum number of characters in a new passphrase.
pub(crate) const PASSPHRASE_MIN_CHARS: usize = 8;
/// Maximum number of passphrases in a keyring: a reader tries only the first ones, because each try is
/// costly, and no more are added.
pub(crate) const PASSPHRASES_MAX: usize = 8;
/// Cost of a try against a new passphrase: 64 MiB, three passes.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
/// Maximum cost that a reader accepts.
const MEMORY_MAX_KIB: u32 = 4 * MEMORY_KIB;
const COST_MAX: u64 = 4 * MEMORY_KIB as u64 * PASSES as u64;

/// An identity under a passphrase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passphrase {
    pub memory_kib: u32,
    pub passes: u32,
    salt: String,
    identity: String,
}

/// Returns whether a passphrase is long enough for a new slot.
pub(crate) fn is_long_enough(passphrase: &str) -> bool {
    passphrase.chars().count() >= PASSPHRASE_MIN_CHARS
}

impl Passphrase {
    /// Makes a new identity, and seals it under `passphrase`.
    ///
    /// # Errors
    /// [`FormatError::Passphrase`] when it is too short.
    pub fn close(passphrase: &str, random: &dyn Random) -> Result<(Self, Identity), FormatError> {
        if !is_long_enough(passphrase) {
            return Err(FormatError::Passphrase(PASSPHRASE_MIN_CHARS));
        }
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut());
        let identity = Identity::new(*bytes);
        let mut salt = [0; 16];
        random.fill(&mut salt);
        let sealer = Sealer::new(&*stretch(passphrase, &salt, MEMORY_KIB, PASSES)?)?;
        let mut sealed = identity.bytes().to_vec();
        let tag = sealer.seal(0, &[], &mut sealed)?;
        sealed.extend_from_slice(&tag);
        let (salt, sealed) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(sealed));
        Ok((Self { memory_kib: MEMORY_KIB, passes: PASSES, salt, identity: sealed }, identity))
    }

    /// Returns the identity, if this is the passphrase.
    pub fn open(&self, passphrase: &str) -> Result<Identity, FormatError> {
        let decode =
            |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| FormatError::Range("a passphrase's field"));
        let key = stretch(passphrase, &decode(&self.salt)?, self.memory_kib, self.passes)?;
        let bytes = Zeroizing::new(Sealer::new(&key)?.open(0, &[], &decode(&self.identity)?)?);
        Ok(Identity::new(bytes.as_slice().try_into().map_err(|_| FormatError::Tampered)?))
    }
}

fn stretch(
    passphrase: &str,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
) -> Result<Zeroizing<[u8; 32]>, FormatError> {
    if memory_kib > MEMORY_MAX_KIB || u64::from(memory_kib) * u64::from(passes) > COST_MAX {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_that_would_take_all_memory_or_all_day_is_refused() {
        let cost = |memory_kib, passes| stretch("x", &[0; 16], memory_kib, passes).map(|_| ());
        let refused = Err(FormatError::Range("the cost of a passphrase"));
        assert_eq!(cost(u32::MAX, 1), refused);
        assert_eq!(cost(MEMORY_MAX_KIB + 1, 1), refused);
        assert_eq!(cost(64, (COST_MAX / 64) as u32 + 1), refused);
        assert_eq!(cost(64, 0), refused);
        assert_eq!(cost(64, 3), Ok(()));
    }

    #[test]
    fn a_short_or_empty_passphrase_makes_no_slot() {
        let random = |bytes: &mut [u8]| bytes.fill(1);
        for short in ["", "1234567", "äöüßäöü"] {
            assert_eq!(
                Passphrase::close(short, &random).unwrap_err(),
                FormatError::Passphrase(PASSPHRASE_MIN_CHARS)
            );
        }
    }
}
