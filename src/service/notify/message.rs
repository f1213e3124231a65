//! A message to a receiver, in the form of each kind. Pure.
//!
//! Texts come from the repository, from other hosts and from people. They are made plain when they are taken into an
//! item: no control character, nothing that reorders text, a bounded length. Each form escapes what is special in it.

use super::event::{Event, Severity};
use crate::model::escape;
use crate::model::id::StoreName;
use crate::support::clock::UnixNanos;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write;

/// Maximum number of characters of an item's text.
const TEXT_MAX_CHARS: usize = 500;
/// Maximum number of items that are shown in a message for people; the others are counted.
const SHOWN_MAX: usize = 30;

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Begun,
    /// It was told before, and goes on.
    Continues,
    /// All clear.
    Ended,
    /// It happened, and has no end.
    Happened,
}

/// One thing that is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub state: State,
    pub event: Event,
    pub store: StoreName,
    /// When it began.
    pub since: UnixNanos,
    /// When it ended.
    pub until: Option<UnixNanos>,
    pub text: String,
}

impl Item {
    /// Returns a line for people, without the store's name.
    fn line(&self) -> String {
        let title = self.event.title();
        let head = match self.state {
            State::Begun | State::Happened => title.to_owned(),
            State::Continues => format!("still {title}, since {}", time(self.since)),
            State::Ended => {
                let until = self.until.map(|until| format!(", until {}", time(until))).unwrap_or_default();
                format!("all clear: {title}, from {}{until}", time(self.since))
            }
        };
        if self.text.is_empty() { head } else { format!("{head}: {}", self.text) }
    }

    fn severity(&self) -> Severity {
        if self.state == State::Ended { Severity::Info } else { self.event.severity() }
    }
}

/// Returns a text that is safe to show anywhere: one line, of a bounded length.
pub(crate) fn plain(text: &str) -> String {
    let line = escape::line(text);
    match line.char_indices().nth(TEXT_MAX_CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.into_owned(),
    }
}

/// Returns a time as RFC 3339 writes it, in UTC.
pub(crate) fn time(at: UnixNanos) -> String {
    DateTime::<Utc>::from(at.system_time()).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A message. It stays the same however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// By which a receiver knows it again.
    pub id: String,
    pub host: String,
    pub made: UnixNanos,
    pub items: Vec<Item>,
    /// Number of troubles that began and ended while nothing could be sent, and are told no other way.
    pub left_out: u64,
    /// Whether it only tries the way to the receiver.
    #[serde(default)]
    pub is_test: bool,
}

impl Message {
    /// Returns a message that tells nothing.
    pub fn test(id: String, host: &str, made: UnixNanos) -> Self {
        Self { id, host: plain(host), made, items: Vec::new(), left_out: 0, is_test: true }
    }

    /// Returns the body for a webhook.
    pub fn json(&self) -> String {
        let items = self.items.iter().map(|item| {
            json!({
                "state": item.state,
                "event": item.event,
                "severity": item.severity(),
                "store": item.store,
                "since": time(item.since),
                "until": item.until.map(time),
                "text": item.text,
            })
        });
        let body = json!({
            "type": if self.is_test { "understudy.test" } else { "understudy.events" },
            "timestamp": time(self.made),
            "data": {
                "id": self.id,
                "host": self.host,
                "version": env!("CARGO_PKG_VERSION"),
                "events": items.collect::<Vec<_>>(),
                "left_out": self.left_out,
            },
        });
        body.to_string()
    }

    fn count(&self, of: impl Fn(State) -> bool) -> usize {
        self.items.iter().filter(|item| of(item.state)).count()
    }

