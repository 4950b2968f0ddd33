//! A client that writes every byte itself: what no library of a client would send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::SOON;

/// The key of RFC 6455 section 1.3, and what has to be answered.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The masking key of RFC 6455 section 5.7.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A TCP connection.
pub(crate) struct Raw {
    stream: TcpStream,
    input: Vec<u8>,
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A WebSocket frame of the node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// FIN, reserved bits and opcode.
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the node listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, input: Vec::new() }
    }

    /// Opens a WebSocket at a target such as `/ws?token=…`, with more headers, each ended by CR LF.
    pub(crate) async fn open(address: SocketAddr, target: &str, headers: &str) -> Self {
        let mut raw = Self::connect(address).await;
        raw.write(request(target, headers)).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 101, "{answer:?}");
        assert!(answer.head.contains(&format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase())), "{answer:?}");
        raw
    }

    /// Writes bytes. The node may have closed by then; what counts is what it answers.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let writing = self.stream.write_all(bytes.as_ref());
        let _ = timeout(SOON, writing).await.expect("the node takes what is sent");
    }

    /// Reads an HTTP response.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to(true).await
    }

    /// Reads an HTTP response, which to `HEAD` has no body (RFC 9110 section 9.3.2).
    pub(crate) async fn answer_to(&mut self, has_body: bool) -> Answer {
        let end = loop {
            match self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => assert!(self.fill().await, "the end instead of an answer: {:?}", self.input),
            }
        };
        let head = String::from_utf8(self.take(end)).expect("ASCII").to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status line");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.filter(|_| has_body).map_or(0, |length| length.parse().expect("a number"));
        while self.input.len() < length {
            assert!(self.fill().await, "the end within the body");
        }
        let body = String::from_utf8(self.take(length)).expect("JSON is UTF-8");
        Answer { status, head, body }
    }

    /// Reads a frame; `None` at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        if !self.has(2).await {
            return None;
        }
        let (first, second) = (self.input[0], self.input[1]);
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (header, length) = match second {
            126 => {
                assert!(self.has(4).await);
                (4, usize::from(u16::from_be_bytes([self.input[2], self.input[3]])))
            }
            127 => panic!("nothing that is so long was asked for"),
            short => (2, usize::from(short)),
        };
        assert!(self.has(header + length).await, "the end within a frame");
        self.take(header);
        Some(Frame { first, payload: self.take(length) })
    }

    /// Reads a text message, which must be there.
    pub(crate) async fn text(&mut self) -> String {
        let frame = self.frame().await.expect("a message");
        assert_eq!(frame.first, 0x81, "{frame:?}");
        String::from_utf8(frame.payload).expect("text is UTF-8")
    }

    /// Reads to the close frame: its code and reason. After it nothing may come but the end.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            let frame = self.frame().await.expect("a close frame before the end");
            if frame.first == 0x88 {
                let (code, reason) = frame.payload.split_first_chunk().expect("a code");
                let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
                assert!(self.ended().await, "something follows the close frame");
                return (u16::from_be_bytes(*code), reason);
            }
        }
    }

    /// Waits for what comes next, and says whether it is the end.
    pub(crate) async fn ended(&mut self) -> bool {
        self.input.is_empty() && !self.fill().await
    }

    /// Reads to the end, whatever comes before it.
    pub(crate) async fn read_to_end(&mut self) {
        while self.fill().await {}
    }

    /// Whether nothing at all comes within a time.
    pub(crate) async fn is_silent(&mut self, time: Duration) -> bool {
        self.input.is_empty() && timeout(time, self.stream.readable()).await.is_err()
    }

    /// Ends the connection at once, by RST.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().expect("a TCP socket");
    }

    async fn has(&mut self, bytes: usize) -> bool {
        while self.input.len() < bytes {
            if !self.fill().await {
                return false;
            }
        }
        true
    }

    /// Reads more; `false` at the end, whether it is polite or not.
    async fn fill(&mut self) -> bool {
        let reading = self.stream.read_buf(&mut self.input);
        let read = timeout(SOON, reading).await.unwrap_or_else(|_| panic!("nothing came, and no end"));
        read.is_ok_and(|count| count > 0)
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.input.drain(..bytes).collect()
    }
}

/// A request that opens a WebSocket.
pub(crate) fn request(target: &str, headers: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
    )
}

/// A frame as a client sends it, whatever its first byte says: masked, its length in the fewest bytes.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u64;
    let form = match length {
        0..126 => Length::Short(length as u8),
        126..65_536 => Length::Two(length as u16),
        _ => Length::Eight(length),
    };
    let mut bytes = header(first, form);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A text message.
pub(crate) fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

/// How a length is written.
#[derive(Clone, Copy)]
pub(crate) enum Length {
    Short(u8),
    Two(u16),
    Eight(u64),
}

/// The header of a masked frame.
pub(crate) fn header(first: u8, length: Length) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        Length::Short(length) => bytes.push(0x80 | length),
        Length::Two(length) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        Length::Eight(length) => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}
