//! Recoveries that are larger than what a client may have waiting, and larger than what a node will recover.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{
    logical_client::{Habits, LogicalClient, MARK, position_in},
    scene::{Kind, ids, ids_in, on_each_broker, since},
};

const CHANNEL: &str = "log:a";
const OUTBOX: &str = "64KiB";
/// 600 of 1 KiB, within the default of `limits.recovery_bytes`.
const MISSED: usize = 600;
const DATA_BYTES: usize = 1_024;
/// As little as the kernel takes for a client that reads slowly; it doubles it.
const RECEIVE_BUFFER_BYTES: u32 = 4 * 1024;

on_each_broker!(larger_than_the_outbox);
on_each_broker!(larger_than_the_limit);

async fn larger_than_the_outbox(kind: Kind) {
    let mut scene = kind
        .start_with(|node| {
            node.set("limits.outbox_bytes", OUTBOX)
                .set("limits.publication_bytes", "8KiB")
                .set("limits.notsent_lowat_bytes", "8KiB")
        })
        .await;
    let clock = scene.clock;
    let new = |name: &str, msgpack| {
        let habits = Habits { msgpack, receive_buffer: Some(RECEIVE_BUFFER_BYTES), ..Habits::default() };
        LogicalClient::new(name, vec![CHANNEL.to_owned()], clock).habits(habits)
    };
    let mut clients = [new("json", false), new("msgpack", true)];
    for client in &mut clients {
        client.join(scene.node.public()).await;
    }
    let padding = "x".repeat(DATA_BYTES);
    for client in &mut clients {
        client.cut();
    }
    for number in 0..MISSED {
        scene.publish(CHANNEL, &format!("missed-{number}"), &padding).await;
    }
    let mark = format!("{MARK}end");
    let address = scene.node.public();
    let [json, msgpack] = &mut clients;
    let publishing = async {
        // Live ones while the recovery is under way.
        for number in 0..50 {
            scene.publish(CHANNEL, &format!("live-{number}"), &padding).await;
        }
        scene.publish(CHANNEL, &mark, &mark).await;
    };
    tokio::join!(publishing, read_slowly(json, address, &mark), read_slowly(msgpack, address, &mark));
    let logs = clients.into_iter().map(LogicalClient::into_log).collect();
    let metrics = scene.node.metrics().await;
    let summary = scene.check("log", logs);
    assert_eq!((summary.recovered, summary.not_recovered, summary.disconnects), (2, 0, 2), "{summary}");
    assert_eq!(metrics.sum("fanfare_slow_consumers_total"), 0.0, "the recovery overflowed what it fills");
    println!("{kind:?}: {MISSED} of {DATA_BYTES} bytes through an outbox of {OUTBOX}: {summary}");
}

/// Comes back, and reads on and on, with a rest after each.
async fn read_slowly(client: &mut LogicalClient, node: std::net::SocketAddr, mark: &str) {
    client.connect(node).await.expect("the node is there");
    while client.marks(mark) == 0 {
        client.receive().await.unwrap_or_else(|lost| panic!("closed while it read on: {lost}"));
        sleep(Duration::from_millis(1)).await;
    }
}

async fn larger_than_the_limit(kind: Kind) {
    const LIMIT: usize = 100;
    let mut scene = kind.start_with(|node| node.set("limits.recovery_publications", LIMIT as i64)).await;
    let mut client = scene.client().await;
    let reply = client.command(json!({ "type": "subscribe", "channel": CHANNEL })).await;
    let begin = position_in(&reply["result"]["position"]).unwrap_or_else(|| panic!("{reply}"));
    let positions = scene.publish_numbers(CHANNEL, 1, LIMIT + 1).await;
    let subscribe = |from| json!({ "type": "subscribe", "channel": CHANNEL, "since": since(from) });

    let reply = scene.client().await.command(subscribe(&begin)).await;
    assert_eq!((reply["result"]["recovered"].as_bool(), ids_in(&reply["result"])), (Some(false), vec![]), "{reply}");
    assert_eq!(reply["result"]["position"], since(&positions[LIMIT]), "{reply}");
    // From there it is recovered: it does not come back for ever.
    let reply = scene.client().await.command(subscribe(&positions[LIMIT])).await;
    assert_eq!((reply["result"]["recovered"].as_bool(), ids_in(&reply["result"])), (Some(true), vec![]), "{reply}");
    // Just the limit is recovered.
    let reply = scene.client().await.command(subscribe(&positions[0])).await;
    assert_eq!(
        (reply["result"]["recovered"].as_bool(), ids_in(&reply["result"])),
        (Some(true), ids(2, LIMIT + 1)),
        "{reply}"
    );
}
