//! A publication that is sent again under its id is published once.

use fanfare_checker::Position;
use futures_util::future::join_all;

use super::{
    logical_client::{Habits, LogicalClient, MARK},
    scene::{Kind, Scene, on_each_broker},
};

const CHANNEL: &str = "log:a";
const TIMES: usize = 3;

on_each_broker!(by_the_api);

async fn by_the_api(kind: Kind) {
    let mut scene = kind.start().await;
    let clients = join(&scene).await;
    let mut positions = Vec::new();
    for _ in 0..TIMES {
        positions.push(scene.publish(CHANNEL, "once", "1").await);
    }
    assert_same(&positions);
    // The id belongs to its channel, and to its tenant.
    let elsewhere = scene.publish("log:b", "once", "1").await;
    let again = scene.publish("log:b", "once", "1").await;
    assert_eq!(elsewhere, again);
    // Together.
    let body = serde_json::json!({ "tenant": super::TENANT, "channel": CHANNEL, "event": "tick", "id": "at-once", "data": "2" });
    scene.publish(CHANNEL, "at-once", "2").await;
    let together = join_all((0..TIMES).map(|_| scene.node.post("/api/publish", body.to_string()))).await;
    assert!(together.windows(2).all(|pair| pair[0] == pair[1]), "{together:?}");
    all_came_once(scene, clients, 3).await;
}

#[tokio::test]
async fn by_a_plain_nats_client() {
    past_the_node(Kind::Nats).await;
}

#[tokio::test]
async fn by_a_plain_redis_client() {
    past_the_node(Kind::Redis).await;
}

async fn past_the_node(kind: Kind) {
    let mut scene = kind.start().await;
    let clients = join(&scene).await;
    let mut offsets = Vec::new();
    for _ in 0..TIMES {
        offsets.push(scene.publish_at_broker(CHANNEL, "once", "1").await);
    }
    // The node's own way knows it too, and the other way round.
    offsets.push(scene.publish(CHANNEL, "once", "1").await.offset);
    assert!(offsets.windows(2).all(|pair| pair[0] == pair[1]), "{offsets:?}");
    let first = scene.publish(CHANNEL, "other", "2").await.offset;
    assert_eq!(scene.publish_at_broker(CHANNEL, "other", "2").await, first);
    all_came_once(scene, clients, 3).await;
}

async fn join(scene: &Scene) -> Vec<LogicalClient> {
    let mut clients = Vec::new();
    for msgpack in [false, true] {
        let habits = Habits { msgpack, ..Habits::default() };
        let client = LogicalClient::new(format!("msgpack {msgpack}"), vec![CHANNEL.to_owned()], scene.clock);
        clients.push(client.habits(habits));
    }
    for client in &mut clients {
        client.join(scene.node.public()).await;
    }
    clients
}

/// With a mark behind all else.
async fn all_came_once(mut scene: Scene, mut clients: Vec<LogicalClient>, publications: usize) {
    let mark = format!("{MARK}end");
    scene.publish(CHANNEL, &mark, &mark).await;
    for client in &mut clients {
        client.receive_until("the mark", |client| client.marks(&mark) == 1).await;
    }
    let count = clients.len();
    let summary = scene.check("log", clients.into_iter().map(LogicalClient::into_log).collect());
    assert_eq!(summary.pushed, count * publications, "{summary}");
}

#[track_caller]
fn assert_same(positions: &[Position]) {
    assert!(positions.windows(2).all(|pair| pair[0] == pair[1]), "{positions:?}");
}
