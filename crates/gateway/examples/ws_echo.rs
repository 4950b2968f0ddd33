//! A WebSocket echo server on the gateway's own framing, for suites that check it from outside
//! (tests/autobahn):
//!
//! ```sh
//! cargo run --release -p fanfare-gateway --example ws_echo -- --listen 127.0.0.1:0
//! ```
//!
//! When it is ready it prints one line of JSON with its address. It runs until it is killed.

use std::{convert::Infallible, io, net::SocketAddr, sync::Mutex, time::Duration};

use clap::Parser as _;
use fanfare_gateway::websocket::{
    Deflater, Event, HandshakeError, MessageKind, Parser, ProtocolError, Scratch, Upgrade, encode,
};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

/// Autobahn sends messages of up to 16 MiB.
const MAX_MESSAGE_BYTES: u32 = 64 << 20;
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// How long the client may take to end the TCP connection after the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(clap::Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind(Arguments::parse().listen).await?;
    announce(listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(serve(stream));
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    eprintln!("a connection's task failed: {error}");
                }
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is the one ready line")]
fn announce(address: SocketAddr) {
    println!(r#"{{"ready":true,"public":"{address}"}}"#);
}

/// One HTTP connection: an upgrade, or a refusal.
async fn serve(stream: TcpStream) {
    let accepted = Mutex::new(None);
    let service = service_fn(|request| {
        let response = answer_request(request, &accepted);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    if let Err(error) = served {
        eprintln!("http: {error}");
    }
    let accepted = accepted.into_inner().expect("no panic while it was locked");
    if let Some((upgraded, compression)) = accepted
        && let Err(error) = echo(upgraded, compression).await
    {
        eprintln!("websocket: {error}");
    }
}

fn answer_request(
    mut request: Request<Incoming>,
    accepted: &Mutex<Option<(OnUpgrade, bool)>>,
) -> Response<Full<Bytes>> {
    match Upgrade::from_request(&request, true) {
        Ok(upgrade) => {
            let upgraded = hyper::upgrade::on(&mut request);
            *accepted.lock().expect("no panic while it was locked") = Some((upgraded, upgrade.deflate.is_some()));
            upgrade.response()
        }
        Err(error) => refusal(error),
    }
}

/// Takes the socket back from hyper, with what it has read beyond the request.
async fn echo(upgraded: OnUpgrade, compression: bool) -> io::Result<()> {
    let upgraded = upgraded.await.map_err(io::Error::other)?;
    let parts =
        upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| io::Error::other("the connection is not a TcpStream"))?;
    Echo::new(parts.io.into_inner(), compression).run(&parts.read_buf).await
}

fn refusal(error: HandshakeError) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(error.to_string()));
    *response.status_mut() = error.status();
    *response.headers_mut() = error.headers();
    response
}

/// One WebSocket.
struct Echo {
    stream: TcpStream,
    parser: Parser,
    scratch: Scratch,
    /// With permessage-deflate only.
    deflater: Option<Deflater>,
    replies: Vec<u8>,
}

impl Echo {
    fn new(stream: TcpStream, compression: bool) -> Self {
        Self {
            stream,
            parser: Parser::new(MAX_MESSAGE_BYTES, compression),
            scratch: Scratch::new(),
            deflater: compression.then(Deflater::new),
            replies: Vec::new(),
        }
    }

    /// Echoes until either side closes. `already_read` came with the handshake.
    async fn run(&mut self, already_read: &[u8]) -> io::Result<()> {
        let mut buffer = vec![0; READ_BUFFER_BYTES.max(already_read.len())];
        buffer[..already_read.len()].copy_from_slice(already_read);
        let mut filled = already_read.len();
        loop {
            let closed = self.answer(&mut buffer[..filled]);
            self.stream.write_all(&self.replies).await?;
            self.replies.clear();
            if closed {
                return self.end(&mut buffer).await;
            }
            filled = self.stream.read(&mut buffer).await?;
            if filled == 0 {
                return Ok(());
            }
        }
    }

    /// Answers everything in `read`; whether the closing handshake is done or has to be begun by
    /// us, with its frame among the replies either way (RFC 6455 sections 5.5.1 and 7.1.7).
    fn answer(&mut self, read: &mut [u8]) -> bool {
        let result = self.answer_events(read);
        if let Err(error) = result {
            let code = Some(error.close_code());
            encode::close(code, &error.to_string(), &mut self.replies);
        }
        self.parser.is_finished()
    }

    fn answer_events(&mut self, mut unread: &mut [u8]) -> Result<(), ProtocolError> {
        let Self { parser, scratch, deflater, replies, .. } = self;
        while let Some(event) = parser.next(&mut unread, scratch)? {
            let (kind, payload) = match event {
                Event::Text(text) => (MessageKind::Text, text.as_bytes()),
                Event::Binary(bytes) => (MessageKind::Binary, bytes),
                Event::Ping(payload) => {
                    encode::pong(payload, replies);
                    continue;
                }
                Event::Pong(_) => continue,
                Event::Close { code, .. } => {
                    encode::close(code, "", replies);
                    continue;
                }
            };
            match deflater {
                Some(deflater) => {
                    encode::compressed_message(kind, payload, deflater, replies);
                }
                None => encode::message(kind, payload, replies),
            }
        }
        Ok(())
    }

    /// Ends the TCP connection so that the close frame arrives: with our side first, then reading
    /// on until the client has ended its side, since unread input would become a reset.
    async fn end(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.stream.shutdown().await?;
        let drained = timeout(CLOSE_TIMEOUT, async {
            while self.stream.read(buffer).await? > 0 {}
            Ok(())
        });
        drained.await.unwrap_or(Ok(()))
    }
}
