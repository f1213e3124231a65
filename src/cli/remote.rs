//! A daemon that runs on this host, by its HTTP: so that what is asked for by hand never races its schedule.

use super::context::Context;
use super::exit::Exit;
use super::run::LISTEN;
use super::{Global, ending, show};
use crate::model::id::StoreName;
use crate::service::token::Token;
use anyhow::{Context as _, Result, bail};
use std::time::Duration;

/// A daemon that answers, and knows the store.
pub(super) struct Remote<'a> {
    context: &'a Context,
    client: reqwest::Client,
    base: String,
}

impl<'a> Remote<'a> {
    /// The daemon of this host; `None` when none answers.
    pub(super) fn find(context: &'a Context) -> Option<Self> {
        let listen = context.config.service.listen.clone().unwrap_or_else(|| LISTEN.to_owned());
        if listen == "off" {
            return None;
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        // No proxy: it is this host.
        let client =
            reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(1)).build().ok()?;
        // Listening everywhere is answering here.
        let base = format!("http://{}", listen.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]"));
        let request = client.get(format!("{base}/healthz")).timeout(Duration::from_secs(2));
        let answer = context.runtime.block_on(async { request.send().await }).ok()?;
        answer.status().is_success().then_some(Self { context, client, base })
    }

    /// What it knows of all stores; nothing when it does not say.
    pub(super) fn statuses(&self) -> Vec<serde_json::Value> {
        let work = async {
            let request =
                self.client.get(format!("{}/api/v1/stores", self.base)).timeout(Duration::from_secs(5));
            let bytes = request.send().await.ok()?.bytes().await.ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        self.context.runtime.block_on(work).unwrap_or_default()
    }

    pub(super) fn knows(&self, store: &StoreName) -> bool {
        self.statuses().iter().any(|status| status["store"] == store.as_str())
    }

    /// Has it resync a store, and waits for that.
    pub(super) fn resync(&self, global: &Global, store: &StoreName, accept: bool) -> Result<Exit> {
        let token = Token::read(&self.context.config)?
            .context("a daemon runs here, and its token is not to be found; set service.token_file")?;
        // The run is the daemon's: it goes on without whoever waits for it.
        ending::at_once();
        let url = format!("{}/api/v1/stores/{store}/resync?accept={accept}", self.base);
        self.context.runtime.block_on(async {
            let request = self.client.post(url).header("authorization", token.bearer());
            let mut answer = request.send().await.context("asking the daemon")?;
            if !answer.status().is_success() {
                let is_held = answer.status() == reqwest::StatusCode::CONFLICT;
                let text = answer.text().await.unwrap_or_default();
                let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                let told = told["error"].as_str().unwrap_or(&text);
                if is_held {
                    complain!("understudy: {told}");
                    return Ok(Exit::Held);
                }
                bail!("the daemon refuses: {told}");
            }
            let mut text = String::new();
            while let Some(bytes) = answer.chunk().await.context("the daemon went away; the run may go on")? {
                text += &String::from_utf8_lossy(&bytes);
                while let Some((event, rest)) = text.split_once("\n\n") {
                    let exit = take(global, store, event)?;
                    let rest = rest.to_owned();
                    if let Some(exit) = exit {
                        return Ok(exit);
                    }
                    text = rest;
                }
            }
            bail!("the daemon ended before the run did; what was shipped is not shipped again")
        })
    }
}

/// An event; an exit code with the last.
fn take(global: &Global, store: &StoreName, event: &str) -> Result<Option<Exit>> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let (Some(kind), Some(data)) = (field("event:"), field("data:")) else { return Ok(None) };
    let data: serde_json::Value = serde_json::from_str(data)?;
    match kind {
        "done" => {
            if global.json {
                show::json(&data)?;
            } else if !global.quiet {
                let count = |path: &str| data.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or(0);
                show::line(&format!("{store}@{} committed by the daemon", count("/snapshot")))?;
                show::line(&format!(
                    "  {} entries, {}: {} added, {} modified, {} metadata only, {} removed, {} shipped",
                    show::count(count("/entries")),
                    show::bytes(count("/size_bytes")),
                    show::count(count("/changes/added")),
                    show::count(count("/changes/modified")),
                    show::count(count("/changes/metadata")),
                    show::count(count("/changes/removed")),
                    show::bytes(count("/shipped_bytes")),
                ))?;
            }
            let warnings = ["torn", "unreadable", "attributes", "unsettled"];
            let is_partial = warnings.iter().any(|kind| data["warnings"][kind].as_u64().unwrap_or(0) > 0);
            let warned = is_partial || data["hook_failed"].is_string();
            Ok(Some(if warned { Exit::Warnings } else { Exit::Done }))
        }
        "failed" => {
            complain!("understudy: {}", data["error"].as_str().unwrap_or("the run failed"));
            Ok(Some(match data["outcome"].as_str() {
                Some("held") => Exit::Held,
                Some("fenced") => Exit::Fenced,
                _ => Exit::Failed,
            }))
        }
        _ => Ok(None),
    }
}
