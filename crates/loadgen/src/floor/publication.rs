//! What a publisher's line says, and the frame that it becomes.

/// `COUNT BYTES [CHANNEL|* [STAMP]]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Messages.
    pub(super) count: usize,
    /// Bytes of each, as a frame.
    pub(super) bytes: usize,
    pub(super) target: Target,
    /// What stands behind `"t":` in each, nanoseconds of the publisher's clock.
    pub(super) stamp: u64,
}

/// Where a line publishes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    All,
    Channel(usize),
}

/// `None` for what is no such line.
pub(super) fn line(line: &[u8]) -> Option<Line> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (count, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let target = match words.next() {
        None | Some("*") => Target::All,
        Some(channel) => Target::Channel(channel.parse().ok()?),
    };
    let stamp = words.next().map_or(Some(0), |stamp| stamp.parse().ok())?;
    words.next().is_none().then_some(Line { count, bytes, target, stamp })
}

/// A text frame of `bytes` with its header (RFC 6455 section 5.2), or a few more or less where no frame has so many: no fewer than the
/// stamp needs, and a header is 2, 4 or 10 bytes.
pub(super) fn frame(bytes: usize, stamp: u64) -> Vec<u8> {
    const AROUND: &str = r#"{"t":,"x":""}"#;
    let header = match bytes {
        0..=127 => 2,
        128..=65_539 => 4,
        _ => 10,
    };
    let stamp = stamp.to_string();
    let filling = "x".repeat(bytes.saturating_sub(header + AROUND.len() + stamp.len()));
    let payload = format!(r#"{{"t":{stamp},"x":"{filling}"}}"#);
    let mut frame = vec![0x81];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=65_535 => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let all = |count, bytes, stamp| Some(Line { count, bytes, target: Target::All, stamp });
        assert_eq!(line(b"1 128"), all(1, 128, 0));
        assert_eq!(line(b"10 218 *"), all(10, 218, 0));
        assert_eq!(line(b"10 218 * 12345\r"), all(10, 218, 12_345));
        assert_eq!(line(b"2 3 4 5"), Some(Line { count: 2, bytes: 3, target: Target::Channel(4), stamp: 5 }));
        for other in ["", "1", "1 x", "x 1", "1 2 x", "1 2 * x", "1 2 3 4 5"] {
            assert_eq!(line(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_frame_has_the_size_that_was_asked_for_and_says_it() {
        for bytes in [40, 127, 130, 218, 1_114, 65_539, 65_546, 70_000] {
            let frame = frame(bytes, 1_234_567_890);
            assert_eq!(frame.len(), bytes);
            let (header, length) = match frame[1] {
                126 => (4, u64::from(u16::from_be_bytes(frame[2..4].try_into().unwrap()))),
                127 => (10, u64::from_be_bytes(frame[2..10].try_into().unwrap())),
                short => (2, u64::from(short)),
            };
            assert_eq!(length as usize, bytes - header);
            assert!(frame[header..].starts_with(br#"{"t":1234567890,"x":"x"#));
        }
    }

    #[test]
    fn a_stamp_is_never_cut() {
        assert_eq!(frame(1, 77), b"\x81\x0f{\"t\":77,\"x\":\"\"}");
    }
}
