//! What nodes tell services of connections and channels.

use bytes::Bytes;
use fanfare_broker::{Broker, BrokerError, BrokerOptions, Lifecycle, LifecycleKind, limits, memory::Memory, open};
use fanfare_protocol::Tenant;
use fanfare_testkit::{NatsServer, RedisCluster, RedisServer, wait_for};
use fred::interfaces::{EventInterface as _, PubsubInterface as _};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    fixture::{Outside as _, SOON},
    nats,
    nats_streams::{api, jetstream},
    redis, redis_cluster,
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

fn telling(server: &NatsServer) -> BrokerOptions {
    BrokerOptions { tells: true, connect_timeout: SOON, ..BrokerOptions::new(server.url()) }
}

fn unmanaged(server: &NatsServer) -> BrokerOptions {
    let mut options = telling(server);
    options.history.manage_streams = false;
    options
}

/// How many events the stream has.
async fn kept(outside: &nats::Plain) -> Value {
    api(&outside.client, "STREAM.INFO.RT_EVENTS", Value::Null).await["state"]["messages"].take()
}

/// Tells until it succeeds, as whoever wants it told at least once.
async fn tell_at_last(broker: &dyn Broker, lifecycle: &Lifecycle) {
    wait_for("the event to be taken", SOON, async || broker.tell(lifecycle.clone()).await.ok()).await;
}

#[tokio::test]
async fn a_stream_keeps_each_id_once() {
    let server = jetstream().await;
    let (broker, _events) = open(&telling(&server)).await.unwrap();
    let outside = nats::Plain::connect(&server).await;
    for kind in LifecycleKind::ALL {
        for _ in 0..2 {
            broker.tell(lifecycle(kind, &format!("s1:{}", kind.as_str()))).await.unwrap();
        }
    }
    assert_eq!(kept(&outside).await, json!(6));
    let first = json!({ "next_by_subj": "rt.event.acme.vacated", "seq": 1 });
    let stored = api(&outside.client, "STREAM.MSG.GET.RT_EVENTS", first).await;
    assert_eq!(stored["message"]["seq"], json!(6));
    // Another node tells the same, as two that reap one row may.
    let (other, _events) = open(&telling(&server)).await.unwrap();
    other.tell(lifecycle(LifecycleKind::Vacated, "s1:vacated")).await.unwrap();
    let refused = other.tell(lifecycle(LifecycleKind::Vacated, "line\r\nbreak")).await;
    assert!(matches!(refused, Err(BrokerError::Refused { .. })), "{refused:?}");
    server.stop().await;
    let away = broker.tell(lifecycle(LifecycleKind::Connected, "s2:connected")).await;
    assert!(matches!(away, Err(BrokerError::Unavailable { .. } | BrokerError::Timeout { .. })), "{away:?}");
    server.restart().await;
    for broker in [&broker, &other] {
        tell_at_last(&**broker, &lifecycle(LifecycleKind::Connected, "s2:connected")).await;
    }
    let outside = nats::Plain::connect(&server).await;
    assert_eq!(kept(&outside).await, json!(7));
    broker.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_made_anew() {
    let server = jetstream().await;
    let (broker, _events) = open(&telling(&server)).await.unwrap();
    let outside = nats::Plain::connect(&server).await;
    broker.tell(lifecycle(LifecycleKind::Connected, "s1")).await.unwrap();
    api(&outside.client, "STREAM.DELETE.RT_EVENTS", Value::Null).await;
    tell_at_last(&*broker, &lifecycle(LifecycleKind::Connected, "s2")).await;
    assert_eq!(kept(&outside).await, json!(1));
    broker.close().await;
}

#[tokio::test]
async fn a_stream_that_somebody_else_makes_is_used_once_it_is_there() {
    let server = jetstream().await;
    let (broker, _events) = open(&unmanaged(&server)).await.unwrap();
    let outside = nats::Plain::connect(&server).await;
    // To whoever listens.
    broker.tell(lifecycle(LifecycleKind::Connected, "s1")).await.unwrap();
    assert_eq!(api(&outside.client, "STREAM.INFO.RT_EVENTS", Value::Null).await["error"]["code"], json!(404));
    let config = json!({ "name": "RT_EVENTS", "subjects": ["rt.event.>"], "storage": "file", "max_msg_size": 200 });
    assert_eq!(api(&outside.client, "STREAM.CREATE.RT_EVENTS", config).await["error"], Value::Null);
    // What the stream does not take is refused only where its answer is waited for.
    let large = Lifecycle { body: vec![b'x'; 500].into(), ..lifecycle(LifecycleKind::Connected, "s2") };
    let refused = wait_for("the stream to be found", SOON, async || broker.tell(large.clone()).await.err()).await;
    assert!(matches!(refused, BrokerError::Refused { .. }), "{refused:?}");
    broker.tell(lifecycle(LifecycleKind::Connected, "s3")).await.unwrap();
    assert_eq!(kept(&outside).await, json!(1));
    broker.close().await;
    // It is as they made it.
    let (broker, _events) = open(&unmanaged(&server)).await.unwrap();
    assert!(matches!(broker.tell(large).await, Err(BrokerError::Refused { .. })));
    broker.close().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_an_error_at_start() {
    let server = jetstream().await;
    let outside = nats::Plain::connect(&server).await;
    let config = json!({ "name": "RT_EVENTS", "subjects": ["orders.>"] });
    assert_eq!(api(&outside.client, "STREAM.CREATE.RT_EVENTS", config).await["error"], Value::Null);
    for options in [telling(&server), unmanaged(&server)] {
        let error = open(&options).await.err().expect("a node does not start so").to_string();
        assert!(error.contains("RT_EVENTS") && error.contains("subjects"), "{error}");
    }
    let mut clash = telling(&server);
    let retention = fanfare_broker::Retention { size: 1, ttl: SOON };
    clash.history.namespaces.insert("EVENTS".into(), retention);
    let error = open(&clash).await.err().expect("a node does not start so").to_string();
    assert!(error.contains("\"EVENTS\"") && error.contains("lifecycle"), "{error}");
}
