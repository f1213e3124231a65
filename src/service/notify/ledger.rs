//! What was told, and what is to be: each trouble that lasts is told once to each receiver that wants it, again after
//! a day, and once more when it is over. Pure: statuses and the time in, items out.
//!
//! The ledger is kept on the disk. A daemon that starts again goes on where it was: what is open is not told again,
//! and its end is told, also if it came while no daemon ran. What an end takes (a trouble must be gone for a minute)
//! and what a beginning takes begins anew then.

use super::event::Event;
use super::message::{Item, State, plain};
use super::queue::Queue;
use super::reign::{self, Change, Reign};
use super::settings::NotifySettings;
use super::trouble::{Seen, Sight, sights};
use crate::model::id::StoreName;
use crate::support::clock::{BootNanos, DAY, Now, UnixNanos};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time after which what goes on is told again.
const REMIND: Duration = DAY;
/// Time after which a trouble of which nothing is known any more is taken for over.
const UNKNOWN: Duration = DAY;
/// Least time between two refusals that are told: whoever asked is told at once, and asks again.
const REFUSED_EVERY: Duration = Duration::from_mins(10);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ledger {
    stores: BTreeMap<StoreName, Known>,
    queues: BTreeMap<String, Queue>,
}

/// What is known of a store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    open: BTreeMap<Event, Open>,
    reign: Option<Reign>,
    /// The refusal that was told last.
    refused: Vec<String>,
    #[serde(skip)]
    refused_at: Option<BootNanos>,
    /// What was seen, but not for long enough, and since when.
    #[serde(skip)]
    rising: BTreeMap<Event, (BootNanos, UnixNanos)>,
}

/// A trouble that was told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    since: UnixNanos,
    text: String,
    /// When it was told last.
    told: UnixNanos,
    /// Since when it is not there any more, and since when nothing is known of it.
    #[serde(skip)]
    gone: Option<(BootNanos, UnixNanos)>,
    #[serde(skip)]
    unknown: Option<BootNanos>,
}

/// What a step needs to know.
pub(crate) struct Context<'a> {
    pub now: Now,
    pub receivers: &'a [NotifySettings],
    /// Time for which a trouble must be gone.
    pub all_clear: Duration,
}

impl Ledger {
    /// Takes note of what is seen of all stores of the configuration.
    pub fn step(&mut self, seen: &[Seen], context: &Context) {
        self.set_receivers(context);
        let mut items = Vec::new();
        for one in seen {
            let name = &one.status.store;
            let known = self.stores.entry(name.clone()).or_default();
            for (event, sight) in sights(one) {
                known.see(name, event, sight, context, &mut items);
            }
            known.see_failover(one, context, &mut items);
        }
        self.stores.retain(|name, known| {
            let is_there = seen.iter().any(|one| one.status.store == *name);
            if !is_there {
                let text = "the store is not in this host's configuration any more";
                let open = std::mem::take(&mut known.open);
                let ended =
                    open.into_iter().map(|(event, open)| open.end(name, event, text, context.now.wall));
                items.extend(ended);
            }
            is_there
        });
        for item in items {
            self.push(&item, context.receivers);
        }
    }

    /// Has a queue for each receiver, and for nobody else. A new one is told what goes on.
    fn set_receivers(&mut self, context: &Context) {
        let is_there = |name: &String| context.receivers.iter().any(|one| one.name() == name);
        self.queues.retain(|name, _| is_there(name));
        for receiver in context.receivers.iter().filter(|one| !one.is_ping()) {
            if self.queues.contains_key(receiver.name()) {
                continue;
            }
            let mut queue = Queue::default();
            for (store, known) in &self.stores {
                for (event, open) in known.open.iter().filter(|(event, _)| receiver.wants(store, **event)) {
                    let (since, text) = (open.since, open.text.clone());
                    let (store, event) = (store.clone(), *event);
                    queue.push(Item { state: State::Begun, event, store, since, until: None, text });
                }
            }
            self.queues.insert(receiver.name().to_owned(), queue);
        }
    }

    fn push(&mut self, item: &Item, receivers: &[NotifySettings]) {
        for receiver in receivers.iter().filter(|one| one.wants(&item.store, item.event)) {
            if let Some(queue) = self.queues.get_mut(receiver.name()) {
                queue.push(item.clone());
            }
        }
    }

    pub fn queue(&self, receiver: &str) -> Option<&Queue> {
        self.queues.get(receiver)
    }

    pub fn queues(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.queues.values_mut()
    }

    pub fn delivered(&mut self, receiver: &str, id: &str, now: BootNanos) {
        if let Some(queue) = self.queues.get_mut(receiver) {
            queue.delivered(id, now);
        }
    }
}

