//! Decides whether a keyring is taken, and whether a store without encryption is used. No I/O.
//!
//! A host takes a keyring if it follows the one that it took before. Each keyring between them must be made
//! by a holder of the one before who is still a holder, prove that to this host, name the one before, and
//! have its data keys. A removed holder therefore makes none that is taken, and a party with access to the
//! bucket but without a key makes none at all. A host takes the first keyring that it sees of a store on
//! first use.

use super::distrust::Distrust;
use super::key_source::Encryption;
use crate::format::keyring::{EarlierRing, Opened};
use crate::format::seal::Key;
use crate::model::id::{ContentHash, StoreName};
use serde::{Deserialize, Serialize};

/// The facts that a host keeps about a keyring that it took.
///
/// It contains no secret: only hashes of public keys, and of keys with 256 random bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenRing {
    pub version: u8,
    pub sequence: u32,
    pub hash: ContentHash,
    /// The number of its data keys, and a commitment to each of them.
    pub keys: u32,
    pub commitment: ContentHash,
    /// The hashes of the holders' public keys.
    pub holders: Vec<ContentHash>,
}

fn commitment(store: &StoreName, keys: &[Key]) -> ContentHash {
    let mut hasher = blake3::Hasher::new_derive_key("understudy data keys");
    hasher.update(store.as_str().as_bytes()).update(&[0]);
    keys.iter().for_each(|key| {
        hasher.update(&*key.0);
    });
    ContentHash(*hasher.finalize().as_bytes())
}

impl SeenRing {
    pub(crate) fn of(store: &StoreName, ring: &Opened) -> Self {
        Self {
            version: ring.version,
            sequence: ring.reference.sequence,
            hash: ring.reference.hash,
            keys: ring.generations.len() as u32,
            commitment: commitment(store, &ring.generations),
            holders: ring.holders.iter().map(|holder| ContentHash::of(holder.recipient.bytes())).collect(),
        }
    }

    fn is(&self, ring: &Opened) -> bool {
        self.sequence == ring.reference.sequence && self.hash == ring.reference.hash
    }

    /// Returns the reference to it in later keyrings.
    fn named(&self) -> EarlierRing {
        EarlierRing { sequence: self.sequence, hash: self.hash, keys: self.keys }
    }

    /// Checks that a later keyring proves no less, and has its data keys.
    fn goes_on_in(&self, store: &StoreName, ring: &Opened) -> Result<(), Distrust> {
        if ring.version < self.version {
            return Err(Distrust::Version);
        }
        let kept = ring.generations.get(..self.keys as usize).ok_or(Distrust::Keys)?;
        match commitment(store, kept) == self.commitment {
            true => Ok(()),
            false => Err(Distrust::Keys),
        }
    }

    /// Returns the facts after one more keyring.
    fn followed_by(&self, store: &StoreName, ring: &Opened) -> Result<Self, Distrust> {
        self.goes_on_in(store, ring)?;
        // Version 1 has no further proof.
        if let Some(maker) = ring.maker {
            if ring.before.last() != Some(&self.named()) {
                return Err(Distrust::Chain);
            }
            let maker = &ring.holders[maker];
            if !self.holders.contains(&ContentHash::of(maker.recipient.bytes())) {
                return Err(Distrust::Maker(maker.name.clone()));
            }
        }
        Ok(Self::of(store, ring))
    }
}

/// Checks whether `newest` can follow `seen`, before the keyrings that lead to it are fetched.
///
/// It must have the data keys, which no party can make up that never had one, and name the keyring that was
/// taken. Whether it does follow is decided by [`takes`].
pub(crate) fn may_follow(store: &StoreName, seen: &SeenRing, newest: &Opened) -> Result<(), Distrust> {
    if newest.reference.sequence <= seen.sequence {
        return Ok(());
    }
    seen.goes_on_in(store, newest)?;
    match newest.before.iter().find(|ring| ring.sequence == seen.sequence) {
        Some(told) if *told == seen.named() => Ok(()),
        // A keyring of version 1 is named only by the next one, or not at all.
        None if seen.version == 1 => Ok(()),
        _ => Err(Distrust::Chain),
    }
}

