//! The customers' check: a request as a customer makes it shows the new epoch.
//!
//! Each request has a connection and a query of its own, and asks caches to stay out; an answer that a cache
//! kept does not count. Several edges or machines may answer at one address, so a number of answers in a row
//! must agree. An answer shows an epoch only if all that stand in its way (the edge, the host's gate) name the
//! same one, and if it is not an error of the server: a gate that is closed names its epoch, too.

use super::address::Address;
use super::ask::{Answer, Asker, EPOCH_HEADER};
use super::context::{Deadline, EdgeContext};
use super::error::EdgeError;
use super::mark::parse_epoch;
use crate::model::escape;
use crate::model::id::Epoch;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::time::Duration;
use url::Url;

/// Number of answers in a row that must show the epoch.
const AGREE: u32 = 3;
/// Maximum time of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The time that each request has, also when less is left of the whole: an answer that was asked for too late
/// to come is not taken for silence.
const REQUEST_MIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The address at which customers reach a store.
pub struct Customer {
    url: Url,
    /// Name that is asked for at another address than the URL's.
    host: Option<String>,
    asker: Asker,
    context: EdgeContext,
}

impl Customer {
    pub fn new(url: &CustomerUrl, context: &EdgeContext) -> Result<Self, EdgeError> {
        let asker = Asker::new(context.runtime.clone(), false)
            .map_err(|reason| EdgeError::wrong(url.0.as_str(), reason))?;
        Ok(Self { url: url.0.clone(), host: None, asker, context: context.clone() })
    }

    /// Returns what asks a host's gate as the edge does, past the edge: for the customers' page, if there is one.
    pub fn at_gate(
        url: Option<&CustomerUrl>,
        gate: &Address,
        context: &EdgeContext,
    ) -> Result<Self, EdgeError> {
        let wrong = |reason: String| EdgeError::wrong(&gate.to_string(), reason);
        let path = url.map_or("/", |url| url.0.path());
        let at = Url::parse(&format!("http://{gate}{path}")).map_err(|error| wrong(error.to_string()))?;
        let host = url.and_then(|url| {
            let port = url.0.port().map(|port| format!(":{port}")).unwrap_or_default();
            Some(format!("{}{port}", url.0.host_str()?))
        });
        let asker = Asker::new(context.runtime.clone(), true).map_err(wrong)?;
        Ok(Self { url: at, host, asker, context: context.clone() })
    }

    /// Asks once, within `limit`, whether customers are served in `epoch`.
    ///
    /// # Errors
    /// The reason why not, with the address.
    pub fn check(&self, epoch: Epoch, limit: Duration) -> Result<(), String> {
        let why = match self.ask(limit) {
            Shown::Epoch(shown) if shown == epoch => return Ok(()),
            Shown::Epoch(shown) => format!("it shows epoch {}, and not {}", shown.0, epoch.0),
            Shown::Nothing(reason) | Shown::Silence(reason) => reason,
        };
        Err(escape::line(&format!("{}: {why}", self.url)).into_owned())
    }

    /// Asks once, and returns the epoch that the answer shows.
    ///
    /// # Errors
    /// [`EdgeError::NoCustomer`] without an answer, [`EdgeError::Refused`] with one that shows no epoch.
    pub fn epoch_shown(&self) -> Result<Epoch, EdgeError> {
        match self.ask(REQUEST_LIMIT) {
            Shown::Epoch(epoch) => Ok(epoch),
            Shown::Nothing(reason) => Err(EdgeError::refused(self.url.as_str(), reason)),
            Shown::Silence(reason) => {
                Err(EdgeError::NoCustomer { url: self.url.to_string(), reason: escape::line(&reason).into() })
            }
        }
    }

    /// Asks until a number of answers in a row show `wanted`.
    ///
    /// # Errors
    /// Fenced at once when a higher epoch is shown; else once `limit` is over: unavailable if nothing answers,
    /// failed if something else is shown.
    pub fn wait_for(&self, wanted: Epoch, limit: Duration) -> Result<(), EdgeError> {
        let deadline = Deadline::of(&self.context.env, limit);
        let url = || self.url.to_string();
        let mut in_a_row = 0;
        loop {
            let left = deadline.left(self.url.as_str(), REQUEST_LIMIT).unwrap_or_default();
            let shown = self.ask(left.max(REQUEST_MIN));
            match &shown {
                Shown::Epoch(epoch) if *epoch == wanted => {
                    in_a_row += 1;
                    if in_a_row == AGREE {
                        return Ok(());
                    }
                    continue;
                }
                Shown::Epoch(epoch) if *epoch > wanted => {
                    return Err(EdgeError::FencedAtCustomer { url: url(), shown: *epoch, ours: wanted });
                }
                _ => in_a_row = 0,
            }
            if deadline.is_over() {
                let stale = |shown| EdgeError::Stale { url: url(), shown, wanted, seconds: limit.as_secs() };
                return Err(match shown {
                    Shown::Epoch(epoch) => stale(format!("it shows epoch {}", epoch.0)),
                    Shown::Nothing(reason) => stale(escape::line(&reason).into_owned()),
                    Shown::Silence(reason) => {
                        EdgeError::NoCustomer { url: url(), reason: escape::line(&reason).into_owned() }
                    }
                });
            }
            self.context.env.sleep(LOOK_EVERY);
        }
    }

