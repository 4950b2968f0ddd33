//! The memory store.

use std::{sync::Arc, time::Duration};

use fanfare_presence::{PresenceStore, StoreEvent, StoreEvents, memory::Memory};
use fanfare_testkit::wait_until;

use crate::{
    fixture::{Fixture, Outage, SOON},
    node::{Node, connection, incarnation, place, row, write},
};

pub(crate) struct MemoryFixture(Memory);

impl Fixture for MemoryFixture {
    async fn start() -> Self {
        Self(Memory::new())
    }

    async fn connect(&self) -> (Arc<dyn PresenceStore>, StoreEvents) {
        self.0.attach()
    }

    async fn remembers(&self, incarnation: &str) -> bool {
        self.0.remains().iter().any(|remains| remains.as_str() == incarnation)
    }
}

impl Outage for MemoryFixture {
    async fn go_away(&self) {
        self.0.go_away().await;
    }

    async fn come_back(&self, with_data: bool) {
        if !with_data {
            self.0.begin_anew();
        }
        self.0.come_back().await;
    }
}

crate::every_store!(MemoryFixture);
crate::every_outage!(MemoryFixture);

#[tokio::test]
async fn one_node_can_be_cut_off_alone() {
    let memory = Memory::new();
    let (mut one, mut two) = (Node::over(memory.attach()), Node::over(memory.attach()));
    for node in [&one, &two] {
        node.listen(&[place("crew:1")]).await;
    }
    memory.interrupt(0).await;
    memory.interrupt(0).await;
    assert!(matches!(one.event().await, StoreEvent::Interrupted));
    assert!(one.store.standings(&[]).await.is_err());
    two.put("crew:1", "b", &[1]).await;
    assert_eq!(two.changed().await.1.number, 1);
    memory.resume(0).await;
    assert!(matches!(one.event().await, StoreEvent::Resumed));
    two.put("crew:1", "b", &[2]).await;
    assert_eq!(one.changed().await.1.number, 2, "what changed meanwhile was not told");
}

/// What does not read its events is told so, and goes on behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_take_its_events_is_told_what_it_missed() {
    const WRITES: u64 = 6_000;
    let memory = Memory::new();
    let (mut slow, other) = (Node::over(memory.attach()), Node::over(memory.attach()));
    slow.listen(&[place("crew:1")]).await;
    for n in 0..u128::from(WRITES) {
        other.put("crew:1", "b", &[n]).await;
    }
    let mut last = 0;
    loop {
        match slow.event().await {
            StoreEvent::Changed { version, .. } => {
                assert_eq!(version.number, last + 1);
                last = version.number;
            }
            StoreEvent::Interrupted => break,
            StoreEvent::Resumed | StoreEvent::Relistened => panic!("it was not interrupted"),
        }
    }
    assert!(last > 1_000 && last < WRITES, "{last}");
    assert!(matches!(slow.event().await, StoreEvent::Resumed));
    other.put("crew:1", "b", &[WRITES.into()]).await;
    assert_eq!(slow.changed().await.1.number, WRITES + 1);
}

/// Time is tokio's: where it stands still, no lease ends.
#[tokio::test(start_paused = true)]
async fn leases_end_by_tokios_clock() {
    let memory = Memory::new();
    let (one, two) = (Node::over(memory.attach()), Node::over(memory.attach()));
    one.begin("a", Duration::from_secs(10)).await;
    tokio::time::advance(Duration::from_millis(9_999)).await;
    let leases = two.begin("b", Duration::from_secs(10)).await;
    assert_eq!(leases.others, [(incarnation("a"), Duration::from_millis(1))]);
    tokio::time::advance(Duration::from_millis(1)).await;
    let leases = two.renew("b", Duration::from_secs(10), false, true).await;
    assert_eq!((leases.dead, leases.others.len()), (vec![incarnation("a")], 0));
    assert_eq!(memory.calls("renew"), 3);
    two.store.close().await;
    assert!(two.store.write(write("crew:1", "b", vec![row(1, "alice")], vec![connection(2)])).await.is_err());
    wait_until("the others going on", SOON, || memory.rows().is_empty()).await;
}
