//! What a connection costs that does nothing.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use clap::Args;
use socket2::{Domain, Socket, Type};

use crate::{
    LoadError,
    engine::{CONNECTING, Engine, local_address},
    opening::Opening,
    process,
    target::Target,
};

/// How long all sockets may take to be opened.
const OPENING: Duration = Duration::from_secs(120);
/// How long one stream of server-sent events may take to be opened.
const STREAM: Duration = Duration::from_secs(10);
/// The longest beginning of a stream, in bytes.
const BEGINNING: usize = 64 * 1024;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Seconds to wait before memory is read: allocators give back what the handshakes needed only after a while.
    #[arg(long, default_value_t = 10)]
    settle: u64,
    /// Open streams of server-sent events in place of WebSockets.
    #[arg(long)]
    sse: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let target = &options.target;
    let settle = Duration::from_secs(options.settle);
    let before = process::anonymous_bytes(&target.pids)?;
    let after = if options.sse { streams(target, settle) } else { sockets(target, settle) }?;
    crate::say(&serde_json::json!({
        "sockets": target.sockets,
        "channels": target.channels,
        "sse": options.sse,
        "settle_s": options.settle,
        "idle_bytes_per_socket": after.saturating_sub(before) as f64 / target.sockets as f64,
    }));
    Ok(())
}

fn sockets(target: &Target, settle: Duration) -> Result<u64, LoadError> {
    let mut opening = Opening::default();
    let mut engine = Engine::new(target, CONNECTING)?;
    engine.open_all(OPENING, &mut opening)?;
    engine.run(Instant::now() + settle, &mut opening, |_, opening| opening.failed())?;
    opening.check()?;
    process::anonymous_bytes(&target.pids)
}

fn streams(target: &Target, settle: Duration) -> Result<u64, LoadError> {
    let open: Vec<_> = (0..target.sockets).map(|number| stream(target, number)).collect::<Result<_, _>>()?;
    // What comes meanwhile, a comment now and then, stays in the kernel.
    std::thread::sleep(settle);
    let bytes = process::anonymous_bytes(&target.pids);
    drop(open);
    bytes
}

/// A stream that is open, and subscribed where the target waits for that.
fn stream(target: &Target, number: usize) -> Result<TcpStream, LoadError> {
    let server = target.server(number);
    let path = target.filled(&target.path, number);
    let failed = LoadError::io(format!("a stream of server-sent events from {server}"));
    let opened = open(target, number, &path).map_err(failed)?;
    let mut stream = opened;
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    let subscribed = &target.subscribed.bytes;
    let begun = |heard: &[u8]| {
        memchr::memmem::find(heard, b"\r\n\r\n")
            .is_some_and(|end| subscribed.is_empty() || memchr::memmem::find(&heard[end..], subscribed).is_some())
    };
    while !begun(&heard) {
        let failed = LoadError::io(format!("reading stream {number}"));
        let count = stream.read(&mut buffer).map_err(failed)?;
        heard.extend_from_slice(&buffer[..count]);
        let refused = heard.len() > 12 && !heard.starts_with(b"HTTP/1.1 200");
        if count == 0 || refused || heard.len() > BEGINNING {
            let heard = String::from_utf8_lossy(&heard[..heard.len().min(500)]).into_owned();
            return Err(LoadError::Failed(format!("stream {number} was answered: {heard}")));
        }
    }
    Ok(stream)
}

fn open(target: &Target, number: usize, path: &str) -> std::io::Result<TcpStream> {
    let server = target.server(number);
    let socket = Socket::new(Domain::for_address(server), Type::STREAM.cloexec(), None)?;
    socket.bind(&local_address(number).into())?;
    socket.connect_timeout(&server.into(), STREAM)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(STREAM))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}
