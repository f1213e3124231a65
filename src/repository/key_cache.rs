//! The keyring of a store as this process has loaded it.

use crate::format::age::Identity;
use crate::format::keyring::Opened;
use crate::format::seal::Keys;
use crate::model::record::RingRef;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A keyring that was opened and taken.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub opened: Opened,
    pub keys: Arc<Keys>,
    /// Whether it is confirmed: see `Memory::confirmed`.
    pub is_confirmed: AtomicBool,
}

impl Loaded {
    /// Returns the reference that records name; `None` if the keyring does not prove its maker.
    pub(crate) fn named(&self) -> Option<RingRef> {
        self.opened.maker.map(|_| self.opened.reference)
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.is_confirmed.load(Ordering::Relaxed)
    }
}

/// A store's keyring, shared by its handles.
///
/// The outer `None`: not looked up. The inner `None`: there is no keyring.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    pub ring: Mutex<Option<Option<Arc<Loaded>>>>,
    /// The identity that opened the last keyring.
    ///
    /// A passphrase is thus stretched once, however often the keyring is loaded.
    pub identity: Mutex<Option<Identity>>,
    /// Whether reading without a keyring was admitted.
    pub is_admitted: AtomicBool,
}
