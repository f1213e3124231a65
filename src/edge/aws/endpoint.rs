//! Where an API is asked that is not AWS's own: a proxy, or an emulator.

use serde::{Deserialize, Deserializer};
use url::{Host, Url};

/// The address of an API in place of AWS's: `https`, or on this machine also `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Parses an address. An error is a reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("`endpoint` {text:?}: {error}"))?;
        let is_here = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let is_plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let is_safe = url.scheme() == "https" || url.scheme() == "http" && is_here;
        match is_safe && is_plain && url.has_host() && url.username().is_empty() && url.password().is_none() {
            true => Ok(Self(url)),
            false => Err(
                "`endpoint` must be https://HOST, or http://HOST on this machine, without a path or a user"
                    .into(),
            ),
        }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_asked_without_tls() {
        for good in ["https://aws.example", "http://127.0.0.1:4566", "http://[::1]:1/", "http://localhost:1"]
        {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for bad in ["http://aws.example", "http://10.0.0.1", "https://a/b", "https://u:p@a", "ftp://a", ""] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
