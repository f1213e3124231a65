//! One request over HTTP or HTTPS, each on a connection of its own, with a bounded answer.

use crate::support::chain::chain;
use reqwest::header::{AGE, CACHE_CONTROL, HOST, HeaderMap, PRAGMA};
use reqwest::redirect::Policy;
use std::time::Duration;
use tokio::runtime::Handle;
use url::Url;

/// The header in which an edge, a gate or a relay shows its epoch.
pub const EPOCH_HEADER: &str = "X-Understudy-Epoch";
/// Maximum number of bytes of an answer's body that are read.
const BODY_MAX_BYTES: usize = 4096;

/// A client that reuses no connection, follows no redirect and asks caches to stay out.
pub(super) struct Asker {
    client: reqwest::Client,
    runtime: Handle,
}

/// An answer.
pub(super) struct Answer {
    pub status: u16,
    /// The values of [`EPOCH_HEADER`], in order.
    pub epochs: Vec<String>,
    /// Whether a cache says that it kept the answer.
    pub is_old: bool,
    pub body: Vec<u8>,
}

/// The reason why there is no answer.
pub(super) struct NoAnswer {
    pub reason: String,
    /// Whether something is there that took too long.
    pub is_late: bool,
}

impl Asker {
    /// `is_direct`: past any proxy that the environment names.
    pub(super) fn new(runtime: Handle, is_direct: bool) -> Result<Self, String> {
        // The second call in a process fails because the provider is installed, which is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")));
        let builder = if is_direct { builder.no_proxy() } else { builder };
        Ok(Self { client: builder.build().map_err(|error| chain(&error))?, runtime })
    }

    /// Asks once.
    pub(super) fn get(&self, url: &Url, host: Option<&str>, limit: Duration) -> Result<Answer, NoAnswer> {
        let mut request = self
            .client
            .get(url.clone())
            .timeout(limit)
            .header(CACHE_CONTROL, "no-cache, no-store")
            .header(PRAGMA, "no-cache");
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        self.runtime
            .block_on(async {
                let mut response = request.send().await?;
                let body = beginning(&mut response, BODY_MAX_BYTES).await?;
                let headers = response.headers();
                let (epochs, is_old) = (epochs_of(headers), is_from_cache(headers));
                Ok(Answer { status: response.status().as_u16(), epochs, is_old, body })
            })
            .map_err(|error: reqwest::Error| NoAnswer {
                is_late: error.is_timeout(),
                reason: chain(&error.without_url()),
            })
    }
}

/// Reads an answer's body, up to a number of bytes.
pub(crate) async fn beginning(
    response: &mut reqwest::Response,
    max_bytes: usize,
) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await? {
        let room = max_bytes - body.len();
        body.extend_from_slice(&part[..part.len().min(room)]);
        if body.len() == max_bytes {
            break;
        }
    }
    Ok(body)
}

/// Returns the values of the header. A proxy may have joined several with commas.
fn epochs_of(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(EPOCH_HEADER).iter();
    let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    texts.flat_map(|text| text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>()).collect()
}

fn is_from_cache(headers: &HeaderMap) -> bool {
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok());
    age.is_some_and(|seconds| seconds > 0)
}
