//! `[[notify]]` in `understudy.toml`: who is told what, and how.
//!
//! Secrets are in files of their own, which are read when a message is sent: a changed one counts at once. An address
//! with a secret in it (Slack's, a ping's) may be in such a file, too.

use super::event::Event;
use crate::model::id::StoreName;
use crate::support::failure::{Failure, FailureKind};
use crate::support::trusted;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use thiserror::Error;
use url::Url;
use zeroize::Zeroizing;

/// Stands in a ping's address for the store's name.
pub(crate) const STORE: &str = "{store}";
/// What a secret in base64 begins with, by Standard Webhooks.
const SECRET_PREFIX: &str = "whsec_";
/// Sizes of a secret, by Standard Webhooks.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Maximum size of a file with a secret.
const FILE_MAX_BYTES: usize = 4096;
const NAME_MAX_BYTES: usize = 64;
const ADDRESS_MAX_BYTES: usize = 254;

/// The reason why nobody can be told as it is configured.
#[derive(Debug, Error)]
pub enum NotifyError {
    #[error("notify '{name}': {reason}")]
    Wrong { name: String, reason: String },
    #[error("notify '{name}': `{key}`: {}: {source}", path.display())]
    Read { name: String, key: &'static str, path: PathBuf, source: std::io::Error },
    #[error("notify '{name}': `{key}`: {}: {reason}", path.display())]
    Content { name: String, key: &'static str, path: PathBuf, reason: String },
}

impl Failure for NotifyError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// A receiver.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum NotifySettings {
    Webhook(WebhookSettings),
    Slack(SlackSettings),
    Email(EmailSettings),
    Ping(PingSettings),
}

/// A request in JSON, signed by Standard Webhooks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    pub name: String,
    #[serde(default)]
    pub events: Option<Vec<Event>>,
    #[serde(default)]
    pub stores: Option<Vec<StoreName>>,
    pub url: Option<String>,
    /// File with the address, where that is a secret.
    pub url_file: Option<PathBuf>,
    /// File with the secret that messages are signed with; a second line is the one before.
    pub secret_file: Option<PathBuf>,
}

/// A message to Slack, or to what takes Slack's messages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackSettings {
    pub name: String,
    #[serde(default)]
    pub events: Option<Vec<Event>>,
    #[serde(default)]
    pub stores: Option<Vec<StoreName>>,
    pub url: Option<String>,
    pub url_file: Option<PathBuf>,
}

/// How a mail server is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// TLS begins after a greeting; a server without it is refused.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// None: for a server on this host.
    None,
}

/// An e-mail.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    pub name: String,
    #[serde(default)]
    pub events: Option<Vec<Event>>,
    #[serde(default)]
    pub stores: Option<Vec<StoreName>>,
    /// Name or address of the mail server.
    pub host: String,
    /// Default: 587, 465 with implicit TLS, 25 without TLS.
    pub port: Option<u16>,
    #[serde(default)]
    pub tls: Tls,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub from: String,
    pub to: Vec<String>,
}

/// A request at the begin and the end of each run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingSettings {
    pub name: String,
    #[serde(default)]
    pub stores: Option<Vec<StoreName>>,
    pub url: Option<String>,
    pub url_file: Option<PathBuf>,
}

impl NotifySettings {
    pub fn name(&self) -> &str {
        match self {
            Self::Webhook(webhook) => &webhook.name,
            Self::Slack(slack) => &slack.name,
            Self::Email(email) => &email.name,
            Self::Ping(ping) => &ping.name,
        }
    }