impl Open {
    fn end(self, store: &StoreName, event: Event, text: &str, until: UnixNanos) -> Item {
        let (since, store, text) = (self.since, store.clone(), plain(text));
        Item { state: State::Ended, event, store, since, until: Some(until), text }
    }
}

impl Known {
    fn see(
        &mut self,
        store: &StoreName,
        event: Event,
        sight: Sight,
        context: &Context,
        items: &mut Vec<Item>,
    ) {
        let now = context.now;
        let Some(open) = self.open.get_mut(&event) else {
            match sight {
                Sight::Present(text) => self.rise(store, event, &text, now, items),
                Sight::Absent => drop(self.rising.remove(&event)),
                Sight::Unknown => {}
            }
            return;
        };
        let is_over = match sight {
            Sight::Present(text) => {
                (open.gone, open.unknown) = (None, None);
                if now.wall.since(open.told) >= REMIND {
                    (open.told, open.text) = (now.wall, plain(&text));
                    let (since, text) = (open.since, open.text.clone());
                    let (state, store) = (State::Continues, store.clone());
                    items.push(Item { state, event, store, since, until: None, text });
                }
                false
            }
            Sight::Absent => {
                open.unknown = None;
                let (gone, _) = *open.gone.get_or_insert((now.boot, now.wall));
                now.boot.since(gone) >= context.all_clear
            }
            Sight::Unknown => now.boot.since(*open.unknown.get_or_insert(now.boot)) >= UNKNOWN,
        };
        if is_over && let Some(open) = self.open.remove(&event) {
            let is_known = open.unknown.is_none();
            let until = open.gone.map_or(now.wall, |(_, wall)| wall);
            let text = if is_known { "" } else { "it is not watched here any more" };
            items.push(open.end(store, event, text, until));
        }
    }

    fn rise(&mut self, store: &StoreName, event: Event, text: &str, now: Now, items: &mut Vec<Item>) {
        let (boot, since) = *self.rising.entry(event).or_insert((now.boot, now.wall));
        if now.boot.since(boot) < event.wait() {
            return;
        }
        self.rising.remove(&event);
        self.begin(store, event, text, since, now.wall, items);
    }

    fn begin(
        &mut self,
        store: &StoreName,
        event: Event,
        text: &str,
        since: UnixNanos,
        told: UnixNanos,
        items: &mut Vec<Item>,
    ) {
        let text = plain(text);
        let (state, store) = (State::Begun, store.clone());
        items.push(Item { state, event, store, since, until: None, text: text.clone() });
        self.open.insert(event, Open { since, text, told, gone: None, unknown: None });
    }

    fn see_failover(&mut self, seen: &Seen, context: &Context, items: &mut Vec<Item>) {
        let (store, wall) = (&seen.status.store, context.now.wall);
        self.see_refusal(seen, context.now, items);
        let Some(told) = self.reign.clone() else {
            self.reign = reign::now(seen);
            return;
        };
        match reign::change(seen, &told) {
            Change::Settled { now, text } => {
                if !self.open.contains_key(&Event::Failover) {
                    // It began and ended between two looks.
                    self.begin(store, Event::Failover, "", wall, wall, items);
                }
                if let Some(open) = self.open.remove(&Event::Failover) {
                    items.push(open.end(store, Event::Failover, &text, wall));
                }
                self.rising.remove(&Event::Failover);
                self.reign = Some(now);
            }
            Change::None(sight) => {
                let text = reign::ended_as_before(seen, &told);
                let before = items.len();
                self.see(store, Event::Failover, sight, context, items);
                let new = items[before..].iter_mut().filter(|item| item.state == State::Ended);
                new.for_each(|item| item.text = plain(&text));
            }
        }
    }

    fn see_refusal(&mut self, seen: &Seen, now: Now, items: &mut Vec<Item>) {
        let Some(failover) = seen.failover.as_ref().filter(|failover| failover.no_agent.is_none()) else {
            return;
        };
        let is_soon = self.refused_at.is_some_and(|at| now.boot.since(at) < REFUSED_EVERY);
        if self.refused == failover.refused || (is_soon && !failover.refused.is_empty()) {
            return;
        }
        self.refused.clone_from(&failover.refused);
        if !failover.refused.is_empty() {
            self.refused_at = Some(now.boot);
            let (state, event, store) = (State::Happened, Event::Refused, seen.status.store.clone());
            let text = plain(&failover.refused.join("; "));
            items.push(Item { state, event, store, since: now.wall, until: None, text });
        }
    }
}
