//! What a receiver is told of a store's runs, as healthchecks.io takes it: a request at the begin (`/start`), at the
//! end (none), or at a failure (`/fail`) of each. Pure.
//!
//! A store that runs every few seconds is not told that often: a run that ends as the one before waits for a minute,
//! and only the newest is told then. What is not delivered is replaced by what happens next: a receiver judges by
//! what it does not hear.

use super::message::plain;
use crate::model::id::StoreName;
use crate::service::notify::settings::STORE;
use crate::support::clock::BootNanos;
use std::time::Duration;
use url::Url;

/// Least time between two ends that are alike.
const EVERY: Duration = Duration::from_mins(1);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed(String),
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ping {
    /// By which a receiver knows a run's begin and end.
    pub run: u128,
    /// None at a run's begin.
    pub outcome: Option<Outcome>,
}

/// The pings of one store to one receiver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pings {
    run: u128,
    start: Option<Ping>,
    end: Option<Ping>,
    /// When an end was last delivered, and whether it was of a run that succeeded.
    sent: Option<(BootNanos, bool)>,
    /// Whether the begin of the run that is under way was delivered.
    is_begun: bool,
}

impl Pings {
    /// Takes note that a run begins.
    pub fn begin(&mut self, run: u128, now: BootNanos) {
        self.run = run;
        self.is_begun = false;
        let is_soon = self.sent.is_some_and(|(at, _)| now.since(at) < EVERY);
        let is_waiting = self.end.is_some();
        self.start = (!is_soon && !is_waiting).then_some(Ping { run, outcome: None });
    }

    /// Takes note of how it ended; none if that says nothing.
    pub fn end(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(outcome) => self.end = Some(Ping { run: self.run, outcome: Some(outcome) }),
            None => self.start = None,
        }
    }

    /// Returns what is to be sent now.
    pub fn due(&self, now: BootNanos) -> Option<&Ping> {
        let is_news = |ping: &&Ping| {
            let is_done = ping.outcome == Some(Outcome::Done);
            let is_same = |(at, was_done): (BootNanos, bool)| was_done == is_done && now.since(at) < EVERY;
            self.is_begun || !self.sent.is_some_and(is_same)
        };
        self.start.as_ref().or(self.end.as_ref().filter(is_news))
    }

    /// Takes note that this was delivered.
    pub fn delivered(&mut self, ping: &Ping, now: BootNanos) {
        match &ping.outcome {
            None => {
                self.is_begun = self.run == ping.run;
                self.start = self.start.take().filter(|start| start != ping);
            }
            Some(outcome) => {
                self.is_begun = false;
                self.sent = Some((now, *outcome == Outcome::Done));
                self.end = self.end.take().filter(|end| end != ping);
            }
        }
    }

    pub fn len(&self) -> usize {
        usize::from(self.start.is_some()) + usize::from(self.end.is_some())
    }
}

impl Ping {
    /// Returns the address to ask; none if there is none.
    pub fn url(&self, template: &str, store: &StoreName) -> Option<Url> {
        let mut url = Url::parse(&template.replace(STORE, store.as_str())).ok()?;
        let suffix = match self.outcome {
            None => Some("start"),
            Some(Outcome::Done) => None,
            Some(Outcome::Failed(_)) => Some("fail"),
        };
        if let Some(suffix) = suffix {
            url.path_segments_mut().ok()?.pop_if_empty().push(suffix);
        }
        url.query_pairs_mut().append_pair("rid", &uuid(self.run));
        Some(url)
    }

    /// Returns what is kept with it.
    pub fn body(&self) -> String {
        match &self.outcome {
            Some(Outcome::Failed(how)) => plain(how),
            _ => String::new(),
        }
    }
}

/// Returns a number in the form of a random UUID.
fn uuid(number: u128) -> String {
    let number = (number & !(0xf000 << 64) & !(0xc000 << 48)) | (0x4000 << 64) | (0x8000 << 48);
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootNanos {
        BootNanos(seconds * 1_000_000_000)
    }

    fn failed() -> Option<Outcome> {
        Some(Outcome::Failed("no space".into()))
    }

    /// Delivers what is due, and returns its suffixes.
    fn deliver(pings: &mut Pings, now: BootNanos) -> Vec<&'static str> {
        let mut sent = Vec::new();
        while let Some(ping) = pings.due(now).cloned() {
            sent.push(match ping.outcome {
                None => "start",
                Some(Outcome::Done) => "",
                Some(Outcome::Failed(_)) => "fail",
            });
            pings.delivered(&ping, now);
        }
        sent
    }

    #[test]
    fn a_run_s_begin_and_end_are_told_and_a_change_at_once() {
        let mut pings = Pings::default();
        pings.begin(1, at(0));
        assert_eq!(deliver(&mut pings, at(0)), ["start"]);
        pings.end(Some(Outcome::Done));
        assert_eq!(deliver(&mut pings, at(1)), [""]);
        // Every few seconds it runs again.
        for second in 2..30 {
            pings.begin(second.into(), at(second));
            pings.end(Some(Outcome::Done));
            assert_eq!(deliver(&mut pings, at(second)), [""; 0]);
        }
        pings.begin(30, at(30));
        pings.end(failed());
        assert_eq!(deliver(&mut pings, at(30)), ["fail"]);
        pings.begin(31, at(31));
        pings.end(Some(Outcome::Done));
        assert_eq!(deliver(&mut pings, at(31)), [""]);
        pings.begin(32, at(32));
        pings.end(Some(Outcome::Done));
        assert_eq!((deliver(&mut pings, at(33)).len(), deliver(&mut pings, at(91))), (0, vec![""]));
    }

    #[test]
    fn what_is_not_delivered_is_replaced_and_a_run_that_was_stopped_says_nothing() {
        let mut pings = Pings::default();
        for run in 0..100 {
            pings.begin(run, at(0));
            pings.end(failed());
        }
        assert_eq!(pings.len(), 1);
        assert_eq!(deliver(&mut pings, at(1)), ["fail"]);
        pings.begin(100, at(100));
        pings.end(None);
        assert_eq!(deliver(&mut pings, at(100)), [""; 0]);
    }

    #[test]
    fn the_suffix_goes_before_the_query_and_the_store_into_the_path() {
        let store = StoreName::parse("shop-1").unwrap();
        let of =
            |outcome, template: &str| Ping { run: 7, outcome }.url(template, &store).unwrap().to_string();
        let run = "rid=00000000-0000-4000-8000-000000000007";
        assert_eq!(
            of(None, "https://hc.example/key/{store}?create=1"),
            format!("https://hc.example/key/shop-1/start?create=1&{run}")
        );
        assert_eq!(
            of(Some(Outcome::Done), "https://hc.example/id/"),
            format!("https://hc.example/id/?{run}")
        );
        assert_eq!(of(failed(), "https://hc.example/id/"), format!("https://hc.example/id/fail?{run}"));
    }
}