    /// Returns the kind, as it is configured.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Slack(_) => "slack",
            Self::Email(_) => "email",
            Self::Ping(_) => "ping",
        }
    }

    fn stores(&self) -> Option<&Vec<StoreName>> {
        match self {
            Self::Webhook(webhook) => webhook.stores.as_ref(),
            Self::Slack(slack) => slack.stores.as_ref(),
            Self::Email(email) => email.stores.as_ref(),
            Self::Ping(ping) => ping.stores.as_ref(),
        }
    }

    fn events(&self) -> Option<&Vec<Event>> {
        match self {
            Self::Webhook(webhook) => webhook.events.as_ref(),
            Self::Slack(slack) => slack.events.as_ref(),
            Self::Email(email) => email.events.as_ref(),
            Self::Ping(_) => None,
        }
    }

    /// Returns whether it is told of runs, rather than of events.
    pub(crate) fn is_ping(&self) -> bool {
        matches!(self, Self::Ping(_))
    }

    pub(crate) fn wants_store(&self, store: &StoreName) -> bool {
        self.stores().is_none_or(|stores| stores.contains(store))
    }

    /// Returns whether it wants to be told of an event of a store.
    pub(crate) fn wants(&self, store: &StoreName, event: Event) -> bool {
        !self.is_ping() && self.wants_store(store) && self.events().is_none_or(|all| all.contains(&event))
    }

    fn files(&mut self) -> Vec<&mut PathBuf> {
        let files = match self {
            Self::Webhook(webhook) => [webhook.url_file.as_mut(), webhook.secret_file.as_mut()],
            Self::Slack(slack) => [slack.url_file.as_mut(), None],
            Self::Email(email) => [email.password_file.as_mut(), None],
            Self::Ping(ping) => [ping.url_file.as_mut(), None],
        };
        files.into_iter().flatten().collect()
    }

    /// Resolves relative paths against the directory of the file that names them.
    pub(crate) fn resolve(&mut self, base: &Path) {
        self.files().into_iter().for_each(|path| *path = base.join(&*path));
    }

    /// Returns the files with its secrets.
    pub(crate) fn secrets(&self) -> Vec<PathBuf> {
        self.clone().files().into_iter().map(|path| path.clone()).collect()
    }

    fn address(&self) -> Option<(Option<&String>, Option<&PathBuf>)> {
        match self {
            Self::Webhook(webhook) => Some((webhook.url.as_ref(), webhook.url_file.as_ref())),
            Self::Slack(slack) => Some((slack.url.as_ref(), slack.url_file.as_ref())),
            Self::Ping(ping) => Some((ping.url.as_ref(), ping.url_file.as_ref())),
            Self::Email(_) => None,
        }
    }

    /// Checks what no type does; no file is read. An error is a reason in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = self.name();
        let wrong = |reason: String| Err(format!("notify '{name}': {reason}"));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(is_plain) {
            return Err(format!("notify: `name` must be 1 to {NAME_MAX_BYTES} of a-z 0-9 . _ -"));
        }
        if self.events().is_some_and(Vec::is_empty) {
            return wrong("`events` is empty, so it would be told nothing; leave it out for all".into());
        }
        if self.stores().is_some_and(Vec::is_empty) {
            return wrong("`stores` is empty, so it would be told nothing; leave it out for all".into());
        }
        match self.address() {
            Some((None, None)) => return wrong("it needs `url`, or `url_file`".into()),
            Some((Some(_), Some(_))) => return wrong("set `url` or `url_file`, not both".into()),
            Some((Some(url), None)) => self.check_url(url).or_else(wrong)?,
            _ => {}
        }
        match self {
            Self::Email(email) => email.check().or_else(wrong),
            _ => Ok(()),
        }
    }

    /// Checks an address, without a word of it in the error: it may be a secret.
    fn check_url(&self, url: &str) -> Result<(), String> {
        let with_name = if self.is_ping() { url.replace(STORE, "store") } else { url.to_owned() };
        let url_parsed = Url::parse(&with_name).map_err(|error| format!("the address is none: {error}"))?;
        if !["http", "https"].contains(&url_parsed.scheme()) || !url_parsed.has_host() {
            return Err("the address must begin with http:// or https://, and name a host".into());
        }
        if url_parsed.fragment().is_some() {
            return Err("the address has a part after '#', which is never sent; remove it".into());
        }
        let is_of_one = self.stores().is_some_and(|stores| stores.len() == 1);
        if self.is_ping() && !url.contains(STORE) && !is_of_one {
            return Err(format!(
                "the address of a ping needs {STORE}, since each store has a check of its own; or name the one store in `stores`"
            ));
        }
        Ok(())
    }

    /// Returns the address, which may be a secret.
    pub(crate) fn url(&self) -> Result<Zeroizing<String>, NotifyError> {
        let Some((url, file)) = self.address() else { return Ok(Zeroizing::default()) };
        match (url, file) {
            (Some(url), _) => Ok(Zeroizing::new(url.clone())),
            (None, Some(path)) => {
                let text = self.secret("url_file", path)?;
                let url = Zeroizing::new(text.trim().to_owned());
                let content = |reason| self.content("url_file", path, reason);
                self.check_url(&url).map_err(content)?;
                Ok(url)
            }
            (None, None) => Ok(Zeroizing::default()),
        }
    }

    fn content(&self, key: &'static str, path: &Path, reason: String) -> NotifyError {
        NotifyError::Content { name: self.name().to_owned(), key, path: path.to_owned(), reason }
    }

    fn secret(&self, key: &'static str, path: &Path) -> Result<Zeroizing<String>, NotifyError> {
        let failed =
            |source| NotifyError::Read { name: self.name().to_owned(), key, path: path.into(), source };
        let text = trusted::read_to_string(path).map(Zeroizing::new).map_err(failed)?;
        if text.len() > FILE_MAX_BYTES {
            return Err(failed(ErrorKind::FileTooLarge.into()));
        }
        if text.trim().is_empty() {
            return Err(self.content(key, path, "the file is empty".into()));
        }
        Ok(text)
    }

    /// Returns the keys that a webhook's messages are signed with, the one in force first.
    pub(crate) fn keys(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, NotifyError> {
        let Self::Webhook(WebhookSettings { secret_file: Some(path), .. }) = self else {
            return Ok(Vec::new());
        };
        let text = self.secret("secret_file", path)?;
        let wrong = |reason| self.content("secret_file", path, reason);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.map(key).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        match keys.len() {
            1 | 2 => Ok(keys),
            _ => Err(wrong("it has more than two secrets: the one in force, and the one before".into())),
        }
    }

    /// Returns the password for a mail server; none where it needs none.
    pub(crate) fn password(&self) -> Result<Option<Zeroizing<String>>, NotifyError> {
        let Self::Email(EmailSettings { password_file: Some(path), .. }) = self else { return Ok(None) };
        let text = self.secret("password_file", path)?;
        let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
        match password.chars().any(char::is_control) {
            true => Err(self.content("password_file", path, "it has more than one line".into())),
            false => Ok(Some(password)),
        }
    }

    /// Reads all of its secrets, to see that this is possible.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub(crate) fn try_secrets(&self) -> Result<(), NotifyError> {
        self.url()?;
        self.keys()?;
        self.password().map(drop)
    }
}

