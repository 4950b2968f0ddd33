//! Frames from the server, ready to write: final, unmasked (RFC 6455 section 5).
//!
//! The functions append to a buffer. A publication that is shared by many connections is best
//! written into one buffer of exactly the right size: see [`Header`].

use super::{Deflater, MAX_CLOSE_REASON_BYTES, MAX_CONTROL_PAYLOAD_BYTES};

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
}

/// The header of an unfragmented server frame: 2, 4 or 10 bytes.
///
/// ```
/// use fanfare_gateway::websocket::{Header, MessageKind};
///
/// let payload = b"{}";
/// let header = Header::new(MessageKind::Text, false, payload.len());
/// let mut frame = Vec::with_capacity(header.len() + payload.len());
/// frame.extend_from_slice(header.as_bytes());
/// frame.extend_from_slice(payload);
/// assert_eq!(frame, b"\x81\x02{}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; 10],
    len: u8,
}

impl Header {
    /// The header of a message in one frame with `payload_bytes` of payload. `compressed` sets RSV1
    /// (RFC 7692 section 6) and needs permessage-deflate on the connection.
    #[must_use]
    pub const fn new(kind: MessageKind, compressed: bool, payload_bytes: usize) -> Self {
        let opcode = match kind {
            MessageKind::Text => 0x1,
            MessageKind::Binary => 0x2,
        };
        let rsv1 = if compressed { RSV1 } else { 0 };
        Self::with_first_byte(FIN | rsv1 | opcode, payload_bytes)
    }

    const fn with_first_byte(first: u8, payload_bytes: usize) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = first;
        let len = if payload_bytes <= 125 {
            bytes[1] = payload_bytes as u8;
            2
        } else if payload_bytes <= u16::MAX as usize {
            bytes[1] = 126;
            let [a, b] = (payload_bytes as u16).to_be_bytes();
            (bytes[2], bytes[3]) = (a, b);
            4
        } else {
            bytes[1] = 127;
            let length = (payload_bytes as u64).to_be_bytes();
            let mut i = 0;
            while i < length.len() {
                bytes[2 + i] = length[i];
                i += 1;
            }
            10
        };
        Self { bytes, len }
    }

    /// The header's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    /// The header's length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub const fn len(&self) -> usize {
        self.len as usize
    }
}

/// Appends a text message.
pub fn text(payload: &str, out: &mut Vec<u8>) {
    message(MessageKind::Text, payload.as_bytes(), out);
}

/// Appends a binary message.
pub fn binary(payload: &[u8], out: &mut Vec<u8>) {
    message(MessageKind::Binary, payload, out);
}

/// Appends a message. For [`MessageKind::Text`] the payload has to be UTF-8.
pub fn message(kind: MessageKind, payload: &[u8], out: &mut Vec<u8>) {
    append(Header::new(kind, false, payload.len()), payload, out);
}

/// Appends a message for a connection with permessage-deflate: compressed when the payload has at
/// least [`DEFLATE_MIN_BYTES`](super::DEFLATE_MIN_BYTES) and becomes smaller by it, else as it is.
/// Says whether it was compressed.
pub fn compressed_message(kind: MessageKind, payload: &[u8], deflater: &mut Deflater, out: &mut Vec<u8>) -> bool {
    match deflater.compress(payload) {
        Some(compressed) => {
            append(Header::new(kind, true, compressed.len()), compressed, out);
            true
        }
        None => {
            message(kind, payload, out);
            false
        }
    }
}

/// Appends a ping (RFC 6455 section 5.5.2). A payload beyond
/// [`MAX_CONTROL_PAYLOAD_BYTES`] is cut, since a control frame has no room for more.
pub fn ping(payload: &[u8], out: &mut Vec<u8>) {
    control(0x9, payload, out);
}

/// Appends a pong (RFC 6455 section 5.5.3), cut like a [`ping`].
pub fn pong(payload: &[u8], out: &mut Vec<u8>) {
    control(0xa, payload, out);
}

/// Appends a close frame (RFC 6455 section 5.5.1). Without a code the payload is empty and the
/// reason is left out. A reason beyond [`MAX_CLOSE_REASON_BYTES`] is cut at a character boundary.
/// The code has to be one that [may be sent](super::close::is_valid_on_the_wire).
pub fn close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let mut payload = [0; MAX_CONTROL_PAYLOAD_BYTES];
    let mut len = 0;
    if let Some(code) = code {
        debug_assert!(super::close::is_valid_on_the_wire(code), "close code {code} may not be sent");
        let reason = &reason[..reason.floor_char_boundary(MAX_CLOSE_REASON_BYTES)];
        len = 2 + reason.len();
        payload[..2].copy_from_slice(&code.to_be_bytes());
        payload[2..len].copy_from_slice(reason.as_bytes());
    }
    control(0x8, &payload[..len], out);
}

fn control(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD_BYTES)];
    append(Header::with_first_byte(FIN | opcode, payload.len()), payload, out);
}

fn append(header: Header, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(header.len() + payload.len());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    /// The unmasked examples of RFC 6455 section 5.7.
    #[test]
    fn the_standards_examples() {
        assert_eq!(written(|out| text("Hello", out)), b"\x81\x05Hello");
        assert_eq!(written(|out| ping(b"Hello", out)), b"\x89\x05Hello");
        assert_eq!(written(|out| pong(b"Hello", out)), b"\x8a\x05Hello");
        let bytes = [7; 256];
        let frame = written(|out| binary(&bytes, out));
        assert_eq!(frame[..4], *b"\x82\x7e\x01\x00");
        assert_eq!(frame[4..], bytes);
        let frame = written(|out| binary(&[7; 65536], out));
        assert_eq!(frame[..10], *b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
        assert_eq!(frame.len(), 10 + 65536);
    }

    #[test]
    fn lengths_are_minimal() {
        for (payload, header) in [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10), (1 << 32, 10)] {
            assert_eq!(Header::new(MessageKind::Text, false, payload).len(), header);
        }
        assert_eq!(Header::new(MessageKind::Binary, true, 3).as_bytes(), b"\xc2\x03");
    }

    #[test]
    fn close_frames() {
        assert_eq!(written(|out| close(None, "left out", out)), b"\x88\x00");
        assert_eq!(written(|out| close(Some(1000), "bye", out)), b"\x88\x05\x03\xe8bye");
        // 41 characters of 3 bytes are 123; the 42nd does not fit.
        let frame = written(|out| close(Some(4000), &"\u{20ac}".repeat(42), out));
        assert_eq!(frame.len(), 2 + 125);
        let frame = written(|out| close(Some(4000), &format!("a{}", "\u{20ac}".repeat(41)), out));
        assert_eq!(frame.len(), 2 + 2 + 1 + 40 * 3);
    }
}
