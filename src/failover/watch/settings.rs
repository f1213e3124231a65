//! What shows whether a store serves, in `understudy.toml`: `[[store.probe]]` on a host that serves it, and
//! `[[store.watch.probe]]` on one that watches.

use crate::edge::address::Address;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// Stands in a watcher's probe for the address at which customers reach the primary's gate.
pub const PRIMARY: &str = "{primary}";
/// Default of the time that an answer may take, in seconds.
const TIMEOUT_SECONDS: u64 = 3;
const TIMEOUT_MAX_SECONDS: u64 = 30;
/// Default of the time that a failover may take, in seconds.
const OBJECTIVE_SECONDS: u64 = 60;

/// How a watcher watches a store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchSettings {
    /// Whether this host votes; default: if the log lets it. `false` for a host that only serves.
    pub votes: Option<bool>,
    /// Files below the store's path that its application has while somebody works on it: then its primary neither
    /// starts services again nor hands over.
    #[serde(default = "maintenance")]
    pub maintenance: Vec<PathBuf>,
    /// What is asked besides the customers' address.
    #[serde(default)]
    pub probe: Vec<ProbeSettings>,
    /// Seconds that a failover may take, by its drill.
    pub objective_seconds: Option<u64>,
}

impl WatchSettings {
    pub(crate) fn objective(&self) -> Duration {
        Duration::from_secs(self.objective_seconds.unwrap_or(OBJECTIVE_SECONDS))
    }
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self { votes: None, maintenance: maintenance(), probe: Vec::new(), objective_seconds: None }
    }
}

/// Returns the files of Magento and of WordPress.
fn maintenance() -> Vec<PathBuf> {
    ["var/.maintenance.flag", ".maintenance"].map(PathBuf::from).to_vec()
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ProbeSettings {
    Http(HttpSettings),
    Tcp(TcpSettings),
    Command(CommandSettings),
    Disk(DiskSettings),
}

/// The method of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    #[default]
    Get,
    /// For a page that writes: a row, a file.
    Post,
}

/// A page that must answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Address of the page; a watcher's may contain `{primary}`.
    pub url: String,
    #[serde(default)]
    pub method: Method,
    /// Status that the answer must have; default: any below 400.
    pub status: Option<u16>,
    /// Text that the first 64 KiB of the answer must contain.
    pub text: Option<String>,
    /// Value of the request's header `Host`; default: that of the URL.
    pub host: Option<String>,
    pub timeout_seconds: Option<u64>,
}

/// A port that must accept a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSettings {
    /// A host and a port; a watcher's may be `{primary}`.
    pub address: String,
    pub timeout_seconds: Option<u64>,
}

/// A program that must succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    pub command: Vec<String>,
    /// User that it runs as; default: the user of this process.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to it.
    #[serde(default)]
    pub environment: Vec<String>,
    pub timeout_seconds: Option<u64>,
}

/// A directory in which a file must be written and read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    pub path: PathBuf,
    pub timeout_seconds: Option<u64>,
}

