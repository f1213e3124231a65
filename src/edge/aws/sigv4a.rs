//! AWS' signature version 4A: as version 4, but with a key pair on P-256 that is derived from the secret key, and
//! for a set of regions. Pure.
//!
//! `object_store` signs by version 4, and CloudFront's key value store takes 4A only. The crate `aws-sigv4` would
//! bring second versions of a dozen crates. So the text that is signed is built here, `ring` signs it, and `p256`
//! computes the public key, which `ring` wants to be given. The tests have AWS' own library as their judge.

use crate::support::clock::UnixNanos;
use chrono::DateTime;
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToSec1Point;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use ring::{digest, hmac};
use std::fmt::Write;
use url::Url;
use zeroize::Zeroizing;

const ALGORITHM: &str = "AWS4-ECDSA-P256-SHA256";
/// What a path may contain as it is, besides letters and digits.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// The order of P-256, less two: the greatest number that the derivation takes.
const ORDER_LESS_TWO: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
    0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x4f,
];

/// A request as it is signed; its URL has no query.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub method: &'a str,
    pub url: &'a Url,
    /// Further headers that are signed, with names in lower case.
    pub headers: &'a [(&'static str, String)],
    pub body: &'a [u8],
    pub service: &'a str,
    pub at: UnixNanos,
}

/// A key and its names.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub key_id: &'a str,
    pub secret_key: &'a str,
    pub token: Option<&'a str>,
}

/// The names and values of headers.
pub(crate) type Headers = Vec<(&'static str, String)>;

/// Returns the headers that make a request a signed one, for all regions. An error is a reason in words.
pub(crate) fn sign(request: &Signed<'_>, identity: &Identity<'_>) -> Result<Headers, String> {
    let (mut headers, to_sign, scope) = prepare(request, identity)?;
    let (private, public) = derive(identity)?;
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        &*private,
        &public,
        &random,
    );
    let pair = pair.map_err(|error| format!("the key cannot sign: {error}"))?;
    let signature = pair.sign(&random, to_sign.as_bytes()).map_err(|_| "signing failed")?;
    let names = names(&headers);
    let authorization = format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={}",
        identity.key_id,
        hex(signature.as_ref())
    );
    headers.push(("authorization", authorization));
    Ok(headers)
}

/// Returns the headers that are signed, the text that is signed, and its scope.
fn prepare(request: &Signed<'_>, identity: &Identity<'_>) -> Result<(Headers, String, String), String> {
    let seconds = i64::try_from(request.at.0 / 1_000_000_000).unwrap_or(i64::MAX);
    let at = DateTime::from_timestamp(seconds, 0).ok_or("the clock shows no date")?;
    let host = &request.url[url::Position::BeforeHost..url::Position::AfterPort];
    let payload = hex(digest::digest(&digest::SHA256, request.body).as_ref());
    let mut headers = request.headers.to_vec();
    headers.extend([
        ("host", host.to_owned()),
        ("x-amz-content-sha256", payload.clone()),
        ("x-amz-date", at.format("%Y%m%dT%H%M%SZ").to_string()),
        ("x-amz-region-set", "*".to_owned()),
    ]);
    headers.extend(identity.token.map(|token| ("x-amz-security-token", token.to_owned())));
    headers.sort_unstable_by_key(|(name, _)| *name);
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    // Each part of a path is encoded once more than in the request.
    let path = utf8_percent_encode(request.url.path(), PATH);
    let canonical = format!("{}\n{path}\n\n{lines}\n{}\n{payload}", request.method, names(&headers));
    let scope = format!("{}/{}/aws4_request", at.format("%Y%m%d"), request.service);
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("{ALGORITHM}\n{}\n{scope}\n{hash}", at.format("%Y%m%dT%H%M%SZ"));
    Ok((headers, to_sign, scope))
}

