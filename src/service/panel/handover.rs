//! The handover: the platform's own panel says, in a signed token (JWT), who one of its users is.
//!
//! The token is signed by Ed25519 with a key whose public half is configured; no other algorithm is known here,
//! whatever the token says. It is for this program (`aud`), for a minute at most, and serves once: its `jti` is
//! remembered until it has expired. It comes in the body of a POST, so no log of addresses has it.

use crate::model::access::{Identity, Scope, UserRole};
use crate::model::id::StoreName;
use crate::support::lock::lock;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Mutex;

const AUDIENCE: &str = "understudy";
/// Maximum number of seconds from a token's making to its end.
const LIFE_SECONDS: u64 = 60;
/// Difference between the two clocks that is tolerated.
const APART_SECONDS: u64 = 5;
const TOKEN_MAX_BYTES: usize = 4096;
const NAME_MAX_CHARS: usize = 80;
/// Maximum number of tokens that are remembered; more within a minute are refused.
const REMEMBERED_MAX: usize = 100_000;
/// What a public key's DER has before its 32 bytes (RFC 8410).
const DER_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The key whose signatures are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandoverKey([u8; 32]);

impl HandoverKey {
    /// Parses a public key as `openssl pkey -pubout` writes it.
    pub(crate) fn parse(pem: &str) -> Option<Self> {
        let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?;
        let body = body.strip_suffix("-----END PUBLIC KEY-----")?;
        let text: String = body.split_whitespace().collect();
        let der = STANDARD.decode(text).ok()?;
        Some(Self(der.strip_prefix(&DER_HEAD)?.try_into().ok()?))
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    aud: String,
    exp: u64,
    iat: u64,
    jti: String,
    sub: String,
    role: UserRole,
    #[serde(default)]
    stores: Vec<StoreName>,
}

/// Why a token is not believed. It is for the log: who sent it learns no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    Unreadable,
    Algorithm,
    Signature,
    Audience,
    Time,
    Role,
    Stores,
    Name,
    Again,
    TooMany,
}

/// The tokens that served already, with the seconds of their ends.
#[derive(Default)]
pub(crate) struct Served(Mutex<HashMap<String, u64>>);

impl Served {
    fn take(&self, jti: &str, exp: u64, now: u64) -> Result<(), Doubt> {
        let mut served = lock(&self.0);
        served.retain(|_, end| end.saturating_add(APART_SECONDS) >= now);
        match () {
            () if served.contains_key(jti) => Err(Doubt::Again),
            () if served.len() >= REMEMBERED_MAX => Err(Doubt::TooMany),
            () => {
                served.insert(jti.to_owned(), exp);
                Ok(())
            }
        }
    }
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Doubt> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Doubt::Unreadable)?;
    serde_json::from_slice(&bytes).map_err(|_| Doubt::Unreadable)
}

