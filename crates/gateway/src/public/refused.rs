//! Requests that do not become a connection, and what they are answered.

use std::time::Duration;

use fanfare_protocol::{ErrorBody, ErrorCode};
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, HeaderMap, HeaderValue, RETRY_AFTER},
};
use tracing::debug;

use super::answer;
use crate::{origin::OriginError, sse, telemetry::metrics::HANDSHAKES_REFUSED_TOTAL, websocket::HandshakeError};

/// What clients are told to wait where the node has no room for them.
pub(super) const FULL_RETRY: Duration = Duration::from_secs(5);

/// Why a request does not become a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{path} is not here; {places}")]
    NotFound { path: String, places: String },
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("rewind={0:?} is no number of publications")]
    Rewind(String),
    #[error("presence={0:?} is none of true, false, names")]
    Presence(String),
    #[error("server-sent events are asked for with GET")]
    Method,
    #[error(transparent)]
    Stream(#[from] sse::RequestError),
    #[error("this node has {0} connections; that is its limit")]
    Full(usize),
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Origin(error) => error.reason(),
            Self::Handshake(_) | Self::Method => "handshake",
            Self::Rewind(_) => "rewind",
            Self::Presence(_) => "presence",
            Self::Stream(_) => "bad_request",
            Self::Full(_) => "full",
        }
    }

    /// What clients are told.
    pub(super) fn error(&self) -> ErrorBody {
        let code = match self {
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Origin(_) => ErrorCode::Forbidden,
            Self::Handshake(_) | Self::Rewind(_) | Self::Presence(_) | Self::Method | Self::Stream(_) => {
                ErrorCode::BadRequest
            }
            Self::Full(_) => ErrorCode::Unavailable,
        };
        let mut error = ErrorBody::new(code, self.to_string());
        if let Self::Full(_) = self {
            error.reconnect_after_ms = Some(FULL_RETRY.as_millis() as u64);
        }
        error
    }

    /// The refusal, counted, as it is answered.
    pub(super) fn answer(&self) -> Response<Bytes> {
        self.count();
        let (status, headers) = match self {
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, HeaderMap::new()),
            Self::Origin(_) => (StatusCode::FORBIDDEN, HeaderMap::new()),
            Self::Handshake(handshake) => (handshake.status(), handshake.headers()),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, header(ALLOW, HeaderValue::from_static("GET, OPTIONS"))),
            Self::Rewind(_) | Self::Presence(_) | Self::Stream(_) => (StatusCode::BAD_REQUEST, HeaderMap::new()),
            Self::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, header(RETRY_AFTER, FULL_RETRY.as_secs().into())),
        };
        answer::error(status, &self.error(), headers)
    }

    pub(super) fn count(&self) {
        debug!(%self, "a handshake was refused");
        count_refused(self.reason());
    }
}

fn header(name: hyper::header::HeaderName, value: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(name, value)])
}

/// Counts a socket that did not become a connection.
pub(crate) fn count_refused(reason: &'static str) {
    metrics::counter!(HANDSHAKES_REFUSED_TOTAL, "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_says_when_to_come_back() {
        let response = Refused::Full(10).answer();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        assert_eq!(
            response.body(),
            r#"{"error":{"code":"UNAVAILABLE","message":"this node has 10 connections; that is its limit","reconnect_after_ms":5000,"retryable":true}}"#
        );
    }
}
