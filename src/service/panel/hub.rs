//! What is live: the parts of pages that were rendered, with their versions, and who looks at what.

use crate::api::store::StoreStatus;
use crate::model::id::StoreName;
use crate::panel::fleet::Filter;
use crate::panel::sentence::Reader;
use crate::support::env::Env;
use crate::support::lock::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A part of a page: a row of the fleet, or what is live on a store's own page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Row,
    Live,
    Facts,
}

pub(super) struct Fragment {
    pub html: Arc<str>,
    pub version: u64,
}

/// What is rendered, and for whom.
#[derive(Default)]
pub(super) struct Rendered {
    pub parts: BTreeMap<(StoreName, Reader, Part), Fragment>,
    pub statuses: Arc<Vec<StoreStatus>>,
    pub version: u64,
}

/// Open streams by what they show.
#[derive(Default)]
pub(super) struct Lookers {
    pub fleets: BTreeMap<Reader, usize>,
    pub stores: BTreeMap<(StoreName, Reader), usize>,
}

/// What is live.
pub(super) struct Hub {
    /// Names this daemon's versions: another's mean nothing here.
    nonce: u64,
    pub rendered: Mutex<Rendered>,
    pub lookers: Arc<Mutex<Lookers>>,
    pub changed: watch::Sender<u64>,
}

impl Hub {
    pub(super) fn new(env: &Env) -> Self {
        let (changed, _) = watch::channel(0);
        Self { nonce: env.nonce(), rendered: Mutex::default(), lookers: Arc::default(), changed }
    }

    /// Returns the version of what is rendered now.
    pub(super) fn version(&self) -> String {
        self.name(lock(&self.rendered).version)
    }

    pub(super) fn name(&self, version: u64) -> String {
        format!("{:016x}-{version}", self.nonce)
    }

    /// Returns the version of this name; 0 for one that is not of this daemon.
    pub(super) fn parse(&self, name: &str) -> u64 {
        let ours = name.split_once('-').filter(|(nonce, _)| *nonce == format!("{:016x}", self.nonce));
        ours.and_then(|(_, version)| version.parse().ok()).unwrap_or(0)
    }

    /// Takes in a part; one that is as it was keeps its version.
    pub(super) fn take(rendered: &mut Rendered, key: (StoreName, Reader, Part), html: String, next: u64) {
        match rendered.parts.get_mut(&key) {
            Some(fragment) if *fragment.html == *html => {}
            Some(fragment) => *fragment = Fragment { html: html.into(), version: next },
            None => drop(rendered.parts.insert(key, Fragment { html: html.into(), version: next })),
        }
        rendered.version = next;
    }
}

/// A place among those who look; it is given back at the end of the stream.
pub(super) struct Looker {
    lookers: Arc<Mutex<Lookers>>,
    pub at: At,
}

#[derive(Clone)]
pub(super) enum At {
    Fleet(Reader, Filter),
    Store(StoreName, Reader),
}

impl Looker {
    pub(super) fn new(hub: &Hub, at: At) -> Self {
        let lookers = hub.lookers.clone();
        {
            let mut all = lock(&lookers);
            match &at {
                At::Fleet(reader, _) => *all.fleets.entry(*reader).or_default() += 1,
                At::Store(name, reader) => *all.stores.entry((name.clone(), *reader)).or_default() += 1,
            }
        }
        Self { lookers, at }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        fn leave<K: Ord>(all: &mut BTreeMap<K, usize>, key: &K) {
            if let Some(count) = all.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    all.remove(key);
                }
            }
        }
        let mut all = lock(&self.lookers);
        match &self.at {
            At::Fleet(reader, _) => leave(&mut all.fleets, reader),
            At::Store(name, reader) => leave(&mut all.stores, &(name.clone(), *reader)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_stays_as_it_is_keeps_its_version_and_another_daemon_s_means_nothing() {
        let hub = Hub::new(&Env::system());
        let key = (StoreName::parse("acme").unwrap(), Reader::Operator, Part::Row);
        let mut rendered = Rendered::default();
        Hub::take(&mut rendered, key.clone(), "a".into(), 1);
        Hub::take(&mut rendered, key.clone(), "a".into(), 2);
        assert_eq!((rendered.parts[&key].version, rendered.version), (1, 2));
        Hub::take(&mut rendered, key.clone(), "b".into(), 3);
        assert_eq!(rendered.parts[&key].version, 3);
        assert_eq!(hub.parse(&hub.name(7)), 7);
        for other in ["", "7", "0000000000000000-7", "x-y", &hub.name(7).replace('-', "_")] {
            assert_eq!(hub.parse(other), 0, "{other}");
        }
    }

    #[test]
    fn who_looks_is_counted_until_the_stream_ends() {
        let hub = Hub::new(&Env::system());
        let at = || At::Fleet(Reader::Operator, Filter::default());
        let (one, two) = (Looker::new(&hub, at()), Looker::new(&hub, at()));
        let other = Looker::new(&hub, At::Store(StoreName::parse("a.b").unwrap(), Reader::Customer));
        let count = || {
            let all = lock(&hub.lookers);
            (all.fleets.get(&Reader::Operator).copied().unwrap_or(0), all.stores.len())
        };
        assert_eq!(count(), (2, 1));
        drop((one, other));
        assert_eq!(count(), (1, 0));
        drop(two);
        assert!(lock(&hub.lookers).fleets.is_empty());
    }
}
