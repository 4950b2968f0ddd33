//! `fanfare subscribe`.

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use crate::{
    SOON,
    command::{end, fanfare, run},
    socket::FakeSocket,
};

#[tokio::test]
async fn events_are_printed_line_by_line_and_everything_else_goes_to_standard_error() {
    let node = FakeSocket::start().await;
    let words = ["subscribe", "project:a", "user:*", "--url", &node.url(), "--token", "t", "--count", "2"];
    let child = fanfare(&words).spawn().unwrap();
    let (mut session, commands) = node.accept_subscriber().await;
    assert_eq!(commands[0], json!({ "id": 1, "type": "connect", "token": "t" }));
    assert_eq!(commands[1], json!({ "id": 2, "type": "subscribe", "channels": ["project:a", "user:*"] }));
    session.send("{\"event\":\"x\",\"channel\":\"project:a\",\"data\":{\r\n  \"n\": 1.50}}").await;
    session.send(r#"{"event":"system:gap","data":{"channel":"project:a","reason":"lagged"}}"#).await;
    session.send(r#"{"event":"system:ping","data":{}}"#).await;
    assert_eq!(session.read().await, json!({ "type": "pong" }));
    session.send(r#"{"something":"new"}"#).await;
    session.send("nonsense").await;
    session.send(r#"{"event":"y","channel":"user:b","data":null,"id":"publication"}"#).await;
    assert!(session.closed_by_client().await);
    let ended = end(child).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(
        ended.stdout,
        "{\"event\":\"x\",\"channel\":\"project:a\",\"data\":{    \"n\": 1.50}}\n\
         {\"event\":\"y\",\"channel\":\"user:b\",\"data\":null,\"id\":\"publication\"}\n"
    );
    assert!(ended.stderr.contains("system:gap") && !ended.stderr.contains("system:ping"), "{ended:?}");
}

#[tokio::test]
async fn an_event_is_printed_as_soon_as_it_comes() {
    let node = FakeSocket::start().await;
    let mut command = fanfare(&["subscribe", "a"]);
    let mut child = command.env("FANFARE_WS_URL", node.url()).env("FANFARE_TOKEN", "t").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut session, commands) = node.accept_subscriber().await;
    assert_eq!(commands[0]["token"], "t");
    for n in 0..3 {
        let event = format!(r#"{{"event":"x","data":{n}}}"#);
        session.send(&event).await;
        let line = timeout(SOON, lines.next_line()).await.expect("a line in time").unwrap();
        assert_eq!(line, Some(event));
    }
}

#[tokio::test]
async fn after_a_break_it_connects_again() {
    let node = FakeSocket::start().await;
    let child = fanfare(&["subscribe", "a", "--url", &node.url(), "--count", "3"]).spawn().unwrap();
    let (mut session, commands) = node.accept_subscriber().await;
    assert_eq!(commands[0], json!({ "id": 1, "type": "connect" }));
    session.send(r#"{"event":"x","data":1}"#).await;
    // Broken off.
    drop(session);
    let (mut session, _) = node.accept_subscriber().await;
    session.send(r#"{"event":"x","data":2}"#).await;
    // Closed with a code that asks for coming back.
    session.close(4000, "draining").await;
    // A node that is too busy for a handshake.
    let mut busy = node.accept_tcp().await;
    let _ = busy.read(&mut [0; 1024]).await.unwrap();
    busy.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    drop(busy);
    let (mut session, _) = node.accept_subscriber().await;
    session.send(r#"{"event":"x","data":3}"#).await;
    let ended = end(child).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let expected: String = (1..=3).map(|n| format!("{{\"event\":\"x\",\"data\":{n}}}\n")).collect();
    assert_eq!(ended.stdout, expected);
    assert!(ended.stderr.contains("events may be missed") && ended.stderr.contains("4000 draining"), "{ended:?}");
}

#[tokio::test]
async fn what_is_refused_for_good_ends_with_3() {
    let node = FakeSocket::start().await;
    // By a close code.
    let child = fanfare(&["subscribe", "a", "--url", &node.url()]).spawn().unwrap();
    node.accept_subscriber().await.0.close(4500, "no token").await;
    let ended = end(child).await;
    assert!(ended.code == 3 && ended.stderr.contains("4500 no token"), "{ended:?}");

    // By the answer to connect.
    let child = fanfare(&["subscribe", "a", "--url", &node.url()]).spawn().unwrap();
    let mut session = node.accept().await;
    session.send(r#"{"id":1,"type":"error","code":"UNAUTHORIZED","message":"m","retryable":false}"#).await;
    let ended = end(child).await;
    assert!(ended.code == 3 && ended.stderr.contains("UNAUTHORIZED: m"), "{ended:?}");

    // By the answer to subscribe.
    let child = fanfare(&["subscribe", "a", "b", "--url", &node.url()]).spawn().unwrap();
    let mut session = node.accept().await;
    let error = json!({ "code": "FORBIDDEN", "message": "m", "retryable": false });
    let result = json!({ "subscriptions": [{ "channel": "a" }, { "channel": "b", "error": error }] });
    session.send(&json!({ "id": 2, "type": "reply", "result": result }).to_string()).await;
    let ended = end(child).await;
    assert!(ended.code == 3 && ended.stderr.contains("b was refused: FORBIDDEN: m"), "{ended:?}");

    // At the handshake.
    let child = fanfare(&["subscribe", "a", "--url", &node.url()]).spawn().unwrap();
    let mut forbidding = node.accept_tcp().await;
    let _ = forbidding.read(&mut [0; 1024]).await.unwrap();
    forbidding.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let ended = end(child).await;
    assert!(ended.code == 3 && ended.stderr.contains("403"), "{ended:?}");
}

#[tokio::test]
async fn a_node_that_is_away_ends_with_4_after_the_deadline() {
    let node = FakeSocket::start().await;
    let url = node.url();
    drop(node);
    let ended = run(&["subscribe", "a", "--url", &url, "--deadline", "600ms"]).await;
    assert!(ended.code == 4 && ended.stderr.contains("no connection within 600ms"), "{ended:?}");
}

#[tokio::test]
async fn a_time_limit_ends_with_4_where_events_are_missing() {
    let node = FakeSocket::start().await;
    let words = ["subscribe", "a", "--url", &node.url(), "--timeout", "1s"];
    let child = fanfare(&[&words[..], &["--count", "2"]].concat()).spawn().unwrap();
    let (mut session, _) = node.accept_subscriber().await;
    session.send(r#"{"event":"x"}"#).await;
    let ended = end(child).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (4, "{\"event\":\"x\"}\n"), "{ended:?}");
    let child = fanfare(&words).spawn().unwrap();
    let _session = node.accept_subscriber().await;
    assert_eq!(end(child).await.code, 0);
}

#[tokio::test]
async fn nobody_reading_is_a_quiet_end() {
    let node = FakeSocket::start().await;
    let mut child = fanfare(&["subscribe", "a", "--url", &node.url()]).spawn().unwrap();
    drop(child.stdout.take());
    let (mut session, _) = node.accept_subscriber().await;
    session.send(r#"{"event":"x"}"#).await;
    let ended = end(child).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, "fanfare: subscribed\n"));
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    for (words, says) in [
        (&["subscribe"][..], "CHANNEL"),
        (&["subscribe", "*:a"], "wildcard"),
        (&["subscribe", "a", "--count", "0"], "--count"),
        (&["subscribe", "a", "--url", "http://127.0.0.1:1/"], "ws://"),
        (&["subscribe", "a", "--url", "127.0.0.1:1"], "ws://"),
    ] {
        let ended = run(words).await;
        assert!(ended.code == 2 && ended.stderr.contains(says), "{words:?}: {ended:?}");
    }
}
