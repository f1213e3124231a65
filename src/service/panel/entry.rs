//! Who sends a request to the panel, and whether a browser meant to: before any route.
//!
//! A browser sends its cookie, and a proxy its user, with every request, also with one that a page of another
//! site made. So what changes something must come from a page of this panel's: the browser says so in `Origin`
//! and `Sec-Fetch-Site`, which no page can set. Each request must name the panel's host, so a name that was
//! rebound to this address is refused.
//!
//! The cookie: where browsers come by TLS it is `__Host-understudy` with `Secure`, so no other host and no page
//! in the clear can set or see it. A panel in plain HTTP answers on loopback alone (`settings`); there it is
//! `understudy` without `Secure`: some browsers take neither the prefix nor the attribute from http://localhost,
//! and there is no network to hide it from. Cookies do not tell ports apart, so on loopback other servers of the
//! host that a browser visits are sent it.

use super::answer::{Skin, html};
use super::sessions::SessionKey;
use super::settings::{HandoverSettings, ProxySettings, Public};
use super::state::PanelState;
use crate::model::access::Identity;
use crate::panel::frame::Frame;
use crate::panel::refusal::refusal;
use crate::service::admission::{host_of, is_ours, kept};
use crate::service::api_error::ApiError;
use crate::service::caller::{Caller, Peer};
use crate::service::listen::Seat;
use crate::support::trusted;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The header with the secret that a proxy shares with the panel.
const SECRET_HEADER: &str = "x-understudy-secret";
const SECRET_MIN_CHARS: usize = 16;

/// The headers of every answer: no script but the panel's own runs in its pages, nobody frames them, and no
/// address of one is told elsewhere.
const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
    ),
    (HeaderName::from_static("x-robots-tag"), "noindex"),
];

/// The name under which a browser keeps the session.
pub(super) fn cookie_name(public: &Public) -> &'static str {
    if public.is_https { "__Host-understudy" } else { "understudy" }
}

/// Returns the header that gives a browser a session, or takes it back.
pub(super) fn cookie(public: &Public, id: Option<&str>) -> String {
    let secure = if public.is_https { "; Secure" } else { "" };
    let age = if id.is_none() { "; Max-Age=0" } else { "" };
    format!(
        "{}={}; Path=/; HttpOnly; SameSite=Strict{secure}{age}",
        cookie_name(public),
        id.unwrap_or_default()
    )
}

/// Returns the session that a browser shows. If it shows several, none is taken: one of them was planted.
fn shown<'a>(headers: &'a HeaderMap, public: &Public) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| *name == cookie_name(public)).map(|(_, value)| value);
    let first = ours.next()?;
    ours.next().is_none().then_some(first)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns whether a request that changes something comes from a page that may send it.
fn is_meant(headers: &HeaderMap, own: &str, also: Option<&str>) -> bool {
    let origin = text(headers, "origin");
    match (text(headers, "sec-fetch-site"), origin) {
        (_, Some(origin)) if also == Some(origin) => true,
        (Some(site), Some(origin)) => site == "same-origin" && origin == own,
        (Some(site), None) => site == "same-origin",
        (None, Some(origin)) => origin == own,
        (None, None) => false,
    }
}

/// Returns the user that a proxy names; none where it is no proxy of ours, or names nobody who may enter.
fn by_proxy(proxy: &ProxySettings, peer: Peer, headers: &HeaderMap) -> Option<Result<Identity, ApiError>> {
    let secret =
        text(headers, SECRET_HEADER).filter(|_| proxy.from.iter().any(|at| at.to_canonical() == peer.0))?;
    let expected = trusted::read_to_string(&proxy.secret_file).unwrap_or_default();
    let expected = expected.trim();
    // Hashes are compared in constant time.
    let is_proxy = expected.len() >= SECRET_MIN_CHARS
        && blake3::hash(expected.as_bytes()) == blake3::hash(secret.as_bytes());
    if !is_proxy {
        return None;
    }
    let name = text(headers, proxy.user_header()).filter(|name| !name.is_empty())?;
    let user = proxy.user.iter().find(|user| user.name == name).map(super::settings::ProxyUser::identity);
    Some(user.ok_or_else(|| {
        let text = "the proxy's user may not enter; whoever runs this panel adds users to panel.proxy.user";
        ApiError::new(StatusCode::FORBIDDEN, text)
    }))
}

/// Returns who sends a request, from where, and with which session.
fn caller(state: &PanelState, request: &Request) -> (Caller, Option<SessionKey>) {
    let headers = request.headers();
    let peer = request.extensions().get::<Peer>().copied();
    let from = peer.map_or("?".to_owned(), |peer| peer.0.to_string());
    let proxied = peer.zip(state.settings.proxy.as_ref());
    if let Some(found) = proxied.and_then(|(peer, proxy)| by_proxy(proxy, peer, headers)) {
        let before = text(headers, "x-forwarded-for").and_then(|all| all.rsplit(',').next());
        let from = before.map_or(from.clone(), |before| format!("{} by {from}", before.trim()));
        let key = found.as_ref().ok().map(|identity| SessionKey::of(&identity.who));
        return (Caller { identity: found, from }, key);
    }
    let nobody = || ApiError::new(StatusCode::UNAUTHORIZED, "log in first");
    match shown(headers, &state.public).and_then(|id| state.sessions.find(id)) {
        Some((key, identity)) => (Caller { identity: Ok(identity), from }, Some(key)),
        None => (Caller { identity: Err(nobody()), from }, None),
    }
}

