//! A hub that does not read, in a process of its own, since its memory is what is looked at.

use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::{BrokerEvent, limits};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{fixture::Fixture, node::Node};

/// Names the variable that says that this is the process of its own.
const ALONE: &str = "FANFARE_TEST_ALONE";

const BODY_BYTES: usize = 16 * 1024;

/// About twice what may be held in all.
const BODIES: u64 = 40_000;

/// Bodies that are published at once.
const BATCH: u64 = 100;

/// Least time from one batch to the next. What an adapter holds back is looked at ten times a second, so that the limit is
/// crossed by what comes between two looks: it is a limit only together with a rate, which this is (125 MiB a second).
const PACE: Duration = Duration::from_micros(12_500);

/// What comes in the time of two looks: one passes until the adapter counts, and one until it sees that there is too much.
const BETWEEN_LOOKS_BYTES: u64 = 2 * 8 * BATCH * BODY_BYTES as u64;

/// What waits in a client library keeps the buffers into which it was read, which other things may share with it; what
/// waits for the hub was copied out of them.
const BUFFERS: u64 = 2;

/// What the allocator keeps, and what is in work.
const SLACK_BYTES: u64 = 64 * 1024 * 1024;

pub(crate) async fn a_hub_that_does_not_read_is_told_what_it_missed<F: Fixture>() {
    if !alone(&format!("{}::a_hub_that_does_not_read_is_told_what_it_missed", F::NAME)).await {
        return;
    }
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    node.add("acme", "slow:a").await;
    let outside = fixture.outside().await;
    let before = resident_bytes();
    let mut highest = 0;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for first in (0..BODIES).step_by(BATCH as usize) {
        pace.tick().await;
        let bodies = (first..first + BATCH).map(body).collect();
        assert!(outside.publish_all("acme", "slow:a", bodies).await);
        // Nothing waits outside of the node, and the adapter goes on: it has confirmed this after the batch came.
        outside.flush().await;
        let turn = node.add("acme", "slow:turn").await;
        node.broker.remove_interests(&[turn]).await;
        highest = highest.max(resident_bytes());
    }
    let grown = highest.saturating_sub(before);
    println!("{} MiB published, {} MiB grown", (BODIES as usize * BODY_BYTES) >> 20, grown >> 20);
    let allowed = limits::EVENT_BYTES as u64 + BUFFERS * (limits::HELD_BACK_BYTES + BETWEEN_LOOKS_BYTES) + SLACK_BYTES;
    assert!(grown < allowed, "{} MiB more, and {} MiB are allowed", grown >> 20, allowed >> 20);

    // A hole is told before anything that comes after it.
    let (mut last, mut interrupted, mut holes, mut resumed) = (None, false, 0, false);
    while let Ok(Some(event)) = timeout(Duration::from_secs(2), node.events.recv()).await {
        match event {
            BrokerEvent::Publication(publication) => {
                let number = number(&publication.body.bytes);
                let expected = last.map_or(0, |last| last + 1);
                assert!(number >= expected, "{number} came after {last:?}");
                assert!(number == expected || interrupted, "{expected} to {number} are missing, and nobody said so");
                holes += u64::from(number != expected);
                (last, interrupted) = (Some(number), false);
            }
            BrokerEvent::Interrupted(_) => (interrupted, resumed) = (true, false),
            BrokerEvent::Resumed(_) => resumed = true,
        }
    }
    assert!(holes > 0 || interrupted, "all {BODIES} came although nobody read");
    assert!(resumed, "the interruption has no end");
    for number in BODIES..BODIES + 500 {
        assert!(outside.publish("acme", "slow:a", body(number)).await);
        assert_eq!(self::number(&node.publication().await.body.bytes), number);
    }
    node.close().await;
}

fn body(number: u64) -> Bytes {
    let mut body = vec![b'.'; BODY_BYTES];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body.into()
}

fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

/// Runs a test again, alone in a process of its own; says whether this is that process.
pub(crate) async fn alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{name}: {text}");
    println!("{text}");
    false
}

pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    kib.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}
