//! The Redis store at the master that sentinels name. What it does there is what it does at one server; how it gets there is not.

use std::{sync::Arc, time::Duration};

use fanfare_presence::{PresenceStore, StoreEvents, StoreOptions, open};
use fanfare_testkit::{RedisSentinel, wait_for};

use crate::{
    fixture::{Fixture, SOON},
    node::{Node, place, row, write},
    redis::{interrupted_and_resumed, is_told, remembers},
    redis_group::{Group, Owner, Shared},
};

static SHARED: Shared<RedisSentinel> = Shared::new();

impl Group for RedisSentinel {
    async fn start() -> Self {
        Self::start_with_passwords("p@ss,w/rd", "s?cret").await
    }

    async fn mend(&self) {
        self.restart().await;
    }
}

pub(crate) struct SentinelFixture(Owner<RedisSentinel>);

impl Fixture for SentinelFixture {
    async fn start() -> Self {
        Self(SHARED.take().await)
    }

    async fn connect(&self) -> (Arc<dyn PresenceStore>, StoreEvents) {
        open(&StoreOptions { prefix: self.0.prefix.clone(), ..StoreOptions::new(self.0.url()) }).await.unwrap()
    }

    async fn remembers(&self, incarnation: &str) -> bool {
        remembers(self.0.servers(), &self.0.prefix, incarnation).await
    }
}

crate::conformance!(SentinelFixture:
    rows::rows_come_back_as_they_were_written,
    leases::a_lease_that_has_ended_is_never_held_again,
    reaping::only_the_rows_of_the_dead_are_removed_and_told,
    listening::versions_are_consecutive_however_many_write,
);

/// The dead one, and one that still answers.
#[tokio::test]
async fn a_master_that_is_replaced_is_left() {
    let fixture = SentinelFixture::start().await;
    let mut node = Node::connect(&fixture).await;
    node.listen(&[place("crew:1")]).await;
    node.begin("a", Duration::from_secs(600)).await;
    is_told(&mut node, "crew:1").await;
    for kill in [true, false] {
        let old = match kill {
            true => fixture.0.kill_master().await,
            false => {
                fixture.0.restart().await;
                let old = fixture.0.agreed_master().await;
                fixture.0.fail_over().await;
                old
            }
        };
        interrupted_and_resumed(&mut node).await;
        assert_ne!(fixture.0.agreed_master().await, old);
        wait_for("a write", SOON, async || {
            node.store.write(write("crew:2", "a", vec![row(1, "alice")], vec![])).await.ok()
        })
        .await;
        is_told(&mut node, "crew:1").await;
    }
}
