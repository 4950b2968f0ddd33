use std::mem;

use super::{
    MessageKind, ProtocolError, Scratch, close,
    frame::{self, FrameHeader, MAX_HEADER_BYTES, Opcode, Rules},
    utf8,
};

/// What a client sent. It borrows from the read buffer or the [`Scratch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message, whole, decompressed and valid UTF-8.
    Text(&'a str),
    /// A binary message, whole and decompressed.
    Binary(&'a [u8]),
    /// A ping, to be answered by a pong with the same payload (RFC 6455 section 5.5.2).
    Ping(&'a [u8]),
    /// A pong, asked for or not (RFC 6455 section 5.5.3).
    Pong(&'a [u8]),
    /// The closing handshake (RFC 6455 section 5.5.1). What comes after it is not read.
    Close {
        /// The client's code; one that may be sent.
        code: Option<u16>,
        /// The client's reason, often empty.
        reason: &'a str,
    },
}

/// The server side of one connection's incoming frames (RFC 6455 section 5), without IO.
///
/// A frame that lies wholly in the read buffer is unmasked in place and lent from there. Only a
/// frame that is still incomplete and a message that is still fragmented are copied; that memory
/// grows with the bytes that arrive, never with what a header announces, is bounded by the limit
/// on messages, and is given back when the message is complete.
#[derive(Debug)]
pub struct Parser {
    partial: Option<Box<Partial>>,
    max_message_bytes: u32,
    compression: bool,
    finished: bool,
}

impl Parser {
    /// A parser for a new connection. `max_message_bytes` limits a message after decompression.
    /// `compression` is whether permessage-deflate was negotiated.
    #[must_use]
    pub const fn new(max_message_bytes: u32, compression: bool) -> Self {
        Self { partial: None, max_message_bytes, compression, finished: false }
    }

    /// The next event in `input`, which is what was read from the socket; its front is cut off as
    /// it is consumed. `None` when all of it is consumed: read more. After a close frame or an
    /// error all further input is discarded.
    ///
    /// # Errors
    /// What the client did against the standard or the limit; the connection has to be failed with
    /// its [close code](ProtocolError::close_code) (RFC 6455 section 7.1.7).
    #[inline]
    pub fn next<'buffer, 'event>(
        &mut self,
        input: &mut &'buffer mut [u8],
        scratch: &'event mut Scratch,
    ) -> Result<Option<Event<'event>>, ProtocolError>
    where
        'buffer: 'event,
    {
        if self.finished {
            *input = &mut [];
            return Ok(None);
        }
        let result = self.advance(input, scratch);
        if matches!(result, Err(_) | Ok(Some(Event::Close { .. }))) {
            self.finished = true;
            self.partial = None;
        }
        result
    }

    /// Whether a close frame or an error has ended the conversation.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    /// Memory that the connection holds for an incomplete frame or message, in bytes. 0 when idle.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    fn advance<'buffer, 'event>(
        &mut self,
        input: &mut &'buffer mut [u8],
        scratch: &'event mut Scratch,
    ) -> Result<Option<Event<'event>>, ProtocolError>
    where
        'buffer: 'event,
    {
        scratch.release();
        if self.partial.is_none() {
            if input.is_empty() {
                return Ok(None);
            }
            let rules = Rules {
                compression: self.compression,
                message_bytes: None,
                message_compressed: false,
                max_message_bytes: self.max_message_bytes,
            };
            if let Some((mut header, header_bytes)) = frame::decode(input, &rules)?
                && header.fin
                && input.len() - header_bytes >= header.payload_bytes
            {
                take_front(input, header_bytes);
                let payload = take_front(input, header.payload_bytes);
                header.mask.apply(payload);
                let payload =
                    if header.compressed { scratch.inflate(payload, self.max_message_bytes)? } else { payload };
                return event(header.opcode, payload).map(Some);
            }
        }
        self.advance_partial(input, scratch)
    }

    /// Goes on with what is incomplete, or begins to collect it.
    fn advance_partial<'event>(
        &mut self,
        input: &mut &mut [u8],
        scratch: &'event mut Scratch,
    ) -> Result<Option<Event<'event>>, ProtocolError> {
        let limit = self.max_message_bytes;
        let partial = self.partial.get_or_insert_default();
        loop {
            if partial.frame.is_none() && !partial.read_header(input, self.compression, limit)? {
                return Ok(None);
            }
            let Some(frame) = partial.read_payload(input, limit)? else {
                return Ok(None);
            };
            if frame.opcode.is_control() {
                let payload = mem::take(&mut partial.control);
                if partial.message.is_none() {
                    self.partial = None;
                }
                return event(frame.opcode, scratch.keep(payload)).map(Some);
            }
            if frame.fin {
                break;
            }
        }
        let message = partial.message.take().expect("a data frame was completed");
        self.partial = None;
        let payload =
            if message.compressed { scratch.inflate(&message.payload, limit)? } else { scratch.keep(message.payload) };
        event(Opcode::Message(message.kind), payload).map(Some)
    }
}

