//! A path inside a store: components joined by `/`, no leading slash; the root is empty.
//!
//! Order: components compared as bytes, which is the order of a depth-first walk with sorted names.

use super::escape;
use crate::support::failure::{Failure, FailureKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use thiserror::Error;

/// Reason why bytes are not a path inside a store.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PathError {
    #[error("path '{0}' has an empty, '.' or '..' component")]
    Component(String),
    #[error("path '{0}' contains a NUL byte")]
    Nul(String),
    #[error("path '{0}' has a component of more than 255 bytes")]
    Long(String),
}

impl Failure for PathError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// A validated path relative to the store's root.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// Returns the path of the store's root directory.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks every component: not empty, not `.` or `..`, at most 255 bytes, no NUL.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul(shown()));
        }
        for component in bytes.split(|b| *b == b'/') {
            match component {
                b"" | b"." | b".." => return Err(PathError::Component(shown())),
                long if long.len() > 255 => return Err(PathError::Long(shown())),
                _ => {}
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Returns the path of the child `name` of this directory.
    ///
    /// `name` comes from one of the kernel's directory listings, and so holds no `/` and no NUL.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut joined = Vec::with_capacity(self.0.len() + 1 + name.len());
        joined.extend_from_slice(&self.0);
        if !joined.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(name);
        Self(joined)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the components from the top; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// Returns the directory that holds this entry and the entry's name in it; `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => Some((&self.0[..at], &self.0[at + 1..])),
            None => Some((b"", &self.0)),
        }
    }

    /// Returns whether this is `top` or lies below it.
    pub(crate) fn is_within(&self, top: &TreePath) -> bool {
        top.is_root() || self.0 == top.0 || (self.0.starts_with(&top.0) && self.0[top.0.len()] == b'/')
    }
}

/// Returns the number of bytes in the common prefix of two paths.
///
/// It compares words, because paths of one directory share most of their bytes.
pub(crate) fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = size_of::<u64>();
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let words = a.chunks_exact(WORD).zip(b.chunks_exact(WORD));
    let at = WORD * words.take_while(|(a, b)| word(a) == word(b)).count();
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // '/' sorts below every other byte, so that a directory's contents follow it immediately.
        let rank = |b: &u8| if *b == b'/' { 0u16 } else { u16::from(*b) + 1 };
        let shared = shared_bytes(&self.0, &other.0);
        match (self.0.get(shared), other.0.get(shared)) {
            (Some(a), Some(b)) => rank(a).cmp(&rank(b)),
            (a, b) => a.is_some().cmp(&b.is_some()),
        }
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    /// Escapes bytes that are not printable UTF-8, so that a hostile name cannot steer a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for part in self.0.utf8_chunks() {
            for c in part.valid().chars() {
                if escape::is_steering(c) {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in part.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreePath({self})")
    }
}

/// A path in a serialised form: text, or a list of bytes if it is not UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match String::from_utf8(self.0.clone()) {
            Ok(text) => Written::Text(text),
            Err(error) => Written::Bytes(error.into_bytes()),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Written::deserialize(deserializer)? {
            Written::Text(text) => text.into_bytes(),
            Written::Bytes(bytes) => bytes,
        };
        Self::parse(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for bad in [&b"/a"[..], b"a/", b"a//b", b"..", b"a/../b", b".", b"a\0b"] {
            assert!(TreePath::parse(bad).is_err());
        }
        assert!(TreePath::parse(&[b'a'; 256]).is_err());
        assert!(TreePath::parse(&[b'a'; 255]).is_ok());
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(TreePath::parse(b"a\x1b[2J\xff").unwrap().to_string(), "a\\u{1b}[2J\\xff");
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_components(
            a in prop::collection::vec("[a-c.\\-\u{1}]{1,3}", 0..4),
            b in prop::collection::vec("[a-c.\\-\u{1}]{1,3}", 0..4),
        ) {
            let (pa, pb) = (a.join("/"), b.join("/"));
            if let (Ok(x), Ok(y)) = (TreePath::parse(pa.as_bytes()), TreePath::parse(pb.as_bytes())) {
                let by_components = x.components().cmp(y.components());
                prop_assert_eq!(x.cmp(&y), by_components);
            }
        }
    }
}
