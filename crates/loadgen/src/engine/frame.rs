//! Frames as a server sends them (RFC 6455 section 5.2), and as a client does.

/// One whole frame of a server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// 0 goes on with a message, 1 is text, 2 is binary, 8 and above control.
    pub(crate) opcode: u8,
    /// RSV1: the message is compressed (RFC 7692 section 6).
    pub(crate) compressed: bool,
    /// What it holds; servers do not mask.
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes` and what follows it, once it is there wholly.
    pub(crate) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (header, length) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
            short => (2, usize::from(short)),
        };
        let (payload, rest) = bytes.get(header..)?.split_at_checked(length)?;
        Some((Self { opcode: first & 0x0f, compressed: first & 0x40 != 0, payload }, rest))
    }
}

/// A client's frame: whole, and masked with zeros, which is legal and changes nothing.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => frame.push(0x80 | short),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(payload: &[u8]) -> Frame<'_> {
        Frame { opcode: 1, compressed: false, payload }
    }

    #[test]
    fn a_frame_is_there_only_when_it_is_whole() {
        assert_eq!(Frame::split(b""), None);
        assert_eq!(Frame::split(b"\x81"), None);
        assert_eq!(Frame::split(b"\x81\x02a"), None);
        assert_eq!(Frame::split(b"\x81\x02abc"), Some((text(b"ab"), &b"c"[..])));
        assert_eq!(Frame::split(b"\xc1\x01a").map(|(frame, _)| frame.compressed), Some(true));
        assert_eq!(Frame::split(b"\x8a\x00"), Some((Frame { opcode: 10, compressed: false, payload: b"" }, &b""[..])));
    }

    #[test]
    fn lengths_of_two_and_eight_bytes() {
        for (header, length) in [(&[0x82, 126, 1, 0][..], 256), (&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], 65_536)] {
            let mut bytes = header.to_vec();
            assert_eq!(Frame::split(&bytes), None);
            bytes.resize(header.len() + length - 1, 7);
            assert_eq!(Frame::split(&bytes), None);
            bytes.extend([7, 9]);
            let (frame, rest) = Frame::split(&bytes).unwrap();
            assert_eq!((frame.payload.len(), rest), (length, &[9][..]));
        }
    }

    #[test]
    fn a_clients_frame_says_its_length_and_is_masked() {
        assert_eq!(masked(1, b"ab"), b"\x81\x82\0\0\0\0ab");
        assert_eq!(masked(2, &[7; 126])[..8], [0x82, 0x80 | 126, 0, 126, 0, 0, 0, 0]);
        let long = masked(2, &[7; 65_536]);
        assert_eq!(long[..14], [0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(long.len(), 14 + 65_536);
    }
}
