//! The public port's HTTP: the WebSocket handshake, streams of server-sent events, and an answer to everything else.
//!
//! A plain handshake is read and answered here; see [`plain`]. Everything else is hyper's. A socket that becomes a WebSocket
//! or a stream over HTTP/1.1 is taken back from it and belongs to its shard from then on. Over HTTP/2 the socket stays with
//! hyper, and the shard has the streams on it.

mod answer;
mod begun;
mod http1;
mod http2;
mod plain;
mod refused;
mod stream;
mod token;

use std::{
    future::poll_fn,
    io::{self, Read as _},
    net::TcpStream as StdTcpStream,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use fanfare_protocol::Watch;
use fanfare_session::{Asked, Handshake, SessionConfig};
use hyper::{Request, Response, body::Bytes};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    encoding::Variant,
    origin::OriginPolicy,
    shard::{Adopted, InHandshake, Shard, StreamOpening},
    websocket::Upgrade,
};
pub(crate) use answer::to_http1;
use begun::Begun;
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

/// A plain request that becomes a WebSocket.
struct PlainHandshake {
    upgrade: Upgrade,
    handshake: Handshake,
    /// Bytes of the request.
    length: usize,
}

impl PlainHandshake {
    /// Hands its socket to the shard, with what came behind the request. Nothing is left to be served.
    fn hand_over<T>(self, shard: &Rc<Shard>, stream: StdTcpStream, input: &mut [u8]) -> Option<T> {
        let Self { upgrade, handshake, length } = self;
        let variant = Variant::new(upgrade.subprotocol.dialect, upgrade.deflate.is_some());
        shard.adopt(Adopted { stream, answer: Some(&upgrade), unread: &mut input[length..], variant, handshake });
        None
    }
}

impl PublicHttp {
    /// Serves an accepted socket. Where its request is there already and is a plain handshake, as most are, it is the
    /// shard's when this returns.
    pub(crate) fn begin(self: &Arc<Self>, shard: &Rc<Shard>, socket: StdTcpStream, in_handshake: InHandshake) {
        // Before the runtime hears of the socket: else it would tell of what has been read.
        let rest = shard.with_read_buffer(|buffer| match (&socket).read(buffer) {
            Ok(count) => match self.plain(&buffer[..count]) {
                Some(plain) => plain.hand_over(shard, socket, &mut buffer[..count]),
                None => register(socket).map(|stream| Ok(Begun::new(stream, buffer[..count].to_vec()))),
            },
            Err(_) => register(socket).map(Err),
        });
        match rest {
            Some(Ok(begun)) => _ = tokio::task::spawn_local(self.clone().serve(shard.clone(), begun, in_handshake)),
            Some(Err(stream)) => _ = tokio::task::spawn_local(self.clone().wait(shard.clone(), stream, in_handshake)),
            None => {}
        }
    }

    /// Waits for the request of a socket, and serves it.
    async fn wait(self: Arc<Self>, shard: Rc<Shard>, stream: TcpStream, in_handshake: InHandshake) {
        let mut stream = Some(stream);
        let read = poll_fn(|cx| {
            shard.with_read_buffer(|buffer| {
                let mut unfilled = ReadBuf::new(buffer);
                let waiting = stream.as_mut().expect("it is taken once, when this ends");
                ready!(Pin::new(waiting).poll_read(cx, &mut unfilled))?;
                let count = unfilled.filled().len();
                let stream = stream.take().expect("it was there just now");
                Poll::Ready(io::Result::Ok(match self.plain(&buffer[..count]) {
                    Some(plain) => plain.hand_over(&shard, stream.into_std()?, &mut buffer[..count]),
                    None => Some(Begun::new(stream, buffer[..count].to_vec())),
                }))
            })
        });
        match tokio::time::timeout(self.handshake_timeout, read).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(begun))) => Box::pin(self.serve(shard, begun, in_handshake)).await,
            Ok(Err(error)) => {
                debug!(%error, "a socket ended before its request");
                count_refused("http");
            }
            Err(_) => count_refused("timeout"),
        }
    }

    /// Serves a socket whose request is not plain: until it is handed to the shard, or, over HTTP/2, until it ends.
    async fn serve(self: Arc<Self>, shard: Rc<Shard>, begun: Begun, in_handshake: InHandshake) {
        // The runtime may not have heard yet that it is; hyper gives up an answer to what is no HTTP that it cannot write.
        if !matches!(tokio::time::timeout(self.handshake_timeout, begun.writable()).await, Ok(Ok(()))) {
            return count_refused("http");
        }
        // One byte tells: only the preface of HTTP/2 (RFC 9113 section 3.4) and methods that are refused begin with a P.
        match begun.first() {
            Some(b'P') => self.serve_http2(shard, begun, in_handshake).await,
            _ => self.serve_http1(shard, begun).await,
        }
    }

    /// A plain handshake that is accepted. Whatever is to be refused is hyper's to refuse.
    fn plain(&self, input: &[u8]) -> Option<PlainHandshake> {
        let (request, length) = plain::parse(input)?;
        let (upgrade, handshake) = self.upgrade(&request).ok()?;
        Some(PlainHandshake { upgrade, handshake, length })
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

/// Has the runtime know of a socket.
fn register(socket: StdTcpStream) -> Option<TcpStream> {
    let stream = TcpStream::from_std(socket);
    stream.inspect_err(|error| warn!(%error, "an accepted socket could not be registered")).ok()
}

fn asked(name: &str) -> Asked {
    Asked { name: name.to_owned(), ..Asked::default() }
}
