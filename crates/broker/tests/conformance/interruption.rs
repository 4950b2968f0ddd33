//! What holds for brokers with a server, when it goes and comes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_broker::{BrokerError, BrokerEvent, InterestId, Publication};
use fanfare_testkit::wait_for;
use tokio::time::timeout;

use crate::{
    fixture::{SOON, Server, possible},
    node::{Node, Wanted, number, numbered},
};

const CHANNELS: u64 = 5;

/// Per interest and channel: numbers only grow, so that nothing comes twice or in the wrong order.
#[derive(Default)]
struct Order(HashMap<(InterestId, Option<String>), u64>);

impl Order {
    fn check(&mut self, publication: &Publication) {
        let channel = publication.channel.as_ref().map(|channel| channel.as_str().to_owned());
        let number = number(&publication.body.bytes);
        if let Some(last) = self.0.insert((publication.interest, channel), number) {
            assert!(last < number, "{number} came after {last}");
        }
    }
}

pub(crate) async fn a_server_that_restarts_under_load<F: Server>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let topics: Vec<String> = (0..CHANNELS).map(|channel| format!("load:{channel}")).collect();
    let mut interests = node.add_all("acme", &topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let marks = node.add("acme", "load:marks").await;
    interests.extend(node.add_all("acme", &possible::<F>(&["load:*"])).await);

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (stop, outside) = (Arc::clone(&stop), fixture.outside().await);
        async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                for channel in 0..CHANNELS {
                    outside.publish("acme", &format!("load:{channel}"), numbered(number)).await;
                }
                number += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            number
        }
    });
    let mut order = Order::default();
    for _ in 0..200 {
        order.check(&node.publication().await);
    }
    let restarting = tokio::spawn(async move {
        fixture.restart().await;
        fixture
    });
    node.until(Wanted::Interrupted).await.iter().for_each(|publication| order.check(publication));
    node.until(Wanted::Resumed).await.iter().for_each(|publication| order.check(publication));
    let resumed = Instant::now();
    let fixture = restarting.await.unwrap();

    // From now on all that is published comes, while the load goes on, by a client of its own on channels of its own.
    let outside = fixture.outside().await;
    const AFTER: u64 = 1_000_000;
    const MARKS: u64 = 300;
    for number in AFTER..AFTER + MARKS {
        assert!(outside.publish("acme", "load:marks", numbered(number)).await);
    }
    outside.flush().await;
    let mut next = AFTER;
    let mut loaded = false;
    while next < AFTER + MARKS || !loaded {
        let publication = node.publication().await;
        order.check(&publication);
        if publication.interest == marks {
            assert_eq!(number(&publication.body.bytes), next);
            next += 1;
        } else {
            loaded |= number(&publication.body.bytes) < AFTER;
        }
    }
    assert!(resumed.elapsed() < SOON);
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    // Every interest was subscribed again, once.
    assert!(outside.publish("acme", "load:0", numbered(2 * AFTER)).await);
    outside.flush().await;
    let mut expected = vec![interests[0]];
    expected.extend(interests.get(CHANNELS as usize));
    let mut last = Vec::new();
    while last.len() < expected.len() {
        let publication = node.publication().await;
        order.check(&publication);
        if number(&publication.body.bytes) == 2 * AFTER {
            last.push(publication.interest);
        }
    }
    last.sort();
    assert_eq!(last, expected);
    let more = node.settle(&*outside).await;
    assert!(more.iter().all(|(_, _, body)| number(body) < 2 * AFTER), "{more:?}");
}

pub(crate) async fn a_server_that_is_away<F: Server>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    let kept = node.add("acme", "away:kept").await;
    let removed = node.add("acme", "away:removed").await;
    fixture.stop().await;
    let stopped = Instant::now();
    node.until(Wanted::Interrupted).await;
    assert!(stopped.elapsed() < Duration::from_secs(2), "interrupted only after {:?}", stopped.elapsed());
    let refused = node.interest("acme", "away:new");
    // As soon as it is known, everything fails at once.
    wait_for("publishing to be refused", SOON, async || {
        matches!(node.publish("away:kept", numbered(0)).await, Err(BrokerError::Unavailable { .. })).then_some(())
    })
    .await;
    let began = Instant::now();
    for _ in 0..20 {
        let published = node.publish("away:kept", numbered(0)).await;
        assert!(matches!(published, Err(BrokerError::Unavailable { .. })), "{published:?}");
        let added = node.broker.add_interests(std::slice::from_ref(&refused)).await;
        assert!(matches!(added, Err(BrokerError::Unavailable { .. })), "{added:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    node.broker.remove_interests(&[removed]).await;

    fixture.restart().await;
    let returned = Instant::now();
    node.until(Wanted::Resumed).await;
    assert!(returned.elapsed() < Duration::from_secs(2), "resumed only after {:?}", returned.elapsed());
    let outside = fixture.outside().await;
    for channel in ["away:removed", "away:new", "away:kept"] {
        assert!(outside.publish("acme", channel, numbered(1)).await);
    }
    outside.flush().await;
    let publication = node.publication().await;
    assert_eq!((publication.interest, number(&publication.body.bytes)), (kept, 1));
    wait_for("publishing to work again", SOON, async || node.publish("away:kept", numbered(2)).await.ok()).await;
    assert_eq!(number(&node.publication().await.body.bytes), 2);
    // What was refused was not sent later.
    assert_eq!(node.settle(&*outside).await, []);
    node.broker.add_interests(&[refused]).await.unwrap();
    wait_for("two subscriptions", SOON, async || (fixture.subscriptions().await == 2).then_some(())).await;
}

/// Nothing tells the node that its server is gone but the answers that do not come.
pub(crate) async fn a_server_that_is_frozen<F: Server>() {
    const NOTICED: Duration = Duration::from_secs(25);
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    node.add("acme", "frozen:a").await;
    fixture.pause();
    timeout(NOTICED, async { while !matches!(node.events.recv().await, Some(BrokerEvent::Interrupted(_))) {} })
        .await
        .expect("a frozen server is noticed");
    fixture.resume();
    node.until(Wanted::Resumed).await;
    let outside = fixture.outside().await;
    assert!(outside.publish("acme", "frozen:a", numbered(1)).await);
    assert_eq!(number(&node.publication().await.body.bytes), 1);
    node.close().await;
}

pub(crate) async fn closes_while_the_server_is_away<F: Server>() {
    let fixture = F::start().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut node = Node::connect(&fixture).await;
    let topics: Vec<String> = (0..3_000).map(|n| format!("away:{n}")).collect();
    node.add_all("acme", &topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    fixture.stop().await;
    node.until(Wanted::Interrupted).await;
    let began = Instant::now();
    node.close().await;
    assert!(began.elapsed() < Duration::from_secs(4), "close took {:?}", began.elapsed());
    wait_for("the end of all tasks", SOON, async || (tasks() <= before).then_some(())).await;
    fixture.restart().await;
    assert_eq!(fixture.connections().await, 0);
}
