//! Who gets through to the routes.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::Response,
};
use fanfare_protocol::ErrorCode;

use super::{InternalState, error::ApiError};

/// The header that carries an API key.
const API_KEY: &str = "x-api-key";

/// Lets requests with one of the API keys through.
pub(super) async fn require_key(
    State(state): State<InternalState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keys = &state.0.keys;
    let given = request.headers().get(API_KEY);
    if keys.accept(given.map(|key| key.as_bytes())) {
        return Ok(next.run(request).await);
    }
    let message = match given {
        _ if keys.is_closed() => "this node has no API key configured, so its API takes no requests (FANFARE_API_KEY)",
        None => "X-API-Key is missing",
        Some(_) => "X-API-Key is not one that is accepted here",
    };
    Err(ApiError::new(ErrorCode::Unauthorized, message))
}

/// In development mode, where no key protects the API, lets only this machine through, and nothing that a web page
/// elsewhere could make a browser send: a body of another type needs no permission across origins, JSON does.
pub(super) async fn development(
    State(state): State<InternalState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let origins = &state.0.origins;
    if origins.is_development() {
        origins.check(request.headers()).map_err(|error| ApiError::new(ErrorCode::Forbidden, error.to_string()))?;
        if request.method() == Method::POST && !is_json(request.headers()) {
            return Err(ApiError::bad_request("in development mode Content-Type must be application/json"));
        }
    }
    Ok(next.run(request).await)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}
