//! The public port's HTTP: the WebSocket handshake, and an answer to everything else.

use std::{
    cell::RefCell,
    convert::Infallible,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_protocol::{ErrorBody, ErrorCode};
use fanfare_session::{Asked, Handshake};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::debug;

use crate::{
    encoding::Variant,
    origin::{OriginError, OriginPolicy},
    shard::{Adopted, Shard},
    telemetry::metrics::HANDSHAKES_REFUSED_TOTAL,
    websocket::{HandshakeError, Subprotocol, Upgrade},
};

/// What clients are told to wait where the node has no room for them.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// What the public port is told by the configuration; shared by all shards.
#[derive(Debug)]
pub(crate) struct PublicHttp {
    /// Paths where WebSocket clients connect.
    pub(crate) paths: Vec<String>,
    /// Which web pages may connect.
    pub(crate) origins: OriginPolicy,
    /// The cookie that may carry a token.
    pub(crate) cookie: Option<String>,
    /// Whether permessage-deflate is offered.
    pub(crate) compression: bool,
    /// From the accepted socket to the end of the handshake.
    pub(crate) handshake_timeout: Duration,
    /// Connections of this node.
    pub(crate) max_connections: usize,
    /// Connections of this node now, by shard.
    pub(crate) connections: Vec<Arc<AtomicUsize>>,
}

/// Why a request was not upgraded.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0} is not here; WebSocket clients connect at {1}")]
    NotFound(String, String),
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("rewind={0:?} is no number of publications")]
    Rewind(String),
    #[error("this node has {0} connections; that is its limit")]
    Full(usize),
}

/// A handshake that was accepted, until its answer is written.
struct Accepted {
    variant: Variant,
    handshake: Handshake,
}

impl PublicHttp {
    /// Serves one socket until its handshake is done, and hands it to the shard.
    pub(crate) async fn serve(self: Arc<Self>, shard: Rc<Shard>, stream: TcpStream) {
        let accepted: RefCell<Option<Accepted>> = RefCell::new(None);
        let service = service_fn(|request| std::future::ready(self.answer(&request, &accepted)));
        let serving = http1::Builder::new()
            .half_close(false)
            .max_buf_size(32 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .without_shutdown();
        // The answer 101 ends HTTP on this socket, and the socket comes back with what was read too much.
        let parts = match tokio::time::timeout(self.handshake_timeout, serving).await {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => {
                debug!(%error, "a handshake failed");
                return count_refused("http");
            }
            Err(_) => return count_refused("timeout"),
        };
        if let Some(Accepted { variant, handshake }) = accepted.take() {
            let stream = parts.io.into_inner();
            shard.adopt(Adopted { stream, unread: parts.read_buf.to_vec(), variant, handshake });
        }
    }

    fn answer(
        &self,
        request: &Request<Incoming>,
        accepted: &RefCell<Option<Accepted>>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(match self.upgrade(request) {
            Ok((upgrade, handshake)) => {
                let variant = Variant::new(upgrade.subprotocol.dialect, upgrade.deflate.is_some());
                accepted.replace(Some(Accepted { variant, handshake }));
                upgrade.response()
            }
            Err(refused) => {
                debug!(%refused, "a handshake was refused");
                count_refused(refused.reason());
                refused.response()
            }
        })
    }

    fn upgrade(&self, request: &Request<Incoming>) -> Result<(Upgrade, Handshake), Refused> {
        let path = request.uri().path();
        if !self.paths.iter().any(|own| own == path) {
            return Err(Refused::NotFound(path.into(), self.paths.join(", ")));
        }
        self.origins.check(request.headers())?;
        let upgrade = Upgrade::from_request(request, self.compression)?;
        let handshake = self.handshake(request, &upgrade.subprotocol)?;
        let connections = self.connections.iter().map(|shard| shard.load(Ordering::Relaxed)).sum();
        if connections >= self.max_connections {
            return Err(Refused::Full(connections));
        }
        Ok((upgrade, handshake))
    }

    /// Token and channels. Of several tokens the one that was given most deliberately counts: subprotocol, header, query, cookie.
    fn handshake(&self, request: &Request<Incoming>, subprotocol: &Subprotocol) -> Result<Handshake, Refused> {
        let mut channels = Vec::new();
        let (mut query_token, mut rewind) = (None, 0);
        for (name, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            match &*name {
                "channels" => channels.extend(value.split(',').filter(|name| !name.is_empty()).map(asked)),
                "rewind" => rewind = value.parse().map_err(|_| Refused::Rewind(value.chars().take(100).collect()))?,
                "token" if !value.is_empty() => query_token = Some(value.into_owned()),
                _ => {}
            }
        }
        channels.iter_mut().for_each(|asked| asked.start.rewind = rewind);
        let headers = request.headers();
        let mut token = subprotocol.token.clone().or_else(|| bearer(headers)).or(query_token);
        if token.is_none() {
            token = self.cookie.as_deref().and_then(|name| cookie(headers, name));
            if token.is_some() {
                self.origins.check_with_cookie(headers)?;
            }
        }
        Ok(Handshake { token, channels })
    }
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(..) => "not_found",
            Self::Origin(error) => error.reason(),
            Self::Handshake(_) => "handshake",
            Self::Rewind(_) => "rewind",
            Self::Full(_) => "full",
        }
    }

    /// The same JSON as the internal API's errors.
    fn response(&self) -> Response<Full<Bytes>> {
        let (status, code) = match self {
            Self::NotFound(..) => (StatusCode::NOT_FOUND, ErrorCode::NotFound),
            Self::Origin(_) => (StatusCode::FORBIDDEN, ErrorCode::Forbidden),
            Self::Rewind(_) => (StatusCode::BAD_REQUEST, ErrorCode::BadRequest),
            Self::Handshake(error) => (error.status(), ErrorCode::BadRequest),
            Self::Full(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        };
        let mut error = ErrorBody::new(code, self.to_string());
        let mut headers = HeaderMap::new();
        match self {
            Self::Handshake(handshake) => headers = handshake.headers(),
            Self::Full(_) => {
                error.reconnect_after_ms = Some(FULL_RETRY.as_millis() as u64);
                headers.insert(RETRY_AFTER, FULL_RETRY.as_secs().into());
            }
            _ => {}
        }
        // Nothing else is here to ask for on this socket.
        headers.append(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = serde_json::json!({ "error": error }).to_string();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().extend(headers);
        response
    }
}

fn asked(name: &str) -> Asked {
    Asked { name: name.to_owned(), ..Asked::default() }
}

/// Counts a socket that did not become a connection.
pub(crate) fn count_refused(reason: &'static str) {
    metrics::counter!(HANDSHAKES_REFUSED_TOTAL, "reason" => reason).increment(1);
}

/// The token of `Authorization: Bearer …` (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// The value of a cookie (RFC 6265 section 5.4).
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_in_the_header_or_in_a_cookie() {
        assert_eq!(bearer(&headers(&[("authorization", "bearer abc")])).as_deref(), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
        let cookies = headers(&[("cookie", "a=1; session=tok=en; b=2")]);
        assert_eq!(cookie(&cookies, "session").as_deref(), Some("tok=en"));
        assert_eq!(cookie(&cookies, "sess"), None);
    }

    #[tokio::test]
    async fn a_full_node_says_when_to_come_back() {
        let response = Refused::Full(10).response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(
            body,
            r#"{"error":{"code":"UNAVAILABLE","message":"this node has 10 connections; that is its limit","reconnect_after_ms":5000,"retryable":true}}"#
        );
    }
}
