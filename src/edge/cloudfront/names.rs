//! The names of things at CloudFront, parsed strictly: they become parts of paths and of a function's code.

use serde::{Deserialize, Deserializer};
use std::fmt;

/// Maximum length of a key in a key value store, in bytes.
const KEY_MAX_BYTES: usize = 512;
const FUNCTION_MAX_BYTES: usize = 64;
const ID_MAX_BYTES: usize = 64;
const ORIGIN_MAX_BYTES: usize = 128;

/// Makes a text of certain characters a type.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $most:expr, $is_plain:expr, $words:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            /// Parses it. An error is a reason in words.
            pub fn parse(text: &str) -> Result<Self, String> {
                let is_plain: fn(u8) -> bool = $is_plain;
                match !text.is_empty() && text.len() <= $most && text.bytes().all(is_plain) {
                    true => Ok(Self(text.to_owned())),
                    false => Err(format!("{text:?} is no {}", $words)),
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// The ID of a distribution.
    DistributionId,
    ID_MAX_BYTES,
    |b| b.is_ascii_uppercase() || b.is_ascii_digit(),
    "ID of a distribution: it has capital letters and digits, like E2EXAMPLE1"
);
name!(
    /// The ID of an origin in a distribution.
    OriginId,
    ORIGIN_MAX_BYTES,
    |b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b),
    "ID of an origin: use letters, digits, '-', '_', '.' and ':'"
);
name!(
    /// The name of a CloudFront Function.
    FunctionName,
    FUNCTION_MAX_BYTES,
    |b| b.is_ascii_alphanumeric() || b"-_".contains(&b),
    "name of a CloudFront Function: use up to 64 letters, digits, '-' and '_'"
);
name!(
    /// A key in a key value store.
    StoreKey,
    KEY_MAX_BYTES,
    |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b),
    "key: use letters, digits, '-', '_' and '.'"
);

/// The name of a key value store: `arn:aws:cloudfront::ACCOUNT:key-value-store/ID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValueStoreArn {
    text: String,
    account: String,
}

impl KeyValueStoreArn {
    /// Parses it. An error is a reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parse = || {
            let rest = text.strip_prefix("arn:aws:cloudfront::")?;
            let (account, id) = rest.split_once(":key-value-store/")?;
            let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            let is_id = !id.is_empty() && id.len() <= ID_MAX_BYTES && id.bytes().all(is_plain);
            (is_account && is_id).then(|| Self { text: text.to_owned(), account: account.to_owned() })
        };
        let wrong =
            "is no ARN of a key value store: it must be arn:aws:cloudfront::ACCOUNT:key-value-store/ID";
        parse().ok_or_else(|| format!("{text:?} {wrong}"))
    }

    pub(crate) fn account(&self) -> &str {
        &self.account
    }

    /// Returns it as one part of a path.
    pub(crate) fn encoded(&self) -> String {
        self.text.replace(':', "%3A").replace('/', "%2F")
    }
}

impl fmt::Display for KeyValueStoreArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for KeyValueStoreArn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_a_path_or_a_code_elsewhere() {
        for bad in ["", "../x", "a/b", "a b", "a'b", "a\"", "a\n", "a?b", "a#", "a%2F", "é"] {
            assert!(DistributionId::parse(bad).is_err() && OriginId::parse(bad).is_err(), "{bad}");
            assert!(FunctionName::parse(bad).is_err() && StoreKey::parse(bad).is_err(), "{bad}");
            let arn = format!("arn:aws:cloudfront::123456789012:key-value-store/{bad}");
            assert!(KeyValueStoreArn::parse(&arn).is_err(), "{arn}");
        }
        let arn = KeyValueStoreArn::parse("arn:aws:cloudfront::123456789012:key-value-store/0a-b").unwrap();
        assert_eq!(arn.account(), "123456789012");
        assert_eq!(arn.encoded(), "arn%3Aaws%3Acloudfront%3A%3A123456789012%3Akey-value-store%2F0a-b");
        for bad in ["arn:aws:s3:::b", "arn:aws:cloudfront::evil.example/:key-value-store/a", "x"] {
            assert!(KeyValueStoreArn::parse(bad).is_err(), "{bad}");
        }
    }
}
