//! What this host opens stores with: key files, a passphrase, and the configuration's word on encryption.

use super::error::RepositoryError;
use crate::format::age::Identity;
use crate::format::keyring::{self, Secrets};
use crate::model::id::StoreName;
use crate::support::env::Env;
use crate::support::{durable, trusted};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Whether new stores are encrypted, and others are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// New stores are.
    #[default]
    On,
    /// New stores are not.
    None,
    /// New stores are, and one that is not is refused.
    Required,
}

/// What this host has to open stores with.
#[derive(Clone, Debug, Default)]
pub struct KeySource {
    pub encryption: Encryption,
    /// Of some stores, in place of that.
    pub encryption_of: BTreeMap<StoreName, Encryption>,
    /// Holds identities as age writes them. One that is not there is made when a new store needs it, in a directory that is there.
    pub key_file: Option<PathBuf>,
    /// Nobody named it: its directory is made as well.
    pub is_default_file: bool,
    /// In place of a key file that nobody named and that is not there; else beside it.
    pub passphrase: Option<Zeroizing<String>>,
    /// Beside those in the file.
    pub identities: Vec<Identity>,
    /// A keyring is taken to write with although nobody here made it: somebody looked at its holders.
    pub trust_keyring: bool,
    /// A store without encryption is written to although the configuration does not name it.
    pub allow_unencrypted: bool,
}

impl KeySource {
    /// Stores without encryption, as long as they are not encrypted.
    pub fn none() -> Self {
        Self { encryption: Encryption::None, ..Self::default() }
    }

    pub(crate) fn encryption_of(&self, store: &StoreName) -> Encryption {
        self.encryption_of.get(store).copied().unwrap_or(self.encryption)
    }

    pub(crate) fn secrets(&self) -> Result<Secrets, RepositoryError> {
        let mut identities = self.identities.clone();
        if let Some(path) = &self.key_file {
            match read_key_file(path) {
                Err(RepositoryError::ReadKeyFile { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                // It was being made when something ended that: there is no key in it.
                Ok(none) if none.is_empty() => {}
                found => identities.extend(found?),
            }
        }
        Ok(Secrets { identities, passphrase: self.passphrase.clone() })
    }

    /// Why the key file has no key, when that is why.
    pub(crate) fn why_none(&self) -> &'static str {
        match self.key_file.as_ref().map(std::fs::metadata) {
            Some(Ok(meta)) if meta.len() == 0 => "; that file is empty",
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => "; that file is not there",
            _ => "",
        }
    }
}

/// The identities in a key file: lines that begin with `#` are remarks.
pub fn read_key_file(path: &Path) -> Result<Vec<Identity>, RepositoryError> {
    let wrong = |source| RepositoryError::ReadKeyFile { path: path.to_owned(), source };
    let text = trusted::read_to_string(path).map(Zeroizing::new).map_err(wrong)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| Identity::parse(line).map_err(|_| RepositoryError::KeyFile { path: path.to_owned() }))
        .collect()
}

/// Writes a new key file, which nobody else can read; it is on the disk before anything is encrypted with it. Its directory must be
/// there: a volume that is not mounted gets no key.
pub fn make_key_file(path: &Path, env: &Env) -> Result<Identity, RepositoryError> {
    let identity = Identity::new(*keyring::key(env.random()).0);
    let text = Zeroizing::new(format!(
        "# understudy's key. Without it encrypted stores are lost: keep a copy elsewhere.\n# public key: {}\n{}\n",
        identity.recipient(),
        &*identity.text()
    ));
    durable::create(env, path, 0o600, text.as_bytes()).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => RepositoryError::KeyFileExists(path.to_owned()),
        _ => RepositoryError::local(format!("key file {}: write it", path.display()))(error),
    })?;
    Ok(identity)
}
