//! Answers of the panel: pages, and pages that say why there is none.

use crate::panel::frame::Frame;
use crate::panel::refusal::refusal;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::Markup;

/// The panel's name, for answers that know nothing else.
#[derive(Clone)]
pub(super) struct Skin(pub String);

pub(super) fn html(page: Markup) -> Html<String> {
    Html(page.into_string())
}

/// Returns a page that says why there is none.
pub(super) fn refused(name: &str, status: StatusCode, title: &str, why: &str) -> Response {
    let frame = Frame { name, identity: None, key: "" };
    (status, html(refusal(&frame, title, why))).into_response()
}
