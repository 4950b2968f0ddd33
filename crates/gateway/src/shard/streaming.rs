//! Streams of server-sent events: connections whose clients only listen.
//!
//! A stream is a connection like the others, with the same session, outbox and limits. What differs is how it is begun
//! (its answer waits until the session knows who the client is), how events are written (with the positions of all its
//! channels), and how it ends.

use std::{net::Shutdown, rc::Rc, sync::Arc, task::Waker, time::Duration};

use fanfare_protocol::{CloseCode, ErrorBody, ErrorCode, Push, ServerMessage, Subscribed, json};
use fanfare_session::{Handshake, Time};
use hyper::{Response, body::Bytes};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Shard, ShardState, connection::Transport, delivery::spread, outbox::Piece, stream_body::OpeningStream};
use crate::{
    encoding::{EncodedPublication, Variant},
    hub::message::ConnectionId,
    public::{refuse_stream, to_http1},
    sse::{self, Positions},
    websocket::Parser,
};

/// How long clients are told to wait before they come back, where nothing else is said: each another time, up to twice this.
const RETRY: Duration = Duration::from_secs(1);
/// The same where the node or what it needs is away.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);
/// The same where the token has expired: without a new one it is no use to come back.
const EXPIRED_RETRY: Duration = Duration::from_secs(60);

/// A stream that is asked for.
pub(crate) struct StreamOpening {
    /// What the answer begins with.
    pub(crate) head: Response<Bytes>,
    pub(crate) handshake: Handshake,
    /// The channels, and how far the client has come on them.
    pub(crate) positions: Positions,
}

/// What a stream has beside what every connection has.
#[derive(Debug)]
pub(super) struct EventStream {
    positions: Positions,
    pub(super) stage: Stage,
    /// The client was told why its stream is about to end.
    told: bool,
    /// Of whoever has the body, over HTTP/2.
    waker: Option<Waker>,
}

/// How far a stream has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// The session has not said yet whether there is a stream; its answer would begin like this.
    Opening(Box<Response<Bytes>>),
    /// Over HTTP/2, there is a stream, and its answer has still to be taken.
    Accepted(Box<Response<Bytes>>),
    /// There is none, and over HTTP/2 the answer has still to be taken.
    Refused(Box<Response<Bytes>>),
    /// The answer is on its way.
    Answered,
}

impl EventStream {
    /// The client is about to get a publication. `false` where that does not change its id.
    fn advance(&mut self, publication: &EncodedPublication) -> bool {
        let Some(position) = &publication.position else { return false };
        self.positions.advance(publication.channel(), position)
    }

    /// Wakes whoever has the body.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Keeps the waker for [`wake`](Self::wake).
    pub(super) fn keep_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    fn take_opening(&mut self) -> Option<Box<Response<Bytes>>> {
        match std::mem::replace(&mut self.stage, Stage::Answered) {
            Stage::Opening(head) => Some(head),
            other => {
                self.stage = other;
                None
            }
        }
    }
}

