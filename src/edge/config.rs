//! The edges of a store in `understudy.toml`: `[[store.edge]]`.

use super::address::Address;
use super::aws::endpoint::Endpoint;
use super::cloudfront::names::{DistributionId, FunctionName, KeyValueStoreArn, OriginId, StoreKey};
use super::route53::zone::{RecordName, ZoneId};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Default of the time that a switch may take, in seconds.
const TIMEOUT_SECONDS: u64 = 30;
const TIMEOUT_MAX_SECONDS: u64 = 600;
/// Maximum length of a name or a path in HAProxy.
const WORD_MAX_BYTES: usize = 255;

/// One edge of a store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum EdgeConfig {
    Cloudfront(CloudfrontConfig),
    Command(CommandConfig),
    Haproxy(HaproxyConfig),
    Nginx(NginxConfig),
    Route53(Route53Config),
}

/// A distribution of CloudFront.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudfrontConfig {
    pub distribution: DistributionId,
    /// The origin of each host that may become the primary.
    pub origins: Vec<OriginConfig>,
    /// Key value store that the function reads; without it the distribution itself is switched.
    pub key_value_store: Option<KeyValueStoreArn>,
    /// Key in it; default: the store's name.
    pub key: Option<StoreKey>,
    /// The function that reads it; default: `understudy-STORE`.
    pub function: Option<FunctionName>,
    /// File with the keys, in the form of AWS' shared credentials file; default: the environment, that file, and
    /// what the machine is given.
    pub credentials_file: Option<PathBuf>,
    /// Profile in the file.
    pub profile: Option<String>,
    /// Address of the APIs in place of AWS's.
    pub endpoint: Option<Endpoint>,
    pub timeout_seconds: Option<u64>,
}

/// The origin of a host in a distribution.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginConfig {
    pub host: String,
    pub id: OriginId,
    /// Its name or address, and its port.
    pub address: Address,
}

impl CloudfrontConfig {
    fn check(&self) -> Result<(), String> {
        if self.origins.len() < 2 {
            return Err("`origins` must name an origin for each of two hosts at least".into());
        }
        for (at, origin) in self.origins.iter().enumerate() {
            let others = &self.origins[..at];
            let is_same =
                |o: &OriginConfig| o.host == origin.host || o.id == origin.id || o.address == origin.address;
            if others.iter().any(is_same) {
                return Err(format!("`origins` names '{}', its origin or its address twice", origin.host));
            }
        }
        Ok(())
    }
}

/// An edge that the user's own program switches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Program that sends the customers to the host in its environment.
    pub command: Vec<String>,
    /// Program that prints the mark that the edge was given last.
    #[serde(default)]
    pub show: Vec<String>,
    /// Program that checks, without a change, whether a switch could work.
    #[serde(default)]
    pub test: Vec<String>,
    /// User that the programs run as; default: the user of this process.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to the programs.
    #[serde(default)]
    pub environment: Vec<String>,
    pub timeout_seconds: Option<u64>,
}

/// A server in a HAProxy of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaproxyConfig {
    /// Socket of HAProxy, of level admin.
    pub socket: PathBuf,
    /// Backend; default: the store's name.
    pub backend: Option<Word>,
    /// Server in it; default: `origin`.
    pub server: Option<Word>,
    /// Map file with the store's mark, as HAProxy's configuration names it.
    pub map: MapPath,
    /// Server-state file of the backend.
    pub state: PathBuf,
    pub timeout_seconds: Option<u64>,
}

/// An upstream in an nginx of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NginxConfig {
    /// File that is written, and that nginx includes.
    pub snippet: PathBuf,
    /// Address of this machine at which nginx shows the mark; default: [`NginxConfig::check`].
    pub check: Option<Address>,
    /// Program that tests the configuration; default: `nginx -t`.
    pub test: Option<Vec<String>>,
    /// Program that makes nginx read it; default: `nginx -s reload`.
    pub reload: Option<Vec<String>>,
    pub timeout_seconds: Option<u64>,
}

/// A record in a hosted zone of Route 53.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route53Config {
    /// ID of the hosted zone.
    pub hosted_zone: ZoneId,
    /// Name that leads to the primary.
    pub record: RecordName,
    /// Time to live of the record; default: 30.
    pub ttl_seconds: Option<u32>,
    /// File with the keys, as for CloudFront.
    pub credentials_file: Option<PathBuf>,
    pub profile: Option<String>,
    /// Address of the API in place of AWS's.
    pub endpoint: Option<Endpoint>,
    pub timeout_seconds: Option<u64>,
}

impl NginxConfig {
    /// Returns the address at which nginx shows the mark.
    pub(crate) fn check(&self) -> Result<Address, String> {
        self.check.clone().map_or_else(|| "127.0.0.1:8189".parse().map_err(|e| format!("check: {e}")), Ok)
    }

