//! What is published, as the servers that are compared take it.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use md5::{Digest as _, Md5};

/// An event with `bytes` of data as nearly as its time allows.
pub(super) fn event(time: u64, bytes: usize) -> String {
    format!("{{\"event\":\"bench\",\"data\":{}}}", data(time, bytes))
}

/// The data alone: `"t":` and the time are what sockets look for.
pub(super) fn data(time: u64, bytes: usize) -> String {
    format!("{{\"t\":{time},\"x\":\"{}\"}}", filling(time, bytes))
}

/// What makes the data `bytes` long: its names, quotes and braces are 13 bytes.
fn filling(time: u64, bytes: usize) -> String {
    "x".repeat(bytes.saturating_sub(13 + time.to_string().len()))
}

/// A PUBLISH packet (MQTT 3.1.1 section 3.3) at QoS 0.
pub(super) fn mqtt(topic: &str, payload: &[u8]) -> Vec<u8> {
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
pub(super) fn socketio(room: &str, time: u64, bytes: usize) -> Vec<u8> {
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

pub(super) fn redis_publish(channel: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), payload.len());
    [head.as_bytes(), payload, b"\r\n"].concat()
}

/// An application at a server that speaks Pusher's HTTP API.
pub(super) struct Pusher {
    pub(super) host: String,
    pub(super) app: String,
    pub(super) key: String,
    pub(super) secret: String,
}

impl Pusher {
    /// A request that publishes `data` on `channel`, signed as the API demands: over the method, the path and the sorted query, in
    /// which a digest of the body stands.
    pub(super) fn request(&self, channel: &str, data: &str, now: SystemTime) -> Vec<u8> {
        let body = serde_json::json!({ "name": "bench", "channel": channel, "data": data }).to_string();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (key, path) = (&self.key, format!("/apps/{}/events", self.app));
        let digest = hex(&Md5::digest(&body));
        let query = format!("auth_key={key}&auth_timestamp={seconds}&auth_version=1.0&body_md5={digest}");
        let signed = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes()),
            format!("POST\n{path}\n{query}").as_bytes(),
        );
        let path = format!("{path}?{query}&auth_signature={}", hex(signed.as_ref()));
        post(&self.host, &path, &body)
    }
}

/// A POST of JSON on a kept connection.
pub(super) fn post(host: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "Content-Type: application/json\r\nContent-Length";
    format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{head}: {length}\r\n\r\n{body}").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

    #[test]
    fn a_request_to_pusher_is_signed() {
        // The example of Pusher's own documentation has this shape; its signature is checked here by the same key.
        let pusher =
            Pusher { host: "h".into(), app: "3".into(), key: "278d425bdf160c739803".into(), secret: "secret".into() };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_353_088_179);
        let request = String::from_utf8(pusher.request("bench", "{\"t\":1}", now)).unwrap();
        let (target, body) = (request.split(' ').nth(1).unwrap(), request.split_once("\r\n\r\n").unwrap().1);
        assert_eq!(body, r#"{"channel":"bench","data":"{\"t\":1}","name":"bench"}"#);
        let (unsigned, signature) = target.split_once("&auth_signature=").unwrap();
        let (path, query) = unsigned.split_once('?').unwrap();
        assert_eq!(path, "/apps/3/events");
        assert!(
            query.starts_with("auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&body_md5=")
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        assert_eq!(signature, hex(hmac::sign(&key, format!("POST\n{path}\n{query}").as_bytes()).as_ref()));
        assert_eq!(hex(&Md5::digest(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
    }
}