    fn ask(&self, limit: Duration) -> Shown {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("understudy", &format!("{:016x}", self.context.env.nonce()));
        match self.asker.get(&url, self.host.as_deref(), limit) {
            Ok(answer) => read(&answer),
            Err(error) => Shown::Silence(error.reason),
        }
    }
}

/// What an answer, or its absence, shows.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Epoch(Epoch),
    /// An answer that shows none, with the reason.
    Nothing(String),
    /// No answer, with the reason.
    Silence(String),
}

fn read(answer: &Answer) -> Shown {
    let epochs: Option<Vec<Epoch>> = answer.epochs.iter().map(|text| parse_epoch(text)).collect();
    match epochs.as_deref() {
        _ if answer.status >= 500 => Shown::Nothing(format!("it answers with status {}", answer.status)),
        _ if answer.is_old => Shown::Nothing("a cache answers with what it kept".into()),
        None => Shown::Nothing(format!("its {EPOCH_HEADER} is no number")),
        Some([]) => Shown::Nothing(format!("its answer has no {EPOCH_HEADER}")),
        Some([first, rest @ ..]) => match rest.iter().find(|other| *other != first) {
            None => Shown::Epoch(*first),
            Some(other) => Shown::Nothing(format!(
                "the host and the edge before it show epochs {} and {}",
                first.0, other.0
            )),
        },
    }
}

/// The URL of a store's customers: `http` or `https`, without a user and without a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerUrl(Url);

impl fmt::Display for CustomerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl CustomerUrl {
    /// Parses a URL. An error is a reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| Err(format!("`customer_url` '{}': {reason}", escape::line(text)));
        let Ok(url) = Url::parse(text) else { return wrong("it is not a URL") };
        match url {
            _ if !["http", "https"].contains(&url.scheme()) => {
                wrong("it must begin with http:// or https://")
            }
            _ if !url.has_host() => wrong("it names no host"),
            _ if !url.username().is_empty() || url.password().is_some() => {
                wrong("it cannot contain a user or a password")
            }
            _ if url.fragment().is_some() => wrong("it cannot contain a '#'"),
            url => Ok(Self(url)),
        }
    }
}

impl<'de> Deserialize<'de> for CustomerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: u16, epochs: &[&str]) -> Answer {
        let epochs = epochs.iter().map(|&epoch| epoch.to_owned()).collect();
        Answer { status, epochs, is_old: false, body: Vec::new() }
    }

    #[test]
    fn an_answer_shows_an_epoch_only_if_all_on_its_way_name_the_same_one() {
        for status in [200, 204, 301, 404] {
            assert_eq!(read(&answer(status, &["7"])), Shown::Epoch(Epoch(7)));
        }
        assert_eq!(read(&answer(200, &["7", "7"])), Shown::Epoch(Epoch(7)));
        for epochs in [&[][..], &["6", "7"], &["7", "6"], &["7", "x"], &[""], &["07"], &["+7"], &["7 "]] {
            assert!(matches!(read(&answer(200, epochs)), Shown::Nothing(_)), "{epochs:?}");
        }
        assert!(matches!(read(&answer(503, &["7"])), Shown::Nothing(_)));
        assert!(matches!(read(&Answer { is_old: true, ..answer(200, &["7"]) }), Shown::Nothing(_)));
    }

    proptest! {
        #[test]
        fn whatever_an_answer_contains_it_shows_one_epoch_or_a_reason(status: u16, is_old: bool, epochs in proptest::collection::vec("[0-9]{0,22}|(?s).{0,5}", 0..4)) {
            match read(&Answer { status, epochs: epochs.clone(), is_old, body: Vec::new() }) {
                Shown::Epoch(epoch) => {
                    prop_assert!(status < 500 && !is_old && !epochs.is_empty());
                    prop_assert!(epochs.iter().all(|text| *text == epoch.0.to_string()));
                }
                Shown::Nothing(reason) => prop_assert!(!reason.is_empty()),
                Shown::Silence(reason) => prop_assert!(false, "{reason}"),
            }
        }
    }

    #[test]
    fn a_customers_url_is_one_of_the_web_without_secrets() {
        for good in ["http://shop.example", "https://shop.example:8443/a?b=c", "http://[::1]:80/"] {
            assert!(CustomerUrl::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["", "shop.example", "ftp://a", "file:///etc/passwd", "https://", "https://a:b@c", "http://a#b"]
        {
            assert!(CustomerUrl::parse(bad).unwrap_err().contains("customer_url"), "{bad}");
        }
    }
}
