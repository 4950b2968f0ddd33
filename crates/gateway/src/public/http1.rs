//! One socket that speaks HTTP/1.1: one request, after which it is the shard's, or ends.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{self, poll_fn},
    rc::Rc,
    task::Poll,
};

use futures_util::future::Either;
use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::{Begun, PublicHttp, Routed, count_refused};
use crate::{
    encoding::Variant,
    shard::{Adopted, Shard, StreamOpening},
};

/// What became of the request, until its socket is there.
enum Accepted {
    WebSocket {
        variant: Variant,
        handshake: fanfare_session::Handshake,
    },
    /// It is answered by the shard.
    Stream(Box<StreamOpening>),
}

impl PublicHttp {
    /// Serves one socket until its handshake is done, and hands it to the shard.
    pub(super) async fn serve_http1(&self, shard: Rc<Shard>, begun: Begun) {
        let accepted: RefCell<Option<Accepted>> = RefCell::new(None);
        let service = service_fn(|request: Request<_>| self.answer_http1(&request, &accepted));
        let mut serving = http1::Builder::new()
            .half_close(false)
            .max_buf_size(32 * 1024)
            .serve_connection(TokioIo::new(begun), service);
        // The answer 101 ends HTTP on this socket; a stream is not answered here at all. Either way the socket comes back
        // with what was read too much.
        let done = poll_fn(|cx| match serving.poll_without_shutdown(cx) {
            Poll::Pending if matches!(*accepted.borrow(), Some(Accepted::Stream(_))) => Poll::Ready(Ok(())),
            polled => polled,
        });
        match tokio::time::timeout(self.handshake_timeout, done).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(%error, "a handshake failed");
                return count_refused("http");
            }
            Err(_) => return count_refused("timeout"),
        }
        let parts = serving.into_parts();
        let (stream, mut left) = parts.io.into_inner().into_parts();
        match accepted.take() {
            Some(Accepted::WebSocket { variant, handshake }) => {
                let mut unread = parts.read_buf.to_vec();
                unread.append(&mut left);
                // The runtime has no part in it any more.
                let Ok(stream) = stream.into_std() else { return count_refused("http") };
                shard.adopt(Adopted { stream, answer: None, unread: &mut unread, variant, handshake });
            }
            // What came behind the request is not for a stream.
            Some(Accepted::Stream(opening)) => shard.open_stream(stream, *opening),
            None => {}
        }
    }

    /// A future without an end where the shard answers.
    fn answer_http1<B>(
        &self,
        request: &Request<B>,
        accepted: &RefCell<Option<Accepted>>,
    ) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Unpin + use<B> {
        let answer = match self.route(request) {
            Routed::WebSocket { upgrade, variant, handshake } => {
                accepted.replace(Some(Accepted::WebSocket { variant, handshake }));
                upgrade.response()
            }
            Routed::Answer(answer) => answer.map(Full::new),
            Routed::Stream(opening) => {
                accepted.replace(Some(Accepted::Stream(opening)));
                return Either::Right(future::pending());
            }
        };
        Either::Left(future::ready(Ok(answer)))
    }
}
