//! One request at the gate: refused, held, answered here, or forwarded.
//!
//! `/.understudy/` is the gate's own and is never forwarded. A request without a body that only reads is sent
//! again once when a kept connection turns out to be closed; any other may have been carried out, so the
//! client is told that it failed.

use super::body::{AnswerBody, FromClient, FromUpstream};
use super::connection::Seat;
use super::gate::Gate;
use super::headers::{self, EPOCH, RELAYED, ROLE};
use super::state::{Admission, Permit};
use super::tunnel;
use crate::model::id::Epoch;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Scheme};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as UpstreamError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The paths that belong to the gate.
const OWN: &str = "/.understudy/";
/// Maximum time that a request waits for another mode.
const HOLD_LIMIT: Duration = Duration::from_secs(10);
/// Maximum time for a connection to an upstream to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Maximum time for the head of an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// Time for which an unused connection to an upstream is kept: less than web servers keep theirs.
const KEEP: Duration = Duration::from_secs(4);
/// Maximum number of such connections.
const KEPT_MAX: usize = 64;
/// Maximum size of the head of an answer.
const HEAD_MAX_BYTES: usize = 128 << 10;
/// Seconds after which a refused client may come again.
const RETRY_SECONDS: &str = "5";

/// Forwards the requests of a gate.
pub(crate) struct Proxy {
    gate: Arc<Gate>,
    client: Client<HttpConnector, FromClient>,
    upstream: Authority,
}

/// An allowed request: what it belongs to and where it goes.
struct Way {
    permit: Permit,
    epoch: Epoch,
    is_relayed: bool,
    to: Authority,
}

