//! A daemon that runs on this host, by its socket: so that what is asked for by hand never races its schedule.

use super::context::Context;
use super::exit::Exit;
use super::{Global, ending, show};
use crate::model::id::StoreName;
use crate::service::socket::Place;
use crate::support::trusted::is_trusted;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a daemon may take to say what it knows.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A daemon that answers.
pub(super) struct Remote<'a> {
    context: &'a Context,
    place: Place,
}

impl<'a> Remote<'a> {
    /// The daemon of this host that has this configuration; `None` when none answers.
    pub(super) fn find(context: &'a Context) -> Option<Self> {
        let places = Place::of_command(&context.config, context.given_repository.as_deref());
        places.into_iter().map(|place| Self { context, place }).find(|remote| {
            let answer = remote.context.runtime.block_on(remote.read("/healthz"));
            answer.is_ok_and(|answer| answer.is_some())
        })
    }

    /// Sends a request; none when nobody is there.
    async fn ask(&self, method: Method, path: &str) -> Result<Option<Response<Incoming>>> {
        let stream = match self.place.connect() {
            Ok(Some(stream)) => UnixStream::from_std(stream)?,
            Ok(None) => return Ok(None),
            Err(error) => {
                complain!("understudy: a daemon may run here, and is not asked: {error}");
                return Ok(None);
            }
        };
        if !is_trusted(stream.peer_cred()?.uid()) {
            complain!("understudy: {}: what answers there is somebody else's", self.place.path().display());
            return Ok(None);
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        Ok(Some(sender.send_request(request.body(Empty::<Bytes>::new())?).await?))
    }

    /// What it says there, if it is a success.
    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let work = async {
            match self.ask(Method::GET, path).await? {
                Some(answer) if answer.status().is_success() => {
                    Ok(Some(answer.into_body().collect().await?.to_bytes()))
                }
                _ => Ok(None),
            }
        };
        timeout(ANSWER_LIMIT, work).await?
    }

    /// What it knows of all stores; nothing when it does not say.
    pub(super) fn statuses(&self) -> Vec<serde_json::Value> {
        let told = self.context.runtime.block_on(self.read("/api/v1/stores"));
        told.ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    pub(super) fn knows(&self, store: &StoreName) -> bool {
        self.statuses().iter().any(|status| status["store"] == store.as_str())
    }

    /// Has it resync a store, and waits for that.
    pub(super) fn resync(&self, global: &Global, store: &StoreName, accept: bool) -> Result<Exit> {
        // The run is the daemon's: it goes on without whoever waits for it.
        ending::at_once();
        let path = format!("/api/v1/stores/{store}/resync?accept={accept}");
        self.context.runtime.block_on(async {
            let answer = self.ask(Method::POST, &path).await.context("asking the daemon")?;
            let answer = answer.context("the daemon went away; ask again")?;
            let (status, mut body) = (answer.status(), answer.into_body());
            if !status.is_success() {
                let text = body.collect().await?.to_bytes();
                let text = String::from_utf8_lossy(&text);
                let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                let told = told["error"].as_str().unwrap_or(&text);
                if status == StatusCode::CONFLICT {
                    complain!("understudy: {told}");
                    return Ok(Exit::Held);
                }
                bail!("the daemon refuses: {told}");
            }
            let mut text = String::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.context("the daemon went away; the run may go on")?;
                text += &String::from_utf8_lossy(frame.data_ref().map_or(&[], |bytes| bytes));
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
