//! The store goes away: publications go on, presence says that it is stale, and afterwards it is true again.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use fanfare_testkit::{RedisServer, redis::Fsync, wait_for};
use serde_json::{Value, json};
use tokio::time::{interval, sleep_until};

use super::{
    TENANT,
    crowd::{Crowd, Seat},
    node,
    scene::{Truth, channels, names, setting},
    store::Store,
    watcher::Watcher,
};
use crate::{SOON, broker::Broker, node::Node};

const CHANNELS: usize = 10;
/// Where publications go on.
const PUBLISHED: &str = "crew:0";
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// Of each kind of members: those who stay, those who go while the store is away, those who come then.
const MEMBERS: usize = 60;
/// Others come and go all the time: one each time, of whom so many are there.
const CHURN_EVERY: Duration = Duration::from_millis(25);
const CHURNING: usize = 20;
/// How long the store is away, in seconds; [`AWAY`] where it is not set.
const AWAY_VARIABLE: &str = "PRESENCE_AWAY";
const AWAY: u64 = 4;
/// How long it may take until all is true again.
const TRUE_WITHIN: Duration = Duration::from_secs(20);

/// What becomes of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is killed and comes back at once, empty.
    Emptied,
    /// It is away for a while and comes back empty.
    Stopped,
    /// It is killed and comes back after a while, with what it had.
    Kept,
    /// It answers nothing for a while, and no connection ends.
    Frozen,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_empty() {
    under_load(Fault::Emptied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_and_back_empty() {
    under_load(Fault::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_and_back_with_its_data() {
    under_load(Fault::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    under_load(Fault::Frozen).await;
}

async fn under_load(fault: Fault) {
    let away = Duration::from_secs(setting(AWAY_VARIABLE, AWAY));
    let redis = match fault {
        Fault::Kept => RedisServer::builder().append_only(Fsync::Always).start().await,
        _ => RedisServer::start().await,
    };
    let broker = Broker::nats().await;
    let start =
        |name| node(name, &broker.url(), &redis.url()).set("presence.lease", "3s").set("presence.grace", "1s").start();
    let (first, second) = tokio::join!(start("a"), start("b"));
    let nodes = [&first, &second];
    let channels = channels(CHANNELS);
    let seats = |prefix| Seat::spread(&nodes, &names(prefix, MEMBERS), &channels);
    let watchers = [Watcher::watch(&first, "wa", &channels).await, Watcher::watch(&second, "wb", &channels).await];
    let watchers: Vec<_> = watchers.iter().collect();
    let staying = Crowd::come(seats("stays")).await;
    let leaving = Crowd::come(seats("goes")).await;
    let before = Truth::of(&[&staying, &leaving], &watchers);
    before.wait_seen(&watchers, SOON).await;
    before.wait_stored(&Store(&redis), SOON).await;
    let from: Vec<Vec<usize>> = watchers
        .iter()
        .map(|watcher| channels.iter().map(|channel| watcher.known().view(channel).log().len()).collect())
        .collect();

    let (over, published) = (AtomicBool::new(false), AtomicUsize::new(0));
    let settles = AtomicBool::new(false);
    let publishing = async {
        let mut ticks = interval(PUBLISH_EVERY);
        while !over.load(Ordering::Relaxed) {
            ticks.tick().await;
            let number = published.load(Ordering::Relaxed);
            broker.publish(TENANT, PUBLISHED, &json!({ "event": "tick", "data": number }).to_string()).await;
            published.store(number + 1, Ordering::Relaxed);
        }
    };
    let script = async {
        let begun = Instant::now();
        match fault {
            Fault::Emptied | Fault::Kept => redis.kill(),
            Fault::Stopped => redis.stop().await,
            Fault::Frozen => redis.pause(),
        }
        let mut coming = None;
        if fault == Fault::Emptied {
            redis.restart().await;
            leaving.leave().await;
            coming = Some(Crowd::come(seats("comes")).await);
        } else {
            let ((), came) = tokio::join!(leaving.leave(), Crowd::come(seats("comes")));
            coming.replace(came);
            says_stale(&nodes, true).await;
            let published_before = published.load(Ordering::Relaxed);
            sleep_until((begun + away).into()).await;
            // Publications go on.
            for watcher in &watchers {
                let received = |known: &super::watcher::Known| known.count("tick") > published_before;
                watcher.wait_within(SOON, "publications while the store is away", received).await;
            }
            match fault {
                Fault::Frozen => redis.resume(),
                _ => redis.restart().await,
            }
        }
        (coming.expect("they came"), begun.elapsed(), Instant::now())
    };
    let finished = async {
        let calming = async {
            let came = script.await;
            settles.store(true, Ordering::Relaxed);
            came
        };
        let ((coming, away, back), churning) = tokio::join!(calming, churn(&nodes, &channels, &settles));
        let truth = Truth::of(&[&staying, &coming, &churning], &watchers);
        truth.wait_stored(&Store(&redis), TRUE_WITHIN).await;
        truth.wait_seen(&watchers, TRUE_WITHIN).await;
        let took = back.elapsed();
        says_stale(&nodes, false).await;
        over.store(true, Ordering::Relaxed);
        (coming, churning, away, took)
    };
    let ((coming, churning, away, took), ()) = tokio::join!(finished, publishing);

    // It stays so: what was in flight brings no ghost back.
    let probe = Watcher::watch(&second, "probe", &channels).await;
    let truth_with = Truth::of(&[&staying, &coming, &churning], &[watchers[0], watchers[1], &probe]);
    truth_with.wait_seen(&[watchers[0], watchers[1], &probe], SOON).await;
    truth_with.wait_stored(&Store(&redis), SOON).await;
    assert!(channels.iter().all(|channel| !probe.known().view(channel).is_stale()));

    let published = published.load(Ordering::Relaxed);
    let mut flaps = 0;
    for (watcher, from) in watchers.iter().zip(&from) {
        watcher.wait("the last publication", |known| known.count("tick") == published).await;
        let known = watcher.known();
        let numbers: Vec<_> = known.publications().iter().map(|publication| publication["data"].as_u64()).collect();
        let expected: Vec<_> = (0..published as u64).map(Some).collect();
        assert_eq!(numbers, expected, "each publication came once, in order");
        assert_eq!(known.told("system:gap"), 0, "{:?}", known.system());
        for (channel, from) in channels.iter().zip(from) {
            let log = &known.view(channel).log()[*from..];
            let stay = |user: &str| user.starts_with("stays") || user.starts_with('w');
            flaps += log.iter().filter(|change| change.seen.status == "offline" && stay(&change.user)).count();
        }
        drop(known);
        watcher.assert_sound();
    }
    assert_eq!((staying.ended(), coming.ended(), churning.ended()), (0, 0, 0));
    assert_eq!(flaps, 0, "whoever stayed was told offline because the store was away");
    println!(
        "the store {fault:?}, back after {away:.1?}: true again {took:.1?} later, {} rows; {published} publications went on",
        truth_with.rows(),
    );
}

/// Members who come and go, until it is enough; those who are there then.
async fn churn(nodes: &[&Node; 2], channels: &[String], enough: &AtomicBool) -> Crowd {
    let (mut crowd, mut ticks) = (Crowd::default(), interval(CHURN_EVERY));
    for number in 0.. {
        ticks.tick().await;
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let channel = &channels[number % channels.len()];
        crowd.join(vec![Seat::new(nodes[number % 2].public(), format!("churns{number}"), &[channel])]).await;
        if crowd.len() > CHURNING {
            crowd.first_leaves().await;
        }
    }
    crowd
}

/// Waits until clients and the API are told whether what they are told is stale.
async fn says_stale(nodes: &[&Node; 2], stale: bool) {
    for node in nodes {
        // It watches nothing, so its node knows only what it is told by the store.
        let mut asking = Watcher::connect(node, "asking").await;
        for channel in ["crew:1", PUBLISHED] {
            let begun = Instant::now();
            loop {
                let answer = asking.ask(json!({ "type": "presence", "channel": channel })).await;
                if answer["stale"] == stale {
                    break;
                }
                assert!(begun.elapsed() < SOON, "stale is to be {stale}: {answer}\n{}", node.process().log());
            }
        }
        wait_for(&format!("the API to say stale: {stale}"), SOON, async || {
            let (status, body) = node.get_with_key(&format!("/api/presence?tenant={TENANT}&channel=crew:1")).await;
            assert_eq!(status, 200, "{body}");
            let answer: Value = serde_json::from_str(&body).expect("JSON");
            (answer["stale"] == stale).then_some(())
        })
        .await;
    }
}