/// Admits a request to the panel, or refuses it, and gives each answer the headers of all.
pub(super) async fn admit(State(state): State<PanelState>, mut request: Request, next: Next) -> Response {
    let seat = request.extensions().get::<Arc<Seat>>().cloned();
    let path = request.uri().path().to_owned();
    let mut response = match refused(&state, &request) {
        Some((status, title, why)) => {
            let frame = Frame { name: state.settings.name(), identity: None, key: "" };
            (status, html(refusal(&frame, title, why))).into_response()
        }
        None => {
            let (caller, key) = caller(&state, &request);
            let busy = seat.filter(|_| caller.identity.is_ok()).map(|seat| seat.begin());
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(Skin(state.settings.name().to_owned()));
            if let Some(key) = key {
                request.extensions_mut().insert(key);
            }
            kept(busy, next.run(request).await)
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if state.public.is_https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    if !path.starts_with("/assets/") {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn refused(state: &PanelState, request: &Request) -> Option<(StatusCode, &'static str, &'static str)> {
    let host = host_of(request);
    let name = host.map(|host| {
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name)
    });
    let is_public = name.is_some_and(|name| name.eq_ignore_ascii_case(&state.public.host));
    let config = state.site.daemon.host().config;
    if !is_public && !host.is_some_and(|host| is_ours(host, state.bound, &config)) {
        let why = "This panel has another name. Whoever runs it gives it in panel.public_url.";
        return Some((StatusCode::MISDIRECTED_REQUEST, "Another host", why));
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let also = state.settings.handover.as_ref().filter(|_| request.uri().path() == "/handover");
    let also = also.map(|HandoverSettings { origin, .. }| origin.as_str());
    // A panel on loopback may be asked by any of its names.
    let own = match (state.public.is_https, host) {
        (false, Some(host)) => format!("http://{host}"),
        _ => state.public.origin.clone(),
    };
    if is_meant(request.headers(), &own, also) {
        return None;
    }
    let why = "This request did not come from a page of this panel, so nothing was done. Open the panel and try there.";
    Some((StatusCode::FORBIDDEN, "Not from here", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(is_https: bool) -> Public {
        Public { origin: "https://p.example".into(), host: "p.example".into(), is_https }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_a_page_of_this_panel_s_changes_something() {
        let own = "https://p.example";
        for (pairs, expected) in [
            (&[("origin", own), ("sec-fetch-site", "same-origin")][..], true),
            (&[("origin", own)], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[], false),
            (&[("origin", "null")], false),
            (&[("origin", "null"), ("sec-fetch-site", "same-origin")], false),
            (&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], false),
            (&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")], false),
            (&[("origin", "https://p.example.evil.example")], false),
            (&[("origin", "http://p.example")], false),
            (&[("origin", own), ("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "none")], false),
        ] {
            assert_eq!(is_meant(&headers(pairs), own, None), expected, "{pairs:?}");
        }
        let platform = headers(&[("origin", "https://my.example"), ("sec-fetch-site", "cross-site")]);
        assert!(is_meant(&platform, own, Some("https://my.example")) && !is_meant(&platform, own, None));
    }

    #[test]
    fn the_cookie_is_bound_to_the_host_where_there_is_tls_and_two_are_none() {
        assert_eq!(
            cookie(&public(true), Some("ab")),
            "__Host-understudy=ab; Path=/; HttpOnly; SameSite=Strict; Secure"
        );
        assert_eq!(cookie(&public(false), Some("ab")), "understudy=ab; Path=/; HttpOnly; SameSite=Strict");
        assert!(cookie(&public(true), None).contains("Max-Age=0"));
        let of = |cookies: &'static str| headers(&[("cookie", cookies)]);
        assert_eq!(shown(&of("a=b; __Host-understudy=ab;c=d"), &public(true)), Some("ab"));
        for none in [
            "",
            "understudy=ab",
            "__host-understudy=ab",
            "__Host-understudy=a; __Host-understudy=b",
            "__Host-understudy",
        ] {
            assert_eq!(shown(&of(none), &public(true)), None, "{none}");
        }
    }

    #[test]
    fn a_proxy_is_believed_from_its_address_and_with_its_secret_alone() {
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        std::fs::write(&secret_file, "0123456789abcdef0123\n").unwrap();
        let text = format!(
            "from = ['10.0.0.1']\nsecret_file = '{}'\n[[user]]\nname = 'anna'\nrole = 'operator'",
            secret_file.display()
        );
        let proxy: ProxySettings = toml::from_str(&text).unwrap();
        let of = |peer: &str, pairs: &[(&'static str, &'static str)]| {
            by_proxy(&proxy, Peer(peer.parse().unwrap()), &headers(pairs))
        };
        let secret = ("x-understudy-secret", "0123456789abcdef0123");
        let found = of("10.0.0.1", &[secret, ("x-forwarded-user", "anna")]).unwrap().unwrap();
        assert_eq!(found.who, "anna by the proxy");
        assert!(of("10.0.0.1", &[secret, ("x-forwarded-user", "eve")]).unwrap().is_err());
        assert!(of("10.0.0.2", &[secret, ("x-forwarded-user", "anna")]).is_none());
        assert!(of("10.0.0.1", &[("x-forwarded-user", "anna")]).is_none());
        assert!(of("10.0.0.1", &[("x-understudy-secret", "wrong"), ("x-forwarded-user", "anna")]).is_none());
        assert!(of("10.0.0.1", &[secret]).is_none());
        std::fs::write(&secret_file, "").unwrap();
        assert!(
            of("10.0.0.1", &[("x-understudy-secret", ""), ("x-forwarded-user", "anna")]).is_none(),
            "no secret"
        );
    }
}
