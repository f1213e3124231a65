//! A store's keys: found, opened, made for a new store, and given to others.
//!
//! A store is encrypted when it has a keyring, and then nothing in it is taken that is not sealed. A keyring is numbered like a
//! record and created once: of two that change it at once one wins, and the other is told to try again.

use super::error::{RepositoryError, RepositoryErrorKind};
use super::key;
use super::objects::Creation;
use super::store::Store;
use crate::format::age::{Identity, Recipient};
use crate::format::keyring::{self, Keyring, Opened, Secrets, Slot};
use crate::format::seal::{Keys, Sealing};
use crate::format::wire::FormatError;
use crate::support::{durable, trusted};
use object_store::PutPayload;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Holds identities as age writes them. One that is not there is made when a new store needs it, in a directory that is there.
    pub key_file: Option<PathBuf>,
    /// Nobody named it: its directory is made as well.
    pub is_default_file: bool,
    /// In place of a key file that nobody named.
    pub passphrase: Option<Zeroizing<String>>,
    /// Beside those in the file.
    pub identities: Vec<Identity>,
}

impl KeySource {
    /// Stores without encryption, as long as they are not encrypted.
    pub fn none() -> Self {
        Self { encryption: Encryption::None, ..Self::default() }
    }

    fn secrets(&self) -> Result<Secrets, RepositoryError> {
        let mut identities = self.identities.clone();
        if let Some(path) = &self.key_file {
            match read_key_file(path) {
                Err(RepositoryError::Local { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                // It was being made when something ended that: there is no key in it.
                Ok(none) if none.is_empty() => {}
                found => identities.extend(found?),
            }
        }
        Ok(Secrets { identities, passphrase: self.passphrase.clone() })
    }

    /// Why the key file has no key, when that is why.
    fn why_none(&self) -> &'static str {
        match self.key_file.as_ref().map(std::fs::metadata) {
            Some(Ok(meta)) if meta.len() == 0 => "; that file is empty",
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => "; that file is not there",
            _ => "",
        }
    }
}

/// The identities in a key file: lines that begin with `#` are remarks.
pub fn read_key_file(path: &Path) -> Result<Vec<Identity>, RepositoryError> {
    let what = || format!("key file {}", path.display());
    let text = trusted::read_to_string(path).map(Zeroizing::new).map_err(RepositoryError::local(what()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| Identity::parse(line).map_err(|_| RepositoryError::KeyFile { path: path.to_owned() }))
        .collect()
}

/// Writes a new key file, which nobody else can read; it is on the disk before anything is encrypted with it. Its directory must be
/// there: a volume that is not mounted gets no key.
pub fn make_key_file(path: &Path, bytes: [u8; 32]) -> Result<Identity, RepositoryError> {
    let identity = Identity::new(bytes);
    let text = Zeroizing::new(format!(
        "# understudy's key. Without it encrypted stores are lost: keep a copy elsewhere.\n# public key: {}\n{}\n",
        identity.recipient(),
        &*identity.text()
    ));
    let made = durable::create(path, 0o600, text.as_bytes());
    made.map_err(RepositoryError::local(format!("making key file {}", path.display())))?;
    Ok(identity)
}

#[derive(Debug)]
struct Loaded {
    ring: Keyring,
    opened: Opened,
    keys: Arc<Keys>,
}

/// What a store's handles share of its keyring, once it was looked for: none when there is none.
#[derive(Debug, Default)]
pub(super) struct KeyCache(Mutex<Option<Option<Arc<Loaded>>>>);

impl Store {
    /// The store's keys; none when it is not encrypted.
    pub fn keys(&self) -> Result<Option<Arc<Keys>>, RepositoryError> {
        Ok(self.loaded()?.map(|loaded| loaded.keys.clone()))
    }

    fn cache_of_keys(&self) -> std::sync::MutexGuard<'_, Option<Option<Arc<Loaded>>>> {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> Result<Option<Arc<Loaded>>, RepositoryError> {
        let mut cache = self.cache_of_keys();
        if let Some(loaded) = &*cache {
            return Ok(loaded.clone());
        }
        let loaded = self.load()?.map(Arc::new);
        *cache = Some(loaded.clone());
        Ok(loaded)
    }

    /// The newest keyring, unopened. Always the repository's own: what is sealed with the keys of another is lost.
    fn ring(&self) -> Result<Option<Keyring>, RepositoryError> {
        let prefix = key::keyring_prefix(&self.name);
        let listed = self.repository.wait(self.objects().list(Some(&prefix), None))?;
        let Some(last) = listed.iter().rev().find(|o| key::parse_keyring(&o.location).is_some()) else {
            return Ok(None);
        };
        let at = &last.location;
        let fetch = || self.repository.wait(self.objects().get(at, keyring::KEYRING_MAX_BYTES as u64));
        let decode = |bytes: &[u8]| keyring::decode_ring(bytes).map_err(RepositoryError::format(at));
        let missing = || RepositoryError::format(at)(FormatError::Truncated("a keyring"));
        let ring = match decode(&fetch()?.ok_or_else(missing)?) {
            // The transfer may be at fault: one more look.
            Err(_) => decode(&fetch()?.ok_or_else(missing)?)?,
            ring => ring?,
        };
        if ring.store != self.name || Some(ring.sequence) != key::parse_keyring(at) {
            return Err(RepositoryError::format(at)(FormatError::Tampered));
        }
        Ok(Some(ring))
    }

    fn load(&self) -> Result<Option<Loaded>, RepositoryError> {
        let Some(ring) = self.ring()? else { return Ok(None) };
        let opened = ring.open(&self.repository.keys.secrets()?).map_err(|reason| {
            let slots: Vec<_> = ring.slots.iter().map(describe).collect();
            RepositoryError::NoKey {
                store: self.name.clone(),
                slots: slots.join(", "),
                key_file: self.repository.keys.key_file.clone().unwrap_or_default(),
                reason: match reason {
                    FormatError::Tampered => self.repository.keys.why_none().to_owned(),
                    other => format!(" ({other})"),
                },
            }
        })?;
        let keys = Keys { store: self.name.clone(), generations: opened.generations.clone() };
        Ok(Some(Loaded { ring, opened, keys: Arc::new(keys) }))
    }

    /// What opens an object that says which data key it is sealed with.
    pub(super) fn keys_for(&self, generation: u32) -> Result<Option<Arc<Keys>>, RepositoryError> {
        let mut keys = self.keys()?;
        if keys.as_ref().map_or(0, |keys| keys.newest()) < generation {
            // Somebody may have changed the keyring meanwhile.
            *self.cache_of_keys() = None;
            keys = self.keys()?;
        }
        let known = keys.as_ref().map_or(0, |keys| keys.newest());
        match (generation, known) {
            (0, 0) => Ok(None),
            (1.., known) if generation <= known => Ok(keys),
            _ => Err(RepositoryError::Keyring { store: self.name.clone(), generation, known }),
        }
    }

    /// Before anything is written: a new store gets its keyring, if it is to have one.
    pub fn begin_writing(&self, is_new: bool) -> Result<(), RepositoryError> {
        if self.keys()?.is_some() {
            return Ok(());
        }
        match (self.repository.keys.encryption, is_new) {
            (Encryption::None, _) | (Encryption::On, false) => Ok(()),
            (Encryption::Required, false) => Err(RepositoryError::NotEncrypted(self.name.clone())),
            (Encryption::On | Encryption::Required, true) => self.make_keyring(),
        }
    }

    fn make_keyring(&self) -> Result<(), RepositoryError> {
        let mut random = |bytes: &mut [u8]| self.repository.random.fill(bytes);
        let at = key::keyring(&self.name, 1);
        let source = &self.repository.keys;
        let named = source.key_file.as_ref();
        let named = named.filter(|path| durable::is_made(path) || source.passphrase.is_none());
        let mut slots = Vec::new();
        if let Some(path) = named {
            let identities = match durable::is_made(path) {
                true => read_key_file(path)?,
                false => {
                    if let Some(dir) = path.parent().filter(|_| source.is_default_file) {
                        durable::create_dirs(dir).map_err(RepositoryError::local(dir.display()))?;
                    }
                    let bytes = Zeroizing::new(*keyring::key(&mut random).0);
                    match make_key_file(path, *bytes) {
                        // Another run was quicker: it is the file's key that counts.
                        Err(RepositoryError::Local { source, .. })
                            if source.kind() == ErrorKind::AlreadyExists =>
                        {
                            read_key_file(path)?
                        }
                        made => vec![made?],
                    }
                }
            };
            if identities.is_empty() {
                return Err(RepositoryError::EmptyKeyFile(path.clone()));
            }
            slots.extend(identities.iter().map(|i| Slot::of_recipient("key-file", &i.recipient())));
        }
        slots.extend(source.identities.iter().map(|i| Slot::of_recipient("key", &i.recipient())));
        if let (true, Some(text)) = (slots.is_empty(), &source.passphrase) {
            let slot = Slot::of_passphrase("passphrase", text, &mut random);
            slots.push(slot.map_err(RepositoryError::format(&at))?);
        }
        if slots.is_empty() {
            return Err(RepositoryError::NoPlaceForKey(self.name.clone()));
        }
        let (master, data) = (keyring::key(&mut random), [keyring::key(&mut random)]);
        let ring = Keyring::close(&self.name, 1, slots, &master, &data, &mut random);
        // Whoever made one before: it is theirs that counts.
        self.put_ring(&ring.map_err(RepositoryError::format(&at))?)?;
        *self.cache_of_keys() = None;
        match self.keys()? {
            Some(_) => Ok(()),
            None => Err(RepositoryError::format(&at)(FormatError::Truncated("a keyring"))),
        }
    }

    fn put_ring(&self, ring: &Keyring) -> Result<Creation, RepositoryError> {
        let at = key::keyring(&self.name, ring.sequence);
        let payload = PutPayload::from(keyring::encode(ring));
        self.repository.wait(self.objects().create(&at, payload))
    }

    /// How the next object is sealed: with the newest key, and a salt of its own.
    pub(super) fn new_sealing(&self) -> Result<(Sealing, Option<Arc<Keys>>), RepositoryError> {
        let keys = self.keys()?;
        let mut salt = [0; 16];
        self.repository.random.fill(&mut salt);
        Ok((Sealing { generation: keys.as_ref().map_or(0, |keys| keys.newest()), salt }, keys))
    }

    /// Who may open the store: none when it is not encrypted. Needs no key.
    pub fn key_slots(&self) -> Result<Option<Vec<Slot>>, RepositoryError> {
        Ok(self.ring()?.map(|ring| ring.slots))
    }

    /// One more who may open the store.
    pub fn add_key(&self, slot: Slot) -> Result<(), RepositoryError> {
        self.change_ring(|ring, opened, _| {
            if ring.slots.iter().any(|s| s.name == slot.name || s.recipient == slot.recipient) {
                return Err(KeyChange::Exists(slot.name.clone()));
            }
            let slots = ring.slots.iter().cloned().chain([slot.clone()]).collect();
            Ok((slots, opened.master.clone(), opened.generations.clone()))
        })
    }

    /// One less; what is written from now on has keys that they never saw.
    pub fn remove_key(&self, name: &str) -> Result<(), RepositoryError> {
        self.change_ring(|ring, opened, random| {
            let slots: Vec<_> = ring.slots.iter().filter(|s| s.name != name).cloned().collect();
            if slots.len() == ring.slots.len() {
                return Err(KeyChange::Missing(name.to_owned()));
            }
            if slots.is_empty() {
                return Err(KeyChange::Last(name.to_owned()));
            }
            Ok((slots, keyring::key(random), next_generation(opened, random)))
        })
    }

    /// A new master key and a new data key, for the same slots.
    pub fn rotate_keys(&self) -> Result<(), RepositoryError> {
        self.change_ring(|ring, opened, random| {
            Ok((ring.slots.clone(), keyring::key(random), next_generation(opened, random)))
        })
    }

    fn change_ring(
        &self,
        change: impl Fn(
            &Keyring,
            &Opened,
            keyring::Random,
        )
            -> Result<(Vec<Slot>, crate::format::seal::Key, Vec<crate::format::seal::Key>), KeyChange>,
    ) -> Result<(), RepositoryError> {
        *self.cache_of_keys() = None;
        let loaded = self.loaded()?.ok_or_else(|| RepositoryError::NotEncrypted(self.name.clone()))?;
        let mut random = |bytes: &mut [u8]| self.repository.random.fill(bytes);
        let wrong = |change| RepositoryError::KeyChange { store: self.name.clone(), change };
        let (slots, master, generations) =
            change(&loaded.ring, &loaded.opened, &mut random).map_err(wrong)?;
        let sequence = loaded.ring.sequence + 1;
        let ring = Keyring::close(&self.name, sequence, slots, &master, &generations, &mut random);
        let ring = ring.map_err(RepositoryError::format(key::keyring(&self.name, sequence)))?;
        let creation = self.put_ring(&ring)?;
        *self.cache_of_keys() = None;
        if creation == Creation::Existed && self.ring()? != Some(ring) {
            return Err(wrong(KeyChange::Raced));
        }
        Ok(())
    }
}

fn next_generation(opened: &Opened, random: keyring::Random) -> Vec<crate::format::seal::Key> {
    opened.generations.iter().cloned().chain([keyring::key(random)]).collect()
}

fn describe(slot: &Slot) -> String {
    match slot.passphrase {
        Some(_) => format!("'{}' (a passphrase)", slot.name),
        None => format!("'{}' ({})", slot.name, slot.recipient),
    }
}

/// A slot from `age1…`.
pub fn recipient_slot(name: &str, recipient: &str) -> Result<Slot, FormatError> {
    Ok(Slot::of_recipient(name, &Recipient::parse(recipient)?))
}

/// Why a keyring is not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyChange {
    #[error("there is a key '{0}' already, or one that opens with the same secret")]
    Exists(String),
    #[error("there is no key '{0}'; `understudy key list` shows them")]
    Missing(String),
    #[error("'{0}' is the only key: without it nobody could open the store. Add another first")]
    Last(String),
    #[error("somebody else changed the keys meanwhile: try again")]
    Raced,
}

impl KeyChange {
    pub(super) fn kind(&self) -> RepositoryErrorKind {
        match self {
            KeyChange::Raced => RepositoryErrorKind::Unavailable,
            _ => RepositoryErrorKind::Configuration,
        }
    }
}
