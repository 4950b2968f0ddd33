//! Who may listen. Coming back heals an expired token, and no other.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::event_stream::EventStream;
use crate::{
    node::{Node, NodeBuilder},
    raw::Answer,
    token::{claims, seconds_from_now, sign, token},
};

const TARGET: &str = "/sse?channels=project:1";

fn node() -> NodeBuilder {
    Node::builder("memory:").set("auth.cookie", "session").set("allowed_origins", vec!["https://app.example"])
}

fn expiring(seconds: f64) -> String {
    let mut claims = claims("acme", "alice");
    claims["exp"] = seconds_from_now(seconds).into();
    sign(&claims)
}

async fn refused(node: &Node, target: &str, headers: &str) -> Answer {
    let socket = TcpSocket::new_v4().expect("a socket can be had");
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
    match EventStream::request(socket, node.public(), &request).await {
        Err(answer) => answer,
        Ok(mut stream) => panic!("a stream for {headers:?}: {:?}", stream.next().await),
    }
}

#[tokio::test]
async fn a_token_may_stand_in_three_places() {
    let node = node().start().await;
    let token = token("acme", "alice");
    let query = format!("{TARGET}&token={token}");
    let cookie = format!("Cookie: a=b; session={token}\r\n");
    for (target, headers) in [
        (TARGET, format!("Authorization: Bearer {token}\r\n")),
        (&query, String::new()),
        (TARGET, format!("{cookie}Origin: https://app.example\r\n")),
        // What an EventSource sends to the origin of its own page.
        (TARGET, format!("{cookie}Sec-Fetch-Site: same-origin\r\n")),
    ] {
        let mut stream = EventStream::open(&node, target, &headers).await;
        assert_eq!(stream.expect("system:connected").await["user"], "alice", "{headers}");
        stream.expect("system:subscribed").await;
        node.publish("acme", "project:1", r#"{"event":"tick","data":1}"#).await;
        assert_eq!(stream.publication().await.number().1, 1);
    }
    // A cookie comes along whatever page asks.
    for headers in [
        cookie.clone(),
        format!("{cookie}Sec-Fetch-Site: same-site\r\n"),
        format!("{cookie}Sec-Fetch-Site: same-origin\r\nOrigin: https://evil.example\r\n"),
    ] {
        assert_eq!(refused(&node, TARGET, &headers).await.status, 403, "{headers}");
    }
}

#[tokio::test]
async fn a_token_that_will_never_do_is_refused_by_a_status() {
    let node = node().start().await;
    let forged = format!("{}x", token("acme", "alice"));
    for (headers, code) in [
        (String::new(), "UNAUTHORIZED"),
        ("Authorization: Bearer nonsense\r\n".to_owned(), "UNAUTHORIZED"),
        (format!("Authorization: Bearer {forged}\r\nOrigin: https://app.example\r\n"), "UNAUTHORIZED"),
    ] {
        let answer = refused(&node, TARGET, &headers).await;
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!((answer.status, &body["error"]["code"]), (401, &json!(code)), "{answer:?}");
        assert!(answer.head.contains("\r\nwww-authenticate: bearer\r\n"), "{answer:?}");
        let cors = answer.head.contains("access-control-allow-origin: https://app.example\r\n");
        assert_eq!(cors, headers.contains("Origin"), "{answer:?}");
    }
    node.wait_for_metrics("the connections' end", |metrics| metrics.sum("fanfare_connections") == 0.0).await;
}

#[tokio::test]
async fn an_expired_token_ends_the_stream_and_not_the_event_source() {
    let node = node().start().await;
    let expired = format!("Authorization: Bearer {}\r\n", expiring(-10.0));
    let mut stream = EventStream::open(&node, TARGET, &expired).await;
    let events = stream.end().await;
    let [error] = &events[..] else { panic!("{events:?}") };
    assert_eq!((error.name.as_str(), &error.object["data"]["code"]), ("system:error", &json!("TOKEN_EXPIRED")));
    assert_eq!(stream.retry(), Some(60_000));
}

#[tokio::test]
async fn the_end_of_a_token_is_told() {
    let node = node().set("timeouts.token_expiring", "2s").start().await;
    let begun = Instant::now();
    let short = format!("Authorization: Bearer {}\r\n", expiring(4.0));
    let mut stream = EventStream::open(&node, TARGET, &short).await;
    stream.subscribed(1).await;
    let left = stream.expect("system:token_expiring").await["expires_in_ms"].as_u64().expect("a time");
    assert!((1..=2_000).contains(&left), "{left}");
    let error = stream.expect("system:error").await;
    assert_eq!(error["code"], "TOKEN_EXPIRED", "{error}");
    assert!(stream.end().await.is_empty());
    assert_eq!(stream.retry(), Some(60_000));
    println!("a token of 4 s: the stream ended after {:?}", begun.elapsed());
    let metrics = node.metrics().await;
    assert_eq!(metrics.labelled("fanfare_disconnections_total", "code", "token_expired"), 1.0, "{metrics:?}");
}

#[tokio::test]
async fn a_channel_that_is_not_allowed_is_told_and_the_others_come() {
    let node = node().start().await;
    let headers = format!("Authorization: Bearer {}\r\n", token("acme", "alice"));
    let mut stream = EventStream::open(&node, "/sse?channels=secret:1,project:1", &headers).await;
    stream.expect("system:connected").await;
    let error = stream.expect("system:error").await;
    assert_eq!((&error["channel"], &error["code"]), (&json!("secret:1"), &json!("FORBIDDEN")), "{error}");
    assert_eq!(stream.expect("system:subscribed").await["channel"], "project:1");
    node.publish("acme", "project:1", r#"{"event":"tick","data":1}"#).await;
    assert_eq!(stream.publication().await.number().1, 1);
}
