//! Publishing to the servers that are compared, each in the way its own clients do: raw over TCP, so that it costs the
//! load's core little. The publisher is one more socket of the engine's loop.

mod wire;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant, SystemTime},
};

use crate::{LoadError, target::Target};

/// How long a server may take to greet a publisher.
const GREETING: Duration = Duration::from_secs(10);
/// What a node adds to an event's data: the floor's frames are as large as a node's.
const ENVELOPE: usize = 90;
/// Messages in one line for the floor, at most: so many it may join in one write.
const JOINED: usize = 10;
/// How much may wait for a server that does not take it, in bytes. More is the end of the run.
const OUTSTANDING: usize = 64 * 1024 * 1024;

/// A connection that publishes events of one size.
pub(crate) struct Publisher {
    stream: TcpStream,
    to: String,
    route: Route,
    subject: String,
    bytes: usize,
    channels: usize,
    epoch: Instant,
    outgoing: Vec<u8>,
    written: usize,
    answers: Vec<u8>,
}

enum Route {
    Floor,
    Nats,
    /// HTTP POST, as nchan takes it.
    Http {
        host: String,
        path: String,
    },
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
    /// What Socket.IO's Redis adapter and emitter send each other.
    SocketIo,
    Pusher(wire::Pusher),
}

impl Publisher {
    /// Connects to where the target publishes. Times in events count from `epoch`.
    pub(crate) fn connect(target: &Target, epoch: Instant) -> Result<Self, LoadError> {
        let to = target.publish.clone();
        let unknown = || LoadError::Failed(format!("{to}: publish to floor, or a URL as --help names them"));
        let (host, route) = match to.split_once("://") {
            None if to == "floor" => (target.servers[0].to_string(), Route::Floor),
            Some(("nats", host)) => (host.trim_end_matches('/').to_owned(), Route::Nats),
            Some(("http", rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                (host.to_owned(), Route::Http { host: host.to_owned(), path: format!("/{path}") })
            }
            Some(("mqtt", host)) => (host.to_owned(), Route::Mqtt),
            Some(("socketio+redis", host)) => (host.to_owned(), Route::SocketIo),
            Some(("pusher+http", rest)) => {
                let (user, place) = rest.split_once('@').ok_or_else(unknown)?;
                let (key, secret) = user.split_once(':').ok_or_else(unknown)?;
                let (host, app) = place.split_once('/').ok_or_else(unknown)?;
                let pusher =
                    wire::Pusher { host: host.into(), app: app.into(), key: key.into(), secret: secret.into() };
                (host.to_owned(), Route::Pusher(pusher))
            }
            _ => return Err(unknown()),
        };
        let greeting = LoadError::io(format!("publishing to {to}"));
        let stream = greet(&host, &route).map_err(greeting)?;
        Ok(Self {
            stream,
            to,
            route,
            subject: target.subject.clone(),
            bytes: target.bytes,
            channels: target.channels,
            epoch,
            outgoing: Vec::new(),
            written: 0,
            answers: Vec::new(),
        })
    }

    /// The socket, for the loop that waits for it.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Publishes `count` events on a channel, which say that they were sent at `at`. They go out with [`Publisher::flush`].
    pub(crate) fn publish(&mut self, channel: usize, count: usize, at: Instant) {
        let time = at.saturating_duration_since(self.epoch).as_nanos() as u64;
        if matches!(self.route, Route::Floor) {
            let channel = if self.channels == 1 { "*".to_owned() } else { channel.to_string() };
            for line in (0..count).step_by(JOINED) {
                let line = format!("{} {} {channel} {time}\n", JOINED.min(count - line), self.bytes + ENVELOPE);
                self.outgoing.extend_from_slice(line.as_bytes());
            }
            return;
        }
        let subject = self.subject.replace("{n}", &channel.to_string());
        let message = match &self.route {
            Route::Floor => unreachable!("the floor's line was written above"),
            Route::Nats => {
                let event = wire::event(time, self.bytes);
                format!("PUB {subject} {}\r\n{event}\r\n", event.len()).into_bytes()
            }
            Route::Http { host, path } => {
                wire::post(host, &path.replace("{n}", &channel.to_string()), &wire::event(time, self.bytes))
            }
            Route::Mqtt => wire::mqtt(&subject, wire::event(time, self.bytes).as_bytes()),
            Route::SocketIo => {
                let packet = wire::socketio(&subject, time, self.bytes);
                wire::redis_publish(&format!("socket.io#/#{subject}#"), &packet)
            }
            Route::Pusher(pusher) => pusher.request(&subject, &wire::data(time, self.bytes), SystemTime::now()),
        };
        for _ in 0..count {
            self.outgoing.extend_from_slice(&message);
        }
    }

    /// Sends what was published; what the server does not take now goes out when it does.
    pub(crate) fn flush(&mut self) -> Result<(), LoadError> {
        while self.written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let waiting = self.outgoing.len() - self.written;
                    if waiting > OUTSTANDING {
                        let reason = format!("{} does not take what is published: {waiting} bytes wait", self.to);
                        return Err(LoadError::Failed(reason));
                    }
                    self.outgoing.drain(..std::mem::take(&mut self.written));
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(LoadError::io(format!("publishing to {}", self.to))(error)),
            }
        }
        self.outgoing.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what the server says of publications, answers its pings, and goes on sending.
    pub(crate) fn ready(&mut self) -> Result<(), LoadError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(LoadError::Failed(format!("{} hung up on the publisher", self.to))),
                Ok(count) => self.answers.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(LoadError::io(format!("publishing to {}", self.to))(error)),
            }
        }
        let whole = memchr::memrchr(b'\n', &self.answers).map_or(0, |end| end + 1);
        for line in self.answers[..whole].split(|byte| *byte == b'\n') {
            match answer(&self.route, line) {
                Answer::Good => {}
                Answer::Ping => self.outgoing.extend_from_slice(b"PONG\r\n"),
                Answer::Refusal => {
                    let line = String::from_utf8_lossy(line);
                    return Err(LoadError::Failed(format!("{} answered a publication: {line}", self.to)));
                }
            }
        }
        self.answers.drain(..whole);
        self.flush()
    }
}

