//! What holds for all brokers.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use fanfare_broker::{BrokerError, Interest, InterestId};
use fanfare_testkit::{wait_for, wait_until};

use crate::{
    fixture::{Fixture, SOON, possible},
    node::{Delivered, Node, number, numbered},
};

fn sorted(mut delivered: Vec<Delivered>) -> Vec<Delivered> {
    delivered.sort();
    delivered
}

pub(crate) async fn delivers_the_bytes_that_were_published<F: Fixture>() {
    let fixture = F::start().await;
    let (mut one, mut two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    let outside = fixture.outside().await;
    for node in [&mut one, &mut two] {
        node.add("acme", "project:clx123").await;
    }
    let bodies: [&[u8]; 6] = [
        br#"{"event":"x","data":{ "a" : 1.50,"b":[ ] },"timestamp":1}"#,
        b"",
        b"\0",
        b"\xff\xfe\r\n\0\r\n+OK\r\n",
        "{\"event\":\"\u{fc}\u{1f600}\"}\n".as_bytes(),
        &[0x80; 20_000],
    ];
    for body in bodies {
        assert!(outside.publish("acme", "project:clx123", Bytes::from_static(Box::leak(body.into()))).await);
        for node in [&mut one, &mut two] {
            let publication = node.publication().await;
            assert!(publication.body.bytes == body, "{:?} came of {body:?}", publication.body.bytes);
            assert!(publication.channel.is_none() && publication.body.event.is_none());
        }
        // A node's own publications come to all nodes, itself included.
        one.publish("project:clx123", Bytes::copy_from_slice(body)).await.unwrap();
        for node in [&mut one, &mut two] {
            assert!(node.publication().await.body.bytes == body);
        }
    }
    assert!(one.settle(&*outside).await.is_empty() && two.settle(&*outside).await.is_empty());
    one.close().await;
    two.close().await;
}

pub(crate) async fn keeps_the_order_of_each_channel<F: Fixture>() {
    const CHANNELS: u64 = 20;
    const EACH: u64 = 500;
    let fixture = F::start().await;
    let mut nodes = [Node::connect(&fixture).await, Node::connect(&fixture).await];
    for node in &mut nodes {
        let names: Vec<String> = (0..CHANNELS).map(|channel| format!("order:{channel}")).collect();
        node.add_all("acme", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        node.add_all("acme", &possible::<F>(&["order:*"])).await;
    }
    let outside = fixture.outside().await;
    let publishing = tokio::spawn(async move {
        for round in 0..EACH {
            for channel in 0..CHANNELS {
                assert!(outside.publish("acme", &format!("order:{channel}"), numbered(round)).await);
            }
        }
        outside.flush().await;
    });
    let [one, two] = &mut nodes;
    let ways = 1 + u64::from(F::PATTERNS);
    tokio::join!(expect_in_order(one, CHANNELS, EACH, ways), expect_in_order(two, CHANNELS, EACH, ways));
    publishing.await.unwrap();
}

/// By the channel's own interest, and by the pattern where there is one, each number in its turn.
async fn expect_in_order(node: &mut Node, channels: u64, each: u64, ways: u64) {
    let mut next: HashMap<(String, String), u64> = HashMap::new();
    for _ in 0..ways * channels * each {
        let (topic, channel, body) = node.delivered().await;
        let next = next.entry((topic, channel)).or_default();
        assert_eq!(number(&body), *next);
        *next += 1;
    }
    assert_eq!(next.len() as u64, ways * channels);
    assert!(next.values().all(|next| *next == each));
}

pub(crate) async fn isolates_tenants<F: Fixture>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let outside = fixture.outside().await;
    let topics = possible::<F>(&["project:*", "project:**", "project:a"]);
    node.add_all("acme", &topics).await;
    for tenant in ["other", "acm", "acme2", "default"] {
        for channel in ["project:a", "project:a:b", "acme:project:a"] {
            assert!(outside.publish(tenant, channel, Bytes::from_static(b"theirs")).await);
        }
    }
    outside.flush().await;
    assert_eq!(node.settle(&*outside).await, []);
    assert!(outside.publish("acme", "project:a", Bytes::from_static(b"ours")).await);
    let ours = |topic: &str| (topic.to_owned(), "project:a".to_owned(), Bytes::from_static(b"ours"));
    let delivered = sorted(node.settle(&*outside).await);
    assert_eq!(delivered, topics.into_iter().map(ours).collect::<Vec<_>>());
}

pub(crate) async fn patterns_match_as_they_should<F: Fixture>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let outside = fixture.outside().await;
    let topics = ["a:*", "a:**", "a:*:y", "a:x:*", "a:x:**", "a:x", "a:*:*"];
    node.add_all("acme", &topics).await;
    for channel in ["a", "a:x", "a:z", "a:x:y", "a:z:y", "a:x:y:z", "b:x", "aa:x", "a-b:x"] {
        assert!(outside.publish("acme", channel, Bytes::copy_from_slice(channel.as_bytes())).await);
    }
    outside.flush().await;
    let expected = [
        ("a:x", "a:*"),
        ("a:x", "a:**"),
        ("a:x", "a:x"),
        ("a:z", "a:*"),
        ("a:z", "a:**"),
        ("a:x:y", "a:**"),
        ("a:x:y", "a:*:y"),
        ("a:x:y", "a:x:*"),
        ("a:x:y", "a:x:**"),
        ("a:x:y", "a:*:*"),
        ("a:z:y", "a:**"),
        ("a:z:y", "a:*:y"),
        ("a:z:y", "a:*:*"),
        ("a:x:y:z", "a:**"),
        ("a:x:y:z", "a:x:**"),
    ];
    let expected = expected
        .map(|(channel, topic)| (topic.to_owned(), channel.to_owned(), Bytes::copy_from_slice(channel.as_bytes())));
    assert_eq!(sorted(node.settle(&*outside).await), sorted(expected.into()));
}

