//! A store that is away, and comes back with its data or without.

use std::{slice, time::Duration};

use fanfare_presence::{Reap, Renewal, StoreError, StoreEvent};
use fanfare_testkit::wait_for;

use crate::{
    fixture::{Outage, SOON},
    node::{Node, incarnation, place, row, write},
};

const LONG: Duration = Duration::from_secs(600);

/// What each call that does not write says.
async fn refusals(node: &Node) -> Vec<(&'static str, Option<StoreError>)> {
    let (a, crew) = (incarnation("a"), place("crew:1"));
    let renewal = Renewal { incarnation: a.clone(), lease: LONG, begin: false, reaps: false };
    let store = &node.store;
    vec![
        ("renew", store.renew(renewal).await.err()),
        ("resign", store.resign(&a, LONG, false).await.err()),
        ("write", store.write(write("crew:1", "a", vec![row(2, "bob")], vec![])).await.err()),
        ("note", store.note(&a, slice::from_ref(&crew)).await.err()),
        ("unnote", store.unnote(&a, slice::from_ref(&crew)).await.err()),
        ("noted", store.noted(&a, None, 10).await.err()),
        ("read", store.read(&crew, None, 10).await.err()),
        ("standings", store.standings(slice::from_ref(&crew)).await.err()),
        ("reap", store.reap(Reap { place: crew, dead: incarnation("b") }).await.err()),
        ("reaped", store.reaped(&a, LONG).await.err()),
    ]
}

pub(crate) async fn a_store_that_is_away_refuses_and_comes_back<F: Outage>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    node.begin("a", LONG).await;
    node.listen(&[place("crew:1"), place("crew:2")]).await;
    let before = node.put("crew:1", "a", &[1]).await.version;
    assert_eq!(node.changed().await.1, before);
    fixture.go_away().await;
    node.until(|event| matches!(event, StoreEvent::Interrupted)).await;
    for (call, refused) in refusals(&node).await {
        assert!(matches!(refused, Some(StoreError::Unavailable { .. })), "{call}: {refused:?}");
    }
    // What it was asked to do while it was away is not done by anybody later, and listening goes on but for what was ended.
    node.store.unlisten(&[place("crew:2")]).await;
    fixture.come_back(true).await;
    node.until(|event| matches!(event, StoreEvent::Resumed)).await;
    wait_for("a renewal", SOON, async || {
        let renewal = Renewal { incarnation: incarnation("a"), lease: LONG, begin: false, reaps: false };
        node.store.renew(renewal).await.ok().filter(|leases| leases.held)
    })
    .await;
    assert_eq!(node.owners("crew:1").await, [(1, "a".to_owned())]);
    node.put("crew:2", "a", &[1]).await;
    let after = node.put("crew:1", "a", &[3]).await.version;
    assert_eq!((&after.epoch, after.number), (&before.epoch, before.number + 1));
    assert_eq!(node.changed().await, (place("crew:1"), after, vec![put(3)]));
    node.settle().await;
}

fn put(n: u128) -> fanfare_presence::RowChange {
    fanfare_presence::RowChange::Put(incarnation("a"), row(n, &format!("u{n}")))
}

pub(crate) async fn a_store_that_lost_its_data_begins_anew<F: Outage>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    node.begin("a", LONG).await;
    node.listen(&[place("crew:1")]).await;
    node.store.note(&incarnation("a"), &[place("crew:1")]).await.unwrap();
    let before = node.put("crew:1", "a", &[1, 2]).await.version;
    fixture.go_away().await;
    node.until(|event| matches!(event, StoreEvent::Interrupted)).await;
    fixture.come_back(false).await;
    node.until(|event| matches!(event, StoreEvent::Resumed)).await;
    let standing = wait_for("an answer", SOON, async || node.store.standings(&[place("crew:1")]).await.ok()).await;
    assert_eq!((standing[0].version.number, standing[0].connections), (0, 0));
    assert!(!node.renew("a", LONG, false, false).await.held);
    assert!(node.store.noted(&incarnation("a"), None, 10).await.unwrap().0.is_empty());
    // Another numbering, which cannot be taken for the one before.
    let written = node.put("crew:1", "a", &[1]).await;
    assert!(written.occupied && written.version.number == 1 && written.version.epoch != before.epoch, "{written:?}");
    assert_eq!(node.changed().await, (place("crew:1"), written.version, vec![put(1)]));
}

pub(crate) async fn closes_while_the_store_is_away<F: Outage>() {
    let fixture = F::start().await;
    let mut node = Node::connect(&fixture).await;
    node.listen(&[place("crew:1")]).await;
    fixture.go_away().await;
    tokio::time::timeout(SOON, node.store.close()).await.expect("it closes in time");
    while node.next_event().await.is_some() {}
}
