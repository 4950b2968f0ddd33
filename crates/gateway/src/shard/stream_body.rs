//! A stream over HTTP/2: hyper has the socket, and takes from the connection's outbox what the client has room for.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::{
    Response,
    body::{Buf, Bytes},
};

use super::{Shard, connection::State, outbox::Piece, streaming::Stage};
use crate::{hub::message::ConnectionId, limits::HTTP2_CHUNK_BYTES};

/// A part of a piece.
#[derive(Debug)]
pub(crate) struct Chunk {
    piece: Piece,
    range: Range<usize>,
}

/// What came of a request for a stream.
pub(crate) enum Opened {
    /// There is one.
    Stream {
        /// What its answer begins with.
        head: Response<Bytes>,
        /// All of the rest.
        body: StreamBody,
    },
    /// There is none; this is answered.
    Refused(Response<Bytes>),
}

/// Waits for the session to know who the client is.
pub(crate) struct OpeningStream(Option<StreamBody>);

/// The body of a stream's answer. Its end is the connection's.
pub(crate) struct StreamBody {
    shard: Rc<Shard>,
    id: ConnectionId,
}

impl Chunk {
    /// All of a piece.
    pub(crate) fn whole(piece: Piece) -> Self {
        let range = 0..piece.len();
        Self { piece, range }
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.piece[self.range.clone()]
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "a chunk is advanced within itself");
        self.range.start += count;
    }
}

impl OpeningStream {
    pub(super) fn new(shard: Rc<Shard>, id: ConnectionId) -> Self {
        Self(Some(StreamBody { shard, id }))
    }
}

impl Future for OpeningStream {
    type Output = Opened;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Opened> {
        let body = self.0.take().expect("a future is not polled after its end");
        match body.poll_stage(cx) {
            Some(Stage::Accepted(head)) => Poll::Ready(Opened::Stream { head: *head, body }),
            Some(Stage::Refused(answer)) => Poll::Ready(Opened::Refused(*answer)),
            _ => {
                self.0 = Some(body);
                Poll::Pending
            }
        }
    }
}

impl StreamBody {
    /// The answer, once there is one.
    fn poll_stage(&self, cx: &mut Context<'_>) -> Option<Stage> {
        let mut state = self.shard.state.borrow_mut();
        let index = state.place(self.id)?;
        let connection = &mut state.connections[index];
        let events = connection.events.as_deref_mut()?;
        events.keep_waker(cx.waker());
        match events.stage {
            Stage::Opening(_) => None,
            _ => Some(std::mem::replace(&mut events.stage, Stage::Answered)),
        }
    }

    /// What is to be written next; `None` at the end of the stream.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        let mut state = self.shard.state.borrow_mut();
        let state = &mut *state;
        let Some(index) = state.place(self.id) else { return Poll::Ready(None) };
        let connection = &mut state.connections[index];
        if let Some(events) = connection.events.as_deref_mut() {
            events.keep_waker(cx.waker());
        }
        if connection.outbox.is_empty() && connection.aside.is_some() {
            connection.blocked = false;
            self.shard.write(state, index);
        }
        let connection = &mut state.connections[index];
        if let Some((piece, range)) = connection.outbox.take(HTTP2_CHUNK_BYTES) {
            state.metrics.delivered_bytes += range.len() as u64;
            return Poll::Ready(Some(Chunk { piece, range }));
        }
        connection.blocked = false;
        match connection.state {
            State::Open => Poll::Pending,
            State::Closing(_) | State::Dead => Poll::Ready(None),
        }
    }
}

/// The client has the whole answer, or does not want it any more, or is gone.
impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut state = self.shard.state.borrow_mut();
        let state = &mut *state;
        let Some(index) = state.place(self.id) else { return };
        state.metrics.gone(state.connections[index].state == State::Open);
        self.shard.remove(state, index);
    }
}