fn names(headers: &[(&'static str, String)]) -> String {
    headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
}

/// Derives the private key and the public one (NIST SP 800-108, counter mode, with HMAC-SHA256).
fn derive(identity: &Identity<'_>) -> Result<(Zeroizing<[u8; 32]>, Vec<u8>), String> {
    let input = Zeroizing::new(format!("AWS4A{}", identity.secret_key));
    let key = hmac::Key::new(hmac::HMAC_SHA256, input.as_bytes());
    for count in 1..=254_u8 {
        let mut context = hmac::Context::with_key(&key);
        let parts: [&[u8]; 6] = [
            &1_u32.to_be_bytes(),
            ALGORITHM.as_bytes(),
            &[0],
            identity.key_id.as_bytes(),
            &[count],
            &256_u32.to_be_bytes(),
        ];
        parts.iter().for_each(|part| context.update(part));
        let mut number = Zeroizing::new([0; 32]);
        number.copy_from_slice(context.sign().as_ref());
        // What is compared here is thrown away if it is too great, which happens once in 2^32 keys.
        if *number > ORDER_LESS_TWO {
            continue;
        }
        add_one(&mut number);
        let secret = SecretKey::from_slice(&*number).map_err(|error| format!("no key: {error}"))?;
        let public = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
        return Ok((number, public));
    }
    Err("no key can be derived from this secret key".into())
}

/// Adds one to a number that is not the greatest.
fn add_one(number: &mut [u8; 32]) {
    let mut carry = true;
    for byte in number.iter_mut().rev() {
        let (sum, over) = byte.overflowing_add(u8::from(carry));
        (*byte, carry) = (sum, over);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    const STORE: &str = "https://123456789012.cloudfront-kvs.global.api.aws/key-value-stores/\
                         arn%3Aaws%3Acloudfront%3A%3A123456789012%3Akey-value-store%2Ff1a2";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// Returns whether this signature is one of the request by the key that is derived here.
    fn is_signed(request: &Signed<'_>, identity: &Identity<'_>, signature: &str) -> bool {
        let (_, to_sign, _) = prepare(request, identity).unwrap();
        let (_, public) = derive(identity).unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public);
        key.verify(to_sign.as_bytes(), &bytes(signature)).is_ok()
    }

    /// The signatures are by awscrt 0.38.1. ECDSA gives another one each time, so they are verified here: one that
    /// fits the text and the key of this module proves both.
    #[test]
    fn signatures_of_awss_own_library_fit_the_text_and_the_key_derived_here() {
        let put = [("content-type", "application/json".to_owned()), ("if-match", "E1".to_owned())];
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        for (method, path, headers, body, identity, seconds, signature) in [
            (
                "GET",
                "",
                &[][..],
                "",
                ("AKISORANDOMAASORANDOM", "q+jcrXGc+0zWN6uzclKVhvMmUsIfRPa4rlRandom", None),
                1_440_938_160,
                "30440220737924d32ba757f0d5d752aa28c80b9e1381993f1dca303253025d9d4173a1de0220030ad0b2db7b973a85b6888321c2b2b6381dd4e215072377e17039c55a352972",
            ),
            (
                "PUT",
                "/keys/acme",
                &put[..],
                "{\"Value\":\"x\"}",
                ("AKIDEXAMPLE", secret, None),
                1_796_000_000,
                "304502204609c428227cd7d63eb62eb0085302aa7a0f2b578b4ef6a94172bbc38c67a754022100e3cce09dbcde579dc647bb84937a96d780dbde270bc0f72a40f6f0db04873439",
            ),
            (
                "PUT",
                "/keys/acme",
                &put[..],
                "{\"Value\":\"x\"}",
                ("ASIAEXAMPLE", secret, Some("token/+=x")),
                1_796_000_000,
                "3045022100dad99320e408b3081c779d4e77a0161cc5498a671317a7679a3f814aaeae462302200e49c92d0e523ab500c3bdf224b0d8935a6d0367bc373dcd3651ef5baa3f9ed8",
            ),
        ] {
            let url = Url::parse(&format!("{STORE}{path}")).unwrap();
            let (body, service) = (body.as_bytes(), "cloudfront-keyvaluestore");
            let at = UnixNanos(seconds * 1_000_000_000);
            let request = Signed { method, url: &url, headers, body, service, at };
            let identity = Identity { key_id: identity.0, secret_key: identity.1, token: identity.2 };
            assert!(is_signed(&request, &identity, signature), "{method} {path}");
            // What is sent is signed the same way, and nothing else is.
            let sent = sign(&request, &identity).unwrap();
            let (_, authorization) = sent.last().unwrap();
            let (_, own) = authorization.split_once("Signature=").unwrap();
            assert!(is_signed(&request, &identity, own));
            assert!(!is_signed(&Signed { body: b"{}", ..request }, &identity, own));
            assert!(!is_signed(&Signed { method: "DELETE", ..request }, &identity, own));
            assert!(!is_signed(&request, &Identity { secret_key: "other", ..identity }, own));
        }
    }

    #[test]
    fn one_is_added_with_its_carry() {
        let mut number = [0xff; 32];
        number[0] = 0;
        add_one(&mut number);
        let mut wanted = [0; 32];
        wanted[0] = 1;
        assert_eq!(number, wanted);
    }
}
