//! Plain requests: what nearly every WebSocket handshake is, read without an HTTP server.
//!
//! Plain is a whole GET over HTTP/1.1 without a body, for a path on this host. It is parsed by the parser that hyper uses,
//! into the same types. For all else, broken requests included, there is no answer here: it is read by hyper from its
//! first byte on.

use hyper::{
    Method, Request, Uri, Version,
    body::Bytes,
    header::{CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING},
};

/// Headers of a plain request. Browsers send about fifteen.
const MAX_HEADERS: usize = 48;
/// Bytes of a plain request's head. hyper takes four times as much.
const MAX_BYTES: usize = 8 * 1024;

/// Reads a plain request, with its length. `None` for all that is not.
pub(super) fn parse(input: &[u8]) -> Option<(Request<()>, usize)> {
    // hyper would begin with what a broken client sends in front.
    if !input.starts_with(b"GET /") {
        return None;
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(length)) = head.parse(input) else { return None };
    if head.version != Some(1) || length > MAX_BYTES {
        return None;
    }
    let bytes = Bytes::copy_from_slice(&input[..length]);
    let part = |part: &[u8]| {
        let start = part.as_ptr() as usize - input.as_ptr() as usize;
        bytes.slice(start..start + part.len())
    };
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].contains(&name) {
            return None;
        }
        headers.append(name, HeaderValue::from_maybe_shared(part(field.value)).ok()?);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from_maybe_shared(part(head.path?.as_bytes())).ok()?;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some((request, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "GET /ws?channels=a HTTP/1.1\r\nHost: x\r\nCookie: a=1\r\ncookie: b=2\r\nX-Empty:\r\n\r\n";

    #[test]
    fn a_plain_request_is_read_whole() {
        let input = format!("{PLAIN}\u{81}more");
        let (request, length) = parse(input.as_bytes()).unwrap();
        assert_eq!(length, PLAIN.len());
        assert_eq!((request.method(), request.version()), (&Method::GET, Version::HTTP_11));
        assert_eq!((request.uri().path(), request.uri().query()), ("/ws", Some("channels=a")));
        let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(request.headers()["x-empty"], "");
        assert_eq!(request.headers().len(), 4);
    }

    #[test]
    fn all_else_is_left_to_the_http_server() {
        let with = |field: &str| PLAIN.replace("Host: x", &format!("Host: x\r\n{field}"));
        let many = (0..MAX_HEADERS).map(|number| format!("a{number}: b")).collect::<Vec<_>>().join("\r\n");
        for unusual in [
            String::new(),
            "\r\n".to_owned() + PLAIN,
            PLAIN[..PLAIN.len() - 1].to_owned(),
            PLAIN.replace("GET", "get"),
            PLAIN.replace("GET", "POST"),
            PLAIN.replace("/ws", "http://x/ws"),
            PLAIN.replace("1.1", "1.0"),
            PLAIN.replace("Host: x", "Host x"),
            PLAIN.replace("?channels=a", "?channels=\u{0}"),
            with("Content-Length: 0"),
            with("Transfer-Encoding: chunked"),
            with("Expect: 100-continue"),
            with(&many),
            with(&format!("a: {}", "b".repeat(MAX_BYTES))),
        ] {
            assert!(parse(unusual.as_bytes()).is_none(), "{unusual:?}");
        }
    }
}
