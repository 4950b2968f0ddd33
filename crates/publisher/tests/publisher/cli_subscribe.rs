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

/// An event of a channel with history.
fn placed(channel: &str, offset: u64) -> String {
    format!(r#"{{"event":"x","channel":"{channel}","data":{offset},"offset":{offset},"epoch":"e"}}"#)
}

/// What the node says when a channel with history is subscribed to.
fn begun(channel: &str, recovered: Option<bool>, publications: &[u64], position: u64) -> String {
    let publications: Vec<String> = publications.iter().map(|offset| placed(channel, *offset)).collect();
    let recovered = recovered.map(|recovered| format!(r#""recovered":{recovered},"#)).unwrap_or_default();
    let position = format!(r#"{{"offset":{position},"epoch":"e"}}"#);
    format!(
        r#"{{"event":"system:subscribed","data":{{"channel":"{channel}","position":{position},{recovered}"publications":[{}]}}}}"#,
        publications.join(",")
    )
}

#[tokio::test]
async fn on_channels_with_history_it_goes_on_where_it_was_and_prints_each_event_once() {
    let node = FakeSocket::start().await;
    let child =
        fanfare(&["subscribe", "a", "b", "--rewind", "2", "--url", &node.url(), "--count", "8"]).spawn().unwrap();
    let mut session = node.accept().await;
    session.read().await;
    let rewind = json!([{ "channel": "a", "rewind": 2 }, { "channel": "b", "rewind": 2 }]);
    assert_eq!(session.read().await["channels"], rewind);
    session.send(&begun("a", None, &[4, 5], 5)).await;
    session.send(&begun("b", None, &[], 9)).await;
    let both = json!({ "subscriptions": [{ "channel": "a" }, { "channel": "b" }] });
    session.send(&json!({ "id": 2, "type": "reply", "result": both }).to_string()).await;
    session.send(&placed("a", 6)).await;
    session.send(&placed("b", 11)).await;
    let to = json!({ "offset": 20, "epoch": "e" });
    session.send(&json!({ "event": "system:gap", "data": { "channel": "b", "to": to } }).to_string()).await;
    session.close(4000, "draining").await;

    let mut session = node.accept().await;
    session.read().await;
    let since = |channel: &str, offset: u64| json!({ "channel": channel, "since": { "epoch": "e", "offset": offset }, "rewind": 2 });
    assert_eq!(session.read().await["channels"], json!([since("a", 6), since("b", 20)]));
    session.send(&begun("a", Some(true), &[7], 7)).await;
    // What was rewound to and had been printed is passed over.
    session.send(&begun("b", Some(false), &[20, 22], 22)).await;
    session.send(&placed("a", 7)).await;
    session.send(r#"{"event":"x","channel":"a","data":1,"offset":1,"epoch":"f"}"#).await;
    session.send(&placed("b", 23)).await;
    let ended = end(child).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let mut expected: Vec<String> = [("a", 4), ("a", 5), ("a", 6), ("b", 11), ("a", 7), ("b", 22)]
        .map(|(channel, offset)| placed(channel, offset))
        .into();
    expected.push(r#"{"event":"x","channel":"a","data":1,"offset":1,"epoch":"f"}"#.to_owned());
    expected.push(placed("b", 23));
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), expected);
    assert!(ended.stderr.contains("asked for afterwards") && ended.stderr.contains("on b may have been"), "{ended:?}");
    assert!(!ended.stderr.contains("on a may have been"), "{ended:?}");
}

#[tokio::test]
async fn it_begins_behind_a_position_and_counts_what_is_recovered() {
    let node = FakeSocket::start().await;
    let child = fanfare(&["subscribe", "a", "--since", "e.41", "--url", &node.url(), "--count", "2"]).spawn().unwrap();
    let mut session = node.accept().await;
    session.read().await;
    let since = json!({ "epoch": "e", "offset": 41 });
    assert_eq!(session.read().await["channels"], json!([{ "channel": "a", "since": since }]));
    session.send(&begun("a", Some(true), &[42, 43, 44], 44)).await;
    let ended = end(child).await;
    assert_eq!((ended.code, ended.stdout), (0, format!("{}\n{}\n", placed("a", 42), placed("a", 43))));
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
        (&["subscribe", "a", "--rewind", "0"], "--rewind"),
        (&["subscribe", "a:*", "--rewind", "1"], "\"a:*\" is a pattern"),
        (&["subscribe", "a:**", "--since", "e.1"], "\"a:**\" is a pattern"),
        (&["subscribe", "a", "b", "--since", "e.1"], "one channel; 2 channels"),
        (&["subscribe", "a", "--since", "41"], "EPOCH.OFFSET"),
        (&["subscribe", "a", "--url", "http://127.0.0.1:1/"], "ws://"),
        (&["subscribe", "a", "--url", "127.0.0.1:1"], "ws://"),
    ] {
        let ended = run(words).await;
        assert!(ended.code == 2 && ended.stderr.contains(says), "{words:?}: {ended:?}");
    }
}
