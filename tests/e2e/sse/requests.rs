//! Requests that no stream comes of, and what pages of other origins may.

use serde_json::Value;
use tokio::net::TcpSocket;

use super::{event_stream::EventStream, node};
use crate::{node::Node, raw::Answer};

/// What is answered instead of a stream.
async fn refused(node: &Node, request: &str) -> Answer {
    let socket = TcpSocket::new_v4().expect("a socket can be had");
    match EventStream::request(socket, node.public(), request).await {
        Err(answer) => answer,
        Ok(stream) => panic!("{} for {request:?}", stream.head),
    }
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_before_anything_is() {
    let node = node("memory:").start().await;
    let many: Vec<_> = (0..51).map(|index| format!("live:{index}")).collect();
    let many = format!("channels={}", many.join(","));
    let cases = [
        ("", "", "channels is missing"),
        (many.as_str(), "", "51 channels are named; allowed are 1 to 50"),
        ("channels=live:*", "", "live:* is a pattern"),
        ("channels=live:a%20b", "", "is no channel"),
        ("channels=live:a&rewind=all", "", "is no number of publications from 0 to 1000"),
        ("channels=live:a", "Last-Event-ID: 17\r\n", "the last event id \"17\" is none of a stream of 1 channels"),
        ("channels=live:a", "Last-Event-ID: 1;e.1,e.2\r\n", "the last event id"),
        ("channels=live:a", "Last-Event-ID: 1;e.\u{e4}\r\n", "the last event id"),
        ("channels=live:a&lastEventId=1;e.x", "", "the last event id"),
    ];
    for (query, headers, expected) in cases {
        let answer = refused(&node, &format!("GET /sse?{query} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await;
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!((answer.status, &body["error"]["code"]), (400, &"BAD_REQUEST".into()), "{answer:?}");
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.contains(expected), "{message:?} for {query}");
    }
    let answer = refused(&node, "POST /sse?channels=live:a HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("\r\nallow: get, options\r\n"), "{answer:?}");
    let answer = refused(&node, "GET /events HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert!(answer.status == 404 && answer.body.contains("clients of server-sent events at /sse"), "{answer:?}");
    let metrics = node.metrics().await;
    assert_eq!(metrics.labelled("fanfare_handshakes_refused_total", "reason", "bad_request"), cases.len() as f64);
    assert_eq!(metrics.sum("fanfare_connections_total"), 0.0);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_a_stream() {
    let node = node("memory:").set("allowed_origins", vec!["https://app.example"]).start().await;
    let mut stream = EventStream::open(&node, "/sse?channels=live:a", "Origin: https://app.example\r\n").await;
    let allowed = "access-control-allow-origin: https://app.example\r\n";
    for header in [allowed, "access-control-allow-credentials: true\r\n", "vary: origin\r\n"] {
        assert!(stream.head.contains(header), "{}", stream.head);
    }
    stream.subscribed(1).await;
    // So may they read why there is none.
    let answer = refused(&node, "GET /sse HTTP/1.1\r\nHost: test\r\nOrigin: https://app.example\r\n\r\n").await;
    assert!(answer.status == 400 && answer.head.contains(allowed), "{answer:?}");

    let evil = "GET /sse?channels=live:a HTTP/1.1\r\nHost: test\r\nOrigin: https://evil.example\r\n\r\n";
    for request in [evil, &evil.replace("GET", "OPTIONS")] {
        let answer = refused(&node, request).await;
        assert!(answer.status == 403 && !answer.head.contains("access-control-"), "{answer:?}");
    }
    let preflight = "OPTIONS /sse?channels=live:a HTTP/1.1\r\nHost: test\r\nOrigin: https://app.example\r\n\
                     Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n\r\n";
    let answer = refused(&node, preflight).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let headers = "access-control-allow-headers: authorization, cache-control, last-event-id\r\n";
    for header in [allowed, "access-control-allow-methods: get\r\n", headers] {
        assert!(answer.head.contains(header), "{answer:?}");
    }
}
