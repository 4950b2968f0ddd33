//! The server's side of the WebSocket handshake (RFC 6455 section 4.2), for clients that are known to do theirs well.

use base64::Engine as _;

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY: &[u8] = b"Sec-WebSocket-Key: ";
const PROTOCOL: &[u8] = b"Sec-WebSocket-Protocol: ";

/// What a peer's first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// Not enough to tell.
    Incomplete,
    /// No request.
    None,
    /// A request, with the channel that its path names, and what is answered.
    Request { channel: Option<usize>, response: Vec<u8> },
}

pub(super) fn read(bytes: &[u8]) -> Upgrade {
    match bytes.get(..3) {
        None => return Upgrade::Incomplete,
        Some(b"GET") if bytes.ends_with(b"\r\n\r\n") => {}
        Some(b"GET") => return Upgrade::Incomplete,
        Some(_) => return Upgrade::None,
    }
    let mut response =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            .to_vec();
    let mut hash = sha1_smol::Sha1::from(header(bytes, KEY).unwrap_or_default());
    hash.update(GUID);
    let mut accept = [0; 28];
    let written = base64::engine::general_purpose::STANDARD.encode_slice(hash.digest().bytes(), &mut accept);
    debug_assert_eq!(written, Ok(accept.len()), "20 bytes are 28 characters");
    response.extend_from_slice(&accept);
    if let Some(offered) = header(bytes, PROTOCOL) {
        response.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        response.extend_from_slice(offered.split(|byte| *byte == b',').next().unwrap_or_default());
    }
    response.extend_from_slice(b"\r\n\r\n");
    Upgrade::Request { channel: channel(bytes), response }
}

/// The value behind a header's name, written as browsers and the load write it.
fn header<'a>(request: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let begin = memchr::memmem::find(request, name)? + name.len();
    request[begin..].split(|byte| *byte == b'\r').next()
}

/// `N` of `channel=N` in the first line.
fn channel(request: &[u8]) -> Option<usize> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let begin = memchr::memmem::find(line, b"channel=")? + b"channel=".len();
    let digits = line[begin..].split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 section 1.3.
    const KEY_AND_ACCEPT: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

    fn request(path: &str, more: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: {}\r\n{more}\r\n", KEY_AND_ACCEPT.0).into_bytes()
    }

    #[test]
    fn the_example_of_the_standard_is_answered_as_it_says() {
        let Upgrade::Request { channel: None, response } = read(&request("/", "")) else { panic!("a whole request") };
        let accept = format!("\r\nSec-WebSocket-Accept: {}\r\n\r\n", KEY_AND_ACCEPT.1);
        assert!(response.starts_with(b"HTTP/1.1 101 ") && response.ends_with(accept.as_bytes()));
    }

    #[test]
    fn a_path_may_name_the_channel() {
        for (path, expected) in
            [("/?channel=12", Some(12)), ("/?a=b&channel=7&c=8", Some(7)), ("/ws", None), ("/?channel=x", None)]
        {
            assert!(
                matches!(read(&request(path, "")), Upgrade::Request { channel, .. } if channel == expected),
                "{path}"
            );
        }
    }

    #[test]
    fn the_first_subprotocol_is_taken() {
        let Upgrade::Request { response, .. } = read(&request("/", "Sec-WebSocket-Protocol: mqtt,other\r\n")) else {
            panic!("a whole request")
        };
        assert!(response.ends_with(b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"));
    }

    #[test]
    fn parts_of_requests_are_waited_for_and_others_are_none() {
        let whole = request("/", "");
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Upgrade::Incomplete, "{end}");
        }
        assert_eq!(read(b"PUB1 2\n"), Upgrade::None);
    }
}