/// Checks whether a host that took `seen` takes the last of `rings`, which lead to it, in ascending order.
pub(crate) fn takes(store: &StoreName, seen: &SeenRing, rings: &[Opened]) -> Result<(), Distrust> {
    let Some(newest) = rings.last() else { return Ok(()) };
    if newest.reference.sequence < seen.sequence {
        return Err(if newest.version < seen.version { Distrust::Version } else { Distrust::Older });
    }
    if newest.reference.sequence == seen.sequence {
        return if seen.is(newest) { Ok(()) } else { Err(Distrust::Exchanged) };
    }
    let mut before = seen.clone();
    for ring in rings.iter().filter(|ring| !seen.is(ring)) {
        before = before.followed_by(store, ring)?;
    }
    Ok(())
}

/// The state of a store's encryption, as far as a host knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SeenEncryption {
    /// It has a keyring.
    On,
    /// It has none, and this was confirmed as intended.
    Off,
    /// It has none, and no setting says anything about it.
    Unconfirmed,
}

/// The treatment of a store without a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// It is intended to have none.
    Accepted,
    /// Readers continue with a warning; writers are refused.
    Unconfirmed,
    Refused,
}

/// Decides how a store without a keyring is treated. Pure.
///
/// `wanted` is the setting in the configuration, `allowed` that of the command line.
pub(crate) fn plain(wanted: Encryption, allowed: bool, seen: Option<SeenEncryption>) -> Plain {
    match (wanted, seen) {
        (_, Some(SeenEncryption::On)) | (Encryption::Required, _) => Plain::Refused,
        (Encryption::None, _) | (_, Some(SeenEncryption::Off)) => Plain::Accepted,
        _ if allowed => Plain::Accepted,
        _ => Plain::Unconfirmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::age::Identity;
    use crate::format::keyring::{self, Holder, RingPlan, Secrets};
    use proptest::prelude::*;

    fn store() -> StoreName {
        StoreName::parse("acme").unwrap()
    }

    fn identity(number: u8) -> Identity {
        Identity::new([number; 32])
    }

    fn secrets(number: u8) -> Secrets {
        Secrets { identities: vec![identity(number)], passphrase: None }
    }

    /// Makes a keyring of `maker` for `holders`, after `before`, with the data keys `keys`.
    ///
    /// `reader` is the holder who opens it.
    fn ring(maker: u8, holders: &[u8], before: Option<&Opened>, keys: &[u8], reader: u8) -> keyring::Keyring {
        let mut seed = blake3::Hasher::new();
        seed.update(&[maker, reader]).update(holders).update(keys);
        let reader = std::sync::Mutex::new(seed.finalize_xof());
        let holders: Vec<_> = holders
            .iter()
            .map(|n| Holder::of_recipient(&format!("h{n}"), &identity(*n).recipient()))
            .collect();
        let generations: Vec<_> = keys.iter().map(|n| Key::new([*n; 32])).collect();
        let (store, master) = (store(), Key::new([9; 32]));
        let plan =
            RingPlan { store: &store, holders: &holders, master: &master, generations: &generations, before };
        let bytes =
            keyring::close(&plan, &identity(maker), &|bytes: &mut [u8]| reader.lock().unwrap().fill(bytes))
                .unwrap();
        keyring::decode_ring(&bytes).unwrap()
    }

    fn opened(ring: &keyring::Keyring, reader: u8) -> Opened {
        ring.open(&secrets(reader)).unwrap()
    }

    #[test]
    fn a_keyring_is_taken_from_a_holder_of_the_one_before_alone() {
        let name = store();
        // 1 is the owner, 2 a standby, 3 the holder who is removed.
        let first = ring(1, &[1, 2, 3], None, &[1], 0);
        let seen = SeenRing::of(&name, &opened(&first, 2));
        let removal = ring(1, &[1, 2], Some(&opened(&first, 1)), &[1, 2], 0);
        assert_eq!(takes(&name, &seen, &[opened(&removal, 2)]), Ok(()));
        let after = SeenRing::of(&name, &opened(&removal, 2));
        // The removed holder continues from the keyring that this holder could open, not from the one that
        // was taken.
        let forked = ring(3, &[1, 2, 3], Some(&opened(&first, 3)), &[1, 7], 0);
        assert_eq!(takes(&name, &after, &[opened(&forked, 2)]), Err(Distrust::Exchanged));
        let longer = ring(3, &[1, 2, 3], Some(&opened(&forked, 3)), &[1, 7], 1);
        let path = [opened(&forked, 2), opened(&longer, 2)];
        assert_eq!(takes(&name, &after, &path), Err(Distrust::Keys));
        // It does not help to name the keyring in force and its number of keys: a commitment proves its
        // newest key.
        let mut lies = opened(&removal, 2);
        lies.generations[1] = Key::new([7; 32]);
        let lying = ring(3, &[1, 2, 3], Some(&lies), &[1, 7], 2);
        assert_eq!(takes(&name, &after, &[opened(&lying, 2)]), Err(Distrust::Keys));
        // A party that learned the keys is no holder.
        let stolen = ring(3, &[1, 2, 3], Some(&opened(&removal, 2)), &[1, 2], 3);
        assert_eq!(takes(&name, &after, &[opened(&stolen, 2)]), Err(Distrust::Maker("h3".into())));
        // The keyring that removed this holder was deleted.
        assert_eq!(takes(&name, &after, &[opened(&first, 2)]), Err(Distrust::Older));
    }

    #[test]
    fn a_host_that_was_away_takes_what_led_to_the_newest_keyring_and_no_gap() {
        let name = store();
        let first = ring(1, &[1, 2], None, &[1], 0);
        let second = ring(1, &[1, 2, 4], Some(&opened(&first, 1)), &[1], 0);
        let third = ring(4, &[2, 4], Some(&opened(&second, 4)), &[1, 2], 0);
        let seen = SeenRing::of(&name, &opened(&first, 2));
        let path = [opened(&second, 2), opened(&third, 2)];
        assert_eq!(takes(&name, &seen, &path), Ok(()));
        assert_eq!(takes(&name, &seen, &path[1..]), Err(Distrust::Chain));
        assert_eq!(may_follow(&name, &seen, &path[1]), Ok(()));
    }

    #[test]
    fn a_keyring_that_does_not_lead_to_the_one_that_was_taken_says_so_by_itself() {
        let name = store();
        let first = ring(1, &[1, 2, 3], None, &[1], 0);
        let seen = SeenRing::of(&name, &opened(&first, 2));
        let made_up = |keys: &[u8], number: u32, hash: &[u8]| {
            let mut before = opened(&first, 3);
            before.reference.sequence = number;
            before.reference.hash = ContentHash::of(hash);
            before.before = (1..number)
                .map(|sequence| EarlierRing { sequence, hash: ContentHash::of(b"guess"), keys: 1 })
                .collect();
            before.generations = keys.iter().map(|n| Key::new([*n; 32])).collect();
            opened(&ring(3, &[2, 3], Some(&before), keys, 0), 2)
        };
        // The first is made by a party that never had a data key, the second by one that has.
        assert_eq!(may_follow(&name, &seen, &made_up(&[7], 700, b"guess")), Err(Distrust::Keys));
        assert_eq!(may_follow(&name, &seen, &made_up(&[1, 7], 700, b"guess")), Err(Distrust::Chain));
        assert_eq!(may_follow(&name, &seen, &made_up(&[1, 7], 1, b"guess")), Err(Distrust::Chain));
    }

    proptest! {
        #[test]
        fn a_store_that_was_encrypted_is_never_taken_without(wanted in 0..3usize, allowed: bool) {
            let wanted = [Encryption::On, Encryption::None, Encryption::Required][wanted];
            prop_assert_eq!(plain(wanted, allowed, Some(SeenEncryption::On)), Plain::Refused);
        }
    }

    #[test]
    fn without_a_word_of_somebody_s_nobody_writes_without_encryption() {
        use SeenEncryption::{Off, Unconfirmed};
        for seen in [None, Some(Unconfirmed)] {
            assert_eq!(plain(Encryption::On, false, seen), Plain::Unconfirmed);
            assert_eq!(plain(Encryption::On, true, seen), Plain::Accepted);
            assert_eq!(plain(Encryption::None, false, seen), Plain::Accepted);
        }
        assert_eq!(plain(Encryption::On, false, Some(Off)), Plain::Accepted);
        for seen in [None, Some(Unconfirmed), Some(Off)] {
            assert_eq!(plain(Encryption::Required, true, seen), Plain::Refused);
        }
    }
}
