//! The Redis store at the master that sentinels name. What it does there is what it does at one server; how it gets there is not.

use std::{sync::Arc, time::Duration};

use fanfare_presence::{PresenceStore, StoreEvent, StoreEvents, StoreOptions, open};
use fanfare_testkit::{RedisSentinel, wait_for};
use tokio::time::timeout;

use crate::{
    fixture::{Fixture, SOON},
    node::{Node, place, row, write},
    redis::{interrupted_and_resumed, is_told, remembers},
    redis_group::{Group, Guest, Shared},
};

/// Within which a change is told, unless there was an interruption.
const TOLD: Duration = Duration::from_secs(1);

static SHARED: Shared<RedisSentinel> = Shared::new();

impl Group for RedisSentinel {
    async fn start() -> Self {
        Self::start_with_passwords("p@ss,w/rd", "s?cret").await
    }

    async fn mend(&self) {
        self.restart().await;
    }
}

pub(crate) struct SentinelFixture(Guest<RedisSentinel>);

async fn connect(group: &RedisSentinel, prefix: &str) -> (Arc<dyn PresenceStore>, StoreEvents) {
    open(&StoreOptions { prefix: prefix.to_owned(), ..StoreOptions::new(group.url()) }).await.unwrap()
}

impl Fixture for SentinelFixture {
    async fn start() -> Self {
        Self(SHARED.share().await)
    }

    async fn connect(&self) -> (Arc<dyn PresenceStore>, StoreEvents) {
        connect(&self.0, &self.0.prefix).await
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

/// One that still answers, and one that is dead. The last case by its name: what it leaves behind takes long to mend.
#[tokio::test]
async fn who_replaces_the_master_is_found() {
    let group = SHARED.take().await;
    let mut node = Node::over(connect(&group, &group.prefix).await);
    node.listen(&[place("crew:1")]).await;
    is_told(&mut node, "crew:1").await;
    for kill in [false, true] {
        group.wait_until_whole().await;
        let old = match kill {
            true => group.kill_master().await,
            false => {
                let old = group.agreed_master().await;
                group.fail_over().await;
                old
            }
        };
        interrupted_and_resumed(&mut node).await;
        assert_ne!(group.agreed_master().await, old);
        // It may have come back to the old one once more, which was about to be left.
        wait_for("a change that is told", SOON, async || {
            let puts = vec![row(fastrand::u128(..), "alice")];
            let written = node.store.write(write("crew:1", "a", puts, vec![])).await.ok()?;
            while let Ok(event) = timeout(TOLD, node.event()).await {
                if matches!(event, StoreEvent::Changed { version, .. } if version == written.version) {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
}
