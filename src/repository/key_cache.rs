//! What this process has of a store's keyring, once it was looked for.

use crate::format::age::Identity;
use crate::format::keyring::Opened;
use crate::format::seal::Keys;
use crate::model::record::RingRef;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A keyring that was opened, and taken.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub opened: Opened,
    pub keys: Arc<Keys>,
    /// It is more than what was found there: see `Memory::confirmed`.
    pub is_confirmed: AtomicBool,
}

impl Loaded {
    /// What records name; none where the keyring proves nothing.
    pub fn named(&self) -> Option<RingRef> {
        self.opened.maker.map(|_| self.opened.reference)
    }

    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed.load(Ordering::Relaxed)
    }
}

/// What a store's handles share of its keyring, once it was looked for: none when there is none.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    pub ring: Mutex<Option<Option<Arc<Loaded>>>>,
    /// What opened the last one: a passphrase is stretched once, however often the keyring is looked for again.
    pub identity: Mutex<Option<Identity>>,
    /// Reading without one was looked into.
    pub is_admitted: AtomicBool,
}
