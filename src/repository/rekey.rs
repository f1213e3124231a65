//! Makes keyrings: that of a new store, and one for each change of its holders or keys.
//!
//! A change puts the next keyring, then appends a record that names it. If it ends between the two, the
//! keyring is in force for every host that looks for it, and the next record of any writer names it. The next
//! command that changes keys appends such a record before anything else. Until then a host that never saw the
//! keyring does not notice if it is deleted. This host does, since it remembers the keyring before it appends
//! the record. Until then a record sealed with the previous keys is accepted as well: an honest writer who
//! had not looked again makes the same. Hosts that know the keyring warn of it.

use super::error::RepositoryError;
use super::key_cache::Loaded;
use super::key_change::KeyChange;
use super::key_source::{Encryption, KeySource, make_key_file, read_key_file};
use super::object_key;
use super::objects::Creation;
use super::parts::Keyrings;
use super::trust::{SeenEncryption, SeenRing};
use crate::format::age::{Identity, Recipient};
use crate::format::keyring::{self, Holder, Opened, RingPlan};
use crate::format::seal::Key;
use crate::format::wire::FormatError;
use crate::model::escape;
use crate::model::id::WriterId;
use crate::model::record::{Event, StoreState};
use crate::support::durable;
use crate::support::env::{Env, Random};
use crate::support::progress::Step;
use object_store::PutPayload;
use std::path::Path;
use std::sync::atomic::Ordering;

/// The party that changes the keys.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    pub writer: &'a WriterId,
    pub on_step: &'a dyn Fn(Step),
}

/// A keyring that is being made.
struct Draft {
    holders: Vec<Holder>,
    master: Key,
    generations: Vec<Key>,
}

