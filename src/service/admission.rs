//! Admission of requests: who sent one, as far as it shows, before a route decides what that allows.
//!
//! Only the daemon's user and root can connect to the socket, so requests there need no token. At the port a
//! token says who asks: the daemon's own is the admin's, others have roles ([`super::tokens`]). Each request
//! names the host that it is meant for in its `Host` header. A browser whose attacker rebound a name sends that
//! name and is refused. Only a name can be rebound; so where the daemon listens at all addresses, any address
//! is accepted.
//!
//! Other members have neither token nor the daemon's names: they ask at one path, and their signature admits
//! them, or does not (see `failover::peers`). A page of another site can send a text there and sign nothing.

use super::api_error::ApiError;
use super::caller::{Caller, Peer};
use super::config::Config;
use super::daemon::Daemon;
use super::door::Door;
use super::listen::{Busy, Seat};
use super::token::Token;
use super::tokens::KnownTokens;
use crate::failover::peers::ASK_PATH;
use crate::model::access::{Identity, Scope, UserRole};
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The values that a request at the port is compared with.
#[derive(Clone)]
pub(crate) struct Admission {
    daemon: Daemon,
    /// The admin's token; none while it could not be read or created. Then each request that shows one tries
    /// again.
    token: Option<Token>,
    tokens: KnownTokens,
    bound: Option<IpAddr>,
}

impl Admission {
    pub fn new(daemon: Daemon, token: Option<Token>, tokens: KnownTokens, bound: Option<IpAddr>) -> Self {
        Self { daemon, token, tokens, bound }
    }

    fn caller(&self, door: Door, request: &Request) -> Result<Caller, ApiError> {
        if door == Door::Socket {
            return Ok(Caller { identity: Ok(Identity::local()), from: "socket".to_owned() });
        }
        let from = request.extensions().get::<Peer>().map_or("?".to_owned(), |peer| peer.0.to_string());
        let nobody = || {
            let text = "this request needs a token (Authorization: Bearer …)";
            ApiError::new(StatusCode::UNAUTHORIZED, text)
        };
        if request.uri().path() == ASK_PATH {
            // Who asks is not known yet, so the connection has no right to stay.
            return Ok(Caller { identity: Err(nobody()), from });
        }
        self.check_host(request)?;
        let identity = match bearer(request.headers()) {
            Some(shown) => self.identify(shown).and_then(|found| found.ok_or_else(nobody)),
            None => Err(nobody()),
        };
        Ok(Caller { identity, from })
    }

    /// Checks that the request is meant for this daemon.
    fn check_host(&self, request: &Request) -> Result<(), ApiError> {
        let host = host_of(request);
        let config = self.daemon.host().config;
        if host.is_some_and(|host| is_ours(host, self.bound, &config)) {
            return Ok(());
        }
        let host = host.unwrap_or_default().escape_default();
        let text = format!("this is not host '{host}'; add the name to service.hosts if it is right");
        Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, text))
    }

    /// Returns whose token this is; none if it is nobody's.
    fn identify(&self, shown: &str) -> Result<Option<Identity>, ApiError> {
        if let Some((_, identity)) = self.tokens.find(shown, self.daemon.env().wall()) {
            return Ok(Some(identity));
        }
        Ok(self.token()?.is(shown).then(bootstrap))
    }

    fn token(&self) -> Result<Token, ApiError> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        Token::read_or_make(&self.daemon.host().config, self.daemon.env()).map_err(|error| {
            // The error names the file; only readers of the log see it, not the client.
            tracing::error!(%error, "no token");
            let text =
                "the daemon has no token, so this request cannot be admitted; the daemon's log says why";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })
    }
}

/// Returns the identity of the daemon's own token.
pub(crate) fn bootstrap() -> Identity {
    Identity { who: "the daemon's token".to_owned(), role: UserRole::Admin, scope: Scope::All }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    shown.strip_prefix("Bearer ").map(str::trim)
}

/// Returns the host that a request names.
pub(crate) fn host_of(request: &Request) -> Option<&str> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| request.uri().authority().map(|authority| authority.as_str()))
}

/// Returns whether a `Host` header names this daemon, which is bound to an address.
pub(crate) fn is_ours(host: &str, bound: Option<IpAddr>, config: &Config) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.');
    if let Ok(address) = name.parse::<IpAddr>() {
        let (address, bound) = (address.to_canonical(), bound.map(|bound| bound.to_canonical()));
        return address.is_loopback() || bound.is_some_and(|b| b == address || b.is_unspecified());
    }
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    !name.is_empty() && (is("localhost") || config.service.hosts.iter().any(|known| is(known)))
}

/// Says who sent a request, or refuses it. The connection of a caller who is known is kept until the response
/// is complete.
pub(crate) async fn admit(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    let door = request.extensions().get::<Door>().copied().unwrap_or(Door::Port);
    let seat = request.extensions().get::<Arc<Seat>>().cloned();
    match admission.caller(door, &request) {
        Err(error) => error.into_response(),
        Ok(caller) => {
            let busy = seat.filter(|_| caller.identity.is_ok()).map(|seat| seat.begin());
            request.extensions_mut().insert(caller);
            kept(busy, next.run(request).await)
        }
    }
}

/// Returns a response whose connection is kept until it is complete.
pub(crate) fn kept(busy: Option<Busy>, response: Response) -> Response {
    response.map(|body| Body::new(Kept { body, _busy: busy }))
}

/// A response body together with a value that must live as long as it.
struct Kept {
    body: Body,
    _busy: Option<Busy>,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn is(host: &str, bound: &str) -> bool {
        let text = "[service]\nhosts = ['understudy.example']";
        let config = Config::parse(text, Path::new("/x.toml")).unwrap();
        is_ours(host, Some(bound.parse().unwrap()), &config)
    }

    #[test]
    fn a_daemon_knows_its_names() {
        for host in
            ["127.0.0.1", "127.0.0.1:9184", "localhost:1", "LOCALHOST.", "[::1]:9184", "[::ffff:127.0.0.1]"]
        {
            assert!(is(host, "127.0.0.1") && is(host, "10.0.0.1") && is(host, "::"), "{host}");
        }
        assert!(is("understudy.example:9184", "127.0.0.1") && is("10.0.0.1:9184", "10.0.0.1"));
        assert!(is("10.0.0.7:9184", "0.0.0.0"), "a pod's address");
        for host in [
            "",
            ":9184",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "10.0.0.7",
            "[",
            "[]",
            "[evil.example]",
        ] {
            assert!(!is(host, "127.0.0.1"), "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_name_of_an_attacker_s_is_taken(name in "[a-z0-9.:\\[\\]-]{0,20}\\.example(:[0-9]{1,5})?") {
            prop_assert!(!is(&name, "0.0.0.0") || name.starts_with("understudy.example") || name.starts_with("localhost:")
                || name.starts_with("localhost.:") || name.split(':').next().is_some_and(|n| n.trim_end_matches('.').parse::<IpAddr>().is_ok()) || name.starts_with('['));
        }
    }
}
