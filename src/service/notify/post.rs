//! Sends a message over HTTP. A redirect is not followed: it would tell whoever is named there. An answer is read up to
//! a bound, and an error names no address, which may be a secret.

use super::settings::NotifyError;
use crate::model::escape;
use crate::support::chain::chain;
use reqwest::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use std::time::Duration;

/// Maximum number of bytes of an answer that are read.
const ANSWER_MAX_BYTES: usize = 4096;
/// Maximum number of characters of it that are shown.
const SHOWN_MAX_CHARS: usize = 200;
/// Longest time that a receiver may ask for.
const LATER_MAX: Duration = Duration::from_hours(1);

/// The reason why a message was not delivered.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    pub reason: String,
    /// Time that the receiver wants to be left alone.
    pub later: Option<Duration>,
    /// Whether the configuration must change.
    pub is_usage: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, later: None, is_usage: false }
    }
}

impl From<NotifyError> for Failure {
    fn from(error: NotifyError) -> Self {
        Self { reason: error.to_string(), later: None, is_usage: true }
    }
}

/// Returns what sends; `limit` is for a whole request.
pub(crate) fn client(limit: Duration) -> Result<Client, String> {
    // The second call in a process fails because the provider is installed, which is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(Policy::none())
        .pool_max_idle_per_host(0)
        .connect_timeout(limit / 2)
        .timeout(limit)
        .referer(false)
        .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| chain(&error))
}

/// A request.
pub(crate) struct Post<'a> {
    pub url: &'a str,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// Sends a request, and waits for an answer that accepts it.
pub(crate) async fn send(client: &Client, post: Post<'_>) -> Result<(), Failure> {
    let mut request = client.post(post.url).header(CONTENT_TYPE, post.content_type).body(post.body);
    for (name, value) in post.headers {
        request = request.header(name, value);
    }
    let sent = request.send().await;
    let response = sent.map_err(|error| Failure::from(chain(&error.without_url())))?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let later = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let later = later.map(|seconds| Duration::from_secs(seconds).min(LATER_MAX));
    let reason = if status.is_redirection() {
        let is_said = response.headers().contains_key(LOCATION);
        let where_to = if is_said { ", which is not followed: set the address that it leads to" } else { "" };
        format!("the answer is {status}{where_to}")
    } else {
        let body = body(response).await;
        if body.is_empty() {
            format!("the answer is {status}")
        } else {
            format!("the answer is {status}: {body}")
        }
    };
    Err(Failure { reason, later, is_usage: false })
}

/// Returns the beginning of an answer, for people.
async fn body(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        let room = ANSWER_MAX_BYTES - body.len();
        body.extend_from_slice(&part[..part.len().min(room)]);
        if body.len() == ANSWER_MAX_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&body);
    escape::line(text.trim()).chars().take(SHOWN_MAX_CHARS).collect()
}
