//! What a client may ask of history when it subscribes, and by `history`.

use serde_json::{Value, json};

use super::{
    logical_client::{Habits, LogicalClient, MARK, position_in},
    retained::read_history,
    scene::{Kind, ids, ids_in, on_each_broker, since},
};
use crate::client::Client;

on_each_broker!(several_channels_in_one_round_trip);
on_each_broker!(the_newest_first);
on_each_broker!(pages_both_ways);

async fn several_channels_in_one_round_trip(kind: Kind) {
    let mut scene = kind.start().await;
    let channels: Vec<_> = (0..5).map(|index| format!("log:c{index}")).collect();
    let mut clients = Vec::new();
    for msgpack in [false, true] {
        let habits = Habits { msgpack, by_list: true, ..Habits::default() };
        let mut client = LogicalClient::new(format!("msgpack {msgpack}"), channels.clone(), scene.clock).habits(habits);
        client.join(scene.node.public()).await;
        client.cut();
        clients.push(client);
    }
    for (index, channel) in channels.iter().enumerate() {
        scene.publish_numbers(channel, 1, 3 * index).await;
    }
    for client in &mut clients {
        client.join(scene.node.public()).await;
    }
    let mark = format!("{MARK}end");
    for channel in &channels {
        scene.publish(channel, &mark, &mark).await;
    }
    for client in &mut clients {
        client.receive_until("the marks", |client| client.marks(&mark) == channels.len()).await;
    }
    let summary = scene.check("log", clients.into_iter().map(LogicalClient::into_log).collect());
    assert_eq!((summary.in_replies, summary.pushed, summary.recovered), (60, 10, 10), "{summary}");
}

async fn the_newest_first(kind: Kind) {
    let mut scene = kind.start().await;
    let positions = scene.publish_numbers("log:a", 1, 10).await;
    let last = since(&positions[9]);
    let cases = [
        (json!({}), None, None),
        (json!({ "rewind": 3 }), None, Some(ids(8, 10))),
        (json!({ "rewind": 10 }), None, Some(ids(1, 10))),
        (json!({ "rewind": 99 }), None, Some(ids(1, 10))),
        (json!({ "latest": true }), None, Some(ids(10, 10))),
        // Where there is a position to recover from, rewind is passed over.
        (json!({ "rewind": 3, "since": since(&positions[8]) }), Some(true), Some(ids(10, 10))),
        (json!({ "rewind": 1, "since": since(&positions[4]) }), Some(true), Some(ids(6, 10))),
        (json!({ "latest": true, "since": { "offset": 1, "epoch": "another" } }), Some(false), Some(ids(10, 10))),
    ];
    for (fields, recovered, expected) in cases {
        let mut client = scene.client().await;
        let reply = subscribe(&mut client, "log:a", &fields).await;
        let result = &reply["result"];
        assert_eq!(result["recovered"].as_bool(), recovered, "{fields}: {reply}");
        assert_eq!(ids_in(result), expected.unwrap_or_default(), "{fields}: {reply}");
        assert_eq!(result["position"], last, "{fields}: {reply}");
    }
    // In a list each can say its own; what is said for all is for those that say nothing.
    scene.publish_numbers("log:b", 1, 4).await;
    let mut client = scene.client().await;
    let list =
        json!(["log:b", { "channel": "log:a", "since": since(&positions[7]) }, { "channel": "log:c", "latest": true }]);
    let reply = client.command(json!({ "type": "subscribe", "channels": list, "rewind": 2 })).await;
    assert_eq!(reply["result"]["subscriptions"].as_array().map(Vec::len), Some(3), "{reply}");
    let mut told = std::collections::HashMap::new();
    for _ in 0..3 {
        let mut push = client.expect("system:subscribed").await;
        let channel = push["data"]["channel"].as_str().expect("a channel").to_owned();
        told.insert(channel, push["data"].take());
    }
    let [b, a, c] = [&told["log:b"], &told["log:a"], &told["log:c"]];
    assert_eq!([ids_in(b), ids_in(a), ids_in(c)], [ids(3, 4), ids(9, 10), vec![]], "{told:?}");
    assert_eq!((a["recovered"].as_bool(), b["recovered"].as_bool()), (Some(true), None), "{told:?}");
    // An empty channel has a position too, and what comes next lies behind it.
    let begin = position_in(&c["position"]).unwrap_or_else(|| panic!("{c}"));
    scene.publish_numbers("log:c", 1, 1).await;
    assert_eq!(client.message().await["id"], "id-1");
    let reply = subscribe(&mut scene.client().await, "log:c", &json!({ "since": since(&begin) })).await;
    assert_eq!((reply["result"]["recovered"].as_bool(), ids_in(&reply["result"])), (Some(true), ids(1, 1)), "{reply}");
}

