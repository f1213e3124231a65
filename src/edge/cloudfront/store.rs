//! A key of a CloudFront key value store: the mark, as the function reads it.
//!
//! The ETag is the whole store's, so a change is refused after any other one: a host that has read an older value
//! never writes over a newer one.

use super::distribution::domain_of;
use super::names::{KeyValueStoreArn, StoreKey};
use crate::edge::address::Address;
use crate::edge::aws::client::{AwsClient, Call, CallFailure, Reply, Scheme, Service};
use crate::edge::context::Deadline;
use crate::edge::mark::{Mark, PlainHost};
use crate::model::id::Epoch;
use hyper::Method;
use serde::{Deserialize, Serialize};
use url::Url;

/// Maximum size of a value.
const VALUE_MAX_BYTES: usize = 1024;

/// The value of a key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    /// The epoch.
    e: u64,
    /// The host, in its plain form.
    h: String,
    /// The origin's name, which the function uses.
    o: String,
    /// Its port.
    p: u16,
}

impl Value {
    fn of(mark: &Mark) -> Self {
        let (o, p) = (domain_of(&mark.address), mark.address.port());
        Self { e: mark.epoch.0, h: mark.host.to_string(), o, p }
    }

    fn mark(&self) -> Option<Mark> {
        let address: Address = format!("{}:{}", self.o, self.p).parse().ok()?;
        Some(Mark { epoch: Epoch(self.e), host: PlainHost::parse(&self.h)?, address })
    }
}

/// Returns a mark as a value. An error is a reason in words.
pub(crate) fn encode(mark: &Mark) -> Result<String, String> {
    let text = serde_json::to_string(&Value::of(mark)).map_err(|error| error.to_string())?;
    match text.len() <= VALUE_MAX_BYTES {
        true => Ok(text),
        false => Err(format!("host name '{}' is too long for a key value store", mark.host)),
    }
}

/// Returns the mark in a value. An error is a reason in words.
pub(crate) fn decode(text: &str) -> Result<Mark, String> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let mark = value.and_then(|value| value.mark());
    mark.ok_or_else(|| "it holds a value that understudy did not write".to_owned())
}

/// A key in a store.
pub(crate) struct KeyValueStore {
    pub arn: KeyValueStoreArn,
    pub key: StoreKey,
    service: Service,
}

/// A name in an answer.
#[derive(Deserialize)]
struct Got {
    #[serde(rename = "Value")]
    value: String,
}

impl KeyValueStore {
    /// An error is a reason in words.
    pub fn new(arn: KeyValueStoreArn, key: StoreKey, endpoint: Option<&Url>) -> Result<Self, String> {
        let base = match endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Url::parse(&format!("https://{}.cloudfront-kvs.global.api.aws", arn.account()))
                .map_err(|error| error.to_string())?,
        };
        let service = Service { name: "cloudfront-keyvaluestore", scheme: Scheme::V4A, base };
        Ok(Self { arn, key, service })
    }

    fn path(&self) -> String {
        format!("/key-value-stores/{}", self.arn.encoded())
    }

    fn key_path(&self) -> String {
        format!("{}/keys/{}", self.path(), self.key)
    }

    /// Returns the store's version.
    pub fn etag(&self, client: &AwsClient, deadline: &Deadline) -> Result<String, CallFailure> {
        let reply = client.call(&self.service, &Call::get(self.path()), deadline)?;
        reply.etag.ok_or_else(|| CallFailure::Wrong("its answer has no ETag".into()))
    }

    /// Returns the mark that the key holds; none if there is no such key.
    pub fn mark(&self, client: &AwsClient, deadline: &Deadline) -> Result<Option<Mark>, CallFailure> {
        let reply = match client.call(&self.service, &Call::get(self.key_path()), deadline) {
            // There may be no such key, or no such store, which `etag` tells.
            Err(failure) if failure.is(404) => return Ok(None),
            reply => reply?,
        };
        let got: Got = serde_json::from_str(&reply.body)
            .map_err(|error| CallFailure::Wrong(format!("its answer is no value: {error}")))?;
        decode(&got.value).map(Some).map_err(CallFailure::Wrong)
    }

    /// Gives the key a mark, if the store is still at this version.
    pub fn put(
        &self,
        client: &AwsClient,
        mark: &Mark,
        etag: &str,
        deadline: &Deadline,
    ) -> Result<Reply, CallFailure> {
        let value = encode(mark).map_err(CallFailure::Wrong)?;
        let body = serde_json::json!({ "Value": value }).to_string();
        let call = Call::send(Method::PUT, self.key_path(), "application/json", body);
        client.call(&self.service, &call.if_match(etag), deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::WriterId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mark_comes_back_from_its_value(epoch: u64, name in "(?s).{0,60}", ip: std::net::IpAddr, port in 1..=u16::MAX) {
            let host = PlainHost::of(&WriterId(name)).unwrap();
            let address = std::net::SocketAddr::new(ip, port).to_string().parse().unwrap();
            let mark = Mark { epoch: Epoch(epoch), host, address };
            prop_assert_eq!(decode(&encode(&mark).unwrap()).unwrap(), mark);
        }

        #[test]
        fn what_is_no_value_of_ours_is_no_mark(text in "(?s)[{}\":a-z0-9,]{0,40}") {
            prop_assert!(decode(&text).is_err());
        }
    }

    #[test]
    fn a_value_that_a_store_would_not_take_is_refused_before() {
        let host = PlainHost::of(&WriterId("ä".repeat(128))).unwrap();
        let address = format!("{}:443", ["a"; 126].join(".")).parse().unwrap();
        assert!(encode(&Mark { epoch: Epoch(7), host, address }).is_err());
    }
}
