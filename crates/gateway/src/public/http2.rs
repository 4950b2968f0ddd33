//! Sockets that speak HTTP/2 by prior knowledge (RFC 9113 section 3.3), as load balancers do: many streams on one socket.
//! WebSockets are not among them. What else begins with a P ends up here too, and is refused over HTTP/1.1.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use hyper::{
    Request, Response, Version,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{CONNECTION, HOST, HeaderValue},
    rt::Executor,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::sync::Notify;
use tracing::debug;

use super::{Begun, PublicHttp, Routed, count_refused};
use crate::{
    limits::{CLOSE_LINGER, HTTP2_HEADER_BYTES, HTTP2_SEND_BYTES, HTTP2_STREAMS, HTTP2_WINDOW_BYTES},
    shard::{Chunk, InHandshake, Opened, Shard, StreamBody},
};

/// Puts hyper's futures on the shard's thread.
#[derive(Clone, Copy)]
struct ShardExecutor;

impl<F: Future + 'static> Executor<F> for ShardExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Requests of one socket that are not over, and who waits to see that there are none.
#[derive(Default)]
struct Requests {
    open: Cell<usize>,
    /// There was one, so that the socket was no handshake that failed.
    any: Cell<bool>,
    changed: Notify,
}

/// One of them.
struct OpenRequest(Rc<Requests>);

/// Counts a socket for as long as it is served.
struct OpenSocket(Arc<AtomicUsize>);

/// An answer's body.
enum AnswerBody {
    Whole(Option<Chunk>),
    Stream { body: StreamBody, _open: OpenRequest },
}

impl PublicHttp {
    /// Serves one socket to its end. While no request is open it counts as one in its handshake, and has as long.
    pub(super) async fn serve_http2(self: Arc<Self>, shard: Rc<Shard>, begun: Begun, mut in_handshake: InHandshake) {
        let _counted = OpenSocket::new(self.http2_sockets.clone());
        let requests = Rc::new(Requests::default());
        let service = {
            let (http, shard, requests) = (self.clone(), shard.clone(), requests.clone());
            service_fn(move |request| http.clone().answer_http2(shard.clone(), requests.clone(), request))
        };
        let builder = self.http2_builder();
        let mut serving = pin!(builder.serve_connection(TokioIo::new(begun), service));
        let mut draining = false;
        loop {
            let idle = requests.open.get() == 0;
            in_handshake.set(idle);
            let patience = async {
                match (idle, draining) {
                    (true, false) => tokio::time::sleep(self.handshake_timeout).await,
                    (true, true) => tokio::time::sleep(CLOSE_LINGER).await,
                    (false, _) => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = &mut serving => {
                    if let Err(error) = ended {
                        debug!(error, "an HTTP/2 socket failed");
                        requests.count_refused("http");
                    }
                    return;
                }
                () = requests.changed.notified() => {}
                () = self.draining.cancelled(), if !draining => {
                    draining = true;
                    serving.as_mut().graceful_shutdown();
                }
                () = patience => return requests.count_refused("timeout"),
            }
        }
    }

    fn http2_builder(&self) -> auto::Builder<ShardExecutor> {
        let mut builder = auto::Builder::new(ShardExecutor);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.session_config.ping_interval)
            .keep_alive_timeout(self.session_config.pong_timeout)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_send_buf_size(HTTP2_SEND_BYTES)
            .max_header_list_size(HTTP2_HEADER_BYTES)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES);
        builder.http1().half_close(false).max_buf_size(HTTP2_HEADER_BYTES as usize);
        builder
    }

    async fn answer_http2(
        self: Arc<Self>,
        shard: Rc<Shard>,
        requests: Rc<Requests>,
        mut request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Infallible> {
        let open = OpenRequest::new(requests);
        let is_http2 = request.version() == Version::HTTP_2;
        // What HTTP/1.1 has in Host stands in the target here (RFC 9113 section 8.3.1).
        if let Some(authority) = request.uri().authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(HOST, host);
        }
        let mut answer = match self.route(&request) {
            Routed::Stream(opening) if is_http2 => match shard.open_http2_stream(*opening).await {
                Opened::Stream { head, body } => {
                    return Ok(head.map(|_| AnswerBody::Stream { body, _open: open }));
                }
                Opened::Refused(answer) => answer,
            },
            Routed::Answer(answer) => answer,
            // Nothing comes here over HTTP/1.1 whose method is GET.
            Routed::Stream(_) | Routed::WebSocket { .. } => super::refused::Refused::Method.answer(),
        };
        if is_http2 {
            answer.headers_mut().remove(CONNECTION);
        }
        Ok(answer.map(AnswerBody::whole))
    }
}

impl Requests {
    /// Counts the socket as one that was given up, unless it was of use before.
    fn count_refused(&self, reason: &'static str) {
        if !self.any.get() {
            count_refused(reason);
        }
    }
}

impl OpenRequest {
    fn new(requests: Rc<Requests>) -> Self {
        requests.any.set(true);
        requests.open.update(|open| open + 1);
        requests.changed.notify_one();
        Self(requests)
    }
}

impl OpenSocket {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.update(|open| open - 1);
        self.0.changed.notify_one();
    }
}

impl AnswerBody {
    fn whole(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then(|| Chunk::whole((&*bytes).into())))
    }
}

impl Body for AnswerBody {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, Infallible>>> {
        let chunk = match self.get_mut() {
            Self::Whole(chunk) => Poll::Ready(chunk.take()),
            Self::Stream { body, .. } => body.poll_chunk(cx),
        };
        chunk.map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(chunk) => SizeHint::with_exact(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64)),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}
