//! A refused or failed request: its status, and a reason as JSON.

use crate::api::error::ErrorBody;
use crate::repository::error::{RepositoryError, RepositoryErrorKind};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};

/// Reason why a request is refused, or failed.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub reason: String,
}

impl ApiError {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    pub fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    pub fn unknown_store(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("no store '{name}' is configured here"))
    }

    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.reason })).into_response()
    }
}

impl From<RepositoryError> for ApiError {
    fn from(error: RepositoryError) -> Self {
        let status = match error.kind() {
            RepositoryErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RepositoryErrorKind::Missing => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}
