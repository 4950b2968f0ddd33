//! The opening handshake (RFC 6455 section 4.2), over the request that the HTTP server has read.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hyper::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        ALLOW, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};

use super::{PerMessageDeflate, Subprotocol};

/// Section 1.3: what the key is joined with.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bits after the last whole byte are let pass: some clients make up the key's characters, and
/// nothing depends on them.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Why a request was not upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Section 4.1 item 2.
    #[error("a WebSocket is opened with GET")]
    Method,
    /// Section 4.1 item 2.
    #[error("a WebSocket is opened with HTTP/1.1")]
    HttpVersion,
    /// Section 4.2.1 items 3 and 4.
    #[error("this is a WebSocket: `Connection: Upgrade` and `Upgrade: websocket` are required")]
    NotAnUpgrade,
    /// Section 4.2.1 item 6.
    #[error("`Sec-WebSocket-Version` has to be 13")]
    Version,
    /// Section 4.2.1 item 5.
    #[error("`Sec-WebSocket-Key` has to be there once and to be 16 bytes in base64")]
    Key,
    /// Section 4.2.1 item 8.
    #[error("`Sec-WebSocket-Protocol` has to be a list of names, `bearer` with a token after it")]
    Subprotocol,
}

impl HandshakeError {
    /// The HTTP status to answer with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::HttpVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::NotAnUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key | Self::Subprotocol => StatusCode::BAD_REQUEST,
        }
    }

    /// The headers that belong to the status: what the client should do instead.
    #[must_use]
    pub fn headers(self) -> HeaderMap {
        let fields: &[(HeaderName, &'static str)] = match self {
            Self::Method => &[(ALLOW, "GET")],
            Self::NotAnUpgrade => &[(UPGRADE, "websocket"), (CONNECTION, "upgrade")],
            Self::Version => &[(UPGRADE, "websocket"), (CONNECTION, "upgrade"), (SEC_WEBSOCKET_VERSION, "13")],
            Self::HttpVersion | Self::Key | Self::Subprotocol => &[],
        };
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }
}

/// An opening handshake that can be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The answer's `Sec-WebSocket-Accept`.
    pub accept: HeaderValue,
    /// Compression, where it is allowed and the client offers it in a way that we take.
    pub deflate: Option<PerMessageDeflate>,
    /// Dialect, token, and the subprotocol to answer.
    pub subprotocol: Subprotocol,
}

impl Upgrade {
    /// Checks a request (RFC 6455 section 4.2.1). Path, origin and token are the caller's matter.
    ///
    /// # Errors
    /// The first rule that the request breaks, with its status.
    pub fn from_request<Body>(request: &Request<Body>, allow_compression: bool) -> Result<Self, HandshakeError> {
        Self::new(request.method(), request.version(), request.headers(), allow_compression)
    }

    /// The same, over the parts of a request.
    ///
    /// # Errors
    /// The first rule that the request breaks, with its status.
    pub fn new(
        method: &Method,
        version: Version,
        headers: &HeaderMap,
        allow_compression: bool,
    ) -> Result<Self, HandshakeError> {
        if method != Method::GET {
            return Err(HandshakeError::Method);
        }
        if version != Version::HTTP_11 {
            return Err(HandshakeError::HttpVersion);
        }
        if !names(headers, CONNECTION, "upgrade") || !names(headers, UPGRADE, "websocket") {
            return Err(HandshakeError::NotAnUpgrade);
        }
        if only(headers, SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(HandshakeError::Version);
        }
        let key = only(headers, SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?;
        let mut bytes = [0; 18];
        if !matches!(KEY.decode_slice(key, &mut bytes), Ok(16)) {
            return Err(HandshakeError::Key);
        }
        Ok(Self {
            accept: accept(key.as_bytes()),
            subprotocol: Subprotocol::choose(headers)?,
            deflate: allow_compression.then(|| PerMessageDeflate::negotiate(headers)).flatten(),
        })
    }

    /// The answer as HTTP/1.1 writes it (RFC 9112), for a socket that no HTTP server has.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ",
        );
        out.extend_from_slice(self.accept.as_bytes());
        if let Some(deflate) = self.deflate {
            out.extend_from_slice(b"\r\nsec-websocket-extensions: ");
            out.extend_from_slice(deflate.header_value().as_bytes());
        }
        if let Some(protocol) = self.subprotocol.answer {
            out.extend_from_slice(b"\r\nsec-websocket-protocol: ");
            out.extend_from_slice(protocol.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// The answer, 101 Switching Protocols (RFC 6455 section 4.2.2).
    #[must_use]
    pub fn response<Body: Default>(&self) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if let Some(deflate) = self.deflate {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, deflate.header_value());
        }
        if let Some(protocol) = self.subprotocol.answer {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2 item 5.4).
#[must_use]
pub fn accept(key: &[u8]) -> HeaderValue {
    let mut sha1 = sha1_smol::Sha1::new();
    sha1.update(key);
    sha1.update(GUID);
    HeaderValue::from_str(&KEY.encode(sha1.digest().bytes())).expect("base64 is visible ASCII")
}

/// Whether a header that is a list contains `wanted`, in any case.
fn names(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

/// The value of a header that is there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_protocol::Dialect;

    /// The request of RFC 6455 section 1.3.
    fn request() -> Request<()> {
        Request::builder()
            .uri("/chat")
            .header("Host", "server.example.com")
            .header("Upgrade", "websocket")
            .header("Connection", "keep-alive, Upgrade")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Version", "13")
            .body(())
            .unwrap()
    }

    fn refused(change: impl FnOnce(&mut Request<()>)) -> HandshakeError {
        let mut request = request();
        change(&mut request);
        Upgrade::from_request(&request, true).unwrap_err()
    }

    #[test]
    fn the_standards_example() {
        let upgrade = Upgrade::from_request(&request(), true).unwrap();
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(upgrade.deflate, None);
        assert_eq!(upgrade.subprotocol.dialect, Dialect::Json);
        let response: Response<()> = upgrade.response();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers().len(), 3);
    }

    #[test]
    fn the_answer_names_what_was_agreed() {
        let mut request = request();
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("permessage-deflate"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("fanfare.v1.msgpack, bearer, secret"));
        let response: Response<()> = Upgrade::from_request(&request, true).unwrap().response();
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "fanfare.v1.msgpack");
        assert_eq!(
            response.headers()[SEC_WEBSOCKET_EXTENSIONS],
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        );
        let without = Upgrade::from_request(&request, false).unwrap();
        assert_eq!(without.deflate, None);
    }

