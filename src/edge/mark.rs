//! The mark that an edge keeps: which epoch, host and address it was given last.
//!
//! Its text is `EPOCH/HOST/ADDRESS`. It stands in a map of HAProxy, in a configuration of nginx and in the
//! environment of a command, so it contains no blank, no line break, and none of `;`, `"`, `$`, `{` and `\`.

use super::address::Address;
use crate::model::escape;
use crate::model::id::{Epoch, WriterId};
use crate::support::failure::{Failure, FailureKind};
use std::fmt::{self, Write};
use std::str::FromStr;
use thiserror::Error;

/// Maximum length of a host in its plain form.
const HOST_MAX_BYTES: usize = 768;

/// The reason why a text is not a mark.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MarkError {
    #[error("'{}' is not a mark: it must be EPOCH/HOST/ADDRESS", escape::line(.0))]
    Text(String),
    #[error("host name '{}…' is too long for an edge: give the host a shorter name", escape::line(.0))]
    Long(String),
}

impl Failure for MarkError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// A host's name in its plain form: letters, digits, `.`, `_` and `-`; each other byte as `%` and two
/// hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainHost(String);

impl PlainHost {
    pub fn of(writer: &WriterId) -> Result<Self, MarkError> {
        let mut plain = String::with_capacity(writer.0.len());
        for byte in writer.0.bytes() {
            match is_plain(byte) {
                true => plain.push(byte.into()),
                // Writing to a string never fails.
                false => drop(write!(plain, "%{byte:02X}")),
            }
        }
        match plain.len() <= HOST_MAX_BYTES {
            true => Ok(Self(plain)),
            false => Err(MarkError::Long(writer.0.chars().take(32).collect())),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let mut name = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => {
                    let mut digit = || char::from(bytes.next()?).to_digit(16);
                    name.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
                }
                byte if is_plain(byte) => name.push(byte),
                _ => return None,
            }
        }
        // Each name has one plain form.
        let again = Self::of(&WriterId(String::from_utf8(name).ok()?)).ok()?;
        (again.0 == text).then_some(again)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

impl fmt::Display for PlainHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an edge was given last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub epoch: Epoch,
    pub host: PlainHost,
    pub address: Address,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.epoch.0, self.host, self.address)
    }
}

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        let parse = || {
            let mut parts = text.splitn(3, '/');
            let epoch = parse_epoch(parts.next()?)?;
            let host = PlainHost::parse(parts.next()?)?;
            Some(Self { epoch, host, address: parts.next()?.parse().ok()? })
        };
        parse().ok_or_else(|| MarkError::Text(text.chars().take(100).collect()))
    }
}

/// Parses an epoch as it is written: digits, without a sign or a leading zero.
pub(crate) fn parse_epoch(text: &str) -> Option<Epoch> {
    let epoch = text.parse().ok().map(Epoch)?;
    (epoch.0.to_string() == text).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_mark_is_one_word_and_comes_back(epoch: u64, name in "(?s).{0,60}", ip: std::net::IpAddr, port in 1..=u16::MAX) {
            let host = PlainHost::of(&WriterId(name)).unwrap();
            let address = std::net::SocketAddr::new(ip, port).to_string().parse().unwrap();
            let mark = Mark { epoch: Epoch(epoch), host, address };
            let text = mark.to_string();
            let is_safe = |b: u8| b.is_ascii_graphic() && !b";\"'$\\{}<>,#".contains(&b);
            prop_assert!(text.bytes().all(is_safe), "{text}");
            prop_assert_eq!(text.parse::<Mark>().unwrap(), mark);
        }

        #[test]
        fn any_text_is_a_mark_or_refused_and_a_mark_has_one_text(text in "[0-9+]{0,21}/(?s).{0,9}[%0-9a-fA-Fx.\n]{0,6}/[a-z0-9.:\\[\\]]{0,12}") {
            if let Ok(mark) = text.parse::<Mark>() {
                let again = mark.to_string();
                prop_assert_eq!(again.parse::<Mark>().unwrap(), mark);
            }
        }
    }

    #[test]
    fn two_hosts_never_have_the_same_plain_form() {
        let plain = |name: &str| PlainHost::of(&WriterId(name.into())).unwrap().to_string();
        assert_eq!(
            (plain("web 1;\n"), plain("web%201"), plain("wéb")),
            ("web%201%3B%0A".into(), "web%25201".into(), "w%C3%A9b".into())
        );
        for bad in [
            "7/a%2/h:1",
            "7/a%zz/h:1",
            "7/a%61/h:1",
            "7/a%3b/h:1",
            "+7/a/h:1",
            "07/a/h:1",
            "7/a b/h:1",
            "7//",
            "7",
            "",
        ] {
            assert!(bad.parse::<Mark>().is_err(), "{bad}");
        }
        assert!(matches!(PlainHost::of(&WriterId("ä".repeat(300))), Err(MarkError::Long(_))));
    }
}
