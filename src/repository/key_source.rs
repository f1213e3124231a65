//! The keys with which this host opens stores: key files and a passphrase, and its settings for encryption.

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

/// Whether new stores are encrypted, and whether unencrypted ones are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// New stores are encrypted.
    #[default]
    On,
    /// New stores are not encrypted.
    None,
    /// New stores are encrypted, and an unencrypted one is refused.
    Required,
}

/// The keys and settings with which this host opens stores.
#[derive(Clone, Debug, Default)]
pub struct KeySource {
    pub encryption: Encryption,
    /// Settings of single stores, which take precedence.
    pub encryption_of: BTreeMap<StoreName, Encryption>,
    /// File of identities in age's format.
    ///
    /// If it is missing, it is created when a new store needs it, in an existing directory.
    pub key_file: Option<PathBuf>,
    /// Whether its path is the default. Then its directory is created as well.
    pub is_default_file: bool,
    /// Used instead of a missing default key file, and in addition to an existing one.
    pub passphrase: Option<Zeroizing<String>>,
    /// Identities in addition to those in the file.
    pub identities: Vec<Identity>,
    /// Accepts a keyring for writing that no key of this host made: the operator has looked at its holders.
    pub trust_keyring: bool,
    /// Allows writing to a store without encryption that the configuration does not name.
    pub allow_unencrypted: bool,
}

impl KeySource {
    /// Returns the source for stores without encryption, as long as they are not encrypted.
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

    /// Returns why the key file has no key, if it is empty or missing.
    pub(crate) fn why_none(&self) -> &'static str {
        match self.key_file.as_ref().map(std::fs::metadata) {
            Some(Ok(meta)) if meta.len() == 0 => "; that file is empty",
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => "; that file does not exist",
            _ => "",
        }
    }
}

/// Reads the identities in a key file. Lines that begin with `#` are comments.
pub(crate) fn read_key_file(path: &Path) -> Result<Vec<Identity>, RepositoryError> {
    let wrong = |source| RepositoryError::ReadKeyFile { path: path.to_owned(), source };
    let text = trusted::read_to_string(path).map(Zeroizing::new).map_err(wrong)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| Identity::parse(line).map_err(|_| RepositoryError::KeyFile { path: path.to_owned() }))
        .collect()
}

/// Writes a new key file that no other user can read.
///
/// It is on the disk before anything is encrypted with it. Its directory must exist: on a volume that is not
/// mounted, no key is created.
pub(crate) fn make_key_file(path: &Path, env: &Env) -> Result<Identity, RepositoryError> {
    let identity = Identity::new(*keyring::key(env.random()).0);
    let text = Zeroizing::new(format!(
        "# understudy's key. Without it encrypted stores are lost: keep a copy elsewhere.\n# public key: {}\n{}\n",
        identity.recipient(),
        &*identity.text()
    ));
    durable::create(env, path, 0o600, text.as_bytes()).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => RepositoryError::KeyFileExists(path.to_owned()),
        _ => RepositoryError::local(format!("key file {}: cannot write it", path.display()))(error),
    })?;
    Ok(identity)
}
