//! Close codes (RFC 6455 section 7.4) and the payload of a close frame (section 5.5.1).

use super::ProtocolError;

/// The purpose of the connection was fulfilled.
pub const NORMAL: u16 = 1000;
/// The endpoint goes away: the server stops, or the page was left.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke a rule of the framing.
pub const PROTOCOL_ERROR: u16 = 1002;
/// The peer sent a type of message that this endpoint does not take.
pub const UNSUPPORTED_DATA: u16 = 1003;
/// The payload does not fit its type: text that is not UTF-8, or a broken deflate stream.
pub const INVALID_PAYLOAD: u16 = 1007;
/// The message is larger than this endpoint takes.
pub const TOO_BIG: u16 = 1009;
/// Something unexpected happened at the server.
pub const INTERNAL_ERROR: u16 = 1011;

/// Whether `code` may appear in a close frame: the codes that RFC 6455 section 7.4 and the IANA
/// registry define for the wire, and the ranges for libraries and applications (3000 to 4999).
/// 1004 is reserved; 1005, 1006 and 1015 only ever name what happened without a close frame.
#[must_use]
pub const fn is_valid_on_the_wire(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads the payload of a close frame: nothing, or a code and a reason in UTF-8.
///
/// # Errors
/// [`ProtocolError::ClosePayload`] for a single byte, [`ProtocolError::CloseCode`] for a code that
/// may not be sent, [`ProtocolError::CloseReason`] for a reason that is not UTF-8.
pub(super) fn parse(payload: &[u8]) -> Result<(Option<u16>, &str), ProtocolError> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(ProtocolError::ClosePayload),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_valid_on_the_wire(code) {
                return Err(ProtocolError::CloseCode { code });
            }
            let reason = str::from_utf8(reason).map_err(|_| ProtocolError::CloseReason)?;
            Ok((Some(code), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_code_and_reason() {
        assert_eq!(parse(b""), Ok((None, "")));
        assert_eq!(parse(b"\x03\xe8"), Ok((Some(1000), "")));
        let mut payload = 4001u16.to_be_bytes().to_vec();
        payload.extend_from_slice("stopped \u{2713}".as_bytes());
        assert_eq!(parse(&payload), Ok((Some(4001), "stopped \u{2713}")));
    }

    #[test]
    fn refuses_what_may_not_be_sent() {
        assert_eq!(parse(b"\x03"), Err(ProtocolError::ClosePayload));
        assert_eq!(parse(b"\x03\xe8\xff"), Err(ProtocolError::CloseReason));
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(parse(&code.to_be_bytes()), Err(ProtocolError::CloseCode { code }));
        }
        for code in [1000u16, 1001, 1002, 1003, 1007, 1008, 1011, 1014, 3000, 4999] {
            assert_eq!(parse(&code.to_be_bytes()), Ok((Some(code), "")));
        }
    }
}