/// Returns who a token says its bearer is, at a time in seconds since 1970.
pub(crate) fn verify(
    token: &str,
    key: &HandoverKey,
    roles: &[UserRole],
    served: &Served,
    now: u64,
) -> Result<Identity, Doubt> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(Doubt::Unreadable);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Doubt::Unreadable)?;
    let (header, claims) = signed.split_once('.').ok_or(Doubt::Unreadable)?;
    if part::<Header>(header)?.alg != "EdDSA" {
        return Err(Doubt::Algorithm);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Doubt::Unreadable)?;
    let key = UnparsedPublicKey::new(&ED25519, &key.0);
    key.verify(signed.as_bytes(), &signature).map_err(|_| Doubt::Signature)?;
    let claims: Claims = part(claims)?;
    if claims.aud != AUDIENCE {
        return Err(Doubt::Audience);
    }
    let is_short = claims.exp.saturating_sub(claims.iat) <= LIFE_SECONDS;
    let is_now =
        claims.iat <= now.saturating_add(APART_SECONDS) && now < claims.exp.saturating_add(APART_SECONDS);
    if !(is_short && is_now) {
        return Err(Doubt::Time);
    }
    if !roles.contains(&claims.role) {
        return Err(Doubt::Role);
    }
    if claims.role == UserRole::Customer && claims.stores.is_empty() {
        return Err(Doubt::Stores);
    }
    let is_name = |text: &str| !text.is_empty() && text.chars().count() <= NAME_MAX_CHARS;
    if !is_name(&claims.sub) || !is_name(&claims.jti) {
        return Err(Doubt::Name);
    }
    served.take(&claims.jti, claims.exp, now)?;
    let scope =
        if claims.stores.is_empty() { Scope::All } else { Scope::Only(claims.stores.into_iter().collect()) };
    Ok(Identity { who: format!("{} by handover", claims.sub), role: claims.role, scope })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::{Value, json};

    const NOW: u64 = 1_800_000_000;

    fn pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
    }

    fn key() -> HandoverKey {
        HandoverKey(pair().public_key().as_ref().try_into().unwrap())
    }

    fn claims() -> Value {
        json!({ "aud": "understudy", "iat": NOW, "exp": NOW + 60, "jti": "a", "sub": "Anna", "role": "customer", "stores": ["acme"] })
    }

    fn token(header: &Value, claims: &Value, pair: &Ed25519KeyPair) -> String {
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn of(claims: &Value) -> Result<Identity, Doubt> {
        let token = token(&json!({ "alg": "EdDSA", "typ": "JWT" }), claims, &pair());
        verify(&token, &key(), &[UserRole::Customer], &Served::default(), NOW)
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_token_says_who_its_bearer_is_once() {
        let identity = of(&claims()).unwrap();
        assert_eq!((identity.who.as_str(), identity.role), ("Anna by handover", UserRole::Customer));
        assert_eq!(identity.scope, Scope::Only([StoreName::parse("acme").unwrap()].into()));
        let token = token(&json!({ "alg": "EdDSA" }), &claims(), &pair());
        let (served, roles) = (Served::default(), [UserRole::Customer]);
        assert!(verify(&token, &key(), &roles, &served, NOW).is_ok());
        for now in [NOW, NOW + 59, NOW + 64] {
            assert_eq!(verify(&token, &key(), &roles, &served, now), Err(Doubt::Again), "{now}");
        }
        assert_eq!(verify(&token, &key(), &roles, &served, NOW + 65), Err(Doubt::Time));
    }

    #[test]
    fn whatever_is_not_as_it_must_be_is_not_believed() {
        for (claims, doubt) in [
            (with("aud", json!("other")), Doubt::Audience),
            (with("aud", json!(["understudy"])), Doubt::Unreadable),
            (with("exp", json!(NOW + 61)), Doubt::Time),
            (with("exp", json!(NOW - 6)), Doubt::Time),
            (with("iat", json!(NOW + 6)), Doubt::Time),
            (with("iat", json!(-1)), Doubt::Unreadable),
            (with("role", json!("operator")), Doubt::Role),
            (with("role", json!("root")), Doubt::Unreadable),
            (with("stores", json!([])), Doubt::Stores),
            (with("stores", json!(["../x"])), Doubt::Unreadable),
            (with("sub", json!("")), Doubt::Name),
            (with("jti", json!("x".repeat(81))), Doubt::Name),
            (json!({}), Doubt::Unreadable),
        ] {
            assert_eq!(of(&claims), Err(doubt), "{claims}");
        }
        let (served, roles) = (Served::default(), [UserRole::Customer]);
        let check = |token: &str| verify(token, &key(), &roles, &served, NOW);
        for alg in ["none", "HS256", "eddsa", "RS256"] {
            assert_eq!(
                check(&token(&json!({ "alg": alg }), &claims(), &pair())),
                Err(Doubt::Algorithm),
                "{alg}"
            );
        }
        let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
        let header = json!({ "alg": "EdDSA" });
        assert_eq!(check(&token(&header, &claims(), &other)), Err(Doubt::Signature));
        let good = token(&header, &claims(), &pair());
        let (signed, _) = good.rsplit_once('.').unwrap();
        assert_eq!(check(&format!("{signed}.")), Err(Doubt::Signature));
        for text in ["", ".", "..", "a.b.c", &"a".repeat(5000), signed] {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&good).is_ok(), "nothing of that has used it up");
    }

    #[test]
    fn a_key_is_read_as_openssl_writes_it() {
        let der: Vec<u8> = DER_HEAD.iter().chain(&key().0).copied().collect();
        let pem = |body: &str| format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        assert_eq!(HandoverKey::parse(&pem(&STANDARD.encode(&der))), Some(key()));
        for bad in [
            "",
            &pem(""),
            &pem(&STANDARD.encode(&der[1..])),
            &pem(&STANDARD.encode([0; 44])),
            &STANDARD.encode(&der),
        ] {
            assert!(HandoverKey::parse(bad).is_none(), "{bad}");
        }
    }
}