impl ProbeSettings {
    /// Returns its name, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Http(http) => format!("http {}", http.url),
            Self::Tcp(tcp) => format!("tcp {}", tcp.address),
            Self::Command(command) => {
                format!("command {}", command.command.first().map_or("", String::as_str))
            }
            Self::Disk(disk) => format!("disk {}", disk.path.display()),
        }
    }

    fn timeout_seconds(&self) -> Option<u64> {
        match self {
            Self::Http(http) => http.timeout_seconds,
            Self::Tcp(tcp) => tcp.timeout_seconds,
            Self::Command(command) => command.timeout_seconds,
            Self::Disk(disk) => disk.timeout_seconds,
        }
    }

    /// Returns the time that an answer may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds().unwrap_or(TIMEOUT_SECONDS))
    }

    /// Returns the program that is named, if there is one.
    pub fn program(&mut self) -> Option<&mut Vec<String>> {
        match self {
            Self::Command(command) => Some(&mut command.command),
            Self::Http(_) | Self::Tcp(_) | Self::Disk(_) => None,
        }
    }

    /// Returns the names of the variables that are handed on to programs.
    pub fn environment(&self) -> &[String] {
        match self {
            Self::Command(command) => &command.environment,
            Self::Http(_) | Self::Tcp(_) | Self::Disk(_) => &[],
        }
    }

    /// Resolves a relative path against the directory of the file that names it.
    pub fn resolve(&mut self, base: &Path) {
        if let Self::Disk(disk) = self {
            disk.path = base.join(&disk.path);
        }
    }

    /// Returns the probe of this primary: `{primary}` is replaced by the address at which customers reach it.
    ///
    /// # Errors
    /// The log has no such address.
    pub fn of(&self, primary: Option<&str>) -> Result<Self, String> {
        let replaced = |text: &str| match (text.contains(PRIMARY), primary) {
            (false, _) => Ok(text.to_owned()),
            (true, Some(primary)) => Ok(text.replace(PRIMARY, primary)),
            (true, None) => Err(format!(
                "the primary has told no address for customers: set `customers` in its [store.member], and it stands for {PRIMARY}"
            )),
        };
        Ok(match self.clone() {
            Self::Http(http) => Self::Http(HttpSettings { url: replaced(&http.url)?, ..http }),
            Self::Tcp(tcp) => Self::Tcp(TcpSettings { address: replaced(&tcp.address)?, ..tcp }),
            other => other,
        })
    }

    /// Checks what no type does. An error is a reason in words.
    pub fn check(&self, is_watchers: bool) -> Result<(), String> {
        let wrong = |reason: String| Err(format!("probe '{}': {reason}", self.name()));
        if let Some(seconds) = self.timeout_seconds().filter(|s| !(1..=TIMEOUT_MAX_SECONDS).contains(s)) {
            return wrong(format!("`timeout_seconds` is {seconds}; it must be 1 to {TIMEOUT_MAX_SECONDS}"));
        }
        let stand_in = self.of(Some("192.0.2.1:80"));
        let is_of_primary = stand_in.as_ref().is_ok_and(|with| with != self);
        if is_of_primary && !is_watchers {
            return wrong(format!("{PRIMARY} is for [[store.watch.probe]]; name this host's own address"));
        }
        match stand_in? {
            Self::Http(http) => match Url::parse(&http.url) {
                Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => Ok(()),
                _ => wrong("`url` must begin with http:// or https://, and name a host".into()),
            },
            Self::Tcp(tcp) => match tcp.address.parse::<Address>() {
                Ok(_) => Ok(()),
                Err(error) => wrong(format!("`address`: {error}")),
            },
            Self::Command(command) if command.command.first().is_none_or(String::is_empty) => {
                wrong("`command` names no program".into())
            }
            Self::Disk(disk) if disk.path.as_os_str().is_empty() => wrong("`path` is empty".into()),
            Self::Command(_) | Self::Disk(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProbeSettings, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_probe_is_checked_and_its_primary_is_filled_in() {
        let http = parse("kind = 'http'\nurl = 'http://{primary}/health'\ntext = 'ok'").unwrap();
        assert_eq!(http.check(true), Ok(()));
        assert!(http.check(false).unwrap_err().contains("own address"));
        let of = http.of(Some("10.0.0.1:80")).unwrap();
        assert_eq!(of.name(), "http http://10.0.0.1:80/health");
        assert!(http.of(None).unwrap_err().contains("`customers`"));
        for bad in [
            "kind = 'http'\nurl = 'ftp://a'",
            "kind = 'http'\nurl = 'http://a'\ntimeout_seconds = 0",
            "kind = 'tcp'\naddress = 'nowhere'",
            "kind = 'command'\ncommand = []",
            "kind = 'disk'\npath = ''",
        ] {
            assert!(parse(bad).unwrap().check(true).unwrap_err().starts_with("probe '"), "{bad}");
        }
        assert!(parse("kind = 'http'\nurl = 'http://a'\ntxt = 'ok'").is_err());
        assert!(parse("kind = 'tcp'\naddress = '{primary}'").unwrap().check(true).is_ok());
    }
}
