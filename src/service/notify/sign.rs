//! The signature of a webhook's message, by Standard Webhooks 1.0: HMAC-SHA256 of `ID.TIMESTAMP.BODY`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{HMAC_SHA256, Key, sign};
use zeroize::Zeroizing;

/// Returns the value of the header `webhook-signature`: one signature for each key.
pub(crate) fn signature(keys: &[Zeroizing<Vec<u8>>], id: &str, at_seconds: u64, body: &str) -> String {
    let content = format!("{id}.{at_seconds}.{body}");
    let of = |key: &Zeroizing<Vec<u8>>| {
        let tag = sign(&Key::new(HMAC_SHA256, key), content.as_bytes());
        format!("v1,{}", STANDARD.encode(tag))
    };
    keys.iter().map(of).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the tests of the specification's own libraries.
    #[test]
    fn it_is_the_signature_of_the_specification() {
        let key = Zeroizing::new(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let said = signature(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(said, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