    #[test]
    fn both_answers_say_the_same() {
        for (extensions, protocols) in [("x", "graphql-ws"), ("permessage-deflate", "fanfare.v1.json, bearer, secret")]
        {
            let mut request = request();
            let headers = request.headers_mut();
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(extensions));
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
            let upgrade = Upgrade::from_request(&request, true).unwrap();
            let mut written = Vec::new();
            upgrade.write_response(&mut written);
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut parsed = httparse::Response::new(&mut fields);
            assert_eq!(parsed.parse(&written), Ok(httparse::Status::Complete(written.len())));
            let response: Response<()> = upgrade.response();
            assert_eq!(parsed.code, Some(response.status().as_u16()));
            let told: Vec<_> = parsed.headers.iter().map(|field| (field.name, field.value)).collect();
            let headers = response.headers().iter();
            let same: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            assert!(same.iter().all(|field| told.contains(field)) && told.len() == same.len(), "{told:?} {same:?}");
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        use HandshakeError::{HttpVersion, Key, Method as MethodError, NotAnUpgrade, Version as V};
        fn set(name: HeaderName, value: &'static str) -> impl FnOnce(&mut Request<()>) {
            move |request| {
                request.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        fn without(name: HeaderName) -> impl FnOnce(&mut Request<()>) {
            move |request| {
                request.headers_mut().remove(name);
            }
        }
        assert_eq!(refused(|r| *r.method_mut() = Method::POST), MethodError);
        assert_eq!(refused(|r| *r.version_mut() = Version::HTTP_10), HttpVersion);
        assert_eq!(refused(without(UPGRADE)), NotAnUpgrade);
        assert_eq!(refused(set(UPGRADE, "h2c")), NotAnUpgrade);
        assert_eq!(refused(without(CONNECTION)), NotAnUpgrade);
        assert_eq!(refused(set(CONNECTION, "keep-alive")), NotAnUpgrade);
        assert_eq!(refused(without(SEC_WEBSOCKET_VERSION)), V);
        assert_eq!(refused(set(SEC_WEBSOCKET_VERSION, "8")), V);
        assert_eq!(refused(without(SEC_WEBSOCKET_KEY)), Key);
        for key in ["", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZQ", "not base64 at all!!!!!!=", "dGhlIHNhbXBsZSBub25jZSE="] {
            assert_eq!(refused(set(SEC_WEBSOCKET_KEY, key)), Key, "{key}");
        }
        let twice = refused(|r| {
            let key = r.headers()[SEC_WEBSOCKET_KEY].clone();
            r.headers_mut().append(SEC_WEBSOCKET_KEY, key);
        });
        assert_eq!(twice, Key);
        assert_eq!(refused(set(SEC_WEBSOCKET_PROTOCOL, "bearer")), HandshakeError::Subprotocol);
    }

    #[test]
    fn an_old_version_is_told_ours() {
        let error = refused(|r| {
            r.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        });
        assert_eq!(error.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(error.headers()[SEC_WEBSOCKET_VERSION], "13");
    }
}
