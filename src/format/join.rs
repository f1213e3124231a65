//! The token that a new member is invited with, and what the new member answers.
//!
//! The token is Bech32 (`understudy-join1…`) of: version (1), the store's name, preceded by its length (1), an
//! id (16), a secret (32). Whoever has it can join once, while the invitation lasts. The answer is an object in
//! the repository whose name is the BLAKE3 of the id; the secret proves, by a keyed hash over all of it, that
//! the holder of the token wrote it.

use super::wire::{FormatError, Reader};
use crate::model::id::{ContentHash, StoreName, WriterId};
use crate::support::env::Random;
use crate::support::signature::PublicKey;
use bech32::{Bech32, Hrp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const PREFIX: &str = "understudy-join";
const VERSION: u8 = 1;
const CONTEXT: &str = "understudy join 1";

/// An invitation to become a member.
pub(crate) struct JoinToken {
    pub store: StoreName,
    id: [u8; 16],
    secret: Zeroizing<[u8; 32]>,
}

/// What a host tells of itself when it joins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub address: Option<String>,
    pub customers: Option<String>,
    pub database: Option<String>,
    pub zone: Option<String>,
}

/// The answer of a host that was invited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Joining {
    pub name: WriterId,
    pub key: PublicKey,
    pub address: Option<String>,
    pub customers: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    pub zone: Option<String>,
    proof: ContentHash,
}

impl JoinToken {
    pub(crate) fn new(store: &StoreName, random: &dyn Random) -> Self {
        let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
        random.fill(&mut id);
        random.fill(&mut *secret);
        Self { store: store.clone(), id, secret }
    }

    /// Returns the text that `parse` reads.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(256));
        bytes.extend_from_slice(&[VERSION, self.store.as_str().len() as u8]);
        bytes.extend_from_slice(self.store.as_str().as_bytes());
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&*self.secret);
        let prefix = Hrp::parse(PREFIX).unwrap_or_else(|error| panic!("a constant: {error}"));
        let text = bech32::encode::<Bech32>(prefix, &bytes);
        Zeroizing::new(text.unwrap_or_else(|error| panic!("114 bytes fit: {error}")))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, FormatError> {
        const WHAT: &str = "a token to join";
        let (prefix, bytes) = bech32::decode(text.trim()).map_err(|_| FormatError::Magic(WHAT))?;
        let bytes = Zeroizing::new(bytes);
        if prefix.to_lowercase() != PREFIX {
            return Err(FormatError::Magic(WHAT));
        }
        let mut reader = Reader(&bytes);
        let [version, length] = reader.array::<2>(WHAT)?;
        if version != VERSION {
            return Err(FormatError::Version { found: version, known: VERSION });
        }
        let name = std::str::from_utf8(reader.take(usize::from(length), WHAT)?).ok();
        let store = name.and_then(|name| StoreName::parse(name).ok()).ok_or(FormatError::Magic(WHAT))?;
        let id = reader.array::<16>(WHAT)?;
        let secret = Zeroizing::new(reader.array::<32>(WHAT)?);
        reader.end()?;
        Ok(Self { store, id, secret })
    }

    /// Returns the name of the object with the answer. It tells nothing about the token.
    pub(crate) fn place(&self) -> ContentHash {
        ContentHash::of(&self.id)
    }

    fn proof(&self, joining: &Joining) -> ContentHash {
        let key = blake3::derive_key(CONTEXT, &*self.secret);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        let mut put = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        put(self.store.as_str());
        put(&joining.name.0);
        put(joining.address.as_deref().unwrap_or_default());
        put(joining.customers.as_deref().unwrap_or_default());
        put(joining.zone.as_deref().unwrap_or_default());
        // Hosts without one are proven as before there were any.
        if let Some(database) = &joining.database {
            put(database);
        }
        hasher.update(&joining.key.0);
        ContentHash(*hasher.finalize().as_bytes())
    }

    /// Returns the answer of a host.
    pub(crate) fn answer(&self, name: WriterId, key: PublicKey, told: Told) -> Joining {
        let Told { address, customers, database, zone } = told;
        let proof = ContentHash([0; 32]);
        let joining = Joining { name, key, address, customers, database, zone, proof };
        Joining { proof: self.proof(&joining), ..joining }
    }

    /// Returns whether a holder of this token wrote the answer.
    pub(crate) fn is_proven(&self, joining: &Joining) -> bool {
        // This comparison takes the same time, whatever the difference.
        blake3::Hash::from_bytes(self.proof(joining).0) == blake3::Hash::from_bytes(joining.proof.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(byte: u8) -> JoinToken {
        let fill = move |bytes: &mut [u8]| bytes.fill(byte);
        JoinToken::new(&StoreName::parse(&"a".repeat(64)).unwrap(), &fill)
    }

    #[test]
    fn a_token_comes_back_from_its_text_and_a_changed_one_does_not() {
        let text = token(7).text();
        let again = JoinToken::parse(&text).unwrap();
        assert_eq!((again.store.as_str().len(), again.place()), (64, token(7).place()));
        assert_eq!(*again.secret, [7; 32]);
        for at in 0..text.len() {
            let mut bad = text.as_bytes().to_vec();
            bad[at] = if bad[at] == b'q' { b'p' } else { b'q' };
            assert!(JoinToken::parse(std::str::from_utf8(&bad).unwrap()).is_err(), "{at}");
            assert!(JoinToken::parse(&text[..at]).is_err());
        }
        let key = bech32::encode::<Bech32>(Hrp::parse("age").unwrap(), &[1; 114]).unwrap();
        assert!(JoinToken::parse(&key).is_err());
    }

    #[test]
    fn only_a_holder_of_the_token_can_answer_and_nobody_can_change_an_answer() {
        let (name, key) = (WriterId("b".into()), PublicKey([3; 32]));
        let told = Told { address: Some("b:9184".into()), ..Told::default() };
        let joining = token(7).answer(name, key, told);
        assert!(token(7).is_proven(&joining));
        assert!(!token(8).is_proven(&joining));
        for bad in [
            Joining { name: WriterId("c".into()), ..joining.clone() },
            Joining { key: PublicKey([4; 32]), ..joining.clone() },
            Joining { address: Some("c:9184".into()), ..joining.clone() },
            Joining { address: None, customers: Some("b:9184".into()), ..joining.clone() },
            Joining { address: None, zone: Some("b:9184".into()), ..joining.clone() },
            Joining { database: Some("c:3306".into()), ..joining.clone() },
            Joining { database: Some(String::new()), ..joining.clone() },
            Joining { proof: ContentHash([0; 32]), ..joining.clone() },
        ] {
            assert!(!token(7).is_proven(&bad), "{bad:?}");
        }
    }
}