/// What a line of a server's answers means.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Ping,
    Refusal,
}

fn answer(route: &Route, line: &[u8]) -> Answer {
    match route {
        Route::Nats if line.starts_with(b"PING") => Answer::Ping,
        Route::Nats | Route::SocketIo if line.starts_with(b"-") => Answer::Refusal,
        Route::Http { .. } | Route::Pusher(_) => {
            // A body need not end with a line, so that the next answer may stand behind it.
            let status = memchr::memmem::find(line, b"HTTP/1.").and_then(|begin| line.get(begin + 9));
            if status.is_some_and(|digit| *digit != b'2') { Answer::Refusal } else { Answer::Good }
        }
        _ => Answer::Good,
    }
}

/// Connects, and says what the route's servers want to hear first.
fn greet(host: &str, route: &Route) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GREETING))?;
    match route {
        // Three bytes tell a publisher from a client.
        Route::Floor => stream.write_all(b"PUB")?,
        Route::Nats => {
            stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"name\":\"load\"}\r\nPING\r\n")?;
            expect(&mut stream, b"PONG\r\n")?;
        }
        Route::Mqtt => {
            stream.write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0")?;
            expect(&mut stream, b"\x20\x02\0\0")?;
        }
        Route::Http { .. } | Route::SocketIo | Route::Pusher(_) => {}
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Waits until `marker` has come.
fn expect(stream: &mut TcpStream, marker: &[u8]) -> std::io::Result<()> {
    let (mut answers, mut buffer) = (Vec::new(), [0; 4096]);
    while memchr::memmem::find(&answers, marker).is_none() {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::Error::other(String::from_utf8_lossy(&answers).into_owned())),
            count => answers.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_what_is_good() {
        let http = Route::Http { host: String::new(), path: String::new() };
        for (route, line, meant) in [
            (&http, "HTTP/1.1 202 Accepted\r", Answer::Good),
            (&http, "{\"ok\":true}HTTP/1.1 413 Payload Too Large\r", Answer::Refusal),
            (&http, "Content-Length: 5\r", Answer::Good),
            (&Route::Nats, "PING\r", Answer::Ping),
            (&Route::Nats, "-ERR 'Maximum Payload Violation'\r", Answer::Refusal),
            (&Route::SocketIo, ":1\r", Answer::Good),
            (&Route::SocketIo, "-NOAUTH Authentication required.\r", Answer::Refusal),
        ] {
            assert_eq!(answer(route, line.as_bytes()), meant, "{line}");
        }
    }
}