impl Keyrings<'_> {
    /// Prepares a store for writing: a new store gets its keyring, if it is to have one.
    ///
    /// # Errors
    /// The store has a keyring that no key of this host made and that was not accepted. Or an existing store
    /// has none, and no setting allows that.
    pub fn begin_writing(&self, is_new: bool) -> Result<(), RepositoryError> {
        match self.loaded()? {
            Some(loaded) => self.admit(&loaded, is_new),
            None if !is_new => self.admit_writer(),
            None if self.store.key_source().encryption_of(self.store.name()) == Encryption::None => {
                self.store.memory().change(|memory| memory.encryption = Some(SeenEncryption::Off))
            }
            None => self.make(),
        }
    }

    /// Admits the keyring under which this host ships objects or makes another keyring.
    ///
    /// Records do not authenticate a keyring: a party that planted it has planted them as well. The keyring
    /// of a new store is accepted if this host has the keys of all its holders: an earlier run made it and
    /// ended before its first record.
    pub(crate) fn admit(&self, loaded: &Loaded, is_new: bool) -> Result<(), RepositoryError> {
        let opened = &loaded.opened;
        if loaded.is_confirmed() {
            return Ok(());
        }
        let is_own = || Ok(self.is_own(opened)? && (!is_new || self.is_all_ours(opened)?));
        if !self.store.key_source().trust_keyring && !is_own()? {
            let holder = |holder: &Holder| format!("'{}' ({})", escape::line(&holder.name), holder.recipient);
            return Err(RepositoryError::StrangeKeyring {
                store: self.store.name().clone(),
                maker: opened.maker.map_or_else(
                    || {
                        format!(
                            "it is of version 1 and does not say who made it (`understudy key upgrade {} --trust-keyring` makes one that does)",
                            self.store.name()
                        )
                    },
                    |maker| format!("{} made it", holder(&opened.holders[maker])),
                ),
                holders: opened.holders.iter().map(holder).collect::<Vec<_>>().join(", "),
            });
        }
        self.confirm(loaded)
    }

    /// Confirms the keyring of a store that this host publishes.
    pub(crate) fn confirm_keyring(&self) -> Result<(), RepositoryError> {
        match self.loaded()? {
            Some(loaded) if !loaded.is_confirmed() => self.confirm(&loaded),
            _ => Ok(()),
        }
    }

    fn confirm(&self, loaded: &Loaded) -> Result<(), RepositoryError> {
        self.remember_ring(&loaded.opened)?;
        loaded.is_confirmed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn remember_ring(&self, opened: &Opened) -> Result<(), RepositoryError> {
        let ring = SeenRing::of(self.store.name(), opened);
        self.store.memory().change(|memory| {
            memory.take_ring(ring);
            memory.confirmed = true;
        })
    }

    fn make(&self) -> Result<(), RepositoryError> {
        let random = self.store.env().random();
        let at = object_key::keyring(self.store.name(), 1);
        let source = self.store.key_source();
        // A passphrase replaces a missing default key file. If one is given, it always gets a slot.
        let named = source.key_file.as_ref();
        let named = named.filter(|path| durable::is_made(path) || source.passphrase.is_none());
        let mut makers = match named {
            Some(path) => key_file(path, source, self.store.env())?,
            None => Vec::new(),
        };
        makers.extend(source.identities.iter().cloned());
        let mut holders: Vec<Holder> = Vec::new();
        for identity in &makers {
            holders.push(Holder::of_recipient("key-file", &identity.recipient()));
        }
        if let Some(text) = &source.passphrase {
            let made = Holder::of_passphrase("passphrase", text, random);
            let (holder, identity) = made.map_err(|error| match error {
                FormatError::Passphrase(_) => RepositoryError::ShortPassphrase(self.store.name().clone()),
                other => RepositoryError::format(&at)(other),
            })?;
            holders.push(holder);
            makers.push(identity);
        }
        let Some(maker) = makers.first() else {
            return Err(RepositoryError::NoPlaceForKey(self.store.name().clone()));
        };
        let (master, generations) = (keyring::key(random), vec![keyring::key(random)]);
        let draft = Draft { holders: tidy(holders), master, generations };
        self.put_ring(draft, None, maker)?;
        self.forget();
        match self.loaded()? {
            // If another process created the keyring first, use that one, provided that it is ours.
            Some(loaded) => self.admit(&loaded, true),
            None => Err(RepositoryError::format(&at)(FormatError::Truncated("a keyring"))),
        }
    }

    /// Puts the keyring after `before`. Returns whether this request, or a repetition of it, put it.
    fn put_ring(
        &self,
        draft: Draft,
        before: Option<&Opened>,
        maker: &Identity,
    ) -> Result<bool, RepositoryError> {
        let at = object_key::keyring(
            self.store.name(),
            before.map_or(0, |ring| ring.reference.sequence).saturating_add(1),
        );
        let Draft { holders, master, generations } = &draft;
        let plan = RingPlan { store: self.store.name(), holders, master, generations, before };
        let bytes =
            keyring::close(&plan, maker, self.store.env().random()).map_err(RepositoryError::format(&at))?;
        let limit = keyring::KEYRING_MAX_BYTES;
        if bytes.len() > limit {
            return Err(RepositoryError::format(&at)(FormatError::Range("a keyring's size")));
        }
        self.store.wait(async {
            match self.store.objects().create(&at, PutPayload::from(bytes.clone())).await? {
                Creation::Created => Ok(true),
                Creation::Existed => {
                    Ok(self.store.objects().get(&at, limit as u64).await?.is_some_and(|found| found == bytes))
                }
            }
        })
    }

    /// Adds a holder to the store.
    pub(crate) fn add_key(&self, holder: Holder, author: &Author) -> Result<(), RepositoryError> {
        if !keyring::is_name(&holder.name) {
            return Err(self.not_changed(KeyChange::Name(holder.name)));
        }
        self.change_ring(author, |opened, _| {
            let is_there = |h: &Holder| h.name == holder.name || h.recipient == holder.recipient;
            if opened.holders.iter().any(is_there) {
                return Err(KeyChange::Exists(holder.name.clone()));
            }
            let holders: Vec<_> = opened.holders.iter().cloned().chain([holder.clone()]).collect();
            if holder.passphrase.is_some() && !keyring::admits_passphrases(Some(opened), &holders) {
                return Err(KeyChange::Passphrases);
            }
            Ok(Draft { holders, ..Draft::of(opened) })
        })
    }

    /// Removes a holder. Later objects are sealed with keys that this holder never had.
    pub(crate) fn remove_key(&self, name: &str, author: &Author) -> Result<(), RepositoryError> {
        self.change_ring(author, |opened, random| {
            let holders: Vec<_> = opened.holders.iter().filter(|h| h.name != name).cloned().collect();
            if holders.len() == opened.holders.len() {
                return Err(KeyChange::Missing(name.to_owned()));
            }
            if holders.is_empty() {
                return Err(KeyChange::Last(name.to_owned()));
            }
            Ok(Draft { holders, ..Draft::of(opened).renewed(random) })
        })
    }

    /// Makes a new master key and a new data key, for the same holders.
    pub fn rotate_keys(&self, author: &Author) -> Result<(), RepositoryError> {
        self.change_ring(author, |opened, random| Ok(Draft::of(opened).renewed(random)))
    }

    /// Replaces the keyring by one that proves its maker, with the same keys and holders.
    ///
    /// This cannot be undone.
    ///
    /// Returns whether the keyring was of the older kind.
    pub(crate) fn upgrade_keys(&self, author: &Author) -> Result<bool, RepositoryError> {
        self.forget();
        if self.loaded()?.is_some_and(|loaded| loaded.opened.maker.is_some()) {
            let mut state = self.store.log().state()?;
            self.settle(&mut state, author)?;
            return Ok(false);
        }
        self.change_ring(author, |opened, _| Ok(Draft::of(opened))).map(|()| true)
    }

    fn not_changed(&self, change: KeyChange) -> RepositoryError {
        RepositoryError::KeyChange { store: self.store.name().clone(), change }
    }

    fn change_ring(
        &self,
        author: &Author,
        change: impl Fn(&Opened, &dyn Random) -> Result<Draft, KeyChange>,
    ) -> Result<(), RepositoryError> {
        self.forget();
        // Change the keyring that the log says is in force, and that this host takes.
        let mut state = self.store.log().state()?;
        let loaded =
            self.loaded()?.ok_or_else(|| RepositoryError::NotEncrypted(self.store.name().clone()))?;
        self.admit(&loaded, false)?;
        self.settle(&mut state, author)?;
        let draft =
            change(&loaded.opened, self.store.env().random()).map_err(|change| self.not_changed(change))?;
        let draft = Draft { holders: tidy(draft.holders), ..draft };
        let stays = |identity: &&Identity| draft.holders.iter().any(|h| h.recipient == identity.recipient());
        let secrets = self.store.key_source().secrets()?;
        let maker = secrets.identities.iter().chain([&loaded.opened.identity]).find(|identity| {
            stays(identity) && loaded.opened.holders.iter().any(|h| h.recipient == identity.recipient())
        });
        let maker = maker.ok_or_else(|| self.not_changed(KeyChange::Own))?;
        if !self.put_ring(draft, Some(&loaded.opened), maker)? {
            self.forget();
            return Err(self.not_changed(KeyChange::Raced));
        }
        self.forget();
        let changed = self.loaded()?;
        let changed = changed.ok_or_else(|| RepositoryError::NotEncrypted(self.store.name().clone()))?;
        self.remember_ring(&changed.opened)?;
        (author.on_step)(Step::Rekeyed);
        self.settle(&mut state, author)
    }

    /// Appends a record that names the newest keyring, if none does.
    ///
    /// An empty log needs none: its first record will.
    fn settle(&self, state: &mut StoreState, author: &Author) -> Result<(), RepositoryError> {
        let settled = self.store.log().append_until_won(state, author.writer, |state| {
            let named = self.loaded()?.and_then(|loaded| loaded.named());
            let is_settled = named.is_none() || state.head.is_none() || state.ring == named;
            Ok::<_, RepositoryError>((!is_settled).then_some(Event::Rekeyed))
        })?;
        if settled.is_some() {
            // Checkpoints sealed with an older data key are not accepted any more.
            self.store.checkpoints().make_again(state);
        }
        Ok(())
    }
}

