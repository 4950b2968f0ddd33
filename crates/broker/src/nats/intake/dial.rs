//! Opening a connection: TCP, INFO, TLS, CONNECT, and the server's PONG.

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::wire::{Operation, Parser, WireError};
use crate::{
    BrokerOptions,
    address::Server,
    nats::login::{Identity, Login, UnusableSeed},
    tls,
};

/// Bytes that are read at once while there is no connection yet.
const GREETING_BYTES: usize = 4 * 1024;

/// What it takes to connect.
pub(in crate::nats) struct Dialer {
    pub(in crate::nats) login: Login,
    pub(in crate::nats) name: String,
    /// Whether the URL asks for TLS; a server may, too.
    pub(in crate::nats) tls: bool,
    /// For the files of TLS, which are read for every connection, so that they can be renewed.
    pub(in crate::nats) options: Arc<BrokerOptions>,
    /// For all steps of one connection together.
    pub(in crate::nats) timeout: Duration,
}

/// A server that has let us in.
pub(super) struct Greeted {
    pub(super) stream: Box<dyn Duplex>,
    /// What was read beyond the greeting.
    pub(super) buffer: BytesMut,
    pub(super) parser: Parser,
    pub(super) info: Info,
}

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a server says of itself, as far as it matters.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) max_payload: usize,
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    nonce: Option<String>,
    /// Other members of the cluster, and itself.
    #[serde(default)]
    pub(super) connect_urls: Option<Vec<String>>,
    /// It is about to go away.
    #[serde(default, rename = "ldm")]
    pub(super) lame_duck: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(in crate::nats) enum DialError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("INFO cannot be read: {0}")]
    Info(#[from] serde_json::Error),
    #[error("it does not greet as a NATS server does")]
    NoGreeting,
    #[error("{0}")]
    Tls(String),
    #[error(transparent)]
    Seed(#[from] UnusableSeed),
    /// The server does not let this user in.
    #[error("authorization violation: {0}")]
    Unauthorized(String),
    /// The server's own words.
    #[error("{0}")]
    Refused(String),
}

#[derive(Serialize)]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    lang: &'a str,
    version: &'a str,
    name: &'a str,
    /// 1: INFO may come again, with what has changed.
    protocol: u8,
    /// Nothing is published by this connection.
    echo: bool,
    headers: bool,
    no_responders: bool,
    #[serde(flatten)]
    identity: Identity,
}

impl DialError {
    /// Whether another attempt would fail just the same.
    pub(in crate::nats) fn is_final(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Seed(_))
    }
}

impl Info {
    pub(super) fn read(json: &Bytes) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

impl Dialer {
    /// Connects and logs in.
    pub(super) async fn open(&self, server: &Server) -> Result<Greeted, DialError> {
        timeout(self.timeout, self.steps(server)).await.map_err(|_| DialError::Timeout(self.timeout))?
    }

    async fn steps(&self, server: &Server) -> Result<Greeted, DialError> {
        let stream = TcpStream::connect((&*server.host, server.port)).await?;
        stream.set_nodelay(true)?;
        let (mut buffer, mut parser) = (BytesMut::new(), Parser::new());
        let mut stream: Box<dyn Duplex> = Box::new(stream);
        let Operation::Info(json) = next(&mut stream, &mut buffer, &mut parser).await? else {
            return Err(DialError::NoGreeting);
        };
        let mut info = Info::read(&json)?;
        if self.tls || info.tls_required {
            // What came in plain text beyond it may be of anybody.
            if !buffer.is_empty() {
                return Err(DialError::NoGreeting);
            }
            stream = self.secure(stream, server).await?;
        }
        parser.allow_payload(info.max_payload);
        stream.write_all(&self.connect(&info)?).await?;
        stream.flush().await?;
        loop {
            match next(&mut stream, &mut buffer, &mut parser).await? {
                Operation::Pong => return Ok(Greeted { stream, buffer, parser, info }),
                Operation::Error(text) if text.to_ascii_lowercase().contains("authorization violation") => {
                    return Err(DialError::Unauthorized(text));
                }
                Operation::Error(text) => return Err(DialError::Refused(text)),
                Operation::Info(json) => info = Info::read(&json)?,
                Operation::Ping => stream.write_all(b"PONG\r\n").await?,
                Operation::Ok => {}
                Operation::Message(_) => return Err(DialError::NoGreeting),
            }
        }
    }

    async fn secure(&self, stream: Box<dyn Duplex>, server: &Server) -> Result<Box<dyn Duplex>, DialError> {
        let options = Arc::clone(&self.options);
        let config = tokio::task::spawn_blocking(move || tls::config_or_system(&options)).await;
        let config = config.map_err(io::Error::other)?.map_err(|error| DialError::Tls(error.to_string()))?;
        let name = ServerName::try_from(server.host.clone()).map_err(|error| DialError::Tls(error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    fn connect(&self, info: &Info) -> Result<Vec<u8>, DialError> {
        let connect = Connect {
            verbose: false,
            pedantic: false,
            tls_required: self.tls,
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            name: &self.name,
            protocol: 1,
            echo: false,
            headers: true,
            no_responders: false,
            identity: self.login.identity(info.nonce.as_deref().unwrap_or_default())?,
        };
        let mut line = b"CONNECT ".to_vec();
        serde_json::to_writer(&mut line, &connect)?;
        line.extend_from_slice(b"\r\nPING\r\n");
        Ok(line)
    }
}

async fn next(
    stream: &mut Box<dyn Duplex>,
    buffer: &mut BytesMut,
    parser: &mut Parser,
) -> Result<Operation, DialError> {
    loop {
        if let Some(operation) = parser.next(buffer)? {
            return Ok(operation);
        }
        buffer.reserve(GREETING_BYTES);
        if stream.read_buf(buffer).await? == 0 {
            return Err(DialError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
