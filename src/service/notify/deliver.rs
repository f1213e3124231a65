//! Delivers one message, or one ping, to a receiver of any kind.
//!
//! Secrets are read from their files for each attempt, and are gone after it. The runtime is its own: a name that is
//! looked up without end takes no thread that a repository needs.

use super::email::mail;
use super::message::Message;
use super::ping::Ping;
use super::post::{self, Failure, Post};
use super::settings::NotifySettings;
use super::sign::signature;
use super::smtp;
use crate::model::id::StoreName;
use crate::support::clock::UnixNanos;
use reqwest::Client;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Maximum time of an attempt.
const LIMIT: Duration = Duration::from_secs(20);
/// Maximum number of names that are looked up at the same time.
const BLOCKING_MAX: usize = 8;
const JSON: &str = "application/json";

/// What delivers. Called from threads that may block.
pub(crate) struct Sender {
    client: Client,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        // A name that is being looked up is not waited for.
        let _ = self.runtime.take().map(Runtime::shutdown_background);
    }
}

impl Sender {
    pub fn new() -> Result<Self, String> {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(1).max_blocking_threads(BLOCKING_MAX).thread_name("notify");
        let runtime = builder.enable_all().build().map_err(|error| format!("starting a runtime: {error}"))?;
        Ok(Self { client: post::client(LIMIT)?, runtime: Some(runtime) })
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limited = async { tokio::time::timeout(LIMIT, work).await };
        let late = || Err(format!("no answer within {} s", LIMIT.as_secs()).into());
        let runtime = self.runtime.as_ref().ok_or_else(|| "it is ending".to_owned())?;
        runtime.block_on(limited).unwrap_or_else(|_| late())
    }

    /// Delivers a message, and returns whom a mail server refused though it took the message for others. `now` is the
    /// time of this attempt.
    pub fn message(
        &self,
        to: &NotifySettings,
        message: &Message,
        now: UnixNanos,
    ) -> Result<Vec<String>, Failure> {
        let url = to.url()?;
        let url = url.as_str();
        match to {
            NotifySettings::Webhook(_) => {
                let (keys, body, at_seconds) = (to.keys()?, message.json(), now.0 / 1_000_000_000);
                let mut headers = vec![("webhook-id", message.id.clone())];
                headers.push(("webhook-timestamp", at_seconds.to_string()));
                if !keys.is_empty() {
                    headers.push(("webhook-signature", signature(&keys, &message.id, at_seconds, &body)));
                }
                self.run(post::send(&self.client, Post { url, content_type: JSON, headers, body }))?;
            }
            NotifySettings::Slack(_) => {
                let (headers, body) = (Vec::new(), message.slack());
                self.run(post::send(&self.client, Post { url, content_type: JSON, headers, body }))?;
            }
            NotifySettings::Email(settings) => {
                let password = to.password()?;
                let (password, mail) =
                    (password.as_ref().map(|text| text.as_str()), mail(settings, message, now));
                return self.run(async {
                    smtp::send(settings, password, &message.host, &mail).await.map_err(Failure::from)
                });
            }
            NotifySettings::Ping(_) => {}
        }
        Ok(Vec::new())
    }

    /// Delivers a ping about a store.
    pub fn ping(&self, to: &NotifySettings, store: &StoreName, ping: &Ping) -> Result<(), Failure> {
        let template = to.url()?;
        let url = ping.url(&template, store).ok_or_else(|| "the address is none".to_owned())?;
        let post =
            Post { url: url.as_str(), content_type: "text/plain", headers: Vec::new(), body: ping.body() };
        self.run(post::send(&self.client, post))
    }
}