/// Returns the key of a line.
fn key(line: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let text = line.strip_prefix(SECRET_PREFIX);
    let text =
        text.ok_or("a secret must begin with whsec_: printf 'whsec_%s\\n' $(openssl rand -base64 32)")?;
    let key = STANDARD.decode(text).map(Zeroizing::new);
    let key = key.map_err(|_| "what follows whsec_ is no base64".to_owned())?;
    match SECRET_BYTES.contains(&key.len()) {
        true => Ok(key),
        false => Err(format!("the secret has {} bytes; it must have 24 to 64", key.len())),
    }
}

impl EmailSettings {
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            Tls::Starttls => 587,
            Tls::Implicit => 465,
            Tls::None => 25,
        })
    }

    fn check(&self) -> Result<(), String> {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if self.host.is_empty() || !self.host.chars().all(is_host) {
            return Err("`host` is the name or the address of a mail server, without a port".into());
        }
        if self.to.is_empty() {
            return Err("`to` names nobody".into());
        }
        for address in self.to.iter().chain([&self.from]) {
            if !is_address(address) {
                return Err("`from` and `to` must be plain addresses, such as ops@example.com".into());
            }
        }
        match (&self.user, &self.password_file) {
            (Some(user), _) if user.chars().any(char::is_control) => {
                Err("`user` has control characters".into())
            }
            (Some(_), None) | (None, Some(_)) => Err("`user` and `password_file` need each other".into()),
            (Some(_), Some(_)) if self.tls == Tls::None => {
                Err("a password is not sent without TLS; set `tls`, or remove `user`".into())
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether a text can stand in a header and in SMTP as an address.
fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_local = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let is_domain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let parts = !local.is_empty() && !domain.is_empty() && text.len() <= ADDRESS_MAX_BYTES;
    parts && local.chars().all(is_local) && domain.chars().all(is_domain)
}

/// Checks all receivers; no file is read. An error is a reason in words.
pub(crate) fn check(all: &[NotifySettings]) -> Result<(), String> {
    for (at, one) in all.iter().enumerate() {
        one.check()?;
        if all[..at].iter().any(|other| other.name() == one.name()) {
            return Err(format!("two [[notify]] are named '{}'; rename one of them", one.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NotifySettings, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    fn said(text: &str) -> String {
        match parse(text).and_then(|one| one.check()) {
            Ok(()) => String::new(),
            Err(reason) => reason,
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused_with_a_reason() {
        let email = "kind='email'\nname='a'\nhost='mail.example'\nfrom='a@b.example'\nto=['c@d.example']\n";
        let ping = "kind='ping'\nname='a'\n";
        let hook = "kind='webhook'\nname='a'\n";
        for (text, reason) in [
            (format!("{hook}url='https://a.example/x'"), ""),
            (hook.to_owned(), "needs `url`"),
            (format!("{hook}url='https://a'\nurl_file='x'"), "not both"),
            (format!("{hook}url='ftp://a'"), "http://"),
            (format!("{hook}url='nowhere'"), "the address is none"),
            (format!("{hook}url='https://a/#b'"), "after '#'"),
            (format!("{hook}url='https://a'\nevents=['held','behnd']"), "unknown variant `behnd`"),
            (format!("{hook}url='https://a'\nevents=[]"), "`events` is empty"),
            (format!("{hook}url='https://a'\nstores=[]"), "`stores` is empty"),
            (format!("{hook}url='https://a'\nurll='b'"), "unknown field `urll`"),
            ("kind='webhook'\nname='A b'\nurl='https://a'".into(), "`name` must be"),
            ("kind='pager'\nname='a'".into(), "unknown variant `pager`"),
            (format!("{ping}url='https://a/x'"), "needs {store}"),
            (format!("{ping}url='https://a/{{store}}'"), ""),
            (format!("{ping}url='https://a/x'\nstores=['shop']"), ""),
            (format!("{ping}url='https://a/{{store}}'\nevents=['held']"), "unknown field `events`"),
            (email.to_owned(), ""),
            (format!("{email}user='u'"), "need each other"),
            (format!("{email}user='u'\npassword_file='p'\ntls='none'"), "without TLS"),
            (format!("{email}user='u'\npassword_file='p'"), ""),
            (
                email.replace("c@d.example", "c@d.example\\r\\nBcc: x@y").replace('\'', "\""),
                "plain addresses",
            ),
            (email.replace("mail.example", "mail.example/x"), "without a port"),
        ] {
            let said = said(&text);
            assert!(said.is_empty() == reason.is_empty() && said.contains(reason), "{text}: {said}");
        }
        let one = parse(&format!("{hook}url='https://a'")).unwrap();
        assert!(check(&[one.clone(), one]).unwrap_err().contains("two [[notify]] are named 'a'"));
    }

    #[test]
    fn a_wrong_address_is_not_repeated_in_the_error() {
        for bad in ["https://hooks.example:99999/SECRET", "hooks.example/SECRET", "https:///SECRET#x"] {
            let said = said(&format!("kind='slack'\nname='a'\nurl='{bad}'"));
            assert!(!said.contains("SECRET"), "{said}");
        }
    }

    #[test]
    fn secrets_are_read_from_files_and_their_form_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let one = |key: &str| {
            let text = format!("kind='webhook'\nname='a'\n{key}='secret'");
            let text = if key == "url_file" { text } else { format!("{text}\nurl='https://a'") };
            let mut one = parse(&text).unwrap();
            one.resolve(dir.path());
            one
        };
        let said = |one: &NotifySettings| one.try_secrets().err().map(|error| error.to_string());
        assert!(said(&one("secret_file")).unwrap().contains("No such file"));
        let good = format!("whsec_{}", STANDARD.encode([7; 32]));
        for (text, reason) in [
            ("", "is empty"),
            ("plain", "must begin with whsec_"),
            ("whsec_???", "no base64"),
            ("whsec_AAAA", "3 bytes"),
            (&format!("{good}\n{good}\n{good}"), "more than two"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(said(&one("secret_file")).unwrap().contains(reason), "{text}");
        }
        std::fs::write(&path, format!("{good}\n{good}\n")).unwrap();
        assert_eq!(one("secret_file").keys().unwrap().len(), 2);
        std::fs::write(&path, "https://hooks.example/SECRET\n").unwrap();
        assert_eq!(one("url_file").url().unwrap().as_str(), "https://hooks.example/SECRET");
        std::fs::write(&path, "SECRET\n").unwrap();
        let error = said(&one("url_file")).unwrap();
        assert!(error.contains("the address is none") && !error.contains("SECRET"), "{error}");
    }
}
