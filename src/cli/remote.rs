//! The daemon of this host, reached by its socket, so that a command never races the daemon's schedule.

use super::context::Context;
use super::error::{Context as _, LocalError, RefusedError, Result};
use super::exit::Exit;
use super::{Global, ending, show};
use crate::api::error::ErrorBody;
use crate::api::run::{RunFailure, RunReport};
use crate::api::store::StoreStatus;
use crate::model::id::StoreName;
use crate::model::role::Permission;
use crate::service::socket;
use crate::support::local_socket::SocketPlace;
use crate::support::trusted::is_trusted;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Maximum time for a daemon to answer a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The reason why a daemon did not answer.
type Unanswered = Box<dyn std::error::Error + Send + Sync>;

/// A daemon that answers.
pub(super) struct Remote<'a> {
    context: &'a Context,
    place: SocketPlace,
}

impl<'a> Remote<'a> {
    /// Returns the daemon of this host with this configuration; `None` when none answers.
    pub(super) fn find(context: &'a Context) -> Option<Self> {
        let places = socket::of_command(&context.config, context.given_repository.as_deref());
        places.into_iter().map(|place| Self { context, place }).find(|remote| {
            let answer = remote.context.runtime.block_on(remote.read("/healthz"));
            answer.is_ok_and(|answer| answer.is_some())
        })
    }

    /// Sends a request without a body; returns none when no daemon listens.
    async fn ask(&self, method: Method, path: &str) -> Result<Option<Response<Incoming>>, Unanswered> {
        self.send(method, path, Vec::new()).await
    }

    /// Sends a request; returns none when no daemon listens.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Option<Response<Incoming>>, Unanswered> {
        let stream = match self.place.connect() {
            Ok(Some(stream)) => UnixStream::from_std(stream)?,
            Ok(None) => return Ok(None),
            Err(error) => {
                complain!("understudy: a daemon may be running here, but was not asked: {error}");
                return Ok(None);
            }
        };
        if !is_trusted(stream.peer_cred()?.uid()) {
            complain!(
                "understudy: {}: ignored, since another user's process answers there",
                self.place.path().display()
            );
            return Ok(None);
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("content-type", "application/json");
        Ok(Some(sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?))
    }

    /// Returns the body of the daemon's answer, if it is a success.
    async fn read(&self, path: &str) -> Result<Option<Bytes>, Unanswered> {
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

    /// Asks for something and reads the answer.
    ///
    /// # Errors
    /// The daemon does not answer, or refuses; then its reason is the text.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.request(Method::GET, path, Vec::new())
    }

    /// Has the daemon do something and reads the answer, with errors as for [`Self::get`].
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.request(Method::POST, path, Vec::new())
    }

    /// Sends the daemon a value as JSON, with errors as for [`Self::get`].
    pub(super) fn put<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T> {
        self.request(Method::POST, path, serde_json::to_vec(value).context("writing a request")?)
    }

    fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T> {
        let work = async {
            let Some(answer) = self.send(method, path, body).await? else {
                return Err("the daemon closed the connection; try again".into());
            };
            let status = answer.status();
            Ok::<_, Unanswered>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let answered = self.context.runtime.block_on(async { timeout(ANSWER_LIMIT, work).await });
        let failed = |how: String| LocalError::new(format!("asking the daemon: {how}"));
        let (status, body) = match answered {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return Err(failed(error.to_string()).into()),
            Err(_) => return Err(failed(format!("no answer within {} s", ANSWER_LIMIT.as_secs())).into()),
        };
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            let told = serde_json::from_str::<ErrorBody>(&text)
                .map_or_else(|_| text.into_owned(), |body| body.error);
            return Err(RefusedError::of_status(status, told).into());
        }
        serde_json::from_slice(&body).context("reading the daemon's answer; it may be of another version")
    }

    /// Returns the daemon's status of all stores; empty when it does not answer.
    pub(super) fn statuses(&self) -> Vec<StoreStatus> {
        let Ok(Some(body)) = self.context.runtime.block_on(self.read("/api/v1/stores")) else {
            return Vec::new();
        };
        serde_json::from_slice(&body).unwrap_or_else(|error| {
            complain!("understudy: cannot read the daemon's answer; it may be of another version: {error}");
            Vec::new()
        })
    }

    /// Returns whether the daemon has this store in its configuration.
    pub(super) fn knows(&self, store: &StoreName) -> bool {
        let answer = self.context.runtime.block_on(self.read(&format!("/api/v1/stores/{store}")));
        answer.is_ok_and(|body| body.is_some())
    }

    /// Returns the role in which the daemon runs this store; none if it does not say.
    pub(super) fn role(&self, store: &StoreName) -> Option<Permission> {
        let answer = self.context.runtime.block_on(self.read(&format!("/api/v1/stores/{store}")));
        let status: Option<StoreStatus> = serde_json::from_slice(&answer.ok()??).ok();
        status.map(|status| status.role)
    }

    /// Has the daemon resync a store, and waits for the end.
    pub(super) fn resync(&self, global: &Global, store: &StoreName, accept: bool) -> Result<Exit> {
        // The run is the daemon's and continues without this command.
        ending::at_once();
        let path = format!("/api/v1/stores/{store}/resync?accept={accept}");
        self.context.runtime.block_on(async {
            let answer = self.ask(Method::POST, &path).await.context("asking the daemon")?;
            let answer =
                answer.ok_or_else(|| LocalError::new("the daemon closed the connection; try again"))?;
            let (status, mut body) = (answer.status(), answer.into_body());
            if !status.is_success() {
                let text = body.collect().await.context("asking the daemon")?.to_bytes();
                let text = String::from_utf8_lossy(&text);
                let told = serde_json::from_str::<ErrorBody>(&text)
                    .map_or_else(|_| text.into_owned(), |body| body.error);
                if status == StatusCode::CONFLICT {
                    complain!("understudy: {told}");
                    return Ok(Exit::Held);
                }
                return Err(LocalError::new(format!("the daemon refused: {told}")).into());
            }
            let mut text = String::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.context("the daemon closed the connection; the run may continue")?;
                text += &String::from_utf8_lossy(frame.data_ref().map_or(&[], |bytes| bytes));
                while let Some((event, rest)) = text.split_once("\n\n") {
                    let exit = take_event(global, event)?;
                    let rest = rest.to_owned();
                    if let Some(exit) = exit {
                        return Ok(exit);
                    }
                    text = rest;
                }
            }
            let text =
                "the daemon stopped before the run ended; the next run does not ship the same content again";
            Err(LocalError::new(text).into())
        })
    }
}

/// Shows an event; returns the exit code with the last one.
fn take_event(global: &Global, event: &str) -> Result<Option<Exit>> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let (Some(kind), Some(data)) = (field("event:"), field("data:")) else { return Ok(None) };
    match kind {
        "done" => {
            let report: RunReport = serde_json::from_str(data).context("reading the daemon's report")?;
            if global.json {
                show::json(&report)?;
            } else if !global.quiet {
                show::report(&report, "committed by the daemon")?;
            }
            Ok(Some(if report.has_warnings() { Exit::Warnings } else { Exit::Done }))
        }
        "failed" => {
            let failure: RunFailure = serde_json::from_str(data).context("reading the daemon's answer")?;
            complain!("understudy: {}", failure.error);
            Ok(Some(failure.outcome.into()))
        }
        _ => Ok(None),
    }
}
