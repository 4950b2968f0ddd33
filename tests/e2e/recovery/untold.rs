//! A publication that the broker has, and of which no node was told: as when a leader ends between commit and republish.

use std::time::{Duration, Instant};

use super::{
    history_broker::HistoryBroker,
    logical_client::{LogicalClient, MARK},
    scene::{Kind, Scene},
    swallowing_proxy::SwallowingProxy,
};
use crate::SOON;

const CHANNEL: &str = "log:a";

#[tokio::test]
async fn on_nats() {
    let broker = HistoryBroker::nats().await;
    let proxy = SwallowingProxy::start(broker.address()).await;
    let url = broker.url_at(proxy.address());
    let scene = Scene::on(broker, &url).await;
    arrives(Kind::Nats, scene, async |scene, id, data| {
        proxy.swallow_one();
        scene.publish_at_broker(CHANNEL, id, data).await;
        fanfare_testkit::wait_until("the message to be swallowed", SOON, || proxy.left() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn on_redis() {
    let scene = Kind::Redis.start().await;
    arrives(Kind::Redis, scene, async |scene, id, data| scene.publish_untold(CHANNEL, id, data).await).await;
}

async fn arrives(kind: Kind, mut scene: Scene, publish_untold: impl AsyncFn(&mut Scene, &str, &str)) {
    let mut client = LogicalClient::new("ann", vec![CHANNEL.to_owned()], scene.clock);
    client.join(scene.node.public()).await;
    scene.publish_at_broker(CHANNEL, "told", "1").await;
    // With nothing behind it, only a look at the position can show it: soon after the interest is new, and later on.
    let mut by_position = [Duration::ZERO; 2];
    for (round, took) in by_position.iter_mut().enumerate() {
        let (mark, begun) = (format!("{MARK}untold-{round}"), Instant::now());
        publish_untold(&mut scene, &mark, &mark).await;
        client.receive_until("the position check", |client| client.marks(&mark) == 1).await;
        *took = begun.elapsed();
    }
    // With one behind it, that one shows it, and comes after it.
    publish_untold(&mut scene, "hole", "2").await;
    let begun = Instant::now();
    let mark = format!("{MARK}told");
    scene.publish_at_broker(CHANNEL, &mark, &mark).await;
    client.receive_until("the next", |client| client.marks(&mark) == 1).await;
    println!(
        "{kind:?}: untold, it came after {by_position:.1?}; with another behind it, {:.1?} after that",
        begun.elapsed()
    );
    let summary = scene.check("log", vec![client.into_log()]);
    assert_eq!((summary.pushed, summary.gaps), (5, 0), "{summary}");
}