    pub(crate) fn test(&self) -> Vec<String> {
        self.test.clone().unwrap_or_else(|| ["nginx", "-t"].map(str::to_owned).into())
    }

    pub(crate) fn reload(&self) -> Vec<String> {
        self.reload.clone().unwrap_or_else(|| ["nginx", "-s", "reload"].map(str::to_owned).into())
    }
}

impl EdgeConfig {
    /// Returns the time that a switch may take.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds().unwrap_or(TIMEOUT_SECONDS))
    }

    fn timeout_seconds(&self) -> Option<u64> {
        match self {
            Self::Cloudfront(config) => config.timeout_seconds,
            Self::Command(config) => config.timeout_seconds,
            Self::Haproxy(config) => config.timeout_seconds,
            Self::Nginx(config) => config.timeout_seconds,
            Self::Route53(config) => config.timeout_seconds,
        }
    }

    /// Returns the programs that are named.
    pub(crate) fn programs(&mut self) -> Vec<&mut Vec<String>> {
        match self {
            Self::Command(config) => vec![&mut config.command, &mut config.show, &mut config.test],
            Self::Nginx(config) => config.test.iter_mut().chain(&mut config.reload).collect(),
            Self::Cloudfront(_) | Self::Haproxy(_) | Self::Route53(_) => Vec::new(),
        }
    }

    /// Returns whether this edge tells a host the epoch of each request.
    pub(crate) fn tells_epoch(&self) -> bool {
        matches!(self, Self::Cloudfront(_))
    }

    /// Returns the names of the variables that are handed on to programs.
    pub(crate) fn environment(&self) -> &[String] {
        match self {
            Self::Command(config) => &config.environment,
            _ => &[],
        }
    }

    /// Resolves relative paths against the directory of the file that names them.
    pub(crate) fn resolve(&mut self, base: &Path) {
        let resolve = |path: &mut PathBuf| {
            *path = std::path::absolute(base.join(&*path)).unwrap_or_else(|_| base.join(&*path));
        };
        match self {
            Self::Cloudfront(config) => config.credentials_file.iter_mut().for_each(resolve),
            Self::Route53(config) => config.credentials_file.iter_mut().for_each(resolve),
            Self::Command(_) => {}
            Self::Haproxy(config) => [&mut config.socket, &mut config.state].into_iter().for_each(resolve),
            Self::Nginx(config) => resolve(&mut config.snippet),
        }
    }

    /// Checks what no type does. An error is a reason in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(seconds) = self.timeout_seconds().filter(|s| !(1..=TIMEOUT_MAX_SECONDS).contains(s)) {
            return Err(format!("`timeout_seconds` is {seconds}; it must be 1 to {TIMEOUT_MAX_SECONDS}"));
        }
        let empty = |command: &[String]| command.first().is_none_or(String::is_empty);
        match self {
            Self::Cloudfront(config) => config.check(),
            Self::Route53(Route53Config { ttl_seconds: Some(0), .. }) => {
                Err("`ttl_seconds` is 0; it must be 1 or more".into())
            }
            Self::Command(config) if empty(&config.command) => Err("`command` names no program".into()),
            Self::Nginx(config) if empty(&config.test()) => Err("`test` names no program".into()),
            Self::Nginx(config) if empty(&config.reload()) => Err("`reload` names no program".into()),
            Self::Haproxy(config) if config.map.as_path() == config.state => {
                Err("`map` and `state` are one file; name two".into())
            }
            _ => Ok(()),
        }
    }
}

/// The name of a backend or a server, of the characters that HAProxy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(String);

impl Word {
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        match !text.is_empty() && text.len() <= WORD_MAX_BYTES && text.bytes().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => {
                Err(format!("{text:?} is no name in HAProxy: use letters, digits, '-', '_', '.' and ':'"))
            }
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The absolute path of a map file, of characters that can stand in a line of HAProxy's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPath(String);

impl MapPath {
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.+@".contains(&b);
        let is_file = text.starts_with('/') && !text.ends_with('/');
        match is_file && text.len() <= WORD_MAX_BYTES && text.bytes().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?} is no path for a map: it must be absolute, of letters, digits, '/', '-', '_', '.', '+' and '@'"
            )),
        }
    }

    pub(crate) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for MapPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MapPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_a_name_or_a_path_is_one_word_of_a_line(text in "/?(?s).{0,6}[a-z;/ \n]{0,8}") {
            let is_safe = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !b";\\<>$\"'#{}".contains(&b));
            prop_assert!(Word::parse(&text).is_err() || is_safe(&text));
            prop_assert!(MapPath::parse(&text).is_err() || is_safe(&text));
        }
    }
}
