//! The watches of the stores' trees, which determine what each run looks at.
//!
//! The scheduler decides when a change makes a run due, and when everything is looked at again; there is no
//! clock here. A tree that cannot be watched is scanned completely, and so is one that is watched for the
//! first time.

use super::config::StoreConfig;
use crate::api::resync::ResyncReport;
use crate::model::id::StoreName;
use crate::replicate::resync::Watched;
use crate::source::hints::{Hints, Watch};
use crate::support::lock::lock;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

struct Entry {
    config: StoreConfig,
    watch: Arc<Watch>,
    /// Whether a change was reported since the last run began.
    told: Arc<AtomicBool>,
}

/// The watches of all stores.
#[derive(Default)]
pub(crate) struct Watches(Mutex<HashMap<StoreName, Entry>>);

impl Watches {
    /// Returns what a run of `store` that begins now looks at: everything, if `is_full`. Calls `changed` at
    /// the first change after that.
    pub fn begin(
        &self,
        store: &StoreConfig,
        is_full: bool,
        changed: impl Fn() + Send + 'static,
    ) -> Option<Watched> {
        let mut watches = lock(&self.0);
        if !store.is_watched() {
            watches.remove(&store.name);
            return None;
        }
        // The excludes may have changed, and so may the directory, for example when a volume was mounted
        // late.
        let is_same = |entry: &Entry| entry.config == *store && entry.watch.is_of(&store.path);
        if !watches.get(&store.name).is_some_and(is_same) {
            watches.remove(&store.name);
            match Entry::new(store, changed) {
                Ok(entry) => drop(watches.insert(store.name.clone(), entry)),
                Err(error) => {
                    tracing::warn!(store = %store.name, %error, "cannot watch the tree; this run scans everything");
                    return None;
                }
            }
        }
        let entry = watches.get(&store.name)?;
        entry.told.store(false, Ordering::Relaxed);
        let watch = entry.watch.clone();
        // The next call waits for the kernel, so the lock is released for the other stores.
        drop(watches);
        let hints = watch.take(is_full);
        Some(Watched { watch, hints })
    }

    /// Ends a run; `done` is its report unless it failed.
    pub(crate) fn end(&self, store: &StoreName, watched: Watched, done: Option<&ResyncReport>) {
        let watches = lock(&self.0);
        let Some(report) = done else {
            watched.watch.give_back(watched.hints);
            return;
        };
        // The next run looks again at what could not be read, since no event will report it.
        if report.warnings.partial() > 0 {
            let retried = report.retry.clone();
            watched
                .watch
                .give_back(retried.map(|paths| Hints::new(BTreeSet::new(), paths.into_iter().collect())));
        }
        if watched.hints.is_none()
            && let Some(entry) = watches.get(store)
        {
            let unwatched = entry.watch.unwatched();
            if unwatched > 0 {
                tracing::warn!(
                    %store,
                    directories = unwatched,
                    "some directories cannot be watched and are scanned at each run; fs.inotify.max_user_watches may be too low"
                );
            }
        }
    }

    /// Removes the watches of stores that are no longer configured.
    pub(crate) fn retain(&self, is_configured: impl Fn(&StoreName) -> bool) {
        lock(&self.0).retain(|name, _| is_configured(name));
    }
}

impl Entry {
    fn new(store: &StoreConfig, changed: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        let first = told.clone();
        let watch = Watch::new(&store.path, move || {
            if !first.swap(true, Ordering::Relaxed) {
                changed();
            }
        })?;
        Ok(Self { config: store.clone(), watch: Arc::new(watch), told })
    }
}
