//! What is delivered to whom, and in which form.

use serde_json::{Value, json};

use crate::{
    client::{Client, Received},
    handshake::TokenPlace,
    node::Node,
};

/// A client of the tenant `acme`.
async fn client(node: &Node, user: &str) -> Client {
    node.client().connect("acme", user, TokenPlace::Header).await
}

/// `new WebSocket("…/ws?channels=a,b")` and `onmessage` are a whole client of a node in development mode.
#[tokio::test]
async fn channels_in_the_url_need_no_command() {
    let node = Node::development().start().await;
    let mut client = node.client().query("channels=news,project:clx123").open().await;
    let connected = client.expect("system:connected").await;
    assert_eq!(connected["data"]["tenant"], "default", "{connected}");
    assert_eq!(connected["data"]["protocol"], 1, "{connected}");
    let mut subscribed = Vec::new();
    for _ in 0..2 {
        let push = client.expect("system:subscribed").await;
        subscribed.push(push["data"]["channel"].as_str().unwrap().to_owned());
    }
    subscribed.sort_unstable();
    assert_eq!(subscribed, ["news", "project:clx123"]);
    for channel in ["project:clx123", "news"] {
        node.publish("default", channel, r#"{"event":"hello","data":{"a": 1}}"#).await;
        let publication = client.publication().await;
        assert_eq!((publication.channel.as_str(), publication.event.as_str()), (channel, "hello"));
        assert_eq!(publication.data(), r#"{"a": 1}"#);
    }
}

/// `rewind` beside them, and a late client has the state at once.
#[tokio::test]
async fn channels_in_the_url_may_begin_in_the_past() {
    let node = Node::development().set("namespaces.news.history.size", 10).start().await;
    for event in ["first", "second", "third"] {
        node.publish("default", "news", &json!({ "event": event }).to_string()).await;
    }
    let mut client = node.client().query("channels=news,live&rewind=2").open().await;
    client.expect("system:connected").await;
    let mut pushes = [client.message().await, client.message().await];
    pushes.sort_by_key(|push| push["event"].to_string());
    let [refused, subscribed] = pushes;
    assert_eq!((&refused["data"]["channel"], &refused["data"]["code"]), (&json!("live"), &json!("BAD_REQUEST")));
    let events: Vec<_> =
        subscribed["data"]["publications"].as_array().unwrap().iter().map(|one| &one["event"]).collect();
    assert_eq!(events, ["second", "third"], "{subscribed}");
    node.publish("default", "news", r#"{"event":"fourth"}"#).await;
    assert_eq!(client.publication().await.event, "fourth");
    assert!(node.client().query("channels=news&rewind=some").try_open().await.is_err());
}

#[tokio::test]
async fn channels_in_the_url_need_the_tokens_permission() {
    let node = Node::start("memory:").await;
    let handshake = node.client().query("channels=secret:1,project:1");
    let mut client = handshake.connect("acme", "alice", TokenPlace::Query).await;
    let mut pushes = [client.message().await, client.message().await];
    pushes.sort_by_key(|push| push["event"].to_string());
    let [refused, subscribed] = pushes;
    assert_eq!(subscribed, json!({ "event": "system:subscribed", "data": { "channel": "project:1" } }));
    assert_eq!(refused["event"], "system:error");
    let error = &refused["data"];
    assert_eq!((&error["channel"], &error["code"]), (&json!("secret:1"), &json!("FORBIDDEN")), "{refused}");
    node.publish("acme", "secret:1", r#"{"event":"secret"}"#).await;
    node.publish("acme", "project:1", r#"{"event":"open"}"#).await;
    assert_eq!(client.publication().await.event, "open");
}

#[tokio::test]
async fn overlapping_subscriptions_deliver_once() {
    let node = Node::start("memory:").await;
    let mut client = client(&node, "alice").await;
    for topic in ["project:a", "project:*", "project:**", "project:a:**"] {
        client.subscribe(topic).await;
    }
    for channel in ["project:a", "project:a:b", "project:c", "project:a"] {
        node.publish("acme", channel, r#"{"event":"x"}"#).await;
        assert_eq!(client.publication().await.channel, channel);
    }
    // One of the subscriptions less, and it still comes: once.
    let reply = client.command(json!({ "type": "unsubscribe", "channels": ["project:a", "project:**"] })).await;
    assert_eq!(reply["result"], json!({}), "{reply}");
    for event in ["y", "z"] {
        node.publish("acme", "project:a", &json!({ "event": event }).to_string()).await;
        assert_eq!(client.publication().await.event, event);
    }
}

#[tokio::test]
async fn messagepack_and_json_get_the_same() {
    let node = Node::start("memory:").await;
    let mut by_json = client(&node, "alice").await;
    let offers = format!("fanfare.v1.msgpack, bearer, {}", crate::token::token("acme", "bob"));
    let (mut by_msgpack, response) = node.client().subprotocols(&offers).try_open().await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "fanfare.v1.msgpack");
    let connected = by_msgpack.next().await;
    assert!(matches!(connected, Received::Binary(_)), "{connected:?}");
    assert_eq!(connected.object().unwrap()["data"]["user"], "bob");
    by_json.subscribe("project:clx123").await;
    // {"id":1,"type":"subscribe","channel":"project:clx123"}, by hand.
    let command = b"\x83\xa2id\x01\xa4type\xa9subscribe\xa7channel\xaeproject:clx123".to_vec();
    by_msgpack.send_message(command.into()).await;
    assert_eq!(by_msgpack.reply(1).await["result"], json!({ "channel": "project:clx123" }));

    for data in [
        r#"{ "projectId" : "clx123", "currentAmount": 75000, "ratio": 1.50, "delta": -129, "none": null }"#,
        r#"[true, false, [], {}, "", "ü 😀 \u00fc", 18446744073709551615, -9223372036854775808, 0.1, 1e3]"#,
        r#"{"image": {"$bin": "AAEC/w=="}, "nested": [[[{"a": [1, 2, {"b": "c"}]}]]]}"#,
        r#""a string of thirty-two bytes and more, so that its length takes a byte""#,
        "7",
    ] {
        let envelope = format!(r#"{{"event":"same","data":{data},"timestamp":1696867200000,"key":"k","version":3}}"#);
        node.publish("acme", "project:clx123", &envelope).await;
        let text = by_json.next().await;
        assert_eq!(text.publication().unwrap().data(), data);
        let binary = by_msgpack.next().await;
        assert!(matches!(binary, Received::Binary(_)), "{binary:?}");
        assert_eq!(with_floats(binary.object().unwrap()), with_floats(text.object().unwrap()));
    }
}

/// MessagePack has no `1e3` that is not a float, and JSON in Rust none that is an integer: numbers are compared as a
/// browser has them, integers beyond 2^53 as their text.
fn with_floats(value: Value) -> Value {
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|float| float.abs() < 9e15) => number.as_f64().into(),
        Value::Number(number) => number.to_string().into(),
        Value::Array(items) => items.into_iter().map(with_floats).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, with_floats(value))).collect(),
        other => other,
    }
}

#[tokio::test]
async fn excluded_sessions_do_not_get_it() {
    let node = Node::start("memory:").await;
    let [mut alice, mut bob] = [client(&node, "alice").await, client(&node, "bob").await];
    for client in [&mut alice, &mut bob] {
        client.subscribe("project:1").await;
        client.subscribe("project:*").await;
    }
    let envelope = json!({ "event": "for bob only", "exclude": [alice.session()] });
    node.publish("acme", "project:1", &envelope.to_string()).await;
    node.publish("acme", "project:1", r#"{"event":"for both"}"#).await;
    assert_eq!(alice.publication().await.event, "for both");
    let Received::Text(text) = bob.next().await else { panic!("no text") };
    assert!(text.contains("for bob only") && !text.contains("exclude") && !text.contains(alice.session()), "{text}");
    assert_eq!(bob.publication().await.event, "for both");
}

#[tokio::test]
async fn a_clients_publish_comes_back_unless_it_says_no() {
    let node = Node::start("memory:").await;
    let [mut alice, mut bob] = [client(&node, "alice").await, client(&node, "bob").await];
    for client in [&mut alice, &mut bob] {
        client.subscribe("board:7").await;
    }
    for (event, echo) in [("silent", json!(false)), ("loud", json!(true))] {
        let data = json!({ "x": 1.5 });
        let publish = json!({ "type": "publish", "channel": "board:7", "event": event, "data": data, "echo": echo });
        let reply = alice.command(publish).await;
        assert_eq!(reply["result"], json!({}), "{reply}");
        let publication = bob.publication().await;
        assert_eq!((publication.event.as_str(), publication.data()), (event, r#"{"x":1.5}"#));
    }
    assert_eq!(alice.publication().await.event, "loud");
    // Another namespace takes nothing from clients.
    let reply = alice.command(json!({ "type": "publish", "channel": "project:7", "event": "e" })).await;
    assert_eq!(reply["code"], "FORBIDDEN", "{reply}");
}

/// Commands may all be sent at once, behind `connect`.
#[tokio::test]
async fn nothing_waits_for_a_round_trip() {
    let node = Node::start("memory:").await;
    let mut client = node.client().open().await;
    let commands = json!([
        { "id": 1, "type": "connect", "token": crate::token::token("acme", "alice") },
        { "id": 2, "type": "subscribe", "channels": ["board:7", "secret:1", "project:*"] },
        { "id": 3, "type": "publish", "channel": "board:7", "event": "e", "data": [1] },
        { "id": 4, "type": "ping" },
    ]);
    client.send(commands.to_string()).await;
    assert_eq!(client.reply(1).await["result"]["user"], "alice");
    let subscribed = client.reply(2).await;
    let subscriptions = subscribed["result"]["subscriptions"].as_array().unwrap();
    let outcomes: Vec<_> = subscriptions.iter().map(|one| (&one["channel"], &one["error"]["code"])).collect();
    let (none, forbidden) = (Value::Null, json!("FORBIDDEN"));
    assert_eq!(
        outcomes,
        [(&json!("board:7"), &none), (&json!("secret:1"), &forbidden), (&json!("project:*"), &none)],
        "{subscribed}"
    );
    assert_eq!(client.reply(3).await["result"], json!({}));
    assert_eq!(client.reply(4).await["result"], json!({}));
}
