//! A refused or failed request: its status, and a reason as JSON.

use crate::api::error::ErrorBody;
use crate::support::failure::{Failure, FailureKind};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};

/// The reason why a request is refused or failed.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub reason: String,
}

impl ApiError {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    pub(crate) fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    pub(crate) fn unknown_store(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("no store '{name}' is configured here"))
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.reason })).into_response()
    }
}

impl<E: Failure> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self::new(status(error.kind()), error.to_string())
    }
}

/// Returns the HTTP status of a failure of this kind.
pub(crate) fn status(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::Missing => StatusCode::NOT_FOUND,
        FailureKind::Held | FailureKind::Fenced => StatusCode::CONFLICT,
        FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // The request was well-formed; the configuration is wrong.
        FailureKind::Usage | FailureKind::Stopped | FailureKind::Damaged | FailureKind::Failed => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
