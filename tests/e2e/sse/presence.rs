//! Who is on a channel, told to a stream: events that have no place in a history.

use serde_json::Value;

use super::{
    event_stream::{Event, EventStream},
    node, publish,
};

/// The next announcement of a member with this status; the others are passed over.
async fn told(stream: &mut EventStream, status: &str) -> Event {
    loop {
        let event = stream.event().await;
        if event.name == "presence:change" && event.object["data"]["status"] == status {
            return event;
        }
    }
}

async fn number(stream: &mut EventStream) -> (u64, String) {
    loop {
        let event = stream.event().await;
        if event.name == "tick" {
            return (event.number().1, event.id);
        }
    }
}

#[tokio::test]
async fn members_are_told_and_the_stream_comes_back_where_it_was() {
    let configured = node("memory:")
        .set("namespaces.log.presence", true)
        .set("presence.grace", "200ms")
        .set("presence.batch", "20ms");
    let node = configured.start().await;
    let target = "/sse?channels=log:a,live:x&presence=true";
    let mut stream = EventStream::open(&node, target, "").await;
    let snapshot = loop {
        let event = stream.event().await;
        if event.name == "presence:snapshot" {
            break event.object;
        }
    };
    assert_eq!((&snapshot["channel"], &snapshot["data"]["users"]), (&"log:a".into(), &1.into()), "{snapshot}");
    assert_eq!(snapshot["data"]["members"].as_array().map(Vec::len), Some(1), "{snapshot}");
    publish(&node, "log:a", 1).await;
    let (first, id) = number(&mut stream).await;
    assert_eq!(first, 1);

    let mut other = EventStream::open(&node, "/sse?channels=log:a&presence=false", "").await;
    let session = other.expect("system:connected").await["session"].clone();
    let online = loop {
        let event = told(&mut stream, "online").await;
        if event.object["data"]["userId"] == session {
            break event;
        }
    };
    assert_eq!(online.object["data"]["anonymous"], Value::Bool(true), "{online:?}");
    assert_eq!(online.id, id, "the id is still that of the publication");
    drop(other);
    let offline = told(&mut stream, "offline").await;
    assert_eq!((&offline.object["data"]["userId"], &offline.id), (&session, &id), "{offline:?}");
    let last_id = stream.last_id().to_owned();
    drop(stream);

    publish(&node, "log:a", 2).await;
    let mut back = EventStream::come_back(&node, target, &last_id).await;
    let (second, second_id) = number(&mut back).await;
    assert!(second == 2 && second_id != id, "nothing comes twice");
}
