//! What nodes tell services of connections and channels.

use bytes::Bytes;
use fanfare_broker::{Broker, BrokerError, BrokerOptions, Lifecycle, LifecycleKind, limits, memory::Memory, open};
use fanfare_protocol::Tenant;
use fanfare_testkit::{NatsServer, RedisServer, redis::RedisCluster};
use fred::interfaces::{EventInterface as _, PubsubInterface as _};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::{
    fixture::{Outside as _, SOON},
    nats, redis, redis_cluster,
};

fn lifecycle(kind: LifecycleKind, id: &str) -> Lifecycle {
    let body = Bytes::from(format!(r#"{{"id":"{id}","kind":"{}"}}"#, kind.as_str()));
    Lifecycle { tenant: Tenant::parse("acme").unwrap(), kind, id: id.to_owned(), body }
}

/// Tells each kind once, and hears what a service hears of it.
async fn all_kinds(broker: &dyn Broker, mut hear: impl AsyncFnMut() -> (String, Bytes), name: impl Fn(&str) -> String) {
    for (n, kind) in LifecycleKind::ALL.into_iter().enumerate() {
        let lifecycle = lifecycle(kind, &format!("s{n}:{}", kind.as_str()));
        broker.tell(lifecycle.clone()).await.unwrap();
        let heard = timeout(SOON, hear()).await.expect("a service hears of it");
        assert_eq!(heard, (name(kind.as_str()), lifecycle.body));
    }
}

#[tokio::test]
async fn in_memory_the_newest_are_kept() {
    let memory = Memory::new();
    let (broker, _events) = memory.attach();
    for _ in 0..2 {
        broker.tell(lifecycle(LifecycleKind::Connected, "s1:connected")).await.unwrap();
    }
    assert_eq!(memory.told(), [lifecycle(LifecycleKind::Connected, "s1:connected")]);
    for n in 0..limits::MEMORY_TOLD {
        broker.tell(lifecycle(LifecycleKind::Occupied, &n.to_string())).await.unwrap();
    }
    let told = memory.told();
    assert_eq!((told.len(), told[0].id.as_str()), (limits::MEMORY_TOLD, "0"));
    memory.interrupt(0).await;
    let refused = broker.tell(lifecycle(LifecycleKind::Vacated, "v")).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable { .. })), "{refused:?}");
}

#[tokio::test]
async fn on_nats_without_jetstream_plain_subscribers_hear() {
    let server = NatsServer::start().await;
    let outside = nats::Plain::connect(&server).await;
    let mut heard = outside.client.subscribe("rt.event.acme.>").await.unwrap();
    outside.flush().await;
    let options = BrokerOptions { tells: true, ..BrokerOptions::new(server.url()) };
    let (broker, _events) = open(&options).await.unwrap();
    let hear = async || {
        let message = heard.next().await.unwrap();
        (message.subject.to_string(), message.payload)
    };
    all_kinds(&*broker, hear, |kind| format!("rt.event.acme.{kind}")).await;
    server.stop().await;
    let away = broker.tell(lifecycle(LifecycleKind::Vacated, "v")).await;
    assert!(matches!(away, Err(BrokerError::Unavailable { .. } | BrokerError::Timeout { .. })), "{away:?}");
    broker.close().await;
}

#[tokio::test]
async fn on_redis_plain_subscribers_hear() {
    let server = RedisServer::start().await;
    let outside = redis::Plain::connect(&server).await;
    let mut messages = outside.client.message_rx();
    outside.client.psubscribe("rt:event:acme:*").await.unwrap();
    let (broker, _events) = open(&BrokerOptions::new(server.url())).await.unwrap();
    let hear = async || {
        let message = messages.recv().await.unwrap();
        (message.channel.to_string(), message.value.into_bytes().unwrap())
    };
    all_kinds(&*broker, hear, |kind| format!("rt:event:acme:{kind}")).await;
    server.stop().await;
    let away = broker.tell(lifecycle(LifecycleKind::Vacated, "v")).await;
    assert!(matches!(away, Err(BrokerError::Unavailable { .. } | BrokerError::Timeout { .. })), "{away:?}");
    broker.close().await;
}

#[tokio::test]
async fn on_a_redis_cluster_sharded_subscribers_hear() {
    let cluster = RedisCluster::start().await;
    let outside = redis_cluster::Plain::connect(&cluster).await;
    let mut messages = outside.client.message_rx();
    for kind in LifecycleKind::ALL {
        outside.client.ssubscribe(format!("rt:event:acme:{}", kind.as_str())).await.unwrap();
    }
    let (broker, _events) = open(&BrokerOptions::new(cluster.url())).await.unwrap();
    let hear = async || {
        let message = messages.recv().await.unwrap();
        (message.channel.to_string(), message.value.into_bytes().unwrap())
    };
    all_kinds(&*broker, hear, |kind| format!("rt:event:acme:{kind}")).await;
    broker.close().await;
}
