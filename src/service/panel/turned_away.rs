//! What is answered in place of a page that is not given: the login, or a page that says why.

use super::answer::{Skin, html, refused};
use crate::model::access::Identity;
use crate::panel::entrance::onwards;
use crate::service::caller::Caller;
use crate::service::routes::Refused;
use axum::Extension;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

/// Answers a request that a guard refused.
pub(super) fn answer(why: Refused, parts: &Parts) -> Response {
    let name = parts.extensions.get::<Skin>().map_or("understudy", |skin| skin.0.as_str());
    match why {
        Refused::Unknown(error) if error.status == StatusCode::UNAUTHORIZED => to_login(parts),
        Refused::Unknown(error) => refused(name, error.status, "Not for you", &error.reason),
        Refused::NotAllowed(action) => {
            let text = format!("Your role does not allow it: {}.", action.name());
            refused(name, StatusCode::FORBIDDEN, "Not for you", &text)
        }
        Refused::NoStore(_) => no_store(name),
    }
}

/// Answers that there is no such store, or none that the caller may see: both are the same page.
pub(super) fn no_store(name: &str) -> Response {
    refused(name, StatusCode::NOT_FOUND, "No such store", "There is no store of this name here.")
}

/// Sends a browser to the login, and then on. A browser that came from another site may have a cookie that it
/// did not send; it comes again from here.
fn to_login(parts: &Parts) -> Response {
    let value = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let accepts_page =
        value("accept").is_none_or(|accepts| accepts.contains("text/html") || accepts.contains("*/*"));
    if parts.uri.path().ends_with("/events") || !accepts_page {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let to = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    if parts.method != Method::GET {
        return Redirect::to("/login").into_response();
    }
    if matches!(value("sec-fetch-site"), Some("cross-site" | "same-site")) {
        return html(onwards(to)).into_response();
    }
    let next: String = url::form_urlencoded::byte_serialize(to.as_bytes()).collect();
    ([(header::VARY, "Cookie")], Redirect::to(&format!("/login?next={next}"))).into_response()
}

/// Answers what has no route.
pub(super) async fn no_page(
    Extension(skin): Extension<Skin>,
    Extension(caller): Extension<Caller>,
    parts: Parts,
) -> Response {
    let known: Result<Identity, _> = caller.identity;
    match known {
        Ok(_) => refused(&skin.0, StatusCode::NOT_FOUND, "No such page", "There is nothing at this address."),
        Err(error) => answer(Refused::Unknown(error), &parts),
    }
}
