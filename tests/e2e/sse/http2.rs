//! Streams over HTTP/2 by prior knowledge, by curl.

use std::{fs, time::Duration};

use fanfare_testkit::{Process, wait_until};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    event_stream::{Event, EventParser},
    node, publish,
};
use crate::{SOON, metrics::Metrics, node::Node};

/// One stream.
struct Curl {
    process: Process,
}

impl Curl {
    fn start(node: &Node, target: &str, options: &[&str]) -> Self {
        let process = Process::new("curl")
            .arguments(["--http2-prior-knowledge", "--silent", "--show-error", "--no-buffer"])
            .arguments(["--dump-header", "head", "--output", "body"])
            .arguments(options)
            .argument(format!("http://{}{target}", node.public()));
        process.start();
        Self { process }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.process.directory().join(name)).unwrap_or_default()
    }

    /// Everything so far.
    fn parsed(&self) -> (Vec<Event>, EventParser) {
        let text = self.file("body");
        let whole = text.rfind("\n\n").map_or(0, |end| end + 2);
        let mut parser = EventParser::default();
        let events = parser.events(&text[..whole]);
        (events, parser)
    }

    /// Numbers of the publications.
    fn numbers(&self) -> Vec<u64> {
        let (events, _) = self.parsed();
        events.iter().filter(|event| !event.name.starts_with("system:")).map(|event| event.number().1).collect()
    }

    async fn subscribed(&self) {
        wait_until("the subscription", SOON, || self.file("body").contains("event: system:subscribed\n")).await;
    }

    async fn ended(&self) {
        wait_until("curl's end", SOON, || !self.process.is_running()).await;
    }
}

#[tokio::test]
async fn curl_listens_and_comes_back() {
    let node = node("memory:").set("timeouts.ping_interval", "300ms").start().await;
    let target = "/sse?channels=log:a,log:b";
    let curl = Curl::start(&node, target, &[]);
    curl.subscribed().await;
    let head = curl.file("head");
    assert!(head.starts_with("HTTP/2 200") && head.contains("content-type: text/event-stream\r\n"), "{head}");
    assert!(!head.contains("connection:"), "{head}");
    for number in 1..=20 {
        publish(&node, "log:a", number).await;
    }
    publish(&node, "log:b", 21).await;
    wait_until("all events", SOON, || curl.numbers().len() == 21).await;
    assert_eq!(curl.numbers(), (1..=21).collect::<Vec<_>>());
    wait_until("signs of life", SOON, || curl.parsed().1.comments >= 2).await;

    // The client goes; its session does too.
    curl.process.kill();
    node.wait_for_metrics("nothing to be left", |metrics| {
        metrics.sum("fanfare_connections") == 0.0 && metrics.sum("fanfare_subscriptions") == 0.0
    })
    .await;
    let (_, parser) = curl.parsed();
    publish(&node, "log:b", 23).await;
    let back = Curl::start(&node, target, &["--header", &format!("Last-Event-ID: {}", parser.last_id)]);
    wait_until("what was missed", SOON, || back.numbers() == [23]).await;
}

