//! The public port's HTTP: the WebSocket handshake, streams of server-sent events, and an answer to everything else.
//!
//! A socket that becomes a WebSocket or a stream over HTTP/1.1 is taken back from hyper and belongs to its shard from
//! then on. Over HTTP/2 the socket stays with hyper, and the shard has the streams on it.

mod answer;
mod http1;
mod http2;
mod refused;
mod stream;
mod token;

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_protocol::Watch;
use fanfare_session::{Asked, Handshake, SessionConfig};
use hyper::{Request, Response, body::Bytes};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    encoding::Variant,
    origin::OriginPolicy,
    shard::{InHandshake, Shard, StreamOpening},
    websocket::Upgrade,
};
pub(crate) use answer::to_http1;
use refused::Refused;
pub(crate) use refused::count_refused;
pub(crate) use stream::refuse_stream;

/// What the public port is told by the configuration; shared by all shards.
#[derive(Debug)]
pub(crate) struct PublicHttp {
    /// Paths where WebSocket clients connect.
    pub(crate) websocket_paths: Vec<String>,
    /// Paths where clients of server-sent events connect.
    pub(crate) sse_paths: Vec<String>,
    /// Which web pages may connect.
    pub(crate) origins: OriginPolicy,
    /// The cookie that may carry a token.
    pub(crate) cookie: Option<String>,
    /// Whether permessage-deflate is offered.
    pub(crate) compression: bool,
    /// From the accepted socket to the end of the handshake.
    pub(crate) handshake_timeout: Duration,
    /// What sessions are told; which namespaces keep history is known there.
    pub(crate) session_config: Arc<SessionConfig>,
    /// Connections of this node.
    pub(crate) max_connections: usize,
    /// Connections of this node now, by shard.
    pub(crate) connections: Vec<Arc<AtomicUsize>>,
    /// Sockets that speak HTTP/2, with streams or without.
    pub(crate) http2_sockets: Arc<AtomicUsize>,
    /// Cancelled when the node begins to go away.
    pub(crate) draining: CancellationToken,
}

/// What a request comes to.
enum Routed {
    /// It becomes a WebSocket.
    WebSocket { upgrade: Upgrade, variant: Variant, handshake: Handshake },
    /// It becomes a stream of server-sent events; the shard answers it.
    Stream(Box<StreamOpening>),
    /// It is answered, and that is all.
    Answer(Response<Bytes>),
}

impl PublicHttp {
    /// Serves one socket: until it is handed to the shard, or, over HTTP/2, until it ends.
    pub(crate) async fn serve(self: Arc<Self>, shard: Rc<Shard>, stream: TcpStream, in_handshake: InHandshake) {
        // One byte tells: only the preface of HTTP/2 (RFC 9113 section 3.4) and methods that are refused begin with a P.
        let mut first = [0];
        match tokio::time::timeout(self.handshake_timeout, stream.peek(&mut first)).await {
            Ok(Ok(_)) if first == *b"P" => Box::pin(self.serve_http2(shard, stream, in_handshake)).await,
            Ok(Ok(_)) => self.serve_http1(shard, stream).await,
            Ok(Err(error)) => {
                debug!(%error, "a socket ended before its request");
                count_refused("http");
            }
            Err(_) => count_refused("timeout"),
        }
    }

    fn route<B>(&self, request: &Request<B>) -> Routed {
        let path = request.uri().path();
        if self.sse_paths.iter().any(|own| own == path) {
            return self.route_stream(request);
        }
        match self.upgrade(request) {
            Ok((upgrade, handshake)) => {
                let variant = Variant::new(upgrade.subprotocol.dialect, upgrade.deflate.is_some());
                Routed::WebSocket { upgrade, variant, handshake }
            }
            Err(refused) => Routed::Answer(refused.answer()),
        }
    }

    fn upgrade<B>(&self, request: &Request<B>) -> Result<(Upgrade, Handshake), Refused> {
        let path = request.uri().path();
        if !self.websocket_paths.iter().any(|own| own == path) {
            return Err(Refused::NotFound { path: path.into(), places: self.places() });
        }
        self.origins.check(request.headers())?;
        let upgrade = Upgrade::from_request(request, self.compression)?;
        let handshake = self.handshake(request, &upgrade)?;
        self.check_room()?;
        Ok((upgrade, handshake))
    }

    /// Token and channels. Of several tokens the one that was given most deliberately counts: subprotocol, header, query, cookie.
    fn handshake<B>(&self, request: &Request<B>, upgrade: &Upgrade) -> Result<Handshake, Refused> {
        let mut channels = Vec::new();
        let (mut query_token, mut rewind, mut watch) = (None, 0, Watch::Default);
        for (name, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            match &*name {
                "channels" => channels.extend(value.split(',').filter(|name| !name.is_empty()).map(asked)),
                "rewind" => rewind = value.parse().map_err(|_| Refused::Rewind(value.chars().take(100).collect()))?,
                "presence" => {
                    watch =
                        Watch::from_word(&value).ok_or_else(|| Refused::Presence(value.chars().take(100).collect()))?;
                }
                "token" if !value.is_empty() => query_token = Some(value.into_owned()),
                _ => {}
            }
        }
        for asked in &mut channels {
            asked.start.rewind = rewind;
            asked.watch = watch;
        }
        let headers = request.headers();
        let mut token = upgrade.subprotocol.token.clone().or_else(|| token::bearer(headers)).or(query_token);
        if token.is_none() {
            token = self.cookie.as_deref().and_then(|name| token::cookie(headers, name));
            if token.is_some() {
                self.origins.check_with_cookie(headers)?;
            }
        }
        Ok(Handshake { token, channels })
    }

    /// What there is instead, for people.
    fn places(&self) -> String {
        let mut places = format!("WebSocket clients connect at {}", self.websocket_paths.join(", "));
        if !self.sse_paths.is_empty() {
            places += &format!(", clients of server-sent events at {}", self.sse_paths.join(", "));
        }
        places
    }

    fn check_room(&self) -> Result<(), Refused> {
        let connections = self.connections.iter().map(|shard| shard.load(Ordering::Relaxed)).sum();
        if connections >= self.max_connections { Err(Refused::Full(connections)) } else { Ok(()) }
    }
}

fn asked(name: &str) -> Asked {
    Asked { name: name.to_owned(), ..Asked::default() }
}
