//! Publishing to the servers that are compared, each in the way its own clients do.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::LoadError;

/// How long a server may take to acknowledge what was published.
const ACKNOWLEDGED: Duration = Duration::from_secs(60);
/// What a node adds to an event's data: the floor's frames are as large as a node's.
const ENVELOPE: usize = 90;

/// A connection that publishes events of one size on one channel.
pub(crate) struct Publisher {
    route: Route,
    epoch: Instant,
    bytes: usize,
}

enum Route {
    Floor(TcpStream),
    Nats {
        client: async_nats::Client,
        subject: String,
    },
    /// HTTP POST over one kept connection, as nchan takes it.
    Http {
        stream: TcpStream,
        head: String,
    },
    /// MQTT 3.1.1, QoS 0.
    Mqtt {
        stream: TcpStream,
        topic: String,
    },
    /// What Socket.IO's Redis adapter and emitter send each other.
    SocketIo {
        stream: TcpStream,
        room: String,
    },
}

impl Publisher {
    /// `to` is `floor` (then at `server`), or a URL of `nats:`, `http:`, `mqtt:` or `socketio+redis:`. Times in events count from `epoch`.
    pub(crate) async fn connect(
        to: &str,
        server: std::net::SocketAddr,
        subject: &str,
        bytes: usize,
        epoch: Instant,
    ) -> Result<Self, LoadError> {
        let subject = subject.to_owned();
        let route = match to.split_once("://") {
            None if to == "floor" => {
                let mut stream = open(&server.to_string()).await?;
                // Three bytes tell a publisher from a client.
                write(&mut stream, b"PUB").await?;
                Route::Floor(stream)
            }
            Some(("nats", _)) => {
                let client = async_nats::connect(to).await;
                let client = client.map_err(|error| LoadError::Failed(format!("{to}: {error}")))?;
                Route::Nats { client, subject }
            }
            Some(("http", rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let head = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
                Route::Http { stream: open(host).await?, head }
            }
            Some(("mqtt", host)) => {
                let mut stream = open(host).await?;
                write(&mut stream, b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0").await?;
                acknowledged(&mut stream, b"\x20\x02\0\0", 1).await?;
                Route::Mqtt { stream, topic: subject }
            }
            Some(("socketio+redis", host)) => Route::SocketIo { stream: open(host).await?, room: subject },
            _ => {
                return Err(LoadError::Failed(format!(
                    "{to}: publish to floor, nats:, http:, mqtt: or socketio+redis:"
                )));
            }
        };
        Ok(Self { route, epoch, bytes })
    }

    /// Publishes `count` events at once. Returns when the server has taken them, where its protocol says so.
    pub(crate) async fn publish(&mut self, count: usize) -> Result<(), LoadError> {
        let (epoch, bytes) = (self.epoch, self.bytes);
        let now = || epoch.elapsed().as_nanos() as u64;
        match &mut self.route {
            Route::Floor(stream) => {
                write(stream, format!("{count} {} * {}\n", bytes + ENVELOPE, now()).as_bytes()).await
            }
            Route::Nats { client, subject } => {
                for _ in 0..count {
                    let published = client.publish(subject.clone(), event(now(), bytes).into()).await;
                    published.map_err(|error| LoadError::Failed(error.to_string()))?;
                }
                client.flush().await.map_err(|error| LoadError::Failed(error.to_string()))
            }
            Route::Http { stream, head } => {
                let mut requests = Vec::new();
                for _ in 0..count {
                    let body = event(now(), bytes);
                    requests.extend(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes());
                }
                write(stream, &requests).await?;
                acknowledged(stream, b"HTTP/1.1 20", count).await
            }
            Route::Mqtt { stream, topic } => {
                let packets: Vec<u8> = (0..count).flat_map(|_| mqtt(topic, event(now(), bytes).as_bytes())).collect();
                write(stream, &packets).await
            }
            Route::SocketIo { stream, room } => {
                let mut commands = Vec::new();
                for _ in 0..count {
                    commands.extend(redis_publish(&format!("socket.io#/#{room}#"), &socketio(room, now(), bytes)));
                }
                write(stream, &commands).await?;
                acknowledged(stream, b"\r\n", count).await
            }
        }
    }
}

/// What the sockets look for in an event, with the time it was published at behind it.
pub(crate) const STAMP: &[u8] = b"\"t\":";

/// An event with `bytes` of data as nearly as its time allows.
fn event(time: u64, bytes: usize) -> String {
    format!("{{\"event\":\"bench\",\"data\":{{\"t\":{time},\"x\":\"{}\"}}}}", filling(time, bytes))
}

/// What makes the data `bytes` long: its names, quotes and braces are 13 bytes.
fn filling(time: u64, bytes: usize) -> String {
    "x".repeat(bytes.saturating_sub(13 + time.to_string().len()))
}

/// A PUBLISH packet (MQTT 3.1.1 section 3.3) at QoS 0.
fn mqtt(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x30];
    let mut remaining = 2 + topic.len() + payload.len();
    loop {
        let more = if remaining > 127 { 0x80 } else { 0 };
        packet.push((remaining & 0x7f) as u8 | more);
        remaining >>= 7;
        if remaining == 0 {
            break;
        }
    }
    packet.extend((topic.len() as u16).to_be_bytes());
    packet.extend(topic.as_bytes());
    packet.extend(payload);
    packet
}

/// `[uid, packet, options]` in MessagePack: an event for a room from another server.
fn socketio(room: &str, time: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0x93];
    text(&mut out, "load");
    out.push(0x83);
    text(&mut out, "type");
    out.push(2);
    text(&mut out, "data");
    out.push(0x92);
    text(&mut out, "bench");
    out.push(0x82);
    text(&mut out, "t");
    out.push(0xcf);
    out.extend(time.to_be_bytes());
    text(&mut out, "x");
    text(&mut out, &filling(time, bytes));
    text(&mut out, "nsp");
    text(&mut out, "/");
    out.push(0x83);
    text(&mut out, "rooms");
    out.push(0x91);
    text(&mut out, room);
    text(&mut out, "except");
    out.push(0x90);
    text(&mut out, "flags");
    out.push(0x80);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    if let short @ 0..=31 = text.len() {
        out.push(0xa0 | short as u8);
    } else {
        out.push(0xda);
        out.extend((text.len() as u16).to_be_bytes());
    }
    out.extend(text.as_bytes());
}

