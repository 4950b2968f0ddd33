//! Answers, and how they are written to a socket that is not hyper's any more.

use std::time::SystemTime;

use fanfare_protocol::ErrorBody;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderValue},
};

/// The same JSON as the internal API's errors.
pub(super) fn error(status: StatusCode, error: &ErrorBody, headers: HeaderMap) -> Response<Bytes> {
    let body = serde_json::json!({ "error": error }).to_string();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    // Nothing else is here to ask for on this socket.
    headers.append(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer as HTTP/1.1 writes it (RFC 9112), the last one on its socket. Without a body it is a head that what is to
/// be streamed follows, up to the end of the connection (section 6.3 item 8).
pub(crate) fn to_http1(response: &Response<Bytes>) -> Vec<u8> {
    let (status, body) = (response.status(), response.body());
    let mut headers = response.headers().clone();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now())) {
        headers.insert(DATE, date);
    }
    if !body.is_empty() {
        headers.insert(CONTENT_LENGTH, body.len().into());
    }
    let mut out = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    out.reserve(512 + body.len());
    let mut out = out.into_bytes();
    for (name, value) in &headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::ErrorCode;

    use super::*;

    #[test]
    fn an_answer_is_written_whole() {
        let body = ErrorBody::new(ErrorCode::Unauthorized, "no");
        let text = String::from_utf8(to_http1(&error(StatusCode::UNAUTHORIZED, &body, HeaderMap::new()))).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"error":{"code":"UNAUTHORIZED","message":"no","retryable":false}}"#);
        let mut lines = head.lines();
        assert_eq!(lines.next(), Some("HTTP/1.1 401 Unauthorized"));
        let lines: Vec<&str> = lines.collect();
        for line in ["connection: close", "content-type: application/json", &format!("content-length: {}", body.len())]
        {
            assert!(lines.contains(&line), "{line} is not in {lines:?}");
        }
        assert!(lines.iter().any(|line| line.starts_with("date: ") && line.ends_with(" GMT")), "{lines:?}");
    }

    #[test]
    fn a_head_alone_has_no_length() {
        let text = String::from_utf8(to_http1(&Response::new(Bytes::new()))).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(!text.contains("content-length") && text.contains("connection: close\r\n"), "{text}");
    }
}