pub(crate) async fn many_interests_in_one_call<F: Fixture>() {
    const MANY: u64 = 3_000;
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let outside = fixture.outside().await;
    let interests: Vec<Interest> = (0..MANY).map(|n| node.interest("acme", &format!("many:{n}"))).collect();
    node.broker.add_interests(&interests).await.unwrap();
    node.broker.add_interests(&[]).await.unwrap();
    assert_eq!(fixture.subscriptions().await as u64, MANY);
    for n in (0..MANY).step_by(7) {
        assert!(outside.publish("acme", &format!("many:{n}"), numbered(n)).await);
    }
    let mut came: Vec<u64> = node.settle(&*outside).await.iter().map(|(_, _, body)| number(body)).collect();
    came.sort_unstable();
    assert!(came == (0..MANY).step_by(7).collect::<Vec<_>>(), "{came:?}");
    let ids: Vec<_> = interests.iter().map(|interest| interest.id).collect();
    node.broker.remove_interests(&ids).await;
    wait_for("the end of all subscriptions", SOON, async || (fixture.subscriptions().await == 0).then_some(())).await;
    node.close().await;
}

pub(crate) async fn a_confirmed_interest_misses_nothing_and_a_removed_one_ends<F: Fixture>() {
    const WORKERS: u64 = 6;
    const ROUNDS: u64 = 60;
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let came: Arc<Mutex<HashSet<InterestId>>> = Arc::default();
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let (outside, came) = (fixture.outside().await, Arc::clone(&came));
        let (topic, own) = match worker % 3 {
            0 if F::PATTERNS => ("churn:*".to_owned(), format!("churn:p{worker}")),
            _ => (format!("churn:{worker}"), format!("churn:{worker}")),
        };
        let interests: Vec<Interest> = (0..ROUNDS).map(|_| node.interest("acme", &topic)).collect();
        let broker = node.broker.clone();
        workers.push(tokio::spawn(async move {
            for interest in interests {
                broker.add_interests(std::slice::from_ref(&interest)).await.unwrap();
                // From outside, the moment it is confirmed; it has to come by this very interest.
                assert!(outside.publish("acme", &own, numbered(interest.id.0)).await);
                outside.flush().await;
                wait_until("the publication", SOON, || came.lock().unwrap().contains(&interest.id)).await;
                broker.remove_interests(&[interest.id]).await;
            }
        }));
    }
    while (came.lock().unwrap().len() as u64) < WORKERS * ROUNDS {
        let publication = node.publication().await;
        if publication.interest.0 == number(&publication.body.bytes) {
            came.lock().unwrap().insert(publication.interest);
        }
    }
    for worker in workers {
        worker.await.unwrap();
    }
    wait_for("the end of all subscriptions", SOON, async || (fixture.subscriptions().await == 0).then_some(())).await;
    let outside = fixture.outside().await;
    node.settle(&*outside).await;
    for worker in 0..WORKERS {
        assert!(outside.publish("acme", &format!("churn:{worker}"), numbered(0)).await);
    }
    assert_eq!(node.settle(&*outside).await, []);
}

