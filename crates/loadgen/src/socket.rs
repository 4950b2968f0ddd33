//! A client's socket: the WebSocket handshake, and a reader that counts messages (RFC 6455, client side, receiving only).

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{LoadError, literal::Literal};

/// A connected socket with what has been read and not yet taken.
pub(crate) struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

impl Socket {
    /// Connects from `local` and upgrades at `path`, offering a subprotocol where one is given.
    pub(crate) async fn connect(
        server: SocketAddr,
        local: SocketAddr,
        path: &str,
        protocol: Option<&str>,
    ) -> Result<Self, LoadError> {
        let socket = TcpSocket::new_v4().map_err(LoadError::io("socket"))?;
        socket.bind(local).map_err(LoadError::io(format!("binding {local}")))?;
        let mut stream = socket.connect(server).await.map_err(LoadError::io(format!("connecting to {server}")))?;
        let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{protocol}\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(LoadError::io("writing the handshake"))?;
        let mut socket = Self { stream, buffer: Vec::new(), start: 0 };
        loop {
            if let Some(end) = find(&socket.buffer, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&socket.buffer[..end]).into_owned();
                if !head.starts_with("HTTP/1.1 101") {
                    return Err(LoadError::Failed(format!("the handshake was answered: {head}")));
                }
                socket.start = end + 4;
                return Ok(socket);
            }
            socket.fill().await?;
        }
    }

    /// The next message's payload. Control frames are passed over.
    pub(crate) async fn next(&mut self) -> Result<&[u8], LoadError> {
        loop {
            if let Some((opcode, payload, end)) = frame(&self.buffer[self.start..]) {
                let begin = self.start + payload;
                let end = self.start + end;
                self.start = end;
                match opcode {
                    1 | 2 => return Ok(&self.buffer[begin..end]),
                    8 => return Err(LoadError::Failed("the server closed".into())),
                    _ => {}
                }
            } else {
                self.fill().await?;
            }
        }
    }

    /// Sends a text or binary message of at most 125 bytes, masked with zeros, which is legal and changes nothing.
    pub(crate) async fn send(&mut self, message: &Literal) -> Result<(), LoadError> {
        let length = u8::try_from(message.bytes.len()).ok().filter(|length| *length <= 125);
        let length = length.ok_or_else(|| LoadError::Failed("a message of the load has at most 125 bytes".into()))?;
        let mut frame = vec![if message.binary { 0x82 } else { 0x81 }, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(&message.bytes);
        self.stream.write_all(&frame).await.map_err(LoadError::io("writing a message"))
    }

    async fn fill(&mut self) -> Result<(), LoadError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let count = self.stream.read_buf(&mut self.buffer).await.map_err(LoadError::io("reading"))?;
        if count == 0 { Err(LoadError::Failed("the server hung up".into())) } else { Ok(()) }
    }
}

/// Opcode, where the payload begins and where the frame ends, once it is whole.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (header, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    (bytes.len() >= header + length).then_some((first & 0x0f, header, header + length))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length() {
        assert_eq!(frame(b"\x81"), None);
        assert_eq!(frame(b"\x81\x02a"), None);
        assert_eq!(frame(b"\x81\x02abc"), Some((1, 2, 4)));
        let mut long = vec![0x82, 126, 1, 0];
        assert_eq!(frame(&long), None);
        long.extend([0; 256]);
        assert_eq!(frame(&long), Some((2, 4, 260)));
    }
}
