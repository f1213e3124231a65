//! What one receiver is yet to be told. Pure.
//!
//! Items wait here until they are in a message, and a message waits until it was delivered; both are kept on the disk.
//! The queue is bounded: what is left out first has both begun and ended, so that nothing that goes on is ever lost.

use super::message::{Item, Message, State};
use crate::support::clock::{BootNanos, UnixNanos};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Time for which more is waited for before a message is made.
const GATHER: Duration = Duration::from_secs(3);
/// Least time between two messages to one receiver.
const EVERY: Duration = Duration::from_secs(30);
/// Maximum number of items that wait, of which something is left out.
const WAITING_MAX: usize = 500;
/// Maximum number of items of a message.
const ITEMS_MAX: usize = 100;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Queue {
    waiting: Vec<Item>,
    left_out: u64,
    /// The message that is being delivered.
    outgoing: Option<Message>,
    /// Since when something waits, by this process.
    #[serde(skip)]
    since: Option<BootNanos>,
    /// When a message was last delivered.
    #[serde(skip)]
    sent: Option<BootNanos>,
}

impl Queue {
    pub fn push(&mut self, item: Item) {
        let is_same = |other: &Item| other.store == item.store && other.event == item.event;
        match item.state {
            // It is told that it began, or that it goes on, in any case.
            State::Continues
                if self.waiting.iter().any(|other| is_same(other) && other.state != State::Ended) =>
            {
                return;
            }
            State::Ended => self.waiting.retain(|other| !(is_same(other) && other.state == State::Continues)),
            _ => {}
        }
        self.waiting.push(item);
        while self.waiting.len() > WAITING_MAX && self.leave_out() {}
    }

    /// Leaves out what matters least. Returns whether there was such a thing.
    fn leave_out(&mut self) -> bool {
        let ended = self.waiting.iter().enumerate().find_map(|(end, ended)| {
            let same = |item: &Item| item.store == ended.store && item.event == ended.event;
            let is_begin = |item: &Item| item.state == State::Begun && same(item);
            let begin = self.waiting[..end].iter().rposition(is_begin);
            begin.filter(|_| ended.state == State::Ended).map(|begin| (begin, end))
        });
        let passing = |item: &Item| item.state == State::Happened;
        if let Some((begin, end)) = ended {
            self.waiting.remove(end);
            self.waiting.remove(begin);
        } else if let Some(at) = self.waiting.iter().position(passing) {
            self.waiting.remove(at);
        } else {
            return false;
        }
        self.left_out += 1;
        true
    }

    /// Makes the next message if it is time to, and none is being delivered. Returns whether it did.
    pub fn make(&mut self, now: BootNanos, wall: UnixNanos, host: &str, id: impl FnOnce() -> String) -> bool {
        if self.outgoing.is_some() || self.waiting.is_empty() {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if now.since(since) < GATHER || self.sent.is_some_and(|sent| now.since(sent) < EVERY) {
            return false;
        }
        let items = self.waiting.drain(..self.waiting.len().min(ITEMS_MAX)).collect();
        let left_out = std::mem::take(&mut self.left_out);
        let (host, is_test) = (super::message::plain(host), false);
        self.outgoing = Some(Message { id: id(), host, made: wall, items, left_out, is_test });
        self.since = None;
        true
    }

    /// Returns the message that is to be delivered.
    pub fn outgoing(&self) -> Option<&Message> {
        self.outgoing.as_ref()
    }

    /// Takes note that a message was delivered.
    pub fn delivered(&mut self, id: &str, now: BootNanos) {
        if self.outgoing.as_ref().is_some_and(|message| message.id == id) {
            (self.outgoing, self.sent) = (None, Some(now));
        }
    }

    /// Returns the number of items that were not delivered yet.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.outgoing.as_ref().map_or(0, |message| message.items.len())
    }
}
