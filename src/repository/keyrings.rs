//! Finds and opens a store's keyring, and takes it only if it follows the one that this host took before.
//!
//! A store is encrypted if it has a keyring. Then only sealed objects are accepted. A keyring is numbered
//! like a record and created once: of two simultaneous changes one wins, and the other is asked to try again.

use super::distrust::Distrust;
use super::error::RepositoryError;
use super::key_cache::Loaded;
use super::object_key;
use super::parts::Keyrings;
use super::trust::{self, Plain, SeenEncryption, SeenRing};
use crate::format::keyring::{self, Holder, Keyring, Opened, Secrets, ShownHolder};
use crate::format::seal::{Keys, Sealing};
use crate::format::wire::FormatError;
use crate::model::escape;
use crate::model::record::Record;
use crate::support::lock::lock;
use crate::support::mutant::{self, Mutant};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum size of all keyrings that are read to verify one: some thousand changes of keys.
const BEFORE_MAX_BYTES: usize = 64 << 20;

/// The parties that can open a store.
#[derive(Clone, Debug)]
pub(crate) struct Holders {
    pub version: u8,
    pub sequence: u32,
    /// Whether it was opened here and follows the keyring that this host took.
    ///
    /// Otherwise its content is unverified.
    pub is_verified: bool,
    pub holders: Vec<ShownHolder>,
    pub maker: Option<String>,
}

