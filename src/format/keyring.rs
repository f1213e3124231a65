//! A store's keyring: its data keys, sealed with a master key, which is wrapped for each holder.
//!
//! ```text
//! key file, or passphrase (argon2id) ─▶ identity ─▶ master key (an age file) ─▶ data keys ─▶ every object
//! ```
//!
//! Anyone who knows a public key can wrap data for it, so that opening a keyring does not prove who made it.
//! Its maker therefore proves it to each holder by a key that only the two of them can compute (X25519
//! between their identities), and proves that it follows the previous keyring by the newest data key of that
//! one. The public keys are under the seal: a reader of the bucket sees only names. Keyrings of version 1
//! (see `keyring1`) prove none of that; version 2 is `keyring2`.

pub use super::holder::{EarlierRing, Holder, Opened, RingPlan, Secrets, ShownHolder, is_name, key};
use super::keyring1;
use super::keyring2::{self, Body, Proof, VERSION};
pub use super::keyring2::{admits_passphrases, close};
use super::wire::FormatError;
use crate::model::id::{ContentHash, StoreName};
use crate::model::record::RingRef;
use serde::Deserialize;

pub(crate) const KEYRING_MAX_BYTES: usize = 1 << 20;

/// A keyring as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    hash: ContentHash,
    size_bytes: usize,
    stored: Stored,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stored {
    First(Box<keyring1::Keyring>),
    Second(Box<Body>, Proof),
}

impl Keyring {
    pub(crate) fn version(&self) -> u8 {
        match self.stored {
            Stored::First(_) => 1,
            Stored::Second(..) => VERSION,
        }
    }

    /// Returns the size of the stored object.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub fn store(&self) -> &StoreName {
        match &self.stored {
            Stored::First(ring) => &ring.store,
            Stored::Second(body, _) => &body.store,
        }
    }

    /// Returns its number, and the hash that names it.
    pub fn reference(&self) -> RingRef {
        let sequence = match &self.stored {
            Stored::First(ring) => ring.sequence,
            Stored::Second(body, _) => body.sequence,
        };
        RingRef { sequence, hash: self.hash }
    }

    /// Returns the holders, as far as they can be read without a key.
    pub(crate) fn shown(&self) -> Vec<ShownHolder> {
        match &self.stored {
            Stored::First(ring) => ring.shown(),
            Stored::Second(body, _) => body.shown(),
        }
    }

    /// Opens it with the first secret that fits.
    ///
    /// # Errors
    /// [`FormatError::Tampered`] when nothing fits, [`FormatError::Maker`] when it opens but was not made by
    /// the holder that it names.
    pub fn open(&self, secrets: &Secrets) -> Result<Opened, FormatError> {
        match &self.stored {
            Stored::First(ring) => ring.open(secrets, self.hash),
            Stored::Second(body, proof) => keyring2::open(body, proof, self.reference(), secrets),
        }
    }
}

pub fn decode_ring(bytes: &[u8]) -> Result<Keyring, FormatError> {
    #[derive(Deserialize)]
    struct Version {
        version: u8,
    }
    let size_bytes = bytes.len();
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // Version 1 is written on many lines.
    match serde_json::from_slice::<Version>(first).map_or(1, |found| found.version) {
        1 => {
            let ring = keyring1::decode(bytes)?;
            Ok(Keyring { hash: ContentHash::of(bytes), size_bytes, stored: Stored::First(Box::new(ring)) })
        }
        VERSION => {
            let (body, proof, hash) = keyring2::decode(bytes)?;
            Ok(Keyring { hash, size_bytes, stored: Stored::Second(Box::new(body), proof) })
        }
        found => Err(FormatError::Version { found, known: VERSION }),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::format::age::Identity;
    use crate::support::env::Random;

    fn random() -> impl Random {
        let reader = std::sync::Mutex::new(blake3::Hasher::new().finalize_xof());
        move |bytes: &mut [u8]| reader.lock().unwrap().fill(bytes)
    }

    fn store() -> StoreName {
        StoreName::parse("acme").unwrap()
    }

    pub(crate) fn with(identity: &Identity) -> Secrets {
        Secrets { identities: vec![identity.clone()], passphrase: None }
    }

    #[test]
    fn a_keyring_opens_for_its_holders_and_proves_its_maker() {
        let random = random();
        let [file, friend, stranger] = [1, 2, 3].map(|n| Identity::new([n; 32]));
        let (words, _) = Holder::of_passphrase("words", "correct horse", &random).unwrap();
        let holders = [
            Holder::of_recipient("file", &file.recipient()),
            Holder::of_recipient("friend", &friend.recipient()),
            words,
        ];
        let (master, data) = (key(&random), [key(&random), key(&random)]);
        let (store, one) = (store(), &data[..1]);
        let plan =
            RingPlan { store: &store, holders: &holders, master: &master, generations: one, before: None };
        let first = decode_ring(&close(&plan, &file, &random).unwrap()).unwrap();
        let before = first.open(&with(&friend)).unwrap();
        assert_eq!((before.maker, before.slot, before.before.len()), (Some(0), 1, 0));
        let plan = RingPlan { before: Some(&before), generations: &data, ..plan };
        let bytes = close(&plan, &friend, &random).unwrap();
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
        // No public key is readable in it, and each holder notices every changed byte that concerns them.
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
        let random = random();
        let (owner, attacker) = (Identity::new([1; 32]), Identity::new([2; 32]));
        let holders = [
            Holder::of_recipient("key-file", &owner.recipient()),
            Holder::of_recipient("attacker", &attacker.recipient()),
        ];
        let (store, master, data) = (store(), key(&random), [key(&random)]);
        let plan =
            RingPlan { store: &store, holders: &holders, master: &master, generations: &data, before: None };
        // In the attacker's own name: it opens, and names the attacker as its maker.
        let ring = decode_ring(&close(&plan, &attacker, &random).unwrap()).unwrap();
        assert_eq!(ring.open(&with(&owner)).unwrap().maker, Some(1));
        // In the owner's name: the proof needs the owner's secret.
        let bytes = String::from_utf8(close(&plan, &attacker, &random).unwrap()).unwrap();
        let alone = RingPlan { holders: &holders[..1], ..plan };
        assert!(close(&alone, &attacker, &random).is_err());
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
        let random = random();
        let owner = Identity::new([1; 32]);
        let (store, master, data) = (store(), key(&random), [key(&random)]);
        for name in ["", "a\x1b]0;x\x07", "a\u{202e}b", "a\nb", &"x".repeat(201)] {
            let holders = [Holder::of_recipient(name, &owner.recipient())];
            let plan = RingPlan {
                store: &store,
                holders: &holders,
                master: &master,
                generations: &data,
                before: None,
            };
            assert_eq!(
                close(&plan, &owner, &random).unwrap_err(),
                FormatError::Range("a holder's name"),
                "{name:?}"
            );
        }
    }
}
