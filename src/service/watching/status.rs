//! What a host's watcher sees, and whether the host would take over by itself, for the API.

use crate::api::failover::{ReadyItem, WatchStatus};
use crate::failover::watch::item::Level;
use crate::failover::watch::words::Words;

/// Returns what is seen of a store's primary from here; none where nobody watches, as on the primary itself.
pub(crate) fn of(words: &Words) -> Option<WatchStatus> {
    let verdict = words.verdict()?;
    Some(WatchStatus { verdict: verdict.name().to_owned(), reasons: verdict.reasons() })
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::Green => "green",
        Level::Amber => "amber",
        Level::Red => "red",
    }
}

/// Returns whether this host would take over by itself, item by item.
pub(crate) fn ready(words: &Words) -> Vec<ReadyItem> {
    let items = words.items().into_iter();
    items
        .map(|item| ReadyItem {
            item: item.item,
            level: level_word(item.level).to_owned(),
            why: item.why,
            remedy: item.remedy,
        })
        .collect()
}

/// Returns whether nothing forbids that; none where it is not known, or not this host's part.
pub(crate) fn is_ready(words: &Words) -> Option<bool> {
    let items = words.items();
    (!items.is_empty()).then(|| items.iter().all(|item| item.level != Level::Red))
}
