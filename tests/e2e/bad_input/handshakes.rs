//! Handshakes that do not become connections.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::scene::Scene;
use crate::raw::{Answer, Raw, request, text};
use crate::{
    metrics::Metrics,
    node::{Node, NodeBuilder},
    token::token,
};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(500);
/// The well-behaved two, and as many again.
const CONNECTIONS: i64 = 4;

fn node() -> NodeBuilder {
    Node::builder("memory:")
        .set("timeouts.handshake", "500ms")
        .set("timeouts.connect", "700ms")
        .set("auth.cookie", "session")
        .set("limits.connections", CONNECTIONS)
}

/// A refused request: name, bytes, status, what the head has, reason in the counter, code and message.
struct Refused {
    name: &'static str,
    bytes: String,
    status: u16,
    head: &'static [&'static str],
    reason: &'static str,
    told: Option<(&'static str, &'static str)>,
}

fn refused_requests() -> Vec<Refused> {
    let whole = request("/ws", "");
    let changed = |from: &str, to: &str| {
        let changed = whole.replace(from, to);
        assert_ne!(changed, whole, "{from:?}");
        changed
    };
    let handshake = |name, bytes, status, head, message| Refused {
        name,
        bytes,
        status,
        head,
        reason: "handshake",
        told: Some(("BAD_REQUEST", message)),
    };
    let no_get = "a WebSocket is opened with GET";
    let no_upgrade = "this is a WebSocket: `Connection: Upgrade` and `Upgrade: websocket` are required";
    let version = "`Sec-WebSocket-Version` has to be 13";
    let key = "`Sec-WebSocket-Key` has to be there once and to be 16 bytes in base64";
    let names = "`Sec-WebSocket-Protocol` has to be a list of names, `bearer` with a token after it";
    let versions: &[&str] = &["sec-websocket-version: 13\r\n", "upgrade: websocket\r\n"];
    let upgrade: &[&str] = &["upgrade: websocket\r\n"];
    let mut cases = vec![
        handshake("POST", changed("GET", "POST"), 405, &["allow: get\r\n"], no_get),
        handshake("HEAD", changed("GET", "HEAD"), 405, &["allow: get\r\n"], no_get),
        handshake("a method of one's own", changed("GET", "HACK"), 405, &["allow: get\r\n"], no_get),
        handshake("HTTP/1.0", changed("HTTP/1.1", "HTTP/1.0"), 505, &[], "a WebSocket is opened with HTTP/1.1"),
        handshake("no Upgrade", changed("Upgrade: websocket\r\n", ""), 426, upgrade, no_upgrade),
        handshake("another Upgrade", changed("Upgrade: websocket", "Upgrade: h2c"), 426, upgrade, no_upgrade),
        handshake("no Connection", changed("Connection: Upgrade\r\n", ""), 426, upgrade, no_upgrade),
        handshake("version 8", changed("Version: 13", "Version: 8"), 426, versions, version),
        handshake("no version", changed("Sec-WebSocket-Version: 13\r\n", ""), 426, versions, version),
        handshake("two versions", changed("Version: 13", "Version: 13, 8"), 426, versions, version),
        handshake("no key", changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, &[], key),
        handshake("a short key", changed("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400, &[], key),
        handshake(
            "a key that is no base64",
            changed("dGhlIHNhbXBsZSBub25jZQ==", "!!!!!!!!!!!!!!!!!!!!!!=="),
            400,
            &[],
            key,
        ),
        handshake("two keys", request("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, &[], key),
        handshake("bearer without a token", request("/ws", "Sec-WebSocket-Protocol: bearer\r\n"), 400, &[], names),
        handshake("an offer with a space", request("/ws", "Sec-WebSocket-Protocol: a b\r\n"), 400, &[], names),
    ];
    for (name, target, message) in [
        (
            "another path",
            "/wss",
            "/wss is not here; WebSocket clients connect at /ws, clients of server-sent events at /sse",
        ),
        (
            "a path below",
            "/ws/x",
            "/ws/x is not here; WebSocket clients connect at /ws, clients of server-sent events at /sse",
        ),
        (
            "the internal port's",
            "/api/publish",
            "/api/publish is not here; WebSocket clients connect at /ws, clients of server-sent events at /sse",
        ),
        (
            "a path with dots",
            "/x/../ws",
            "/x/../ws is not here; WebSocket clients connect at /ws, clients of server-sent events at /sse",
        ),
    ] {
        let told = Some(("NOT_FOUND", message));
        cases.push(Refused { name, bytes: request(target, ""), status: 404, head: &[], reason: "not_found", told });
    }
    let same_host = |origin: &str| {
        format!("origin {origin:?} is not allowed here; allowed is the host that is asked (see allowed_origins)")
    };
    for (name, headers, origin) in [
        ("another origin", "Origin: https://evil.example\r\n", "https://evil.example"),
        ("a longer host", "Origin: http://test.evil.example\r\n", "http://test.evil.example"),
        ("another port", "Origin: http://test:81\r\n", "http://test:81"),
        ("no real origin", "Origin: null\r\n", "null"),
        ("two origins", "Origin: http://test\r\nOrigin: https://evil.example\r\n", "(several)"),
    ] {
        let told = Some(("FORBIDDEN", &*same_host(origin).leak()));
        cases.push(Refused { name, bytes: request("/ws", headers), status: 403, head: &[], reason: "origin", told });
    }
    let message = "the request has no Origin; a token in a cookie is only taken with one that is allowed";
    let cookie = format!("Cookie: session={}\r\n", token("acme", "mallory"));
    cases.push(Refused {
        name: "a cookie without an origin",
        bytes: request("/ws", &cookie),
        status: 403,
        head: &[],
        reason: "origin_missing",
        told: Some(("FORBIDDEN", message)),
    });
    // What is no HTTP/1 request is answered by the HTTP server itself, without a body.
    let no_http =
        |name, bytes, status| Refused { name, bytes, status, head: &["content-length: 0"], reason: "http", told: None };
    let padding = format!("X-Padding: {}\r\n", "x".repeat(100 * 1024));
    cases.extend([
        no_http("no HTTP at all", "\x16\x03\x01 hello\r\n\r\n".to_owned(), 400),
        no_http("a header without a colon", request("/ws", "nonsense\r\n"), 400),
        no_http("100 KiB in a header", request("/ws", &padding), 431),
        no_http("a target of 100 KiB", request(&format!("/ws?{}", "x".repeat(100 * 1024)), ""), 431),
        no_http("500 headers", request("/ws", &"X: y\r\n".repeat(500)), 431),
    ]);
    cases
}

#[tokio::test]
async fn a_refused_handshake_says_why_and_the_socket_ends() {
    let mut scene = Scene::start(node()).await;
    for Refused { name, bytes, status, head, reason, told } in refused_requests() {
        let refused = format!("fanfare_handshakes_refused_total{{reason=\"{reason}\"}}");
        let timeouts = r#"fanfare_handshakes_refused_total{reason="timeout"}"#;
        let counts = [(refused.as_str(), 1), (timeouts, 0), ("fanfare_connections_total", 0)];
        let has_body = !bytes.starts_with("HEAD");
        let act = async |node: &Node| {
            let mut raw = Raw::connect(node.public()).await;
            raw.write(bytes).await;
            let answer = raw.answer_to(has_body).await;
            assert!(raw.ended().await, "{name}: the socket stays open");
            answer
        };
        let answer = scene.case(name, &counts, act).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        for expected in head {
            assert!(answer.head.contains(expected), "{name}: {answer:?}");
        }
        if let Some((code, message)) = told.filter(|_| has_body) {
            let body = json!({ "error": { "code": code, "message": message, "retryable": false } });
            assert_eq!(json_of(&answer), body, "{name}");
        }
    }
    // HTTP/2 is for server-sent events; what is none of it, or asks for nothing, ends.
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (bytes, reason) in [
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_owned(), "http"),
        (format!("{preface}what is no frame at all, and longer than the head of one"), "http"),
        (format!("{preface}\0\0\0\u{4}\0\0\0\0\0"), "timeout"),
        (preface[..20].to_owned(), "timeout"),
    ] {
        let act = async |node: &Node| {
            let mut raw = Raw::connect(node.public()).await;
            raw.write(&bytes).await;
            raw.read_to_end().await;
        };
        let sample = format!("fanfare_handshakes_refused_total{{reason=\"{reason}\"}}");
        scene.case("HTTP/2", &[(sample.as_str(), 1)], act).await;
    }
    // Who connects and leaves, as a health check of a load balancer does, is no refusal.
    let act = async |node: &Node| drop(Raw::connect(node.public()).await);
    let nothing =
        [r#"fanfare_handshakes_refused_total{reason="http"}"#, r#"fanfare_handshakes_refused_total{reason="timeout"}"#];
    scene.case("a health check", &nothing.map(|sample| (sample, 0)), act).await;
}

#[tokio::test]
async fn half_a_handshake_ends_at_the_timeout() {
    let mut scene = Scene::start(node()).await;
    let whole = request("/ws", "");
    let half = &whole[..whole.len() / 2];
    let timeouts =
        |count| [(r#"fanfare_handshakes_refused_total{reason="timeout"}"#, count), ("fanfare_connections_total", 0)];
    let held = async |node: &Node| {
        let address = node.public();
        let waits = [
            end_of(address, ""),
            end_of(address, "G"),
            end_of(address, half),
            end_of(address, &whole[..whole.len() - 1]),
        ];
        futures_util::future::join_all(waits).await
    };
    for waited in scene.case("held open", &timeouts(4), held).await {
        assert!(waited >= HANDSHAKE_TIMEOUT, "{waited:?}");
        assert!(waited < HANDSHAKE_TIMEOUT + Duration::from_secs(5), "{waited:?}");
    }
    // A byte now and then does not put it off.
    let dripping = async |node: &Node| {
        let begun = Instant::now();
        let mut raw = Raw::connect(node.public()).await;
        for byte in half.as_bytes() {
            raw.write([*byte]).await;
            if !raw.is_silent(Duration::from_millis(50)).await {
                break;
            }
        }
        assert!(raw.ended().await);
        begun.elapsed()
    };
    let waited = scene.case("a byte now and then", &timeouts(1), dripping).await;
    assert!(waited >= HANDSHAKE_TIMEOUT && waited < HANDSHAKE_TIMEOUT + Duration::from_secs(5), "{waited:?}");
    // 200 of them do not keep anybody out.
    let many = async |node: &Node| {
        let mut held = Vec::new();
        for _ in 0..200 {
            let mut raw = Raw::connect(node.public()).await;
            raw.write(half).await;
            held.push(raw);
        }
        let mut good = Raw::connect(node.public()).await;
        good.write(request("/ws?x", "Sec-WebSocket-Version: 8\r\n")).await;
        assert_eq!(good.answer().await.status, 426);
        for mut raw in held {
            assert!(raw.ended().await);
        }
    };
    scene.case("200 at a time", &timeouts(200), many).await;
}

/// Sends a part of a handshake and waits for the end.
async fn end_of(address: SocketAddr, part: &str) -> Duration {
    let begun = Instant::now();
    let mut raw = Raw::connect(address).await;
    raw.write(part).await;
    assert!(raw.ended().await, "{part:?} was answered");
    begun.elapsed()
}

#[tokio::test]
async fn who_does_not_authenticate_is_closed_at_the_timeout() {
    let mut scene = Scene::start(node()).await;
    let counts = [(r#"fanfare_disconnections_total{code="connect_timeout"}"#, 2), ("fanfare_connections", 0)];
    let act = async |node: &Node| {
        let begun = Instant::now();
        let mut silent = Raw::open(node.public(), "/ws", "").await;
        let mut busy = Raw::open(node.public(), "/ws", "").await;
        // Neither pings nor refused commands put it off.
        busy.write([crate::raw::frame(0x89, b"alive"), text(r#"{"id":1,"type":"ping"}"#)].concat()).await;
        for raw in [&mut silent, &mut busy] {
            assert_eq!(raw.closed().await, (4004, "not connected in time".to_owned()));
        }
        begun.elapsed()
    };
    let waited = scene.case("silent and busy", &counts, act).await;
    assert!(waited >= Duration::from_millis(700) && waited < Duration::from_secs(5), "{waited:?}");
}

#[tokio::test]
async fn a_full_node_says_when_to_come_back() {
    let mut scene = Scene::start(node().set("timeouts.connect", "1m")).await;
    let address = scene.node().public();
    let mut others = Vec::new();
    for _ in 2..CONNECTIONS {
        others.push(Raw::open(address, "/ws", "").await);
    }
    let taken = |places: i64| move |metrics: &Metrics| metrics.sum("fanfare_connections") == places as f64;
    scene.node().wait_for_metrics("all places taken", taken(CONNECTIONS)).await;
    let full = [(r#"fanfare_handshakes_refused_total{reason="full"}"#, 1), ("fanfare_connections_total", 0)];
    let act = async |_: &Node| {
        let mut raw = Raw::connect(address).await;
        raw.write(request("/ws", "")).await;
        let answer = raw.answer().await;
        assert!(raw.ended().await);
        answer
    };
    let answer = scene.case("one too many", &full, act).await;
    assert_eq!(answer.status, 503);
    assert!(answer.head.contains("\r\nretry-after: 5\r\n"), "{answer:?}");
    let error = json!({
        "code": "UNAVAILABLE",
        "message": "this node has 4 connections; that is its limit",
        "reconnect_after_ms": 5000,
        "retryable": true,
    });
    assert_eq!(json_of(&answer), json!({ "error": error }));
    // As soon as one leaves there is room.
    others.pop();
    scene.node().wait_for_metrics("a place", taken(CONNECTIONS - 1)).await;
    Raw::open(address, "/ws", "").await;
}

#[tokio::test]
async fn what_comes_behind_the_request_is_not_lost() {
    let scene = Scene::start(node()).await;
    let mut raw = Raw::connect(scene.node().public()).await;
    let connect = json!({ "id": 1, "type": "connect", "token": token("acme", "alice") }).to_string();
    let subscribe = r#"{"id":2,"type":"subscribe","channel":"project:a"}"#;
    raw.write([request("/ws", "").as_bytes(), &text(&connect), &text(subscribe)].concat()).await;
    assert_eq!(raw.answer().await.status, 101);
    assert!(raw.text().await.starts_with(r#"{"id":1,"type":"reply","#));
    assert_eq!(raw.text().await, r#"{"id":2,"type":"reply","result":{"channel":"project:a"}}"#);
}

fn json_of(answer: &Answer) -> Value {
    assert!(answer.head.contains("\r\ncontent-type: application/json\r\n"), "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}
