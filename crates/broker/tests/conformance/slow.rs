//! A hub that does not read, in a process of its own, since its memory is what is looked at.

use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::{BrokerEvent, limits};
use tokio::time::timeout;

use crate::{fixture::Fixture, node::Node};

/// Names the variable that says that this is the process of its own.
const ALONE: &str = "FANFARE_TEST_ALONE";

const BODY_BYTES: usize = 16 * 1024;

/// About twice what may be held in all.
const BODIES: u64 = 40_000;

/// Beside what waits for the hub and in the library: what comes between two looks at it, what the outside client has not
/// sent yet, and what the allocator keeps.
const SLACK_BYTES: u64 = 192 * 1024 * 1024;

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
    for first in (0..BODIES).step_by(100) {
        let bodies = (first..first + 100).map(body).collect();
        assert!(outside.publish_all("acme", "slow:a", bodies).await);
        highest = highest.max(resident_bytes());
    }
    outside.flush().await;
    let grown = highest.saturating_sub(before);
    println!("{} MiB published, {} MiB grown", (BODIES as usize * BODY_BYTES) >> 20, grown >> 20);
    let allowed = limits::EVENT_BYTES as u64 + limits::HELD_BACK_BYTES + SLACK_BYTES;
    assert!(grown < allowed, "{} MiB more", grown >> 20);

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
