//! The ways in and out: a token, a handover, the logout.

use super::answer::{html, refused};
use super::entry::cookie;
use super::form::{Form, own_path};
use super::handover::{HandoverKey, verify};
use super::sessions::{Began, SessionKey};
use super::state::PanelState;
use crate::model::access::Identity;
use crate::panel::entrance::{login as page, onwards};
use crate::panel::frame::Frame;
use crate::service::admission::bootstrap;
use crate::service::audit::AuditLine;
use crate::service::caller::Caller;
use crate::service::token::Token;
use crate::support::trusted;
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use std::time::Duration;

/// Time that the answer to a wrong token takes.
const WRONG_TAKES: Duration = Duration::from_millis(300);

#[derive(Default, Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

fn frame(state: &PanelState) -> Frame<'_> {
    Frame { name: state.settings.name(), identity: None, key: "" }
}

pub(super) async fn show(
    State(state): State<PanelState>,
    next: Result<Query<Next>, QueryRejection>,
) -> Response {
    let next = next.map(|Query(next)| next.next).unwrap_or_default();
    html(page(&frame(&state), own_path(&next), None)).into_response()
}

/// Returns whose token this is, and how a session with it began.
fn identify(state: &PanelState, shown: &str) -> Option<(Identity, Began)> {
    let daemon = &state.site.daemon;
    if let Some((id, identity)) = state.tokens.find(shown, daemon.env().wall()) {
        return Some((identity, Began::Token(id)));
    }
    let token = state.token.clone().or_else(|| Token::read(&daemon.host().config).ok().flatten());
    token.is_some_and(|token| token.is(shown)).then(|| (bootstrap(), Began::Otherwise))
}

fn note(state: &PanelState, identity: &Identity, from: &str, action: &str) {
    state.audit.write(AuditLine::of(identity, from, action, 200));
}

/// Begins a session for who shows a token. One that the browser had before ends.
pub(super) async fn login(
    State(state): State<PanelState>,
    Extension(caller): Extension<Caller>,
    before: Option<Extension<SessionKey>>,
    body: Body,
) -> Response {
    let form = match Form::read(body).await {
        Ok(form) => form,
        Err((status, why)) => return refused(state.settings.name(), status, "Not logged in", why),
    };
    let next = own_path(form.get("next"));
    let Some((identity, began)) = identify(&state, form.get("token").trim()) else {
        tokio::time::sleep(WRONG_TAKES).await;
        tracing::info!(from = caller.from, "a login with no valid token");
        let why = "This token is not valid here. It may have expired, or been revoked.";
        return (StatusCode::UNAUTHORIZED, html(page(&frame(&state), next, Some(why)))).into_response();
    };
    if let Some(Extension(key)) = before {
        state.sessions.end(key);
    }
    note(&state, &identity, &caller.from, "log in");
    let id = state.sessions.begin(identity, began);
    ([(header::SET_COOKIE, cookie(&state.public, Some(&id)))], Redirect::to(next)).into_response()
}

/// Begins a session for who the platform's own panel says it is. The page goes on by itself: a redirect would
/// still count as the other site's request, and be sent without the cookie.
pub(super) async fn handover(
    State(state): State<PanelState>,
    Extension(caller): Extension<Caller>,
    before: Option<Extension<SessionKey>>,
    body: Body,
) -> Response {
    let name = state.settings.name();
    let no = |status, why: &str| refused(name, status, "Not handed over", why);
    let Some(settings) = &state.settings.handover else {
        return no(StatusCode::NOT_FOUND, "Nobody is handed over to this panel.");
    };
    let form = match Form::read(body).await {
        Ok(form) => form,
        Err((status, why)) => return no(status, why),
    };
    let pem = trusted::read_to_string(&settings.key_file);
    let key = match pem.map(|pem| HandoverKey::parse(&pem)) {
        Ok(Some(key)) => key,
        told => {
            let error = told.err().map_or("no Ed25519 public key".to_owned(), |error| error.to_string());
            tracing::error!(path = %settings.key_file.display(), error, "nobody can be handed over");
            return no(StatusCode::SERVICE_UNAVAILABLE, "The panel cannot read its key; its log says why.");
        }
    };
    let now = state.site.daemon.env().wall().0 / 1_000_000_000;
    match verify(form.get("token"), &key, &settings.roles, &state.served, now) {
        Ok(identity) => {
            if let Some(Extension(key)) = before {
                state.sessions.end(key);
            }
            note(&state, &identity, &caller.from, "be handed over");
            let id = state.sessions.begin(identity, Began::Otherwise);
            let next = own_path(form.get("next"));
            ([(header::SET_COOKIE, cookie(&state.public, Some(&id)))], html(onwards(next))).into_response()
        }
        Err(doubt) => {
            tracing::warn!(from = caller.from, ?doubt, "a handover was not believed");
            no(
                StatusCode::UNAUTHORIZED,
                "The handover is not valid here, or not any more. Try again from where you came.",
            )
        }
    }
}

pub(super) async fn logout(
    State(state): State<PanelState>,
    Extension(caller): Extension<Caller>,
    Extension(identity): Extension<Identity>,
    key: Option<Extension<SessionKey>>,
) -> Response {
    if let Some(Extension(key)) = key {
        state.sessions.end(key);
    }
    note(&state, &identity, &caller.from, "log out");
    ([(header::SET_COOKIE, cookie(&state.public, None))], Redirect::to("/login")).into_response()
}