impl Draft {
    fn of(opened: &Opened) -> Self {
        Self {
            holders: opened.holders.clone(),
            master: opened.master.clone(),
            generations: opened.generations.clone(),
        }
    }

    fn renewed(self, random: &dyn Random) -> Self {
        let master = keyring::key(random);
        let generations = self.generations.into_iter().chain([keyring::key(random)]).collect();
        Self { master, generations, ..self }
    }
}

/// Removes duplicates: each public key once, each under its own name. Earlier versions did not check this.
fn tidy(holders: Vec<Holder>) -> Vec<Holder> {
    let mut tidy: Vec<Holder> = Vec::with_capacity(holders.len());
    for mut holder in holders {
        if tidy.iter().any(|other| other.recipient == holder.recipient) {
            continue;
        }
        let wanted = if keyring::is_name(&holder.name) { holder.name } else { "key".to_owned() };
        let mut numbered = (2..).map(|number| format!("{wanted}-{number}"));
        holder.name = wanted.clone();
        while tidy.iter().any(|other| other.name == holder.name) {
            holder.name = numbered.next().unwrap_or_default();
        }
        tidy.push(holder);
    }
    tidy
}

/// Reads the identities in a key file, which is created if it is missing.
fn key_file(path: &Path, source: &KeySource, env: &Env) -> Result<Vec<Identity>, RepositoryError> {
    let identities = match durable::is_made(path) {
        true => read_key_file(path)?,
        false => {
            if let Some(dir) = path.parent().filter(|_| source.is_default_file) {
                durable::create_dirs(dir).map_err(RepositoryError::local(dir.display()))?;
            }
            match make_key_file(path, env) {
                // Another run was quicker: it is the file's key that counts.
                Err(RepositoryError::KeyFileExists(_)) => read_key_file(path)?,
                made => vec![made?],
            }
        }
    };
    match identities.is_empty() {
        true => Err(RepositoryError::EmptyKeyFile(path.to_owned())),
        false => Ok(identities),
    }
}

/// Makes a holder from a public key `age1…`.
pub(crate) fn recipient_holder(name: &str, recipient: &str) -> Result<Holder, FormatError> {
    Ok(Holder::of_recipient(name, &Recipient::parse(recipient)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_an_older_keyring_get_names_that_a_keyring_takes() {
        let holder =
            |name: &str, number: u8| Holder::of_recipient(name, &Identity::new([number; 32]).recipient());
        let names = |holders: Vec<Holder>| tidy(holders).into_iter().map(|h| h.name).collect::<Vec<_>>();
        assert_eq!(
            names(vec![
                holder("key-file", 1),
                holder("key-file", 2),
                holder("key-file", 3),
                holder("\x1b[2J", 4)
            ]),
            ["key-file", "key-file-2", "key-file-3", "key"]
        );
        assert_eq!(names(vec![holder("a", 1), holder("b", 1)]), ["a"]);
    }
}
