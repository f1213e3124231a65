//! The headers that a gate removes, adds and reads. Pure.
//!
//! What concerns one connection is removed in both directions. The length of a body is written anew from the
//! body as it was understood here: two programs that read the end of a request differently would let a
//! customer smuggle one.

use crate::model::id::Epoch;
use hyper::HeaderMap;
use hyper::header::{
    self, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use std::net::IpAddr;

pub(crate) const EPOCH: HeaderName = HeaderName::from_static("x-understudy-epoch");
pub(crate) const ROLE: HeaderName = HeaderName::from_static("x-understudy-role");
/// Marks a request that another gate has relayed.
pub(crate) const RELAYED: HeaderName = HeaderName::from_static("x-understudy-relayed");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what only a gate says: a customer, or a web server that runs a tenant's code, could say it as well.
pub(crate) fn remove_own(headers: &mut HeaderMap) {
    for name in [EPOCH, ROLE, RELAYED] {
        headers.remove(name);
    }
}

/// Returns whether an edge says that another host was promoted since: that it was given a higher epoch.
///
/// A lower one is that of an edge which has not followed yet, and which has found the right host all the same.
pub(crate) fn tells_newer_epoch(headers: &HeaderMap, ours: Epoch) -> bool {
    let is_older = |value: &HeaderValue| {
        let told = value.to_str().ok().and_then(|text| text.parse().ok());
        told.is_some_and(|told: u64| told <= ours.0)
    };
    !headers.get_all(EPOCH).iter().all(is_older)
}

/// Removes what concerns one connection only, and what the sender's `Connection` names.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A client must not take from a request what a gate or a server goes by.
        .filter(|name| ![HOST, CONTENT_LENGTH, FORWARDED_FOR, FORWARDED_PROTO, RELAYED].contains(name))
        .collect();
    let fixed = [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    let fixed = fixed.into_iter().chain([header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION]);
    for name in named.into_iter().chain(fixed) {
        headers.remove(name);
    }
}

/// Prepares a request's headers for the upstream. Returns whether it asks for a tunnel of WebSocket frames; no
/// other upgrade is passed on, since a server could leave HTTP/1.1 by it unseen.
pub(crate) fn prepare_request(headers: &mut HeaderMap, peer: IpAddr) -> bool {
    let is_named = |name: &HeaderName, word: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    let is_upgrade = is_named(&CONNECTION, "upgrade") && is_named(&UPGRADE, "websocket");
    remove_hop_by_hop(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(EXPECT);
    if is_upgrade {
        add_upgrade(headers);
    }
    let peer = peer.to_canonical().to_string();
    let mut all: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    all.push(peer.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all.join(&b", "[..])) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    is_upgrade
}

pub(crate) fn add_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Returns whether a request names exactly one host, as HTTP/1.1 wants.
pub(crate) fn has_one_host(headers: &HeaderMap) -> bool {
    headers.get_all(HOST).iter().count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let one = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(one).collect()
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    #[test]
    fn what_concerns_one_connection_stays_on_it() {
        let mut headers = map(&[
            ("host", "shop.example"),
            ("connection", "close, X-Mine, host"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("content-length", "5"),
            ("cookie", "a=b"),
        ]);
        assert!(!prepare_request(&mut headers, PEER));
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "host", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn the_way_of_a_request_is_added_to_what_is_known_of_it() {
        let mut headers = map(&[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")]);
        prepare_request(&mut headers, PEER);
        assert_eq!(headers[FORWARDED_FOR], "192.0.2.1, 10.0.0.9");
        assert_eq!(headers[FORWARDED_PROTO], "https");
        let mut headers = map(&[]);
        prepare_request(&mut headers, "::ffff:10.0.0.9".parse().unwrap());
        assert_eq!(
            (&headers[FORWARDED_FOR], &headers[FORWARDED_PROTO]),
            (&HeaderValue::from_static("10.0.0.9"), &HeaderValue::from_static("http"),)
        );
    }

    #[test]
    fn what_only_a_gate_says_is_removed() {
        let mut headers = map(&[
            ("x-understudy-epoch", "9"),
            ("x-understudy-epoch", "8"),
            ("x-understudy-role", "primary"),
            ("x-understudy-relayed", "9"),
            ("cookie", "a=b"),
        ]);
        remove_own(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=b")]));
    }

    #[test]
    fn an_edge_that_was_given_a_higher_epoch_or_none_that_can_be_read_is_noticed() {
        for (told, is_newer) in [
            (&[][..], false),
            (&["7"], false),
            (&["6"], false),
            (&["8"], true),
            (&["7", "8"], true),
            (&["8", "7"], true),
            (&["18446744073709551616"], true),
            (&["seven"], true),
            (&[""], true),
            (&["7, 8"], true),
        ] {
            let list: Vec<_> = told.iter().map(|&told| ("x-understudy-epoch", told)).collect();
            assert_eq!(tells_newer_epoch(&map(&list), Epoch(7)), is_newer, "{told:?}");
        }
    }

    #[test]
    fn only_frames_of_websocket_are_tunnelled() {
        let asks = |upgrade| {
            let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", upgrade)]);
            (prepare_request(&mut headers, PEER), headers.contains_key(UPGRADE))
        };
        assert_eq!(asks("websocket"), (true, true));
        assert_eq!(asks("h2c"), (false, false));
    }
}