    /// Returns the whole message in a line.
    pub fn subject(&self) -> String {
        if self.is_test {
            return format!("{}: a test of understudy's notifications", self.host);
        }
        if let [item] = self.items.as_slice() {
            let clear = if item.state == State::Ended { "all clear: " } else { "" };
            let still = if item.state == State::Continues { "still " } else { "" };
            return format!("{}: {}: {clear}{still}{}", self.host, item.store, item.event.title());
        }
        let counts = [
            (self.count(|state| state == State::Begun), "began"),
            (self.count(|state| state == State::Continues), "goes on"),
            (self.count(|state| state == State::Ended), "all clear"),
            (self.count(|state| state == State::Happened), "happened"),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
        let mut stores: Vec<_> = self.items.iter().map(|item| &item.store).collect();
        stores.sort();
        stores.dedup();
        let of = match stores.as_slice() {
            [store] => format!("{store}: "),
            more => format!("{} stores: ", more.len()),
        };
        format!("{}: {of}{}", self.host, counts.join(", "))
    }

    /// Returns a line for each item that is shown, with its store, and one for those that are not.
    fn lines(&self) -> (Vec<(&StoreName, String)>, Option<String>) {
        let shown = self.items.iter().take(SHOWN_MAX).map(|item| (&item.store, item.line()));
        let rest = self.items.len().saturating_sub(SHOWN_MAX);
        let more = [
            (rest > 0).then(|| format!("and {rest} more: see `understudy status`")),
            (self.left_out > 0).then(|| format!("{} more began and ended meanwhile", self.left_out)),
        ];
        let more: Vec<_> = more.into_iter().flatten().collect();
        (shown.collect(), (!more.is_empty()).then(|| more.join("; ")))
    }

    /// Returns the body for Slack, and for what takes Slack's messages.
    pub fn slack(&self) -> String {
        let mut text = format!("*{}*", mrkdwn(&self.subject()));
        let (lines, more) = self.lines();
        for (store, line) in lines {
            let _ = write!(text, "\n• *{}*: {}", mrkdwn(store.as_str()), mrkdwn(&line));
        }
        if let Some(more) = more {
            let _ = write!(text, "\n{}", mrkdwn(&more));
        }
        json!({ "text": text }).to_string()
    }

    /// Returns the text of an e-mail.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let (lines, more) = self.lines();
        for (store, line) in lines {
            let _ = writeln!(text, "{store}: {line}");
        }
        if let Some(more) = more {
            let _ = writeln!(text, "{more}");
        }
        if self.is_test {
            let _ = writeln!(text, "Notifications reach you.");
        }
        let _ = writeln!(text, "\nHost {}, {}, message {}", self.host, time(self.made), self.id);
        text
    }
}

/// Escapes a text for Slack: it names nobody, and is no link. Mattermost takes a plain `@` for a mention.
fn mrkdwn(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Not where a snapshot is named.
            '@' if chars.peek().is_none_or(|next| !next.is_ascii_digit()) => out.push_str("@\u{200b}"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn item(store: &str, event: Event, state: State, text: &str) -> Item {
        let store = StoreName::parse(store).unwrap();
        let since = UnixNanos(1_800_000_000_000_000_000);
        Item { state, event, store, since, until: None, text: plain(text) }
    }

    fn message(items: Vec<Item>) -> Message {
        let made = UnixNanos(1_800_000_000_000_000_000);
        Message { id: "msg_1".into(), host: "web-1".into(), made, items, left_out: 0, is_test: false }
    }

    #[test]
    fn fifty_stores_are_one_message_that_says_how_many_it_leaves_out() {
        let items = (0..50).map(|n| item(&format!("s{n}"), Event::NotServed, State::Begun, "no answer"));
        let message = message(items.collect());
        assert_eq!(message.subject(), "web-1: 50 stores: 50 began");
        let text = message.text();
        assert!(text.contains("s29: customers are not served: no answer\n"), "{text}");
        assert!(text.contains("and 20 more: see `understudy status`") && !text.contains("s30"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&message.json()).unwrap();
        assert_eq!(json["data"]["events"].as_array().unwrap().len(), 50, "a program gets all");
    }

    #[test]
    fn one_thing_is_its_own_subject() {
        let of = |state| message(vec![item("shop", Event::Held, state, "")]).subject();
        assert_eq!(of(State::Begun), "web-1: shop: held");
        assert_eq!(of(State::Ended), "web-1: shop: all clear: held");
        assert_eq!(of(State::Continues), "web-1: shop: still held");
        let two = [Event::Held, Event::Drill].map(|event| item("shop", event, State::Begun, ""));
        assert_eq!(message(two.to_vec()).subject(), "web-1: shop: 2 began");
    }

    #[test]
    fn a_text_mentions_nobody_in_slack() {
        let evil = "<!channel> <@U1> <https://evil|click> @here a@2 a & b";
        let json = message(vec![item("shop", Event::Held, State::Begun, evil)]).slack();
        let body: serde_json::Value = serde_json::from_str(&json).unwrap();
        let text = body["text"].as_str().unwrap();
        assert!(text.contains("&lt;!channel&gt;") && text.contains("a &amp; b"), "{text}");
        assert!(!text.contains('<') && !text.contains("@here") && text.contains("a@2"), "{text}");
        assert_eq!(body.as_object().unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_steers_a_terminal_or_grows_without_end(text in "\\PC{0,40}[\u{0}-\u{a0}\u{202e}]{0,9}\\PC{0,900}") {
            let message = message(vec![item("shop", Event::Held, State::Begun, &text)]);
            prop_assert!(!message.subject().chars().any(escape::is_steering));
            let body = message.text();
            prop_assert!(!body.chars().any(|c| c != '\n' && escape::is_steering(c)));
            prop_assert_eq!(body.lines().count(), 3);
            prop_assert!(body.len() < 12 * TEXT_MAX_CHARS);
        }
    }
}
