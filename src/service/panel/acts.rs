//! What forms do: each once, however often it is sent, and then the browser is sent on to the page.

use super::answer::refused;
use super::done::{FormKey, Told};
use super::form::Form;
use super::sessions::SessionKey;
use super::state::PanelState;
use super::turned_away;
use crate::model::access::Identity;
use crate::model::decision::Decision;
use crate::model::id::StoreName;
use crate::panel::need::Tone;
use crate::panel::words::span;
use crate::service::api_error::ApiError;
use crate::service::failover_http;
use crate::service::routes::AuditDetail;
use axum::Extension;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};

/// Longest pause with an end.
const PAUSE_MAX_MINUTES: u64 = 7 * 24 * 60;

/// A form that somebody sent about a store.
pub(super) struct Sent {
    state: PanelState,
    store: StoreName,
    form: Form,
    key: FormKey,
}

/// Reads a form of a session about the store that the path names. A rejection is the answer: also to a form that was
/// carried out already.
impl FromRequest<PanelState> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, state: &PanelState) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let read = Extension::<SessionKey>::from_request_parts(&mut parts, state).await;
        let Extension(session) = read.map_err(IntoResponse::into_response)?;
        let read = Path::<String>::from_request_parts(&mut parts, state).await;
        let Path(store) = read.map_err(IntoResponse::into_response)?;
        let name = state.settings.name();
        let Ok((store, _)) = state.site.known(&store) else { return Err(turned_away::no_store(name)) };
        let no = |status, why: &str| refused(name, status, "Not done", why);
        let form = Form::read(body).await.map_err(|(status, why)| no(status, why))?;
        let Some(key) = FormKey::new(session, form.get("key")) else {
            return Err(no(
                StatusCode::BAD_REQUEST,
                "The form has no key. Go back, load the page again, and try once more.",
            ));
        };
        if !state.done.begin(&key, state.site.daemon.now().boot) {
            return Err(onwards(&store, form.get("key")));
        }
        Ok(Self { state: state.clone(), store, form, key })
    }
}

fn onwards(store: &StoreName, key: &str) -> Response {
    Redirect::to(&format!("/stores/{store}?did={key}")).into_response()
}

impl Sent {
    /// Notes what came of the form, and sends the browser on.
    fn end(self, result: Result<String, ApiError>) -> Response {
        let (told, status) = match result {
            Ok(text) => (Told { tone: Tone::Good, text }, None),
            Err(error) => {
                (Told { tone: Tone::Bad, text: format!("Not done: {}.", error.reason) }, Some(error.status))
            }
        };
        let detail = AuditDetail { text: told.text.clone(), status: status.map(|status| status.as_u16()) };
        self.state.done.end(&self.key, told);
        let mut response = onwards(&self.store, self.form.get("key"));
        response.extensions_mut().insert(detail);
        response
    }

    fn reason(&self) -> Result<String, ApiError> {
        failover_http::text(
            "reason",
            Some(self.form.get("reason").trim().to_owned()),
            "asked for in the panel",
        )
    }
}

pub(super) async fn resync(Extension(identity): Extension<Identity>, sent: Sent) -> Response {
    let asked = sent.state.site.ask_run(&identity, &sent.store, false);
    sent.end(asked.map(|_| "A run is on its way; this page shows it.".to_owned()))
}

pub(super) async fn hold(Extension(identity): Extension<Identity>, sent: Sent) -> Response {
    let held = sent.reason().and_then(|reason| {
        let reason = format!("{reason}, by {}", identity.who);
        sent.state.site.hold(&sent.store, Some(reason))
    });
    sent.end(held.map(|_| "Held. No run begins here until it is released.".to_owned()))
}

pub(super) async fn release(sent: Sent) -> Response {
    let released = sent.state.site.release(&sent.store);
    sent.end(released.map(|_| "Released. Runs are made again.".to_owned()))
}

pub(super) async fn pause(Extension(identity): Extension<Identity>, sent: Sent) -> Response {
    let result = paused(&sent, &identity).await;
    sent.end(result)
}

async fn paused(sent: &Sent, identity: &Identity) -> Result<String, ApiError> {
    let minutes = match sent.form.get("minutes") {
        "" => None,
        text => Some(
            text.parse::<u64>().ok().filter(|minutes| (1..=PAUSE_MAX_MINUTES).contains(minutes)).ok_or_else(
                || {
                    ApiError::bad_request(format!(
                        "a pause ends after 1 to {PAUSE_MAX_MINUTES} minutes, or has no end"
                    ))
                },
            )?,
        ),
    };
    let (person, reason) = (identity.who.clone(), sent.reason()?);
    let (site, store) = (&sent.state.site, &sent.store);
    let record = failover_http::decide(site, store, Decision::Paused { person, reason }).await?;
    let Some(minutes) = minutes else { return Ok("Paused, until somebody resumes it.".to_owned()) };
    let now = site.daemon.env().wall();
    let until = now.plus(std::time::Duration::from_mins(minutes));
    sent.state.pauses.set(store, record, until).map_err(|error| {
        ApiError::internal(format!("it is paused, but its end is not kept, so resume it by hand: {error}"))
    })?;
    Ok(format!("Paused for {}.", span(minutes as f64 * 60.0)))
}

pub(super) async fn resume(Extension(identity): Extension<Identity>, sent: Sent) -> Response {
    let decision = Decision::Resumed { person: identity.who };
    let resumed = failover_http::decide(&sent.state.site, &sent.store, decision).await;
    if resumed.is_ok() {
        sent.state.pauses.forget(&sent.store);
    }
    sent.end(resumed.map(|_| "Resumed. Hosts may take it over by themselves again.".to_owned()))
}
