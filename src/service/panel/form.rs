//! Forms, as browsers send them: read whole, within a size and a time.

use axum::body::Body;
use axum::http::StatusCode;
use std::collections::HashMap;
use std::time::Duration;

const FORM_MAX_BYTES: usize = 16 << 10;
/// Maximum time for a form to arrive.
const LIMIT: Duration = Duration::from_secs(10);

/// The fields of a form. Of a field that comes twice, the first counts.
pub(super) struct Form(HashMap<String, String>);

impl Form {
    pub(super) async fn read(body: Body) -> Result<Self, (StatusCode, &'static str)> {
        let read = tokio::time::timeout(LIMIT, axum::body::to_bytes(body, FORM_MAX_BYTES)).await;
        let bytes = read.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "The form did not arrive in time."))?;
        let bytes = bytes.map_err(|_| {
            (StatusCode::PAYLOAD_TOO_LARGE, "The form is too large, or did not arrive whole.")
        })?;
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut fields = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(bytes) {
            fields.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(fields)
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Returns a path of this panel's; anything else is the first page.
pub(super) fn own_path(given: &str) -> &str {
    let is_path = given.starts_with('/') && !given[1..].starts_with(['/', '\\']);
    let is_plain = given.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_path && is_plain && given.len() <= 1000 { given } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        for own in ["/", "/stores/acme", "/?need=held&q=a"] {
            assert_eq!(own_path(own), own);
        }
        for other in [
            "",
            "x",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nSet-Cookie: x",
            "/ a",
            "javascript:x",
            &format!("/{}", "a".repeat(1000)),
        ] {
            assert_eq!(own_path(other), "/", "{other}");
        }
    }

    #[test]
    fn the_first_of_two_fields_counts() {
        let form = Form::parse(b"a=1&a=2&b=%3Cx%3E+y&c");
        assert_eq!((form.get("a"), form.get("b"), form.get("c"), form.get("d")), ("1", "<x> y", "", ""));
    }
}