impl Proxy {
    pub(crate) fn new(gate: &Arc<Gate>) -> io::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        connector.set_nodelay(true);
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new()).pool_idle_timeout(KEEP).pool_max_idle_per_host(KEPT_MAX);
        client.http1_max_buf_size(HEAD_MAX_BYTES);
        let upstream = gate.setup.gate.upstream.to_string().parse().map_err(io::Error::other)?;
        Ok(Self { gate: gate.clone(), client: client.build(connector), upstream })
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Nothing may be answered; the connection is reset.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        seat: &Arc<Seat>,
    ) -> io::Result<Response<AnswerBody>> {
        if !seat.goes_on() {
            // The answer to the request before this one is still in a buffer, and must not leave it.
            return Err(ErrorKind::ConnectionReset.into());
        }
        seat.set_busy(true);
        let answer = self.answer_or_refuse(request, peer, seat).await;
        // A body of the upstream's notes its end itself, and a tunnel has none.
        let goes_on = |answer: &Response<AnswerBody>| {
            answer.status() == StatusCode::SWITCHING_PROTOCOLS || matches!(answer.body(), Either::Right(_))
        };
        if !answer.as_ref().is_ok_and(goes_on) {
            seat.answered();
            seat.set_busy(false);
        }
        answer
    }

    async fn answer_or_refuse(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        seat: &Arc<Seat>,
    ) -> io::Result<Response<AnswerBody>> {
        let path = request.uri().path();
        if path.starts_with(OWN) || path == OWN.trim_end_matches('/') {
            return Ok(self.own(request.method(), path));
        }
        let is_odd = request.version() == Version::HTTP_11 && !headers::has_one_host(request.headers());
        if is_odd || request.method() == Method::CONNECT || request.uri().path_and_query().is_none() {
            return Ok(self.refuse(StatusCode::BAD_REQUEST, "the request names no host, or no path"));
        }
        match self.way(request.headers().contains_key(RELAYED)).await {
            // While this request waited, the answer to the one before it may have become invalid.
            Ok(_) if !seat.goes_on() => Err(ErrorKind::ConnectionReset.into()),
            Ok(way) if self.is_told_newer(&way, request.headers()) => {
                Ok(self.refuse(StatusCode::SERVICE_UNAVAILABLE, "another host was promoted since"))
            }
            Ok(way) => {
                seat.carry(way.permit);
                let in_flight = self.gate.begin();
                let answer = self.forward(request, peer, seat, way, in_flight).await;
                // The time may have passed while the upstream worked.
                if !seat.goes_on() {
                    return Err(ErrorKind::ConnectionReset.into());
                }
                Ok(answer)
            }
            Err(reason) => Ok(self.refuse(StatusCode::SERVICE_UNAVAILABLE, reason)),
        }
    }

    /// Returns the way of a new request, after it has waited if it must; or the reason why it has none.
    async fn way(&self, was_relayed: bool) -> Result<Way, &'static str> {
        let mut changes = self.gate.changes();
        let limit = tokio::time::sleep(HOLD_LIMIT);
        tokio::pin!(limit);
        loop {
            match self.gate.admit() {
                Admission::Forward { relay: Some(_), .. } if was_relayed => {
                    return Err("two gates relay to each other; the store is moving");
                }
                Admission::Forward { permit, epoch, relay } => {
                    let is_relayed = relay.is_some();
                    let to = relay.map_or_else(|| Ok(self.upstream.clone()), |address| address.parse());
                    let to = to.map_err(|_| "the address of the other gate is none")?;
                    return Ok(Way { permit, epoch, is_relayed, to });
                }
                Admission::Refuse => return Err("this host does not serve the store now"),
                Admission::Wait => tokio::select! {
                    () = &mut limit => return Err("the store is moving; come again"),
                    _ = changes.changed() => {}
                },
            }
        }
    }

    /// Returns whether the edge was given a higher epoch than this gate. A gate that relays lets the other one
    /// judge, which is told nothing: the edge has not followed yet.
    fn is_told_newer(&self, way: &Way, headers: &HeaderMap) -> bool {
        self.gate.setup.edge_tells_epoch && !way.is_relayed && headers::tells_newer_epoch(headers, way.epoch)
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        peer: IpAddr,
        seat: &Arc<Seat>,
        way: Way,
        in_flight: super::gate::InFlight,
    ) -> Response<AnswerBody> {
        let is_upgrade = headers::prepare_request(request.headers_mut(), peer);
        let on_client = is_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        aim(&mut parts, &way);
        let body = FromClient::new(body, seat);
        let sent = tokio::time::timeout(ANSWER_LIMIT, self.send(parts, body, seat)).await;
        let mut answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the upstream did not answer");
                return self.refuse(StatusCode::BAD_GATEWAY, "the store's web server did not answer");
            }
            Err(_) => return self.refuse(StatusCode::GATEWAY_TIMEOUT, "the store's web server is too slow"),
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(on_client) = on_client else {
                return self.refuse(StatusCode::BAD_GATEWAY, "the store's web server left HTTP/1.1");
            };
            let on_upstream = hyper::upgrade::on(&mut answer);
            tunnel::carry(on_client, on_upstream, seat.clone(), in_flight);
            let (mut parts, _) = answer.into_parts();
            show_epoch(&mut parts.headers, &way);
            headers::add_upgrade(&mut parts.headers);
            return Response::from_parts(parts, Either::Left(Full::default()));
        }
        let (mut parts, incoming) = answer.into_parts();
        show_epoch(&mut parts.headers, &way);
        parts.version = Version::HTTP_11;
        let body = FromUpstream { incoming, seat: seat.clone(), _in_flight: in_flight };
        Response::from_parts(parts, Either::Right(body))
    }

    /// Sends a request, and once more if it may be.
    async fn send(
        &self,
        parts: Parts,
        body: FromClient,
        seat: &Arc<Seat>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let only_reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&parts.method);
        let again = (only_reads && hyper::body::Body::is_end_stream(&body)).then(|| parts.clone());
        match (self.client.request(Request::from_parts(parts, body)).await, again) {
            (Err(error), Some(again)) if !error.is_connect() && seat.goes_on() => {
                let mut request = Request::new(FromClient::none(seat));
                *request.method_mut() = again.method;
                *request.uri_mut() = again.uri;
                *request.headers_mut() = again.headers;
                self.client.request(request).await
            }
            (sent, _) => sent,
        }
    }

    /// Answers at the gate's own paths.
    fn own(&self, method: &Method, path: &str) -> Response<AnswerBody> {
        if path != "/.understudy/role" {
            return self.refuse(StatusCode::NOT_FOUND, "there is no such path at this gate");
        }
        if ![Method::GET, Method::HEAD].contains(method) {
            return self.refuse(StatusCode::METHOD_NOT_ALLOWED, "the role can only be read");
        }
        let told = self.gate.told();
        let text = serde_json::json!({
            "store": self.gate.setup.store,
            "epoch": told.epoch,
            "mode": told.mode,
            "role": told.role,
        });
        let mut answer = self.words(StatusCode::OK, format!("{text}\n"));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    fn refuse(&self, status: StatusCode, reason: &str) -> Response<AnswerBody> {
        let mut answer = self.words(status, format!("{reason}\n"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        answer
    }

    fn words(&self, status: StatusCode, text: String) -> Response<AnswerBody> {
        let mut answer = Response::new(Either::Left(Full::new(Bytes::from(text))));
        *answer.status_mut() = status;
        let told = self.gate.told();
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(EPOCH, told.epoch.0.into());
        headers.insert(ROLE, HeaderValue::from_static(told.role));
        answer
    }
}

/// Prepares an answer's headers for the customer. One that another gate relays shows that gate's epoch.
fn show_epoch(headers: &mut HeaderMap, way: &Way) {
    headers::remove_hop_by_hop(headers);
    if !way.is_relayed {
        headers::remove_own(headers);
        headers.insert(EPOCH, way.epoch.0.into());
    }
}

/// Gives a request its target.
fn aim(parts: &mut Parts, way: &Way) {
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(way.to.clone()));
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.version = Version::HTTP_11;
    headers::remove_own(&mut parts.headers);
    if way.is_relayed {
        parts.headers.insert(RELAYED, way.epoch.0.into());
    }
}