/// What a connection keeps between two reads.
#[derive(Debug, Default)]
struct Partial {
    /// The beginning of a header; empty while a payload is awaited.
    header: [u8; MAX_HEADER_BYTES],
    header_bytes: usize,
    /// The frame whose payload is incomplete; `payload_bytes` counts what is missing.
    frame: Option<FrameHeader>,
    /// Payload of an incomplete control frame, which may come between the fragments of a message.
    control: Vec<u8>,
    message: Option<Message>,
}

/// A message that is still incomplete.
#[derive(Debug)]
struct Message {
    kind: MessageKind,
    compressed: bool,
    payload: Vec<u8>,
    utf8: utf8::Progress,
}

impl Partial {
    /// Reads a header; `false` when `input` ended within it.
    fn read_header(
        &mut self,
        input: &mut &mut [u8],
        compression: bool,
        max_message_bytes: u32,
    ) -> Result<bool, ProtocolError> {
        let kept = self.header_bytes;
        let copied = input.len().min(MAX_HEADER_BYTES - kept);
        self.header[kept..kept + copied].copy_from_slice(&input[..copied]);
        let rules = Rules {
            compression,
            message_bytes: self.message.as_ref().map(|message| message.payload.len()),
            message_compressed: self.message.as_ref().is_some_and(|m| m.compressed),
            max_message_bytes,
        };
        let Some((header, header_bytes)) = frame::decode(&self.header[..kept + copied], &rules)? else {
            take_front(input, copied);
            self.header_bytes = kept + copied;
            return Ok(false);
        };
        take_front(input, header_bytes - kept);
        self.header_bytes = 0;
        self.frame = Some(header);
        if let Opcode::Message(kind) = header.opcode {
            self.message = Some(Message {
                kind,
                compressed: header.compressed,
                payload: Vec::new(),
                utf8: utf8::Progress::default(),
            });
        }
        Ok(true)
    }

    /// Reads the payload of the current frame; the frame when it is complete.
    fn read_payload(
        &mut self,
        input: &mut &mut [u8],
        max_message_bytes: u32,
    ) -> Result<Option<FrameHeader>, ProtocolError> {
        let frame = self.frame.as_mut().expect("read after a header");
        let available = input.len().min(frame.payload_bytes);
        let piece = take_front(input, available);
        frame.mask.apply(piece);
        frame.payload_bytes -= available;
        if frame.opcode.is_control() {
            self.control.extend_from_slice(piece);
        } else {
            self.message.as_mut().expect("a data frame belongs to a message").append(piece, max_message_bytes)?;
        }
        if frame.payload_bytes > 0 {
            return Ok(None);
        }
        Ok(self.frame.take())
    }

    fn held_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |m| m.payload.capacity());
        size_of::<Self>() + self.control.capacity() + message
    }
}

impl Message {
    /// Appends a piece of payload. The memory doubles as needed, but not beyond the limit.
    fn append(&mut self, piece: &[u8], max_message_bytes: u32) -> Result<(), ProtocolError> {
        let needed = self.payload.len() + piece.len();
        if needed > self.payload.capacity() {
            let doubled = (self.payload.capacity() * 2).min(max_message_bytes as usize);
            self.payload.reserve_exact(needed.max(doubled) - self.payload.len());
        }
        self.payload.extend_from_slice(piece);
        if self.kind == MessageKind::Text && !self.compressed {
            self.utf8.check(&self.payload)?;
        }
        Ok(())
    }
}

#[inline]
fn event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, ProtocolError> {
    Ok(match opcode {
        Opcode::Message(MessageKind::Text) => Event::Text(utf8::complete(payload)?),
        Opcode::Message(MessageKind::Binary) => Event::Binary(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => {
            let (code, reason) = close::parse(payload)?;
            Event::Close { code, reason }
        }
        Opcode::Continuation => unreachable!("a continuation is delivered as its message"),
    })
}

/// Cuts `count` bytes off the front of `input`.
#[inline]
fn take_front<'buffer>(input: &mut &'buffer mut [u8], count: usize) -> &'buffer mut [u8] {
    let (front, rest) = mem::take(input).split_at_mut(count);
    *input = rest;
    front
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
