//! What the watchers of a store and its primary say to each other, as one host knows it at the moment. Nothing of
//! it is kept: it is said again every few seconds.

use super::item::Item;
use super::readiness::Loss;
use super::verdict::Verdict;
use crate::model::id::{Epoch, WriterId};
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Time for which a watcher's word counts.
pub const WORD_LIMIT: Duration = Duration::from_secs(10);
/// Time for which customers that were seen served count.
pub const SEEN_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of watchers whose words are kept, and of reasons of each.
const WATCHERS_MAX: usize = 32;
const REASONS_MAX: usize = 8;

/// A watcher's word that it sees nobody served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub at: BootNanos,
    pub epoch: Epoch,
    pub failed: Vec<String>,
}

/// What is said of one store on this host.
#[derive(Debug, Default)]
pub struct Words {
    /// What watchers have said of this host, which is the primary.
    heard: Mutex<BTreeMap<WriterId, Word>>,
    /// When this host's own watcher last saw customers served, and in which epoch.
    served: Mutex<Option<(BootNanos, Epoch)>>,
    /// Why this host, the primary, is not ready by its own probes; empty if it is.
    not_ready: Mutex<Vec<String>>,
    /// What this host's own watcher concluded last; none without one.
    verdict: Mutex<Option<Verdict>>,
    /// Whether this host, a standby, would take over by itself; empty before that is known, and on other hosts.
    items: Mutex<Vec<Item>>,
    /// What would be lost then.
    loss: Mutex<Loss>,
}

impl Words {
    /// Hears a watcher's word.
    pub fn hear(&self, watcher: &WriterId, word: Word) {
        let mut heard = lock(&self.heard);
        if heard.len() < WATCHERS_MAX || heard.contains_key(watcher) {
            let failed = word.failed.into_iter().take(REASONS_MAX).collect();
            heard.insert(watcher.clone(), Word { failed, ..word });
        }
    }

    /// Returns the watchers that say at `now` that nobody is served in `epoch`, each with its reasons. What was said
    /// before `since` does not count.
    pub fn heard(&self, epoch: Epoch, since: BootNanos, now: BootNanos) -> BTreeMap<WriterId, Vec<String>> {
        let heard = lock(&self.heard);
        let is_fresh = |word: &Word| word.at >= since && now.since(word.at) < WORD_LIMIT;
        let fresh = heard.iter().filter(|(_, word)| word.epoch == epoch && is_fresh(word));
        fresh.map(|(watcher, word)| (watcher.clone(), word.failed.clone())).collect()
    }

    pub fn note_served(&self, epoch: Epoch, at: BootNanos) {
        *lock(&self.served) = Some((at, epoch));
    }

    /// Returns how long ago customers were seen served in `epoch`; none if that was too long ago to count.
    pub fn served(&self, epoch: Epoch, now: BootNanos) -> Option<Duration> {
        let (at, seen) = (*lock(&self.served))?;
        Some(now.since(at)).filter(|ago| seen == epoch && *ago < SEEN_LIMIT)
    }

    /// Says how the watcher of the host `me` saw customers served in `epoch`; none if that was too long ago to count.
    pub fn saw_served(&self, me: &WriterId, epoch: Epoch, now: BootNanos) -> Option<String> {
        let ago = self.served(epoch, now)?;
        Some(format!("'{me}' saw customers served in epoch {} {} s ago", epoch.0, ago.as_secs()))
    }

    pub fn note_ready(&self, not_ready: Vec<String>) {
        *lock(&self.not_ready) = not_ready;
    }

    pub fn not_ready(&self) -> Vec<String> {
        lock(&self.not_ready).clone()
    }

    pub fn note_items(&self, items: Vec<Item>, loss: Loss) {
        *lock(&self.items) = items;
        *lock(&self.loss) = loss;
    }

    pub fn loss(&self) -> Loss {
        *lock(&self.loss)
    }

    pub fn items(&self) -> Vec<Item> {
        lock(&self.items).clone()
    }

    pub fn note_verdict(&self, verdict: Option<Verdict>) {
        *lock(&self.verdict) = verdict;
    }

    pub fn verdict(&self) -> Option<Verdict> {
        lock(&self.verdict).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_for_its_epoch_and_for_ten_seconds() {
        let words = Words::default();
        let at = |seconds: u64| BootNanos(seconds * 1_000_000_000);
        let w = WriterId("w".into());
        words.hear(&w, Word { at: at(100), epoch: Epoch(2), failed: vec!["no answer".into(); 20] });
        assert_eq!(words.heard(Epoch(2), at(0), at(109))[&w].len(), REASONS_MAX);
        assert!(words.heard(Epoch(2), at(0), at(110)).is_empty());
        assert!(words.heard(Epoch(3), at(0), at(101)).is_empty());
        assert!(words.heard(Epoch(2), at(101), at(102)).is_empty(), "it was said before");
        words.note_served(Epoch(2), at(100));
        assert_eq!(words.served(Epoch(2), at(104)), Some(Duration::from_secs(4)));
        assert_eq!((words.served(Epoch(2), at(105)), words.served(Epoch(1), at(101))), (None, None));
        for n in 0..100 {
            let word = Word { at: at(100), epoch: Epoch(2), failed: Vec::new() };
            words.hear(&WriterId(n.to_string()), word);
        }
        assert_eq!(words.heard(Epoch(2), at(0), at(101)).len(), WATCHERS_MAX);
    }
}