impl Shard {
    /// Takes over a socket that asks for a stream, and answers it.
    pub(crate) fn open_stream(self: &Rc<Self>, stream: TcpStream, opening: StreamOpening) {
        // No client answers a heartbeat, so the kernel has to find out who is gone, in the time that others have.
        let config = &self.context.session_config;
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(config.ping_interval + config.pong_timeout));
        let Ok(stream) = stream.into_std() else { return };
        let id = self.admit_stream(Transport::Tcp(stream), opening);
        self.follow(&mut self.state.borrow_mut(), id);
    }

    /// The same over HTTP/2, where the body of the answer takes what the outbox holds.
    pub(crate) fn open_http2_stream(self: &Rc<Self>, opening: StreamOpening) -> OpeningStream {
        OpeningStream::new(self.clone(), self.admit_stream(Transport::Body, opening))
    }

    fn admit_stream(&self, transport: Transport, opening: StreamOpening) -> ConnectionId {
        let StreamOpening { head, handshake, positions } = opening;
        let events = EventStream { positions, stage: Stage::Opening(Box::new(head)), told: false, waker: None };
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let now = self.context.clock.now();
        let id = self.admit(state, transport, Variant::Sse, Parser::new(0, false), now);
        let index = id.index as usize;
        state.connections[index].events = Some(Box::new(events));
        self.begin_session(state, index, handshake, now);
        self.write(state, index);
        self.arm(state, index);
        id
    }

    /// Delivers publications to streams that are subscribed to their channels.
    pub(super) fn deliver_to_streams(
        &self,
        state: &mut ShardState,
        streams: &[u32],
        publications: &[Arc<EncodedPublication>],
    ) {
        let limits = self.outbox_limits();
        // What streams of one channel get is the same for all of them: its position is all that their ids say.
        let mut shared: Option<Piece> = None;
        let mut slow = Vec::new();
        for index in streams {
            let connection = &mut state.connections[*index as usize];
            let Some(events) = connection.events.as_deref_mut() else { continue };
            let single = publications.iter().all(|publication| events.positions.is_only(publication.channel()));
            let piece = match &shared {
                Some(piece) if single => {
                    publications.iter().for_each(|publication| _ = events.advance(publication));
                    piece.clone()
                }
                _ => {
                    state.frame.clear();
                    for publication in publications {
                        if events.advance(publication) {
                            events.positions.write_id(&mut state.frame);
                        }
                        state.frame.extend_from_slice(publication.frame(Variant::Sse, &mut state.deflater));
                    }
                    let piece: Piece = state.frame.as_slice().into();
                    shared = single.then(|| piece.clone()).or(shared);
                    piece
                }
            };
            if connection.push(piece, limits).is_err() {
                slow.push(*index as usize);
            } else {
                state.metrics.delivered(publications.len());
                self.mark_dirty(state, *index as usize);
            }
        }
        for index in slow {
            self.close_slow_consumer(state, index);
        }
    }

    /// Writes a push as an event. The first one decides whether there is a stream at all.
    pub(super) fn send_to_stream(&self, state: &mut ShardState, index: usize, message: &ServerMessage) {
        let ServerMessage::Push(push) = message else { return }; // a client that sends no command gets no reply
        if let Push::Error { channel: None, error } = push
            && is_final(error.code)
            && self.refuse_stream(state, index, error)
        {
            return;
        }
        let ShardState { connections, frame, .. } = &mut *state;
        let connection = &mut connections[index];
        let Some(events) = connection.events.as_deref_mut() else { return };
        frame.clear();
        begin_answer(&connection.transport, events, frame);
        match push {
            Push::Subscribed(subscribed) => write_subscribed(&mut events.positions, subscribed, frame),
            Push::Gap { channel, missed: Some(missed), .. } => {
                // It was told what it will not get, and goes on from there.
                if events.positions.advance(channel, &missed.to) {
                    events.positions.write_id(frame);
                }
                write_push(push, frame);
            }
            Push::Draining { reconnect_after_ms } => {
                events.told = true;
                sse::write_retry(*reconnect_after_ms, frame);
                write_push(push, frame);
            }
            Push::Error { channel: None, error } => {
                events.told = true;
                sse::write_retry(retry_after(error.code), frame);
                write_push(push, frame);
            }
            _ => write_push(push, frame),
        }
        self.push_frame(state, index);
    }

    /// Sends a sign of life, and takes it for one of the client: there is nothing else that it could send.
    pub(super) fn send_heartbeat(&self, state: &mut ShardState, index: usize, now: Time) {
        let Some(events) = state.connections[index].events.as_deref() else { return };
        if matches!(events.stage, Stage::Accepted(_) | Stage::Answered) {
            self.send_frame(state, index, |out| out.extend_from_slice(sse::HEARTBEAT));
        }
        if let Some(session) = state.session(index) {
            session.handle_activity(now);
        }
    }

    /// Tells the client why its stream ends, where it does not know.
    pub(super) fn send_farewell(&self, state: &mut ShardState, index: usize, code: CloseCode, reason: &str) {
        let ShardState { connections, frame, .. } = &mut *state;
        let connection = &mut connections[index];
        let Some(events) = connection.events.as_deref_mut() else { return };
        if std::mem::replace(&mut events.told, true) {
            return;
        }
        let code = if code == CloseCode::TokenExpired { ErrorCode::TokenExpired } else { ErrorCode::Unavailable };
        frame.clear();
        begin_answer(&connection.transport, events, frame);
        sse::write_retry(retry_after(code), frame);
        write_push(&Push::Error { channel: None, error: ErrorBody::new(code, reason) }, frame);
        self.push_frame(state, index);
    }

    /// Answers by a status instead of a stream, where that is still possible.
    fn refuse_stream(&self, state: &mut ShardState, index: usize, error: &ErrorBody) -> bool {
        let connection = &mut state.connections[index];
        let Some(events) = connection.events.as_deref_mut() else { return false };
        let Some(head) = events.take_opening() else { return false };
        events.told = true;
        let answer = refuse_stream(*head, error);
        state.frame.clear();
        match &connection.transport {
            Transport::Tcp(_) => {
                state.frame.extend_from_slice(&to_http1(&answer));
                self.push_frame(state, index);
            }
            Transport::Body => {
                events.stage = Stage::Refused(Box::new(answer));
                events.wake();
            }
        }
        true
    }
}

impl Transport {
    /// All is written that the client gets.
    pub(super) fn finish(&self) {
        if let Self::Tcp(stream) = self {
            let _ = SockRef::from(stream).shutdown(Shutdown::Write);
        }
    }
}

/// What comes before the first event: over HTTP/1.1 the head of the answer too.
fn begin_answer(transport: &Transport, events: &mut EventStream, out: &mut Vec<u8>) {
    let Some(head) = events.take_opening() else { return };
    match transport {
        Transport::Tcp(_) => out.extend_from_slice(&to_http1(&head)),
        Transport::Body => events.stage = Stage::Accepted(head),
    }
    sse::write_retry(spread(RETRY.as_millis() as u64), out);
}

/// What a subscription begins with follows as ordinary events, each with its position. Where nothing follows, the
/// subscription says the position itself.
fn write_subscribed(positions: &mut Positions, subscribed: &Subscribed, out: &mut Vec<u8>) {
    if let Some(position) = &subscribed.position
        && positions.advance(&subscribed.channel, position)
    {
        positions.write_id(out);
    }
    write_push(&Push::Subscribed(Subscribed { publications: None, ..subscribed.clone() }), out);
}

fn write_push(push: &Push, out: &mut Vec<u8>) {
    let mut json = Vec::with_capacity(256);
    json::write_message(&ServerMessage::Push(push.clone()), &mut json);
    sse::write_event(&json, out);
}

/// Whether coming back with the same request is no use.
fn is_final(code: ErrorCode) -> bool {
    !code.retryable() && code != ErrorCode::TokenExpired
}

fn retry_after(code: ErrorCode) -> u64 {
    match code {
        ErrorCode::TokenExpired => EXPIRED_RETRY.as_millis() as u64,
        _ => spread(UNAVAILABLE_RETRY.as_millis() as u64),
    }
}
