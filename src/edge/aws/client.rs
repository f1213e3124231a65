//! One call of an API of AWS: signed, with a bounded answer, and repeated while it is throttled.
//!
//! Why it is safe: a call that changes something carries `If-Match`, or says what it replaces. So one that is
//! sent again after a lost answer is refused if the first one was carried out. A message from AWS is cut at its
//! first line: one about a wrong signature goes on with the whole request, and so with a session's token.
//!
//! A client has a runtime of its own: what settles in the background goes on when the one that asked has ended.

use super::credentials::{Credentials, Place, REGION};
use super::sigv4a::{self, Identity, Signed};
use super::xml::Element;
use crate::edge::context::{Deadline, EdgeContext};
use crate::edge::error::EdgeError;
use crate::support::chain::chain;
use crate::support::env::Env;
use hyper::{Method, StatusCode};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::header::{ETAG, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use url::Url;

/// Maximum size of an answer. The longest one is a distribution's configuration.
const ANSWER_MAX_BYTES: usize = 4 << 20;
/// Maximum time of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The first wait after a throttled call, doubled each time.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Maximum number of characters of a message that are shown.
const MESSAGE_MAX_CHARS: usize = 300;

/// How a service wants its requests signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    V4,
    V4A,
}

/// A service of AWS.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Its name in a signature.
    pub name: &'static str,
    pub scheme: Scheme,
    pub base: Url,
}

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub method: Method,
    /// Path, encoded.
    pub path: String,
    pub query: Option<String>,
    pub if_match: Option<String>,
    pub content_type: Option<&'static str>,
    pub body: String,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        let (if_match, content_type) = (None, None);
        let (path, query, body) = (path.into(), None, String::new());
        Self { method: Method::GET, path, query, if_match, content_type, body }
    }

    pub fn send(method: Method, path: impl Into<String>, content_type: &'static str, body: String) -> Self {
        Self { method, content_type: Some(content_type), body, ..Self::get(path) }
    }

    pub fn if_match(self, etag: &str) -> Self {
        Self { if_match: Some(etag.to_owned()), ..self }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let content_type = self.content_type.map(|value| ("content-type", value.to_owned()));
        let if_match = self.if_match.clone().map(|value| ("if-match", value));
        content_type.into_iter().chain(if_match).collect()
    }
}

/// An answer that is no error.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub etag: Option<String>,
    pub body: String,
}

/// The reason why a call was not carried out, or is not known to be.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// AWS refused it.
    Refused { status: u16, code: String, message: String },
    /// There was no answer, or none within the time.
    Silent(String),
    /// It cannot be made, or its answer is none.
    Wrong(String),
}

impl CallFailure {
    pub fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// Returns the error of an edge.
    pub fn into_error(self, edge: &str, what: &str) -> EdgeError {
        match self {
            Self::Refused { status, code, message } => {
                let advice = advice(status, &code);
                let reason = format!("{what}: AWS refuses it with {status} {code}: {message}{advice}");
                EdgeError::refused(edge, reason)
            }
            Self::Silent(reason) => EdgeError::silent(edge, format!("{what}: {reason}")),
            Self::Wrong(reason) => EdgeError::refused(edge, format!("{what}: {reason}")),
        }
    }
}

/// Returns what to do about a refusal.
fn advice(status: u16, code: &str) -> &'static str {
    match code {
        "InvalidClientTokenId" | "UnrecognizedClientException" | "ExpiredToken" => {
            "; see this host's credentials"
        }
        "SignatureDoesNotMatch" => "; see this host's secret key and clock",
        _ if status == 403 => "; see the policy of this host's credentials (`understudy edge check`)",
        _ => "",
    }
}

/// Asks AWS. It blocks its thread, which must not be one of a runtime's.
pub(crate) struct AwsClient {
    http: reqwest::Client,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    place: Place,
    credentials: OnceLock<Credentials>,
    env: Env,
}

impl Drop for AwsClient {
    fn drop(&mut self) {
        // A name that is being looked up is not waited for.
        let _ = self.runtime.take().map(Runtime::shutdown_background);
    }
}

