//! Whether a keyring is taken, and a store without encryption: decisions, without I/O.
//!
//! A host takes a keyring when it follows the one that it took before: each keyring between them is made by a holder of the one before
//! that is a holder still, proves that to this host, names the one before and has its data keys. So whoever was removed makes none that is taken, and
//! whoever holds the bucket without a key makes none at all. What a host has never seen it takes on first use.

use super::distrust::Distrust;
use super::key_source::Encryption;
use crate::format::keyring::{Before, Opened};
use crate::format::seal::Key;
use crate::model::id::{ContentHash, StoreName};
use serde::{Deserialize, Serialize};

/// What a host keeps of a keyring that it took. No secret: hashes of what has 256 random bits, and of public keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRing {
    pub version: u8,
    pub sequence: u32,
    pub hash: ContentHash,
    /// How many data keys it has, and a commitment to each of them.
    pub keys: u32,
    pub commitment: ContentHash,
    /// The holders' public keys, hashed.
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
    pub fn of(store: &StoreName, ring: &Opened) -> Self {
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

    /// As keyrings behind it name it.
    fn named(&self) -> Before {
        Before { sequence: self.sequence, hash: self.hash, keys: self.keys }
    }

    /// Whether a keyring behind it proves no less, and has its data keys.
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

    /// This, after one more keyring.
    fn followed_by(&self, store: &StoreName, ring: &Opened) -> Result<Self, Distrust> {
        self.goes_on_in(store, ring)?;
        // Version 1 has nothing more to show.
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

/// What `newest` alone tells of whether it can follow `seen`, before any that lead to it is fetched: it has the data keys, which nobody
/// makes up who never had one, and names the one that was taken. Whether it does follow is told by [`takes`].
pub fn may_follow(store: &StoreName, seen: &SeenRing, newest: &Opened) -> Result<(), Distrust> {
    if newest.reference.sequence <= seen.sequence {
        return Ok(());
    }
    seen.goes_on_in(store, newest)?;
    match newest.before.iter().find(|ring| ring.sequence == seen.sequence) {
        Some(told) if *told == seen.named() => Ok(()),
        // Of those of version 1 the last alone is told of, or none.
        None if seen.version == 1 => Ok(()),
        _ => Err(Distrust::Chain),
    }
}

/// Whether a host that took `seen` takes the last of `rings`, which lead to it, ascending.
pub fn takes(store: &StoreName, seen: &SeenRing, rings: &[Opened]) -> Result<(), Distrust> {
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

/// What a host knows of a store's encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeenEncryption {
    /// It has a keyring.
    On,
    /// It has none, and that was said to be meant.
    Off,
    /// It has none, and nobody said anything about it.
    Unconfirmed,
}

/// What becomes of a store without a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// It is meant to have none.
    Accepted,
    /// Readers go on, and say so; nobody writes.
    Unconfirmed,
    Refused,
}

/// Pure. `wanted` is the configuration's word, `allowed` the command line's.
pub fn plain(wanted: Encryption, allowed: bool, seen: Option<SeenEncryption>) -> Plain {
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
    use crate::format::keyring::{self, Holder, Plan, Secrets};
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

    /// A keyring of `maker`'s for `holders`, after `before`, with so many data keys; as `reader` opens it.
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
            Plan { store: &store, holders: &holders, master: &master, generations: &generations, before };
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
        // 1 is the owner, 2 a standby, 3 who is removed.
        let first = ring(1, &[1, 2, 3], None, &[1], 0);
        let seen = SeenRing::of(&name, &opened(&first, 2));
        let removal = ring(1, &[1, 2], Some(&opened(&first, 1)), &[1, 2], 0);
        assert_eq!(takes(&name, &seen, &[opened(&removal, 2)]), Ok(()));
        let after = SeenRing::of(&name, &opened(&removal, 2));
        // Who was removed goes on from the ring that they could open: it is not the one that was taken.
        let forked = ring(3, &[1, 2, 3], Some(&opened(&first, 3)), &[1, 7], 0);
        assert_eq!(takes(&name, &after, &[opened(&forked, 2)]), Err(Distrust::Exchanged));
        let longer = ring(3, &[1, 2, 3], Some(&opened(&forked, 3)), &[1, 7], 1);
        let path = [opened(&forked, 2), opened(&longer, 2)];
        assert_eq!(takes(&name, &after, &path), Err(Distrust::Keys));
        // Even with the name and the number of keys of the one that is in force, which a proof of its newest key is to hold.
        let mut lies = opened(&removal, 2);
        lies.generations[1] = Key::new([7; 32]);
        let lying = ring(3, &[1, 2, 3], Some(&lies), &[1, 7], 2);
        assert_eq!(takes(&name, &after, &[opened(&lying, 2)]), Err(Distrust::Keys));
        // And one who learned the keys, but holds none.
        let stolen = ring(3, &[1, 2, 3], Some(&opened(&removal, 2)), &[1, 2], 3);
        assert_eq!(takes(&name, &after, &[opened(&stolen, 2)]), Err(Distrust::Maker("h3".into())));
        // The ring that removed them is gone.
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
                .map(|sequence| Before { sequence, hash: ContentHash::of(b"guess"), keys: 1 })
                .collect();
            before.generations = keys.iter().map(|n| Key::new([*n; 32])).collect();
            opened(&ring(3, &[2, 3], Some(&before), keys, 0), 2)
        };
        // By whoever never had a data key, and by one who has.
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
