use super::{MAX_CONTROL_PAYLOAD_BYTES, close};

/// What a client did against RFC 6455 or RFC 7692. It ends the connection with
/// [`close_code`](ProtocolError::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// RFC 6455 section 5.1.
    #[error("a frame from the client is not masked; clients mask every frame")]
    Unmasked,
    /// RFC 6455 section 5.2. `bits` are RSV1 to RSV3 as the lowest three bits.
    #[error(
        "reserved bits {bits:03b} are set; only RSV1, on the first frame of a message, \
         and only with permessage-deflate"
    )]
    ReservedBits {
        /// RSV1, RSV2, RSV3 as 4, 2, 1.
        bits: u8,
    },
    /// RFC 6455 section 5.2.
    #[error("opcode {opcode:#x} is reserved; allowed are 0x0, 0x1, 0x2, 0x8, 0x9 and 0xa")]
    ReservedOpcode {
        /// The four bits of the opcode.
        opcode: u8,
    },
    /// RFC 6455 section 5.2: the minimal number of bytes must be used.
    #[error("a payload length of {length} is not encoded in the fewest bytes possible")]
    NonMinimalLength {
        /// The length as announced, in bytes.
        length: u64,
    },
    /// RFC 6455 section 5.2: the most significant bit must be 0.
    #[error("a payload length of {length} is above the protocol's 2^63 - 1 bytes")]
    LengthOutOfRange {
        /// The length as announced, in bytes.
        length: u64,
    },
    /// RFC 6455 section 5.5.
    #[error("a control frame is fragmented; close, ping and pong come in one frame")]
    FragmentedControl,
    /// RFC 6455 section 5.5.
    #[error("a control frame has more than {MAX_CONTROL_PAYLOAD_BYTES} bytes of payload")]
    ControlTooLong,
    /// RFC 6455 section 5.4.
    #[error("a continuation frame came without a message to continue")]
    UnexpectedContinuation,
    /// RFC 6455 section 5.4.
    #[error("a new message began inside a fragmented one; only continuation and control frames may follow")]
    ExpectedContinuation,
    /// RFC 6455 section 5.5.1.
    #[error("a close frame has a payload of one byte; it is empty or begins with a code of two bytes")]
    ClosePayload,
    /// RFC 6455 section 7.4.
    #[error("close code {code} may not be sent; allowed are 1000-1003, 1007-1014 and 3000-4999")]
    CloseCode {
        /// The code in the frame.
        code: u16,
    },
    /// RFC 6455 section 5.5.1.
    #[error("the reason in a close frame is not valid UTF-8")]
    CloseReason,
    /// RFC 6455 section 8.1.
    #[error("a text message is not valid UTF-8; send bytes as a binary message")]
    InvalidUtf8,
    /// RFC 7692 section 7.2.2.
    #[error("a compressed message is not a valid deflate stream without context takeover")]
    InvalidDeflate,
    /// RFC 6455 section 7.4.1, code 1009.
    #[error("a message is larger than {limit} bytes (decompressed), the limit of this server")]
    MessageTooBig {
        /// The limit, in bytes.
        limit: u32,
    },
}

impl ProtocolError {
    /// The close code that tells the client (RFC 6455 section 7.4.1): 1002, 1007 or 1009.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Unmasked
            | Self::ReservedBits { .. }
            | Self::ReservedOpcode { .. }
            | Self::NonMinimalLength { .. }
            | Self::LengthOutOfRange { .. }
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::ClosePayload
            | Self::CloseCode { .. } => close::PROTOCOL_ERROR,
            Self::CloseReason | Self::InvalidUtf8 | Self::InvalidDeflate => close::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => close::TOO_BIG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text goes into the close frame's reason, which has room for 123 bytes.
    #[test]
    fn every_text_fits_a_close_frame() {
        let all = [
            ProtocolError::Unmasked,
            ProtocolError::ReservedBits { bits: 7 },
            ProtocolError::ReservedOpcode { opcode: 15 },
            ProtocolError::NonMinimalLength { length: 65535 },
            ProtocolError::LengthOutOfRange { length: u64::MAX },
            ProtocolError::FragmentedControl,
            ProtocolError::ControlTooLong,
            ProtocolError::UnexpectedContinuation,
            ProtocolError::ExpectedContinuation,
            ProtocolError::ClosePayload,
            ProtocolError::CloseCode { code: 65535 },
            ProtocolError::CloseReason,
            ProtocolError::InvalidUtf8,
            ProtocolError::InvalidDeflate,
            ProtocolError::MessageTooBig { limit: u32::MAX },
        ];
        for error in all {
            let text = error.to_string();
            assert!(text.len() <= super::super::MAX_CLOSE_REASON_BYTES, "{} bytes: {text}", text.len());
        }
    }
}
