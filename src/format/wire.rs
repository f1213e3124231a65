//! Primitive fields: LEB128 numbers, counted bytes. A reader never takes memory on the word of a count.

use crate::support::failure::{Failure, FailureKind};
use thiserror::Error;

/// Reason why bytes cannot be decoded. Callers add the key or the chunk that the bytes came from.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum FormatError {
    #[error("{}", truncated(.0))]
    Truncated(&'static str),
    #[error("{0} is out of range")]
    Range(&'static str),
    #[error("is not {0} (wrong magic number)")]
    Magic(&'static str),
    #[error(
        "has format version {found}, but this understudy reads version {known}: {}",
        if found > known { "use a newer understudy" } else { "use the understudy that wrote it, or start a new repository" }
    )]
    Version { found: u8, known: u8 },
    #[error("does not have the hash that names it")]
    Hash,
    #[error("uses codec {0}, which this understudy does not know: use a newer understudy")]
    Codec(u8),
    #[error("is sealed with method {0}, which this understudy does not know: use a newer understudy")]
    Seal(u8),
    #[error("is sealed with data key {0}, which no key here opens")]
    Generation(u32),
    #[error("failed authentication: it was altered, is misplaced, or is sealed with another key")]
    Tampered,
    #[error("does not prove that the holder it names made it")]
    Maker,
    #[error("a passphrase needs at least {0} characters")]
    Passphrase(usize),
    #[error("{0} are not strictly ascending")]
    Order(&'static str),
    #[error("has {0} trailing bytes")]
    Trailing(usize),
    #[error(transparent)]
    Path(#[from] crate::model::tree_path::PathError),
    #[error("is not valid: {0}")]
    Text(String),
}

impl Failure for FormatError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Passphrase(_) => FailureKind::Usage,
            _ => FailureKind::Damaged,
        }
    }
}

/// `what` is a part, or, with an article, all of it.
fn truncated(what: &str) -> String {
    match what.starts_with("a ") || what.starts_with("an ") {
        true => format!("is truncated: shorter than {what}"),
        false => format!("is truncated in its {what}"),
    }
}

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Appends a number as LEB128, at most 10 bytes.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Appends a signed number as zigzag, then LEB128.
    pub(crate) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends a count, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }
}

/// Takes fields from the front of a slice.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FormatError::Truncated(what))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::Truncated(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, FormatError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(crate) fn u32_le(&mut self, what: &'static str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn number(&mut self, what: &'static str) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(FormatError::Range(what));
            }
            value |= bits << shift;
            if byte < 0x80 {
                // Each value has one encoding: a last byte of zero would be a second one.
                return if byte == 0 && shift > 0 { Err(FormatError::Range(what)) } else { Ok(value) };
            }
        }
        Err(FormatError::Range(what))
    }

    /// Reads a number that fits the wanted type.
    pub(crate) fn fitting<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, FormatError> {
        T::try_from(self.number(what)?).map_err(|_| FormatError::Range(what))
    }

    pub(crate) fn signed(&mut self, what: &'static str) -> Result<i64, FormatError> {
        let value = self.number(what)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], FormatError> {
        let count = self.fitting(what)?;
        self.take(count, what)
    }

    /// Reads a count of items that each take at least `least_bytes` of the remaining bytes.
    pub(crate) fn count(&mut self, least_bytes: usize, what: &'static str) -> Result<usize, FormatError> {
        let count: usize = self.fitting(what)?;
        if count > self.0.len() / least_bytes.max(1) {
            return Err(FormatError::Truncated(what));
        }
        Ok(count)
    }

    pub(crate) fn end(self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::Trailing(self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value in any::<u64>(), signed in any::<i64>()) {
            let mut writer = Writer::default();
            writer.number(value);
            writer.signed(signed);
            let mut reader = Reader(&writer.0);
            prop_assert_eq!(reader.number("n"), Ok(value));
            prop_assert_eq!(reader.signed("n"), Ok(signed));
            prop_assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_number_has_one_encoding() {
        assert!(Reader(&[0x80, 0]).number("n").is_err());
        assert!(Reader(&[0xff; 10]).number("n").is_err());
        assert!(Reader(&[0x80]).number("n").is_err());
    }
}