#[tokio::test]
async fn a_refusal_is_a_status() {
    let node = node("memory:").set("auth.anonymous", false).start().await;
    for (target, status) in [("/sse", 400), ("/sse?channels=live:a", 401), ("/ws", 505), ("/elsewhere", 404)] {
        let curl = Curl::start(&node, target, &[]);
        curl.ended().await;
        let (head, body) = (curl.file("head"), curl.file("body"));
        assert!(head.starts_with(&format!("HTTP/2 {status}")), "{head}");
        assert!(body.starts_with(r#"{"error":{"code":""#), "{body}");
    }
    assert_eq!(node.metrics().await.sum("fanfare_connections"), 0.0);
}

#[tokio::test]
async fn a_node_that_goes_away_ends_every_stream() {
    let node = node("memory:").start().await;
    let curl = Curl::start(&node, "/sse?channels=log:a", &[]);
    curl.subscribed().await;
    let status = node.stop(SOON).await;
    assert_eq!(status.code(), Some(0), "{}", node.process().log());
    curl.ended().await;
    assert!(curl.process.exit_status().is_some_and(|status| status.success()), "{}", curl.process.log());
    let (events, parser) = curl.parsed();
    let last = events.last().expect("an event");
    assert_eq!(last.name, "system:draining");
    assert_eq!(parser.retry, last.object["data"]["reconnect_after_ms"].as_u64());
}

/// Each is a connection of its own, whatever becomes of the others. (curl 7.88 cannot do this.)
#[tokio::test]
async fn several_streams_on_one_socket() {
    let node = node("memory:").set("timeouts.handshake", "500ms").start().await;
    let socket = TcpStream::connect(node.public()).await.expect("the node listens");
    let (mut requests, connection) = h2::client::handshake(socket).await.expect("the node speaks HTTP/2");
    let serving = tokio::spawn(connection);
    let mut bodies = Vec::new();
    for target in ["/sse?channels=log:a", "/sse?channels=log:a,log:b", "/sse?channels=live:x"] {
        let request = hyper::Request::get(format!("http://{}{target}", node.public())).body(()).expect("a request");
        let (response, _) = requests.send_request(request, true).expect("the socket is open");
        let response = response.await.expect("an answer");
        assert_eq!(response.status(), 200);
        bodies.push((response.into_body(), String::new()));
    }
    for (index, (_, text)) in bodies.iter_mut().enumerate() {
        assert!(text.is_empty(), "{index}");
    }
    let connections = |count: f64| move |metrics: &Metrics| metrics.sum("fanfare_connections") == count;
    node.wait_for_metrics("all streams", connections(3.0)).await;
    for (body, text) in &mut bodies {
        read_until(body, text, "event: system:subscribed\n").await;
    }
    // One is given up: only it ends.
    drop(bodies.pop());
    node.wait_for_metrics("the end of one stream", connections(2.0)).await;
    publish(&node, "log:b", 1).await;
    publish(&node, "log:a", 2).await;
    for (body, text) in &mut bodies {
        read_until(body, text, "\"data\":2").await;
    }
    let numbers = |text: &str| -> Vec<u64> {
        let events = EventParser::default().events(text);
        events.iter().filter(|event| event.name == "tick").map(|event| event.number().1).collect()
    };
    assert_eq!((numbers(&bodies[0].1), numbers(&bodies[1].1)), (vec![2], vec![1, 2]));
    // Without a stream the socket has as long as one in its handshake.
    bodies.clear();
    timeout(SOON, serving).await.expect("the node ends an idle socket").expect("no panic").ok();
    node.wait_for_metrics("the end of all", connections(0.0)).await;
}

/// A network may cut the preface anywhere (RFC 9113 section 3.4).
#[tokio::test]
async fn a_preface_in_pieces() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let node = node("memory:").start().await;
    let mut socket = TcpStream::connect(node.public()).await.expect("the node listens");
    socket.set_nodelay(true).expect("a TCP socket");
    for byte in [PREFACE, EMPTY_SETTINGS].concat() {
        socket.write_all(&[byte]).await.expect("the node reads");
        // So that they are not joined on the way, nearly always.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut header = [0; 9];
    timeout(SOON, socket.read_exact(&mut header)).await.expect("an answer").expect("no end");
    assert_eq!(header[3], 4, "the node's own settings come first: {header:?}");
}

async fn read_until(body: &mut h2::RecvStream, text: &mut String, expected: &str) {
    while !text.contains(expected) || !text.ends_with("\n\n") {
        let chunk = timeout(SOON, body.data()).await.expect("something comes").expect("no end").expect("no error");
        body.flow_control().release_capacity(chunk.len()).expect("it was received");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_comes_back_for_the_rest() {
    let node = node("memory:")
        .set("limits.publication_bytes", "128KiB")
        .set("limits.outbox_bytes", "256KiB")
        .set("limits.notsent_lowat_bytes", "8KiB")
        .start()
        .await;
    let target = "/sse?channels=log:a";
    let curl = Curl::start(&node, target, &[]);
    curl.subscribed().await;
    publish(&node, "log:a", json!({ "n": 1 })).await;
    wait_until("the first event", SOON, || curl.numbers() == [1]).await;
    curl.process.pause();
    let mut published = 1;
    while node.metrics().await.sum("fanfare_slow_consumers_total") == 0.0 {
        published += 1;
        publish(&node, "log:a", json!({ "n": published, "fill": "x".repeat(100 * 1024) })).await;
        assert!(published < 1_000, "a client that does not read is never closed");
    }
    curl.process.resume();
    curl.ended().await;
    let before = curl.numbers();
    let (_, parser) = curl.parsed();
    node.wait_for_metrics("the stream's end", |metrics| metrics.sum("fanfare_connections") == 0.0).await;
    let id = format!("Last-Event-ID: {}", parser.last_id);
    let back = Curl::start(&node, target, &["--header", &id]);
    wait_until("what was missed", Duration::from_secs(60), || back.numbers().last() == Some(&published)).await;
    let after = back.numbers();
    println!("{} of {published} events came before the end, {} after", before.len(), after.len());
    assert!(!after.is_empty());
    assert_eq!([before, after].concat(), (1..=published).collect::<Vec<_>>());
}
