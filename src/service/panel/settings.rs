//! The keys of `[panel]`.

use crate::model::access::{Identity, Scope, UserRole};
use crate::model::id::StoreName;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use url::{Host, Url};

/// Value of an address that disables it.
const OFF: &str = "off";
const NAME: &str = "understudy";
const USER_HEADER: &str = "X-Forwarded-User";

/// Settings of the control panel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PanelSettings {
    /// Address at which the panel answers; `off`, the default, disables it.
    pub listen: Option<String>,
    /// Where browsers reach it.
    pub public_url: Option<String>,
    /// Its name, at the head of each page.
    pub name: Option<String>,
    /// The platform's own panel, which may hand its users over.
    pub handover: Option<HandoverSettings>,
    /// A proxy that has logged its users in.
    pub proxy: Option<ProxySettings>,
}

/// Who may hand users over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoverSettings {
    /// The public key (Ed25519, PEM) whose signatures are believed.
    pub key_file: PathBuf,
    /// The origin of the pages that hand over, such as `https://my.platform.example`.
    pub origin: String,
    /// The roles that may be handed over.
    #[serde(default = "customers")]
    pub roles: Vec<UserRole>,
}

fn customers() -> Vec<UserRole> {
    vec![UserRole::Customer]
}

/// A proxy that says who its users are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxySettings {
    /// The proxy's addresses. From others, what they say of users is ignored.
    pub from: Vec<IpAddr>,
    /// File with a secret that the proxy sends as `X-Understudy-Secret`, at least 16 characters.
    pub secret_file: PathBuf,
    /// The header with the user's name.
    pub user_header: Option<String>,
    /// The users who may enter; others may not.
    #[serde(default)]
    pub user: Vec<ProxyUser>,
}

/// A user of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyUser {
    pub name: String,
    pub role: UserRole,
    /// The stores that the user may see; default: all.
    pub stores: Option<Vec<StoreName>>,
}

impl ProxyUser {
    pub(crate) fn identity(&self) -> Identity {
        let scope = self.stores.as_ref().map(|stores| stores.iter().cloned().collect());
        let who = format!("{} by the proxy", self.name);
        Identity { who, role: self.role, scope: scope.map_or(Scope::All, Scope::Only) }
    }
}

impl ProxySettings {
    pub(crate) fn user_header(&self) -> &str {
        self.user_header.as_deref().unwrap_or(USER_HEADER)
    }
}

/// Where browsers reach the panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Public {
    /// As browsers send it in `Origin`.
    pub origin: String,
    /// The host's name, without a port.
    pub host: String,
    /// Whether browsers reach it by TLS.
    pub is_https: bool,
}

