//! The address of a host, as an edge is given it: `HOST:PORT`, parsed strictly.
//!
//! The text comes from the log, which other hosts write. What is accepted contains letters, digits, `.`, `-`,
//! `:` and brackets only, so it can stand in a line of HAProxy's socket and in a configuration of nginx.

use crate::model::escape;
use crate::support::failure::{Failure, FailureKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use thiserror::Error;

/// Maximum length of a host's name in DNS.
const NAME_MAX_BYTES: usize = 253;
/// Maximum length of a part of such a name.
const LABEL_MAX_BYTES: usize = 63;

/// The reason why a text is not an address.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{}' is not an address: write HOST:PORT, where HOST is a name, an IPv4 address or an IPv6 address in brackets", escape::line(.0))]
pub struct AddressError(String);

impl Failure for AddressError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// The host of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressHost {
    Ip(IpAddr),
    /// A name in DNS, in lower case.
    Name(String),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: AddressHost,
    port: u16,
}

impl Address {
    pub fn host(&self) -> &AddressHost {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let is_plain = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
            let port = port.parse().ok().filter(|_| is_plain)?;
            Some(Self { host: parse_host(host)?, port })
        };
        // The length is checked first, so that an error never repeats a text of any length.
        match text.len() <= NAME_MAX_BYTES + ":65535".len() {
            true => parse().ok_or_else(|| AddressError(text.to_owned())),
            false => Err(AddressError(format!("{}…", text.chars().take(32).collect::<String>()))),
        }
    }
}

fn parse_host(text: &str) -> Option<AddressHost> {
    if let Some(inner) = text.strip_prefix('[') {
        let ip: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(AddressHost::Ip(ip.into()));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Some(AddressHost::Ip(ip.into()));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_MAX_BYTES
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // Some readers take `1.2.3`, `10` or `0x7f.1` for IPv4 addresses.
    let last = text.rsplit('.').next()?;
    let is_numeric = last.starts_with(|c: char| c.is_ascii_digit());
    (text.len() <= NAME_MAX_BYTES && !is_numeric && text.split('.').all(is_label))
        .then(|| AddressHost::Name(text.to_ascii_lowercase()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            AddressHost::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            AddressHost::Ip(ip) => write!(f, "{ip}:{}", self.port),
            AddressHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_addresses_with_a_port_are_accepted_and_nothing_else() {
        for good in
            ["10.0.0.2:80", "[2001:db8::1]:8080", "web-2.example.net:443", "web:1", "a.b.c:65535", "1a.b:9"]
        {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        assert_eq!("Web-2:80".parse::<Address>().unwrap().to_string(), "web-2:80");
        for bad in [
            "",
            ":80",
            "web",
            "web:",
            "web:0",
            "web:080",
            "web:+80",
            "web:65536",
            "web :80",
            "web:80 ",
            " web:80",
            "web\n:80",
            "web:80\n",
            "web;x:80",
            "web:80;shutdown",
            "10.0.0:80",
            "10:80",
            "0x7f.1:80",
            "1.2.3.4.5:80",
            "2001:db8::1:80",
            "[::1:80",
            "::1]:80",
            "[fe80::1%eth0]:80",
            "[10.0.0.1]:80",
            "-web:80",
            "web-:80",
            "a..b:80",
            ".:80",
            "a_b:80",
            "wéb:80",
            "a/b:80",
            "a:b:80",
            "http://a:80",
            "$host:80",
            "a{b:80",
            "\\a:80",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        let long = format!("{}:80", ["a"; 200].join("."));
        let error = long.parse::<Address>().unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_has_no_character_that_ends_a_line_or_a_word(text in "(?s).{0,12}[a-z0-9.\\[\\]:; \n]{0,12}:[0-9]{1,5}.{0,2}") {
            if let Ok(address) = text.parse::<Address>() {
                let shown = address.to_string();
                prop_assert!(shown.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)), "{shown:?}");
                prop_assert_eq!(shown.parse::<Address>().unwrap(), address);
            }
        }

        #[test]
        fn every_socket_address_comes_back(ip: IpAddr, port in 1..=u16::MAX) {
            let text = std::net::SocketAddr::new(ip, port).to_string();
            let address: Address = text.parse().unwrap();
            prop_assert_eq!((address.host(), address.port()), (&AddressHost::Ip(ip), port));
            prop_assert_eq!(address.to_string(), text);
        }
    }
}
