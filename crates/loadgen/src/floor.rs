//! The floor: WebSocket handshakes, and then nothing but `send()`, one frame to every socket for each message.
//!
//! What a gateway costs above this is its own; what this costs is the kernel's. One thread, no event loop while it sends.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
};

use base64::Engine as _;

use crate::LoadError;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Listens until the process is ended. A connection that begins with `GET` is a client; any other is a publisher, each
/// of whose lines `COUNT BYTES` sends that many messages of that size in as many writes, to every client.
pub(crate) fn run(listen: SocketAddr) -> Result<(), LoadError> {
    let listener = TcpListener::bind(listen).map_err(LoadError::io(format!("listening on {listen}")))?;
    let address = listener.local_addr().map_err(LoadError::io("the listener's address"))?;
    announce(address).map_err(LoadError::io("standard output"))?;
    let mut clients = Vec::new();
    loop {
        let (stream, _) = listener.accept().map_err(LoadError::io("accept"))?;
        match greet(stream).map_err(LoadError::io("a handshake"))? {
            Peer::Client(stream) => clients.push(stream),
            Peer::Publisher(reader) => publish(reader, &mut clients).map_err(LoadError::io("publishing"))?,
        }
    }
}

enum Peer {
    Client(TcpStream),
    Publisher(BufReader<TcpStream>),
}

fn announce(address: SocketAddr) -> io::Result<()> {
    writeln!(io::stdout(), r#"{{"ready":true,"public":"{address}"}}"#)
}

fn greet(mut stream: TcpStream) -> io::Result<Peer> {
    let mut first = [0; 3];
    stream.read_exact(&mut first)?;
    if first != *b"GET" {
        return Ok(Peer::Publisher(BufReader::new(stream)));
    }
    let mut key = String::new();
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("Sec-WebSocket-Key: ") {
            key = value.trim().to_owned();
        }
    }
    stream = reader.into_inner();
    let accept = base64::engine::general_purpose::STANDARD
        .encode(sha1_smol::Sha1::from(format!("{key}{GUID}")).digest().bytes());
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(Peer::Client(stream))
}

fn publish(mut reader: BufReader<TcpStream>, clients: &mut Vec<TcpStream>) -> io::Result<()> {
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<usize>().ok());
        let (count, bytes) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(128));
        let frame = frame(bytes);
        for _ in 0..count {
            clients.retain_mut(|client| send(client, &frame));
        }
        line.clear();
    }
    Ok(())
}

/// One frame to one client, whole; `false` where it is gone.
fn send(client: &mut TcpStream, mut frame: &[u8]) -> bool {
    while !frame.is_empty() {
        match client.write(frame) {
            Ok(count) => frame = &frame[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => return false,
        }
    }
    true
}

/// A text frame of `bytes` in all, header included.
fn frame(bytes: usize) -> Vec<u8> {
    let payload = bytes.saturating_sub(if bytes <= 127 { 2 } else { 4 });
    let mut frame = vec![0x81];
    if payload <= 125 {
        frame.push(payload as u8);
    } else {
        frame.push(126);
        frame.extend_from_slice(&(payload as u16).to_be_bytes());
    }
    frame.resize(frame.len() + payload, b'x');
    frame
}