impl AwsClient {
    pub fn new(place: Place, context: &EdgeContext) -> Result<Self, String> {
        // The second call in a process fails because the provider is installed, which is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(REQUEST_LIMIT / 2)
            .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error))?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("aws").enable_all().build();
        let runtime = Some(runtime.map_err(|error| format!("starting a runtime: {error}"))?);
        Ok(Self { http, runtime, place, credentials: OnceLock::new(), env: context.env.clone() })
    }

    /// Calls, again and again while AWS is too busy, within the deadline.
    pub fn call(&self, service: &Service, call: &Call, deadline: &Deadline) -> Result<Reply, CallFailure> {
        let mut wait = WAIT_FIRST;
        loop {
            let left = deadline.left("", REQUEST_LIMIT).map_err(late)?;
            let failure = match self.once(service, call, left) {
                Err(failure) if is_busy(&failure) => failure,
                done => return done,
            };
            // Hosts that were throttled together come back apart.
            let part = u32::try_from(self.env.nonce() % 512).unwrap_or(0);
            let pause = wait / 2 + (wait / 1024) * part;
            if deadline.left("", pause).map_or(true, |left| left < pause) {
                return Err(failure);
            }
            self.env.sleep(pause);
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    fn once(&self, service: &Service, call: &Call, limit: Duration) -> Result<Reply, CallFailure> {
        let credentials = match self.credentials.get() {
            Some(credentials) => credentials,
            None => {
                let found = Credentials::find(&self.place)
                    .map_err(|reason| CallFailure::Wrong(format!("no credentials for AWS: {reason}")))?;
                self.credentials.get_or_init(|| found)
            }
        };
        let asked = async {
            let key = credentials.get().await;
            let key =
                key.map_err(|reason| CallFailure::Wrong(format!("no credentials for AWS: {reason}")))?;
            self.send(service, call, &key).await
        };
        let limited = async { tokio::time::timeout(limit, asked).await };
        let late = |_| CallFailure::Silent(format!("no answer within {} s", limit.as_secs_f32()));
        let runtime = self.runtime.as_ref().ok_or_else(|| CallFailure::Wrong("it is ending".into()))?;
        runtime.block_on(limited).unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    async fn send(&self, service: &Service, call: &Call, key: &AwsCredential) -> Result<Reply, CallFailure> {
        let mut url = service.base.clone();
        url.set_path(&call.path);
        url.set_query(call.query.as_deref());
        let headers = self.headers(service, call, &url, key).map_err(CallFailure::Wrong)?;
        let mut request = self.http.request(call.method.clone(), url).body(call.body.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let silent = |error: reqwest::Error| CallFailure::Silent(chain(&error.without_url()));
        let mut response = request.send().await.map_err(silent)?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(silent)? {
            if body.len() + part.len() > ANSWER_MAX_BYTES {
                let reason = format!("its answer is longer than {} MiB", ANSWER_MAX_BYTES >> 20);
                return Err(CallFailure::Wrong(reason));
            }
            body.extend_from_slice(&part);
        }
        let status = response.status();
        let body = String::from_utf8(body).map_err(|_| CallFailure::Wrong("its answer is no text".into()))?;
        if !status.is_success() {
            let named = response.headers().get("x-amzn-errortype").and_then(|value| value.to_str().ok());
            return Err(refusal(status, named, &body));
        }
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        Ok(Reply { etag, body })
    }

    /// Returns the headers of a signed request.
    fn headers(
        &self,
        service: &Service,
        call: &Call,
        url: &Url,
        key: &AwsCredential,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let own = call.headers();
        let pairs = match service.scheme {
            Scheme::V4 => return sign_v4(service, call, url, key, &own),
            Scheme::V4A => {
                let (method, body) = (call.method.as_str(), call.body.as_bytes());
                let at = self.env.wall();
                let request = Signed { method, url, headers: &own, body, service: service.name, at };
                let token = key.token.as_deref();
                sigv4a::sign(&request, &Identity { key_id: &key.key_id, secret_key: &key.secret_key, token })?
            }
        };
        let header = |(name, value): (&'static str, String)| {
            let value = HeaderValue::try_from(value).map_err(|_| format!("{name} is no header"))?;
            Ok((HeaderName::from_static(name), value))
        };
        pairs.into_iter().filter(|(name, _)| *name != "host").map(header).collect()
    }
}

fn sign_v4(
    service: &Service,
    call: &Call,
    url: &Url,
    key: &AwsCredential,
    own: &[(&'static str, String)],
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut request = hyper::Request::builder().method(call.method.clone()).uri(url.as_str());
    for (name, value) in own {
        request = request.header(*name, value);
    }
    let mut request: HttpRequest =
        request.body(HttpRequestBody::from(call.body.clone())).map_err(|error| error.to_string())?;
    AwsAuthorizer::new(key, service.name, REGION)
        .try_authorize(&mut request, None)
        .map_err(|error| chain(&error))?;
    let (parts, _) = request.into_parts();
    Ok(parts.headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect())
}

fn late(error: EdgeError) -> CallFailure {
    match error {
        EdgeError::Silent { reason, .. } => CallFailure::Silent(reason),
        other => CallFailure::Wrong(other.to_string()),
    }
}

/// Returns whether the same call may succeed later.
fn is_busy(failure: &CallFailure) -> bool {
    let CallFailure::Refused { status, code, .. } = failure else { return false };
    let words = ["Throttling", "ThrottlingException", "TooManyRequestsException", "PriorRequestNotComplete"];
    matches!(status, 429 | 500 | 502 | 503 | 504) || words.contains(&code.as_str())
}

/// Returns the refusal that an answer tells, in XML or JSON.
fn refusal(status: StatusCode, named: Option<&str>, body: &str) -> CallFailure {
    let (code, message) = in_xml(body).or_else(|| in_json(body)).unwrap_or_default();
    let code = named.map_or(code, str::to_owned);
    // `Code:http://…`, or `prefix#Code`.
    let code = code.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default();
    let plain = |text: &str, most: usize| text.lines().next().unwrap_or("").chars().take(most).collect();
    let status = status.as_u16();
    CallFailure::Refused { status, code: plain(code, 80), message: plain(&message, MESSAGE_MAX_CHARS) }
}

fn in_xml(body: &str) -> Option<(String, String)> {
    let root = Element::parse(body).ok()?;
    // CloudFront's and Route 53's are in `<ErrorResponse>`; some of Route 53's are alone, with messages.
    let error = root.child("Error").unwrap_or(&root);
    let message = error.value_of("Message", body).or_else(|| {
        let messages = error.child("Messages")?;
        messages.value_of("Message", body)
    });
    let code = error.value_of("Code", body).map_or_else(|| error.name.clone(), Into::into);
    Some((code, message.unwrap_or_default().into()))
}

fn in_json(body: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    let text = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| value.get(name)?.as_str());
        found.unwrap_or_default().to_owned()
    };
    Some((text(["__type", "code"]), text(["Message", "message"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_its_code_and_one_line() {
        let of = |status: u16, named: Option<&str>, body: &str| match refusal(
            StatusCode::from_u16(status).unwrap(),
            named,
            body,
        ) {
            CallFailure::Refused { code, message, .. } => (code, message),
            other => panic!("{other:?}"),
        };
        let pair = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let xml = "<ErrorResponse xmlns='u'><Error><Type>Sender</Type><Code>PreconditionFailed</Code>\
                   <Message>was &lt;false&gt;</Message></Error></ErrorResponse>";
        assert_eq!(of(412, None, xml), pair("PreconditionFailed", "was <false>"));
        let batch = "<InvalidChangeBatch><Messages><Message>no</Message></Messages></InvalidChangeBatch>";
        assert_eq!(of(400, None, batch), pair("InvalidChangeBatch", "no"));
        let json = "{\"__type\":\"com.amazon#ConflictException\",\"Message\":\"other\"}";
        assert_eq!(of(409, None, json), pair("ConflictException", "other"));
        assert_eq!(of(403, Some("AccessDeniedException:http://x"), "{}"), pair("AccessDeniedException", ""));
        let secret = "<Error><Code>SignatureDoesNotMatch</Code><Message>no match.\nthe canonical string: \
                      x-amz-security-token:SECRET</Message></Error>";
        assert_eq!(of(403, None, secret), pair("SignatureDoesNotMatch", "no match."));
        assert_eq!(of(502, None, "<html>"), pair("", ""));
        let long = of(400, None, &format!("<E><Message>{}</Message></E>", "é".repeat(5000)));
        assert_eq!(long.1.chars().count(), MESSAGE_MAX_CHARS);
    }
}
