//! Requests for server-sent events.
//!
//! An `EventSource` comes back by itself after every end of a stream, and never again after an answer other than 200. So
//! what time or a new token heals is told by an event in a stream that ends, with the time to wait; and what the same
//! request cannot get is refused by its status.

use std::borrow::Cow;

use fanfare_protocol::{ErrorBody, Push, ServerMessage, json};
use fanfare_session::Handshake;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap,
        HeaderName, HeaderValue, ORIGIN, VARY, WWW_AUTHENTICATE,
    },
};

use super::{
    PublicHttp, Routed, answer,
    refused::{FULL_RETRY, Refused},
    token,
};
use crate::{shard::StreamOpening, sse};

/// Where clients that are no browsers' own `EventSource` may put it too.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Has nginx pass a stream on as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The headers that a script of another origin may set: those of `fetch` in place of an `EventSource`.
const REQUEST_HEADERS: &str = "authorization, cache-control, last-event-id";

/// Seconds that a browser may remember the answer to its question before such a request.
const PREFLIGHT_SECONDS: u32 = 7_200;

impl PublicHttp {
    pub(super) fn route_stream<B>(&self, request: &Request<B>) -> Routed {
        let headers = request.headers();
        if let Err(error) = self.origins.check(headers) {
            return Routed::Answer(Refused::Origin(error).answer());
        }
        let cross_origin = cross_origin(headers);
        if request.method() == Method::OPTIONS {
            return Routed::Answer(preflight(cross_origin));
        }
        match self.open_stream(request) {
            Ok((opening, handshake)) => {
                let head = stream_head(cross_origin, Bytes::new());
                Routed::Stream(Box::new(StreamOpening { head, handshake, positions: opening.positions }))
            }
            Err(refused @ Refused::Full(_)) => {
                refused.count();
                Routed::Answer(stream_head(cross_origin, ended_stream(refused.error())))
            }
            Err(refused) => {
                let mut answer = refused.answer();
                answer.headers_mut().extend(cross_origin);
                Routed::Answer(answer)
            }
        }
    }

    fn open_stream<B>(&self, request: &Request<B>) -> Result<(sse::Opening, Handshake), Refused> {
        if request.method() != Method::GET {
            return Err(Refused::Method);
        }
        let headers = request.headers();
        let query = request.uri().query().unwrap_or_default();
        let query: Vec<(Cow<'_, str>, Cow<'_, str>)> = url::form_urlencoded::parse(query.as_bytes()).collect();
        let pairs = query.iter().map(|(name, value)| (&**name, &**value));
        let id = headers.get(LAST_EVENT_ID).map(|id| String::from_utf8_lossy(id.as_bytes()));
        let opening = sse::Opening::parse(pairs, id.as_deref(), self.session_config.max_history)?;
        let query_token = query.iter().find(|(name, value)| name == "token" && !value.is_empty());
        let mut token = token::bearer(headers).or_else(|| query_token.map(|(_, token)| token.to_string()));
        if token.is_none() {
            token = self.cookie.as_deref().and_then(|name| token::cookie(headers, name));
            if token.is_some() {
                self.origins.check_get_with_cookie(headers)?;
            }
        }
        self.check_room()?;
        let channels = opening.asked(&self.session_config.namespaces);
        Ok((opening, Handshake { token, channels }))
    }
}

/// What an answer says to a page of another origin (Fetch section 3.2): that it may read it. Which origins may ask was
/// checked before.
fn cross_origin(headers: &HeaderMap) -> HeaderMap {
    let mut answer = HeaderMap::new();
    answer.insert(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = headers.get(ORIGIN) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    answer
}

/// The answer to a browser's question before a request with headers of a script (Fetch section 4.8).
fn preflight(cross_origin: HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    *headers = cross_origin;
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS.into());
    response
}

fn stream_head(cross_origin: HeaderMap, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    *headers = cross_origin;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::CONTENT_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// A whole stream that says why there is none, and when to come back.
fn ended_stream(error: ErrorBody) -> Bytes {
    let mut json = Vec::new();
    json::write_message(&ServerMessage::Push(Push::Error { channel: None, error }), &mut json);
    let mut body = Vec::new();
    sse::write_retry(FULL_RETRY.as_millis() as u64, &mut body);
    sse::write_event(&json, &mut body);
    body.into()
}

/// What is answered instead of a stream whose head was this.
pub(crate) fn refuse_stream(mut head: Response<Bytes>, error: &ErrorBody) -> Response<Bytes> {
    let headers = head.headers_mut();
    headers.remove(X_ACCEL_BUFFERING);
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::FORBIDDEN);
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer::error(status, error, std::mem::take(headers))
}
