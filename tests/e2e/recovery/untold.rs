//! A publication that the broker has, and of which no node was told: as when a leader ends between commit and republish.

use super::{
    logical_client::{LogicalClient, MARK},
    scene::Kind,
};

const CHANNEL: &str = "log:a";

#[tokio::test]
async fn on_nats() {
    arrives(Kind::Nats).await;
}

#[tokio::test]
async fn on_redis() {
    arrives(Kind::Redis).await;
}

async fn arrives(kind: Kind) {
    let mut scene = kind.start().await;
    let mut client = LogicalClient::new("ann", vec![CHANNEL.to_owned()], scene.clock);
    client.join(scene.node.public()).await;
    scene.publish_at_broker(CHANNEL, "told", "1").await;
    // With nothing behind it, only a look at the position can show it.
    let mark = format!("{MARK}untold");
    scene.publish_untold(CHANNEL, &mark, &mark).await;
    client.receive_until("the position check", |client| client.marks(&mark) == 1).await;
    // With one behind it, that one shows it, and comes after it.
    let begun = std::time::Instant::now();
    scene.publish_untold(CHANNEL, "hole", "2").await;
    let mark = format!("{MARK}told");
    scene.publish_at_broker(CHANNEL, &mark, &mark).await;
    client.receive_until("the next", |client| client.marks(&mark) == 1).await;
    println!("{kind:?}: a hole was repaired {:?} after it was made", begun.elapsed());
    let summary = scene.check("log", vec![client.into_log()]);
    assert_eq!((summary.pushed, summary.gaps), (4, 0), "{summary}");
}