pub(crate) async fn interests_of_one_channel_are_independent<F: Fixture>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let outside = fixture.outside().await;
    let publish = async |body: &'static str| {
        assert!(outside.publish("acme", "twice:a", Bytes::from_static(body.as_bytes())).await);
        outside.flush().await;
    };
    let ids = node.add_all("acme", &possible::<F>(&["twice:a", "twice:a", "twice:*", "twice:*"])).await;
    publish("all").await;
    assert_eq!(node.settle(&*outside).await.len(), ids.len());
    for pair in ids.chunks(2) {
        node.broker.remove_interests(&pair[..1]).await;
    }
    // Those not held are passed over.
    node.broker.remove_interests(&[ids[0], InterestId(u64::MAX)]).await;
    node.settle(&*outside).await;
    publish("two").await;
    let delivered: Vec<String> = sorted(node.settle(&*outside).await).into_iter().map(|(topic, ..)| topic).collect();
    assert_eq!(delivered, possible::<F>(&["twice:*", "twice:a"]));
}

pub(crate) async fn bodies_of_one_megabyte<F: Fixture>() {
    const BYTES: usize = 1024 * 1024;
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let outside = fixture.outside().await;
    node.add_all("acme", &["large:a", "small:a"]).await;
    let large =
        |n: u8| Bytes::from((0..BYTES).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ n).collect::<Vec<_>>());
    for n in 0..10 {
        assert!(outside.publish("acme", "large:a", large(n)).await);
        assert!(outside.publish("acme", "small:a", numbered(n.into())).await);
    }
    node.publish("large:a", large(10)).await.unwrap();
    let (mut large_next, mut small_next) = (0, 0);
    while large_next < 11 || small_next < 10 {
        let (_, channel, body) = node.delivered().await;
        if channel == "large:a" {
            assert!(body == large(large_next), "body {large_next} differs");
            large_next += 1;
        } else {
            assert_eq!(number(&body), small_next);
            small_next += 1;
        }
    }
}

pub(crate) async fn close_ends_everything<F: Fixture>() {
    let fixture = F::start().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut node = Node::connect(&fixture).await;
    node.add_all("acme", &possible::<F>(&["close:a", "close:*"])).await;
    node.publish("close:a", numbered(1)).await.unwrap();
    assert_eq!(number(&node.publication().await.body.bytes), 1);
    assert!(fixture.connections().await > 0);
    let interest = node.interest("acme", "close:b");
    let broker = node.broker.clone();
    node.close().await;
    let publish = Node::over((broker.clone(), tokio::sync::mpsc::channel(1).1)).publish("close:a", numbered(2)).await;
    assert!(matches!(publish, Err(BrokerError::Unavailable { .. })), "{publish:?}");
    let added = broker.add_interests(&[interest]).await;
    assert!(matches!(added, Err(BrokerError::Unavailable { .. })), "{added:?}");
    broker.remove_interests(&[InterestId(1)]).await;
    // Once more does nothing.
    broker.close().await;
    wait_for("the end of the connections", SOON, async || (fixture.connections().await == 0).then_some(())).await;
    assert_eq!(fixture.subscriptions().await, 0);
    wait_for("the end of all tasks", SOON, async || (tasks() <= before).then_some(())).await;
}