impl Keyrings<'_> {
    /// Returns the store's keys; `None` if it is not encrypted.
    pub(crate) fn keys(&self) -> Result<Option<Arc<Keys>>, RepositoryError> {
        Ok(self.loaded()?.map(|loaded| loaded.keys.clone()))
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Option<Option<Arc<Loaded>>>> {
        lock(&self.store.key_cache().ring)
    }

    pub(crate) fn loaded(&self) -> Result<Option<Arc<Loaded>>, RepositoryError> {
        let mut cache = self.cached();
        if let Some(loaded) = &*cache {
            return Ok(loaded.clone());
        }
        let loaded = self.load()?.map(Arc::new);
        *cache = Some(loaded.clone());
        Ok(loaded)
    }

    /// Discards the loaded keyring, so that it is looked up again: another host may have changed it.
    pub(crate) fn forget(&self) {
        *self.cached() = None;
    }

    /// Returns the keyring that this process took, if it looked for one, for this host to remember.
    pub(crate) fn known(&self) -> Option<Option<SeenRing>> {
        let loaded = self.cached().clone()?;
        Some(loaded.map(|loaded| SeenRing::of(self.store.name(), &loaded.opened)))
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        matches!(&*self.cached(), Some(Some(loaded)) if loaded.is_confirmed())
    }

    /// Fetches the newest keyring, unopened.
    ///
    /// It always comes from the repository: an object sealed with the keys of any other would be lost.
    pub(crate) fn newest(&self) -> Result<Option<Keyring>, RepositoryError> {
        let prefix = object_key::keyring_prefix(self.store.name());
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), None))?;
        let newest = listed.iter().rev().find_map(|object| object_key::parse_keyring(&object.location));
        newest.map(|sequence| self.ring_of(sequence)).transpose()
    }

    fn ring_of(&self, sequence: u32) -> Result<Keyring, RepositoryError> {
        let at = &object_key::keyring(self.store.name(), sequence);
        let fetch = || self.store.wait(self.store.objects().get(at, keyring::KEYRING_MAX_BYTES as u64));
        let decode = |bytes: &[u8]| keyring::decode_ring(bytes).map_err(RepositoryError::format(at));
        let missing = || RepositoryError::format(at)(FormatError::Truncated("a keyring"));
        let ring = match decode(&fetch()?.ok_or_else(missing)?) {
            // The transfer may have damaged it. Fetch it once more.
            Err(_) => decode(&fetch()?.ok_or_else(missing)?)?,
            ring => ring?,
        };
        if ring.store() != self.store.name() || ring.reference().sequence != sequence {
            return Err(RepositoryError::format(at)(FormatError::Tampered));
        }
        Ok(ring)
    }

    fn load(&self) -> Result<Option<Loaded>, RepositoryError> {
        let memory = self.store.memory().read()?;
        let Some(ring) = self.newest()? else {
            return match (memory.encryption, self.store.memory().file()) {
                (Some(SeenEncryption::On), Some(note)) => {
                    Err(RepositoryError::KeyringGone { store: self.store.name().clone(), note })
                }
                _ => Ok(None),
            };
        };
        let mut secrets = self.store.key_source().secrets()?;
        let mut known = lock(&self.store.key_cache().identity);
        secrets.identities.extend(known.clone());
        let opened = ring.open(&secrets).map_err(|reason| self.not_opened(&ring, reason))?;
        *known = Some(opened.identity.clone());
        if let Some(seen) = &memory.ring {
            self.take(seen, &opened, &secrets)?;
        }
        let keys = Keys { store: self.store.name().clone(), generations: opened.generations.clone() };
        let is_confirmed = match memory.ring {
            Some(_) => memory.confirmed,
            // This host used the store before it remembered keyrings. The record that it saw opens with this
            // keyring, or no record is read.
            None => memory.head.is_some(),
        };
        Ok(Some(Loaded { opened, keys: Arc::new(keys), is_confirmed: AtomicBool::new(is_confirmed) }))
    }

    fn not_opened(&self, ring: &Keyring, reason: FormatError) -> RepositoryError {
        if reason == FormatError::Maker {
            return RepositoryError::format(object_key::keyring(
                self.store.name(),
                ring.reference().sequence,
            ))(reason);
        }
        let source = self.store.key_source();
        RepositoryError::NoKey {
            store: self.store.name().clone(),
            slots: ring.shown().iter().map(describe).collect::<Vec<_>>().join(", "),
            key_file: source.key_file.clone().unwrap_or_default(),
            reason: match reason {
                FormatError::Tampered => source.why_none().to_owned(),
                other => format!(" ({other})"),
            },
        }
    }

    /// Takes a keyring, if it follows the one that this host took.
    fn take(&self, seen: &SeenRing, newest: &Opened, secrets: &Secrets) -> Result<(), RepositoryError> {
        let distrusted = |reason| RepositoryError::Distrusted {
            key: object_key::keyring(self.store.name(), newest.reference.sequence).to_string(),
            reason,
            note: self.store.memory().file().unwrap_or_default(),
        };
        trust::may_follow(self.store.name(), seen, newest).map_err(distrusted)?;
        let first = self
            .first_of(newest, secrets, |ring| ring.reference.sequence <= seen.sequence.saturating_add(1))?;
        // It names the keyring that was taken and has its data keys, so its maker held these. The operator
        // vouches for the rest.
        if matches!(first, Err(Distrust::Gap(_))) && self.store.key_source().trust_keyring {
            return Ok(());
        }
        first.and_then(|first| trust::takes(self.store.name(), seen, &[first])).map_err(distrusted)
    }

    /// Goes back from `newest` to the first keyring for which `is_start` holds, or without predecessor.
    ///
    /// Each keyring must follow the one before. Two of them are held in memory at a time, even if all are
    /// forged.
    fn first_of(
        &self,
        newest: &Opened,
        secrets: &Secrets,
        is_start: impl Fn(&Opened) -> bool,
    ) -> Result<Result<Opened, Distrust>, RepositoryError> {
        let mut words = secrets.passphrase.clone();
        let mut secrets = Secrets { identities: secrets.identities.clone(), passphrase: None };
        secrets.identities.push(newest.identity.clone());
        let (mut first, mut read_bytes) = (newest.clone(), 0);
        while !is_start(&first)
            && let Some(before) = first.before.last().cloned()
        {
            let ring = self.ring_of(before.sequence)?;
            read_bytes += ring.size_bytes();
            if read_bytes > BEFORE_MAX_BYTES {
                return Ok(Err(Distrust::Long));
            }
            let opened = match (ring.open(&secrets), words.is_some()) {
                // A passphrase is stretched for one of them, not for each.
                (Err(FormatError::Tampered), true) => {
                    ring.open(&Secrets { passphrase: words.take(), ..secrets.clone() }).inspect(|opened| {
                        secrets.identities.push(opened.identity.clone());
                    })
                }
                (opened, _) => opened,
            };
            match opened {
                Ok(opened) if opened.reference.hash == before.hash => {
                    let seen = SeenRing::of(self.store.name(), &opened);
                    if let Err(distrust) =
                        trust::takes(self.store.name(), &seen, std::slice::from_ref(&first))
                    {
                        return Ok(Err(distrust));
                    }
                    first = opened;
                }
                Ok(_) | Err(FormatError::Maker) => return Ok(Err(Distrust::Chain)),
                Err(_) => return Ok(Err(Distrust::Gap(before.sequence))),
            }
        }
        Ok(Ok(first))
    }

    /// Returns whether a key of this host made the keyring, or one that it follows.
    ///
    /// No other party can make such a keyring.
    pub(crate) fn is_own(&self, newest: &Opened) -> Result<bool, RepositoryError> {
        let secrets = self.store.key_source().secrets()?;
        let is_ours = |ring: &Opened| {
            let maker = ring.maker.map(|maker| ring.holders[maker].recipient);
            let mut ours = secrets.identities.iter().chain([&ring.identity]);
            maker.is_some_and(|maker| ours.any(|identity| identity.recipient() == maker))
        };
        Ok(self.first_of(newest, &secrets, is_ours)?.is_ok_and(|first| is_ours(&first)))
    }

    /// Returns whether this host has the keys of all holders.
    pub(crate) fn is_all_ours(&self, opened: &Opened) -> Result<bool, RepositoryError> {
        let secrets = self.store.key_source().secrets()?;
        let words = secrets.passphrase.as_ref();
        Ok(opened.holders.iter().all(|holder| {
            let mut ours = secrets.identities.iter().chain([&opened.identity]).map(|i| i.recipient());
            let by_words = || Some(holder.passphrase.as_ref()?.open(words?).ok()?.recipient());
            ours.any(|ours| ours == holder.recipient) || by_words() == Some(holder.recipient)
        }))
    }

    /// Returns the keys for an object that names the data key with which it is sealed.
    pub(crate) fn keys_for(&self, generation: u32) -> Result<Option<Arc<Keys>>, RepositoryError> {
        let mut keys = self.keys()?;
        if keys.as_ref().map_or(0, |keys| keys.newest()) < generation {
            // Another host may have changed the keyring meanwhile.
            self.forget();
            keys = self.keys()?;
        }
        let known = keys.as_ref().map_or(0, |keys| keys.newest());
        match (generation, known) {
            (0, 0) => self.admit_reader().map(|()| None),
            (1.., known) if generation <= known => Ok(keys),
            _ => Err(RepositoryError::Keyring { store: self.store.name().clone(), generation, known }),
        }
    }

    /// Returns the keys as `keys_for` does, for an object that only its seal authenticates.
    ///
    /// Only the newest data key counts, since a removed holder has all others.
    pub(crate) fn keys_for_unnamed(&self, generation: u32) -> Result<Option<Arc<Keys>>, RepositoryError> {
        // The keyring is not looked up again, since any party can put such objects.
        let keys = self.keys()?;
        let known = keys.as_ref().map_or(0, |keys| keys.newest());
        match generation == known {
            true if known == 0 => self.admit_reader().map(|()| None),
            true => Ok(keys),
            false => Err(RepositoryError::Keyring { store: self.store.name().clone(), generation, known }),
        }
    }

    /// Checks that a record names a keyring of this store, and is sealed with that keyring's newest data key.
    pub(crate) fn check_ring(&self, record: &Record, generation: u32) -> Result<(), RepositoryError> {
        // The preceding records determine whether it may name none.
        let Some(named) = record.ring else { return Ok(()) };
        let keys_of = |store: &Self| Ok(store.loaded()?.and_then(|loaded| loaded.opened.keys_of(&named)));
        let mut keys: Option<u32> = keys_of(self)?;
        if keys.is_none() {
            self.forget();
            keys = keys_of(self)?;
        }
        match keys == Some(generation) {
            true => Ok(()),
            false => Err(RepositoryError::Unnamed {
                store: self.store.name().clone(),
                sequence: record.sequence,
                ring: named.sequence,
            }),
        }
    }

    /// Decides how this store without a keyring is treated.
    fn plain(&self) -> Result<Plain, RepositoryError> {
        let keys = self.store.key_source();
        Ok(trust::plain(
            keys.encryption_of(self.store.name()),
            keys.allow_unencrypted,
            self.store.memory().read()?.encryption,
        ))
    }

    pub(crate) fn is_plain_accepted(&self) -> Result<bool, RepositoryError> {
        Ok(self.plain()? == Plain::Accepted)
    }

    /// Admits a reader of an object that is not sealed.
    fn admit_reader(&self) -> Result<(), RepositoryError> {
        if self.store.key_cache().is_admitted.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.plain()? {
            Plain::Accepted => {}
            Plain::Refused => return Err(RepositoryError::NotEncrypted(self.store.name().clone())),
            Plain::Unconfirmed => {
                self.store.notice().say(&format!(
                    "warning: store '{}' is not encrypted, and nothing here says that this is intended: anyone with access to the repository could have forged what is read. If it is intended, set `encryption = \"none\"` for this store",
                    self.store.name()
                ));
            }
        }
        self.store.key_cache().is_admitted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Admits a writer to an existing store.
    ///
    /// Its keyring must be confirmed. A store without encryption must be configured, or confirmed, to have
    /// none.
    pub(crate) fn admit_writer(&self) -> Result<(), RepositoryError> {
        if let Some(loaded) = self.loaded()? {
            return self.admit(&loaded, false);
        }
        match self.plain()? {
            Plain::Accepted => Ok(()),
            Plain::Refused => Err(RepositoryError::NotEncrypted(self.store.name().clone())),
            Plain::Unconfirmed => Err(RepositoryError::Unconfirmed(self.store.name().clone())),
        }
    }

    /// Returns how the next object is sealed: with the newest key, and a salt of its own.
    pub(crate) fn new_sealing(&self) -> Result<(Sealing, Option<Arc<Keys>>), RepositoryError> {
        let keys = self.keys()?;
        Ok((self.sealing(keys.as_deref()), keys))
    }

    pub(crate) fn sealing(&self, keys: Option<&Keys>) -> Sealing {
        let mut salt = [0; 16];
        if !mutant::is(Mutant::NoSalt) {
            self.store.env().fill(&mut salt);
        }
        Sealing { generation: keys.map_or(0, Keys::newest), salt }
    }

    /// Returns the holders of the store; `None` if it is not encrypted. Without a key they are unverified.
    pub(crate) fn holders(&self) -> Result<Option<Holders>, RepositoryError> {
        match self.loaded() {
            Ok(None) => Ok(None),
            Ok(Some(loaded)) => {
                let opened = &loaded.opened;
                let shown = |holder: &Holder| ShownHolder {
                    name: holder.name.clone(),
                    is_passphrase: holder.passphrase.is_some(),
                    recipient: Some(holder.recipient),
                };
                Ok(Some(Holders {
                    version: opened.version,
                    sequence: opened.reference.sequence,
                    is_verified: opened.maker.is_some(),
                    holders: opened.holders.iter().map(shown).collect(),
                    maker: opened.maker.map(|maker| opened.holders[maker].name.clone()),
                }))
            }
            Err(RepositoryError::NoKey { .. }) => Ok(self.newest()?.map(|ring| Holders {
                version: ring.version(),
                sequence: ring.reference().sequence,
                is_verified: false,
                holders: ring.shown(),
                maker: None,
            })),
            Err(error) => Err(error),
        }
    }
}

/// Describes a holder for an error message.
fn describe(holder: &ShownHolder) -> String {
    let name = escape::line(&holder.name);
    match (holder.is_passphrase, holder.recipient) {
        (true, _) => format!("'{name}' (a passphrase)"),
        (false, Some(recipient)) => format!("'{name}' ({recipient})"),
        (false, None) => format!("'{name}' (a key)"),
    }
}
