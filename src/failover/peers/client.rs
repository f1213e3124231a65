//! Asks another member: one HTTP POST on a connection of its own, with a bounded answer, within two seconds.

use super::error::PeerError;
use super::question::{ASK_MAX_BYTES, Addressee, Answer, Ask, Asked, Question};
use super::{ASK_PATH, VERSION_HEADER};
use crate::api::error::ErrorBody;
use crate::model::escape;
use crate::model::id::{StoreName, WriterId};
use crate::model::member::Member;
use crate::support::chain::chain;
use crate::support::clock::UnixNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap};
use reqwest::redirect::Policy;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use url::Url;

/// Maximum time from a request to the end of its answer.
pub const ASK_LIMIT: Duration = Duration::from_secs(2);
const VERSION_MAX_BYTES: usize = 32;

/// What a member's last answer told beside what was asked. It is not signed: for people, and no decision relies on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// How far its clock is ahead of this host's, in seconds, to about one.
    pub clock_ahead_seconds: Option<f64>,
    pub version: Option<String>,
}

/// Asks the members of this host's stores. Called from threads that may block.
#[derive(Clone)]
pub struct PeerClient {
    client: reqwest::Client,
    runtime: Handle,
    env: Env,
    me: WriterId,
    key: Arc<SigningKey>,
    seen: Arc<Mutex<BTreeMap<WriterId, Seen>>>,
}

impl PeerClient {
    /// `me` and `key`: this host, as the log knows it.
    pub fn new(runtime: Handle, env: Env, me: WriterId, key: Arc<SigningKey>) -> Result<Self, PeerError> {
        // The second call in a process fails because the provider is installed, which is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            // A proxy is for the way out, and members are hosts of one site.
            .no_proxy()
            .timeout(ASK_LIMIT)
            .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(|error| PeerError::Client(chain(&error)))?;
        Ok(Self { client, runtime, env, me, key, seen: Arc::default() })
    }

    /// Returns what the members that answered have told beside.
    pub fn seen(&self) -> BTreeMap<WriterId, Seen> {
        lock(&self.seen).clone()
    }

    /// Asks the member `of` about a store.
    ///
    /// # Errors
    /// There is no answer that this member signed.
    pub fn ask(&self, store: &StoreName, of: &Member, ask: Ask) -> Result<Answer, PeerError> {
        let member = || of.name.clone();
        let address = of.address.clone().ok_or_else(|| PeerError::NoAddress { member: member() })?;
        let url =
            url(&address).ok_or_else(|| PeerError::Address { member: member(), address: address.clone() })?;
        let to = Addressee { store: store.clone(), asked: member(), nonce: self.env.nonce() };
        let said = Asked { at: self.env.wall(), ask };
        let question = Question::sign(to, &said, &self.me, &self.key)
            .map_err(|error| PeerError::Client(error.to_string()))?;
        let sent = self.runtime.block_on(self.post(url, question.encode()));
        let (status, headers, body) = sent.map_err(|error| {
            let how = chain(&error.without_url());
            PeerError::NoAnswer { member: member(), address: address.clone(), how }
        })?;
        if !status.is_success() {
            let said = serde_json::from_slice::<ErrorBody>(&body).map(|body| body.error);
            let how = said.unwrap_or_else(|_| format!("{status}: {}", String::from_utf8_lossy(&body)));
            return Err(PeerError::Refused { member: member(), address, how });
        }
        let answer = Answer::read(&body, &question, &of.key)
            .ok_or_else(|| PeerError::Forged { member: member(), address })?;
        let now = self.env.wall();
        let middle = said.at.plus(now.since(said.at) / 2);
        lock(&self.seen).insert(member(), seen(&headers, middle));
        Ok(answer)
    }

    /// Returns the status, the headers and the body of the answer. One that is longer than an answer may be is cut, and then
    /// it is none.
    async fn post(
        &self,
        url: Url,
        text: Vec<u8>,
    ) -> Result<(reqwest::StatusCode, HeaderMap, Vec<u8>), reqwest::Error> {
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json").body(text);
        let mut response = request.send().await?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await? {
            let room = ASK_MAX_BYTES - body.len();
            body.extend_from_slice(&part[..part.len().min(room)]);
            if body.len() == ASK_MAX_BYTES {
                break;
            }
        }
        Ok((response.status(), response.headers().clone(), body))
    }
}

/// Returns where a member with this address is asked; none if it is no host and port.
fn url(address: &str) -> Option<Url> {
    let url = Url::parse(&format!("http://{address}{ASK_PATH}")).ok()?;
    let is_plain = url.path() == ASK_PATH && url.query().is_none() && url.fragment().is_none();
    let has_user = !url.username().is_empty() || url.password().is_some();
    (is_plain && !has_user).then_some(url)
}

/// Reads what an answer tells beside, which was made at about `at` by this host's clock.
fn seen(headers: &HeaderMap, at: UnixNanos) -> Seen {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let date = text(DATE.as_str()).and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok());
    // A date has no fraction: half a second is lost on average.
    let ahead = date.map(|date| date.timestamp() as f64 + 0.5 - at.0 as f64 / 1e9);
    let version = text(VERSION_HEADER).map(|version| escape::line(version).into_owned());
    Seen { clock_ahead_seconds: ahead, version: version.filter(|version| version.len() <= VERSION_MAX_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_the_clock_and_the_version_of_who_gave_it() {
        let mut headers = HeaderMap::new();
        let at = UnixNanos(1_767_225_600_500_000_000);
        assert_eq!(seen(&headers, at), Seen { clock_ahead_seconds: None, version: None });
        headers.insert(DATE, "Thu, 01 Jan 2026 00:01:30 GMT".parse().unwrap());
        headers.insert(VERSION_HEADER, "1.2.3".parse().unwrap());
        let told = seen(&headers, at);
        assert_eq!((told.clock_ahead_seconds, told.version.as_deref()), (Some(90.0), Some("1.2.3")));
    }

    #[test]
    fn a_member_is_asked_at_a_host_and_a_port_only() {
        for good in ["10.0.0.1:9184", "[fd00::1]:9184", "web-1.example:80", "web-1"] {
            let url = url(good).unwrap();
            assert_eq!((url.scheme(), url.path()), ("http", ASK_PATH), "{good}");
        }
        let bad =
            ["", "10.0.0.1:9184/x", "a?b", "a#b", "user@a", ":pw@a", "a/../b", "a b", "http://a", "a:99999"];
        for bad in bad {
            assert_eq!(url(bad), None, "{bad}");
        }
    }
}
