//! One connection to one node: TCP or TLS, login, and frames in RESP3.

use std::{io, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use fred::prelude::TlsConnector;
use redis_protocol::resp3::{decode::complete::decode_bytes_mut, types::BytesFrame};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    time::timeout,
};

use crate::address::Server;

/// Room that is made before the socket is read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The largest frame, in bytes: what Redis takes as one value, and some words around it.
const MAX_FRAME_BYTES: usize = crate::redis::MAX_BODY_BYTES + 64 * 1024;

/// How connections are made.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) client_name: String,
    /// For all steps of a connection together.
    pub(crate) timeout: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The node's own words.
    #[error("{0}")]
    Refused(String),
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The half that is written to.
pub(crate) struct Writer(WriteHalf<Box<dyn Duplex>>);

/// The half that frames come from.
pub(crate) struct Frames {
    source: ReadHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
}

impl Connector {
    /// Whether connections are encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects and logs in.
    pub(crate) async fn open(&self, server: &Server) -> Result<(Frames, Writer), ConnectionError> {
        let opening = async {
            let stream = TcpStream::connect((&*server.host, server.port)).await?;
            stream.set_nodelay(true)?;
            let stream = self.secure(stream, server).await?;
            let (source, sink) = tokio::io::split(stream);
            let (mut frames, mut writer) = (Frames { source, buffer: BytesMut::new() }, Writer(sink));
            let mut hello = BytesMut::new();
            encode(&mut hello, &self.hello());
            // Subscriptions rely on its answer, so whether it is allowed is learnt now.
            encode(&mut hello, &["PING"]);
            writer.write(&hello).await?;
            for _ in 0..2 {
                if let Some(refusal) = error_of(&frames.next().await?) {
                    return Err(ConnectionError::Refused(refusal));
                }
            }
            Ok((frames, writer))
        };
        timeout(self.timeout, opening).await.map_err(|_| ConnectionError::Timeout(self.timeout))?
    }

    /// `HELLO 3 [AUTH user password] SETNAME name`
    fn hello(&self) -> Vec<&[u8]> {
        let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &self.password {
            words.extend([b"AUTH", self.user.as_deref().unwrap_or("default").as_bytes(), password.as_bytes()]);
        }
        words.extend([&b"SETNAME"[..], self.client_name.as_bytes()]);
        words
    }

    async fn secure(&self, stream: TcpStream, server: &Server) -> io::Result<Box<dyn Duplex>> {
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(TlsConnector::Rustls(connector)) => {
                let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
                Ok(Box::new(connector.connect(name, stream).await?))
            }
        }
    }
}

impl Writer {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }
}

impl Frames {
    /// Waits for the next frame. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<BytesFrame> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            if self.buffer.len() > MAX_FRAME_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is larger than Redis' own limit"));
            }
            self.buffer.reserve(READ_BYTES);
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Bytes that are here and not decoded.
    pub(crate) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame, where it is here already.
    pub(crate) fn buffered(&mut self) -> io::Result<Option<BytesFrame>> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let decoded = decode_bytes_mut(&mut self.buffer);
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, format!("no RESP3: {error}"));
        Ok(decoded.map_err(malformed)?.map(|(frame, ..)| frame))
    }
}

/// Appends a command: an array of its words.
pub(crate) fn encode(bytes: &mut BytesMut, words: &[impl AsRef<[u8]>]) {
    begin(bytes, words.len());
    for word in words {
        append(bytes, word.as_ref());
    }
}

/// A command alone.
pub(crate) fn command(words: &[impl AsRef<[u8]>]) -> Bytes {
    let room = words.iter().map(|word| word.as_ref().len() + 16).sum::<usize>() + 16;
    let mut bytes = BytesMut::with_capacity(room);
    encode(&mut bytes, words);
    bytes.freeze()
}

/// Appends the beginning of a command of so many words.
pub(crate) fn begin(bytes: &mut BytesMut, words: usize) {
    bytes.put_slice(format!("*{words}\r\n").as_bytes());
}

/// Appends a word of a command.
pub(crate) fn append(bytes: &mut BytesMut, word: &[u8]) {
    bytes.put_slice(format!("${}\r\n", word.len()).as_bytes());
    bytes.put_slice(word);
    bytes.put_slice(b"\r\n");
}

/// What an error says; None where the frame is none.
pub(crate) fn error_of(frame: &BytesFrame) -> Option<String> {
    match frame {
        BytesFrame::SimpleError { data, .. } => Some(data.to_string()),
        BytesFrame::BlobError { data, .. } => Some(String::from_utf8_lossy(data).into_owned()),
        _ => None,
    }
}

/// The bytes of a string of any kind.
pub(crate) fn bytes_of(frame: &BytesFrame) -> Option<&Bytes> {
    match frame {
        BytesFrame::BlobString { data, .. }
        | BytesFrame::SimpleString { data, .. }
        | BytesFrame::VerbatimString { data, .. } => Some(data),
        _ => None,
    }
}

/// The text of a string of any kind.
pub(crate) fn text_of(frame: &BytesFrame) -> Option<&str> {
    bytes_of(frame).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// Secrets are left out.
impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("tls", &self.is_tls())
            .field("client_name", &self.client_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &'static [&'static [u8]]) -> Frames {
        let (mut ours, theirs) = tokio::io::duplex(8);
        tokio::spawn(async move {
            for piece in pieces {
                ours.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let boxed: Box<dyn Duplex> = Box::new(theirs);
        Frames { source: tokio::io::split(boxed).0, buffer: BytesMut::new() }
    }

    #[tokio::test]
    async fn frames_come_out_of_any_pieces() {
        let mut frames = frames(&[
            b">3\r\n$8\r\nsme",
            b"ssage\r\n$1\r\na\r\n$3\r\n\r\n",
            b"\xff\r\n-MOVED 1 a:1\r",
            b"\n=7\r\ntxt:a=b\r\n",
        ]);
        let BytesFrame::Push { data, .. } = frames.next().await.unwrap() else { panic!() };
        assert_eq!(text_of(&data[0]), Some("smessage"));
        assert_eq!((bytes_of(&data[2]).unwrap().as_ref(), text_of(&data[2])), (&b"\r\n\xff"[..], None));
        assert_eq!(error_of(&frames.next().await.unwrap()).as_deref(), Some("MOVED 1 a:1"));
        assert_eq!(text_of(&frames.next().await.unwrap()), Some("a=b"));
        assert_eq!(frames.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error() {
        assert_eq!(
            frames(&[b"HTTP/1.1 400 Bad Request\r\n"]).next().await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn commands_are_arrays_of_words() {
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &["PING", "é"]);
        assert_eq!(bytes, "*2\r\n$4\r\nPING\r\n$2\r\né\r\n");
    }
}