fn redis_publish(channel: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), payload.len());
    [head.as_bytes(), payload, b"\r\n"].concat()
}

async fn open(host: &str) -> Result<TcpStream, LoadError> {
    let stream = TcpStream::connect(host).await.map_err(LoadError::io(format!("publishing to {host}")))?;
    stream.set_nodelay(true).map_err(LoadError::io(format!("publishing to {host}")))?;
    Ok(stream)
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), LoadError> {
    stream.write_all(bytes).await.map_err(LoadError::io("publishing"))
}

/// Waits until `marker` has come `count` times.
async fn acknowledged(stream: &mut TcpStream, marker: &[u8], count: usize) -> Result<(), LoadError> {
    let mut answers = Vec::new();
    let all = async {
        while memchr::memmem::find_iter(&answers, marker).count() < count {
            if stream.read_buf(&mut answers).await.map_err(LoadError::io("what was published"))? == 0 {
                break;
            }
        }
        Ok::<_, LoadError>(())
    };
    let waited = tokio::time::timeout(ACKNOWLEDGED, all).await;
    if memchr::memmem::find_iter(&answers, marker).count() < count {
        let answers = String::from_utf8_lossy(&answers).into_owned();
        return Err(LoadError::Failed(format!("publishing was answered: {answers}")));
    }
    waited.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_the_size_that_was_asked_for() {
        for time in [0, 1_234_567_890] {
            let event = event(time, 128);
            let (_, data) = event.split_once("\"data\":").unwrap();
            assert_eq!(data.len() - 1, 128, "{event}");
        }
    }

    #[test]
    fn an_mqtt_packet_says_its_length_in_seven_bits_each() {
        assert_eq!(mqtt("a", b"bc"), b"\x30\x05\0\x01abc");
        let long = mqtt("bench", &[b'x'; 200]);
        assert_eq!(long[..5], [0x30, 0x80 | 79, 1, 0, 5]);
        assert_eq!(long.len(), 3 + 207);
    }

    #[test]
    fn an_adapter_packet_is_framed_for_redis() {
        let command = redis_publish("c", &socketio("bench", 7, 128));
        let packet = socketio("bench", 7, 128);
        assert!(command.starts_with(format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n${}\r\n", packet.len()).as_bytes()));
        assert!(command.ends_with(b"\xa5flags\x80\r\n"));
        assert_eq!(packet[0], 0x93);
        assert!(memchr::memmem::find(&packet, b"\xa1x\xda\x00\x72xxx").is_some(), "114 bytes of filling");
    }
}
