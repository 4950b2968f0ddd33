//! The header of a frame from a client (RFC 6455 section 5.2), checked strictly.

use super::{MAX_CONTROL_PAYLOAD_BYTES, MessageKind, ProtocolError, mask::Mask};

/// Longest header of a client's frame, in bytes: two, eight of extended length, four of mask.
pub(super) const MAX_HEADER_BYTES: usize = 14;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Message(MessageKind),
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn from_bits(opcode: u8) -> Result<Self, ProtocolError> {
        match opcode {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Message(MessageKind::Text)),
            0x2 => Ok(Self::Message(MessageKind::Binary)),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xa => Ok(Self::Pong),
            _ => Err(ProtocolError::ReservedOpcode { opcode }),
        }
    }

    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A complete and permitted header.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    /// RSV1: the message that begins here is compressed (RFC 7692 section 6).
    pub(super) compressed: bool,
    pub(super) mask: Mask,
    pub(super) payload_bytes: usize,
}

/// What is permitted for the next frame of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// permessage-deflate was negotiated.
    pub(super) compression: bool,
    /// Bytes of payload of the fragmented message so far; `None` outside of one.
    pub(super) message_bytes: Option<usize>,
    /// Whether that message is compressed.
    pub(super) message_compressed: bool,
    /// Largest message, in bytes.
    pub(super) max_message_bytes: u32,
}

impl Rules {
    /// Largest sum of payloads on the wire for one message. Deflate makes incompressible data
    /// slightly larger (5 bytes per stored block), so a compressed message gets some room.
    fn max_wire_bytes(&self, compressed: bool) -> u64 {
        let limit = u64::from(self.max_message_bytes);
        if compressed { limit + limit / 256 + 64 } else { limit }
    }
}

/// Reads the header at the start of `bytes`: the header and its length, or `None` when more bytes
/// are needed. A rule is checked as soon as the bytes that it is about are there, always in the
/// same order, so that the outcome does not depend on how the bytes arrive.
#[inline]
pub(super) fn decode(bytes: &[u8], rules: &Rules) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let (opcode, fin, compressed) = decode_first_byte(*first, rules)?;
    if second & 0x80 == 0 {
        return Err(ProtocolError::Unmasked);
    }
    let short = second & 0x7f;
    if opcode.is_control() {
        if !fin {
            return Err(ProtocolError::FragmentedControl);
        }
        if usize::from(short) > MAX_CONTROL_PAYLOAD_BYTES {
            return Err(ProtocolError::ControlTooLong);
        }
    }
    let Some((payload_bytes, rest)) = decode_length(short, rest)? else {
        return Ok(None);
    };
    if !opcode.is_control() {
        let compressed = compressed || rules.message_compressed;
        let sum = payload_bytes.saturating_add(rules.message_bytes.unwrap_or(0) as u64);
        if sum > rules.max_wire_bytes(compressed) {
            return Err(ProtocolError::MessageTooBig { limit: rules.max_message_bytes });
        }
    }
    let [a, b, c, d, after @ ..] = rest else {
        return Ok(None);
    };
    let header = FrameHeader {
        opcode,
        fin,
        compressed,
        mask: Mask::new([*a, *b, *c, *d]),
        payload_bytes: usize::try_from(payload_bytes).expect("checked against a limit of 32 bits"),
    };
    Ok(Some((header, bytes.len() - after.len())))
}

/// Opcode, FIN, and whether RSV1 marks a compressed message.
#[inline]
fn decode_first_byte(first: u8, rules: &Rules) -> Result<(Opcode, bool, bool), ProtocolError> {
    let fin = first & 0x80 != 0;
    let reserved = (first >> 4) & 0b111;
    let opcode = first & 0x0f;
    let begins_message = matches!(opcode, 0x1 | 0x2);
    let compressed = reserved == 0b100 && rules.compression && begins_message;
    if reserved != 0 && !compressed {
        return Err(ProtocolError::ReservedBits { bits: reserved });
    }
    let opcode = Opcode::from_bits(opcode)?;
    match (opcode, rules.message_bytes) {
        (Opcode::Continuation, None) => Err(ProtocolError::UnexpectedContinuation),
        (Opcode::Message(_), Some(_)) => Err(ProtocolError::ExpectedContinuation),
        _ => Ok((opcode, fin, compressed)),
    }
}

/// The payload's length and the bytes after it, or `None` when more bytes are needed.
#[inline]
fn decode_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, ProtocolError> {
    let (length, fewest, rest) = match short {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            (u64::from(u16::from_be_bytes(*bytes)), 126, rest)
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<8>() else {
                return Ok(None);
            };
            (u64::from_be_bytes(*bytes), 1 << 16, rest)
        }
        short => (u64::from(short), 0, rest),
    };
    if length > i64::MAX as u64 {
        return Err(ProtocolError::LengthOutOfRange { length });
    }
    if length < fewest {
        return Err(ProtocolError::NonMinimalLength { length });
    }
    Ok(Some((length, rest)))
}