async fn pages_both_ways(kind: Kind) {
    const COUNT: usize = 25;
    let mut scene = kind.start().await;
    let mut client = scene.client().await;
    let reply = subscribe(&mut client, "log:a", &json!({})).await;
    let begin = position_in(&reply["result"]["position"]).unwrap_or_else(|| panic!("{reply}"));
    let positions = scene.publish_numbers("log:a", 1, COUNT).await;
    let expected: Vec<_> = ids(1, COUNT).into_iter().zip(positions).collect();

    for limit in [1, 7, COUNT, 100] {
        assert_eq!(read_history(scene.node.public(), "log:a", limit).await, expected, "backwards by {limit}");
        let mut client = scene.client().await;
        let (mut found, mut from) = (Vec::new(), since(&begin));
        loop {
            let reply =
                client.command(json!({ "type": "history", "channel": "log:a", "since": from, "limit": limit })).await;
            let result = &reply["result"];
            assert_eq!(result["recovered"].as_bool(), Some(true), "{reply}");
            assert_eq!(result["position"], since(&expected[COUNT - 1].1), "{reply}");
            let page = super::retained::publications_in(result).unwrap_or_else(|| panic!("{reply}"));
            assert!(page.len() <= limit, "{reply}");
            let Some((_, last)) = page.last() else { break };
            from = since(last);
            found.extend(page);
            if result["more"] == false {
                break;
            }
        }
        assert_eq!(found, expected, "forward by {limit}");
    }
    // Deliveries in history are those that were pushed.
    let mut client = scene.client().await;
    let reply = client.command(json!({ "type": "history", "channel": "log:a", "limit": 1 })).await;
    let one = &reply["result"]["publications"][0];
    assert_eq!(
        (&one["event"], &one["channel"], &one["data"]),
        (&json!("tick"), &json!("log:a"), &json!("25")),
        "{reply}"
    );
    assert!(one["timestamp"].is_u64(), "{reply}");
}

#[tokio::test]
async fn what_cannot_be_asked() {
    let scene = Kind::Memory
        .start_with(|node| node.set("namespaces.live.subscribe", "anyone").set("namespaces.log.patterns", true))
        .await;
    let mut client = scene.client().await;
    let somewhere = json!({ "offset": 1, "epoch": "e" });
    let refused = [
        json!({ "type": "subscribe", "channel": "log:*", "since": somewhere }),
        json!({ "type": "subscribe", "channel": "log:**", "rewind": 1 }),
        json!({ "type": "subscribe", "channel": "log:*", "latest": true }),
        json!({ "type": "subscribe", "channel": "live:a", "since": somewhere }),
        json!({ "type": "subscribe", "channel": "live:a", "rewind": 1 }),
        json!({ "type": "subscribe", "channels": ["log:a", "log:b"], "since": somewhere }),
        json!({ "type": "history", "channel": "live:a", "limit": 1 }),
        json!({ "type": "history", "channel": "nowhere:a", "limit": 1 }),
        json!({ "type": "history", "channel": "log:*", "limit": 1 }),
        json!({ "type": "history", "channel": "log:a", "since": somewhere, "before": somewhere, "limit": 1 }),
    ];
    for command in refused {
        let reply = client.command(command.clone()).await;
        let code = reply["code"].as_str().unwrap_or_else(|| panic!("{command}: {reply}"));
        assert!(
            code == "BAD_REQUEST" || command["channel"] == "nowhere:a" && code == "FORBIDDEN",
            "{command}: {reply}"
        );
    }
    // Next to what is refused, the rest of a list is subscribed.
    let list = json!(["log:a", { "channel": "log:*", "rewind": 1 }, { "channel": "live:a", "since": somewhere }]);
    let reply = client.command(json!({ "type": "subscribe", "channels": list })).await;
    let outcomes = &reply["result"]["subscriptions"];
    assert!(outcomes[0]["error"].is_null(), "{reply}");
    assert!(client.expect("system:subscribed").await["data"]["position"].is_object());
    for refused in [&outcomes[1], &outcomes[2]] {
        assert_eq!(refused["error"]["code"], "BAD_REQUEST", "{reply}");
    }
    // What needs no history has no position.
    let reply = subscribe(&mut client, "live:a", &json!({})).await;
    assert_eq!(reply["result"], json!({ "channel": "live:a" }), "{reply}");
}

async fn subscribe(client: &mut Client, channel: &str, fields: &Value) -> Value {
    let mut command = json!({ "type": "subscribe", "channel": channel });
    command.as_object_mut().expect("it is one").extend(fields.as_object().expect("fields").clone());
    client.command(command).await
}
