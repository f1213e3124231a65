//! Identifiers. Each is a newtype, so that a chunk's id cannot be passed where a pack's is expected.

use crate::support::failure::{Failure, FailureKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use thiserror::Error;

/// Reason why a text is not an identifier.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdError {
    #[error("'{0}' is not 64 hexadecimal digits")]
    Hex(String),
    #[error(
        "'{0}' is not a valid store name: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
    )]
    Store(String),
}

impl Failure for IdError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Returns the id of these bytes: their BLAKE3.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// Parses 64 hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                blake3::Hash::from_hex(text)
                    .map(|hash| Self(*hash.as_bytes()))
                    .map_err(|_| IdError::Hex(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &blake3::Hash::from_bytes(self.0).to_hex()[..12])
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
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_id! {
    /// Id of a chunk: the BLAKE3 of its raw bytes, 1 MiB at most.
    ChunkId
}
hash_id! {
    /// Id of a pack: the BLAKE3 of the whole object.
    PackId
}
hash_id! {
    /// Id of an index segment: the BLAKE3 of the whole object.
    IndexId
}
hash_id! {
    /// BLAKE3 of a file's logical content (holes read as zeros), or of a record's bytes.
    ContentHash
}

/// Number of a record in its store's log; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Returns the number after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number that grows by one at every promotion; a writer of an older epoch is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// A number that a daemon draws when it starts; it tells two processes of one host's name apart.
///
/// It is written as 16 hexadecimal digits, since some readers of JSON round numbers of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl Serialize for Incarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A daemon: its host's name, and its incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonId {
    pub host: WriterId,
    pub incarnation: Incarnation,
}

/// A writer: a host's stable name, the same after a restart. Notes in the repository, promotions and keyrings
/// refer to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(pub String);

impl fmt::Display for WriterId {
    /// Prints the name escaped, because a host chooses its own name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::escape::line(&self.0))
    }
}

/// A store's name: safe as a key in every object store and as a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StoreName(String);

impl StoreName {
    /// Accepts 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let first_is_plain =
            text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let all_are_plain = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
        if first_is_plain && all_are_plain && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Store(text.to_owned()))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StoreName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Returns the first eight bytes of a hash, little-endian, for numbers that only have to differ.
pub(crate) fn number_of(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_name_is_safe_as_a_key_and_as_a_file() {
        for good in ["acme", "0a", "a.b_c-d"] {
            assert_eq!(StoreName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "A", "a/b", "a b", "é", &"a".repeat(65)] {
            assert!(StoreName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_comes_back_from_its_text() {
        let id = ChunkId::of(b"x");
        assert_eq!(ChunkId::parse(&id.to_string()), Ok(id));
        assert!(ChunkId::parse("00").is_err());
    }
}
