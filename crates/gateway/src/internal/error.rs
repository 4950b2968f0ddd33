//! The errors of the API: `{"error":{"code":…,"message":…,"retryable":…}}` with the code's HTTP status.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fanfare_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;

/// An error that answers a request.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) body: ErrorBody,
    status: StatusCode,
}

#[derive(Serialize)]
struct Answer {
    error: ErrorBody,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ErrorBody::new(code, message).into()
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// The same with a status that says more than the code.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl From<ErrorBody> for ApiError {
    fn from(body: ErrorBody) -> Self {
        let status = StatusCode::from_u16(body.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { body, status }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(Answer { error: self.body })).into_response()
    }
}