impl PanelSettings {
    /// Returns the address at which the panel answers; none if it is disabled.
    pub(crate) fn listen(&self) -> Option<&str> {
        self.listen.as_deref().filter(|listen| *listen != OFF)
    }

    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(NAME)
    }

    /// Returns where browsers reach the panel that answers at `listen`.
    ///
    /// # Errors
    /// The reason why that cannot be.
    pub(crate) fn public(&self, listen: &str) -> Result<Public, String> {
        let text = self.public_url.clone().unwrap_or_else(|| format!("http://{listen}"));
        let wrong = |why: &str| format!("panel.public_url: '{text}' {why}");
        let url = Url::parse(&text).map_err(|error| wrong(&format!("is no address: {error}")))?;
        let is_https = url.scheme() == "https";
        if !is_https && url.scheme() != "http" {
            return Err(wrong("begins neither with https:// nor with http://"));
        }
        if !matches!(url.path(), "/" | "") || url.query().is_some() || !url.username().is_empty() {
            return Err(wrong("is more than a host and a port: the panel has a name of its own"));
        }
        let is_local = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if !is_https && !is_local {
            return Err(wrong(
                "is not encrypted: whoever sees the network would see the tokens; put a proxy with TLS before it, and give its https:// address",
            ));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        Ok(Public { origin: url.origin().ascii_serialization(), host, is_https })
    }

    /// Checks what can be seen from the settings alone. An error is a reason in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(listen) = self.listen() {
            self.public(listen)?;
            let is_loopback = match listen.parse::<SocketAddr>() {
                Ok(at) => at.ip().is_loopback(),
                Err(_) => listen.starts_with("localhost:"),
            };
            if !is_loopback && self.public_url.is_none() {
                return Err("panel.listen is no loopback address: set panel.public_url to the https:// address of the proxy before it".to_owned());
            }
        }
        if let Some(handover) = &self.handover {
            let origin = Url::parse(&handover.origin).map(|url| url.origin().ascii_serialization());
            if origin.as_deref() != Ok(handover.origin.as_str()) {
                return Err(format!(
                    "panel.handover.origin: '{}' is no origin, such as https://my.platform.example",
                    handover.origin
                ));
            }
            if handover.roles.contains(&UserRole::Admin) {
                return Err(
                    "panel.handover.roles: nobody is handed over as an admin; admins have tokens".to_owned()
                );
            }
        }
        let users = self.proxy.iter().flat_map(|proxy| &proxy.user);
        for user in users {
            if user.role == UserRole::Customer && user.stores.as_ref().is_none_or(Vec::is_empty) {
                return Err(format!("panel.proxy.user '{}': a customer needs `stores`", user.name));
            }
        }
        Ok(())
    }

    /// Resolves relative paths against the directory of the file that names them.
    pub(crate) fn resolve(&mut self, base: &Path) {
        if let Some(handover) = &mut self.handover {
            handover.key_file = base.join(&handover.key_file);
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.secret_file = base.join(&proxy.secret_file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<PanelSettings, String> {
        let settings: PanelSettings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map(|()| settings)
    }

    #[test]
    fn tokens_never_cross_a_network_in_the_clear() {
        for good in [
            "",
            "listen = 'off'",
            "listen = '127.0.0.1:9185'",
            "listen = '[::1]:9185'",
            "listen = '127.0.0.1:9185'\npublic_url = 'http://localhost:8000'",
            "listen = '127.0.0.1:9185'\npublic_url = 'https://panel.example'",
            "listen = '0.0.0.0:9185'\npublic_url = 'https://panel.example'",
        ] {
            of(good).unwrap();
        }
        for (bad, why) in [
            ("listen = '0.0.0.0:9185'", "not encrypted"),
            ("listen = '127.0.0.1:9185'\npublic_url = 'http://panel.example'", "not encrypted"),
            ("listen = '127.0.0.1:9185'\npublic_url = 'http://127.0.0.1.evil.example'", "not encrypted"),
            ("listen = '127.0.0.1:9185'\npublic_url = 'ftp://x'", "neither"),
            ("listen = '127.0.0.1:9185'\npublic_url = 'https://x/panel'", "more than a host"),
            ("listen = '0.0.0.0:9185'\npublic_url = 'http://127.0.0.1:80'\n", ""),
            ("[handover]\nkey_file = 'k'\norigin = 'https://x/'", "no origin"),
            ("[handover]\nkey_file = 'k'\norigin = 'https://x'\nroles = ['admin']", "as an admin"),
            (
                "[proxy]\nfrom = []\nsecret_file = 's'\n[[proxy.user]]\nname = 'a'\nrole = 'customer'",
                "needs `stores`",
            ),
            ("lisen = 'x'", "unknown field"),
        ] {
            match of(bad) {
                Err(said) => assert!(said.contains(why), "{bad}: {said}"),
                // A tunnel's end may listen elsewhere.
                Ok(_) => assert!(why.is_empty(), "{bad}"),
            }
        }
        let public = of("").unwrap();
        let url = PanelSettings { public_url: Some("https://Panel.example:443".into()), ..public };
        let public = url.public("127.0.0.1:1").unwrap();
        assert_eq!(
            (public.origin.as_str(), public.host.as_str(), public.is_https),
            ("https://panel.example", "panel.example", true)
        );
    }
}
