//! Leases.

use std::time::Duration;

use fanfare_presence::{Incarnation, Leases};
use fanfare_testkit::wait_for;
use tokio::time::Instant;

use crate::{
    fixture::{Fixture, SOON},
    node::{Node, incarnation, place},
};

/// Ends in no test.
const LONG: Duration = Duration::from_secs(600);
/// Ends soon.
const SHORT: Duration = Duration::from_millis(300);

/// Waits until somebody is dead, as `observer` learns it; `observer` holds a lease.
async fn death(node: &Node, observer: &str, reaps: bool, dead: &str) -> Leases {
    wait_for("the end of a lease", SOON, async || {
        let leases = node.renew(observer, LONG, false, reaps).await;
        assert!(leases.held);
        leases.dead.contains(&incarnation(dead)).then_some(leases)
    })
    .await
}

fn names(leases: &Leases) -> Vec<&str> {
    leases.others.iter().map(|(incarnation, _)| incarnation.node()).collect()
}

pub(crate) async fn a_lease_is_begun_and_extended<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    let leases = one.begin("a", Duration::from_secs(100)).await;
    assert_eq!(leases, Leases { held: true, ..Leases::default() });
    // The answer may have been lost: beginning again is the same.
    assert!(one.begin("a", Duration::from_secs(100)).await.held);
    let leases = two.begin("b", LONG).await;
    assert!(leases.held && names(&leases) == ["a"], "{leases:?}");
    let (_, left) = leases.others[0];
    assert!(left <= Duration::from_secs(100) && left > Duration::from_secs(80), "{left:?}");
    assert!(one.renew("a", LONG, false, false).await.held);
    let (_, left) = two.renew("b", LONG, false, false).await.others[0].clone();
    assert!(left <= LONG && left > Duration::from_secs(500), "{left:?}");
    // A short lease goes on as long as it is extended.
    two.begin("c", SHORT * 3).await;
    let began = Instant::now();
    while began.elapsed() < SHORT * 6 {
        tokio::time::sleep(SHORT / 3).await;
        assert!(two.renew("c", SHORT * 3, false, false).await.held);
    }
}

pub(crate) async fn a_lease_that_has_ended_is_never_held_again<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    two.begin("b", LONG).await;
    one.begin("a", SHORT).await;
    let leases = death(&two, "b", false, "a").await;
    assert!(leases.others.is_empty() && leases.dead == [incarnation("a")], "{leases:?}");
    for begin in [false, true] {
        let leases = one.renew("a", LONG, begin, true).await;
        assert!(!leases.held && leases.reap.is_empty(), "{leases:?}");
    }
    // What the others hold is said all the same.
    assert_eq!(names(&one.renew("a", LONG, false, false).await), ["b"]);
    // Another incarnation of the same node is somebody else.
    let other = Incarnation::new("a", 8);
    let renewal = fanfare_presence::Renewal { incarnation: other.clone(), lease: LONG, begin: true, reaps: false };
    assert!(one.store.renew(renewal).await.unwrap().held);
    let leases = two.renew("b", LONG, false, false).await;
    assert!(leases.others.iter().any(|(held, _)| *held == other) && leases.dead == [incarnation("a")], "{leases:?}");
}

pub(crate) async fn who_is_not_known_is_dead<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (Node::connect(&fixture).await, Node::connect(&fixture).await);
    assert!(!one.renew("a", LONG, false, false).await.held);
    assert!(!one.renew("a", LONG, true, false).await.held, "it was told that it is dead");
    two.begin("b", LONG).await;
    let leases = two.renew("b", LONG, false, true).await;
    assert_eq!((leases.dead, leases.reap), (vec![incarnation("a")], vec![incarnation("a")]));
}

pub(crate) async fn the_dead_are_given_to_one_that_reaps<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    node.begin("b", LONG).await;
    node.begin("c", LONG).await;
    node.begin("a", SHORT).await;
    // Not to one that does not reap.
    assert!(death(&node, "b", false, "a").await.reap.is_empty());
    assert_eq!(node.renew("c", LONG, false, true).await.reap, [incarnation("a")]);
    assert!(node.renew("b", LONG, false, true).await.reap.is_empty());
    // Whoever has reaped it says when it is to be reaped again, by what it has noted.
    node.store.note(&incarnation("a"), &[place("crew:1")]).await.unwrap();
    let done = Instant::now();
    node.store.reaped(&incarnation("a"), SHORT).await.unwrap();
    assert_eq!(node.store.noted(&incarnation("a"), None, 10).await.unwrap().0, [place("crew:1")]);
    assert!(node.renew("b", LONG, false, true).await.reap.is_empty() || done.elapsed() >= SHORT);
    let again = wait_for("the dead to be reaped again", SOON, async || {
        let leases = node.renew("b", LONG, false, true).await;
        assert_eq!(leases.dead, [incarnation("a")]);
        (!leases.reap.is_empty()).then_some(leases.reap)
    });
    assert_eq!(again.await, [incarnation("a")]);
    // A store may count whole milliseconds.
    assert!(done.elapsed() + Duration::from_millis(2) >= SHORT);
    node.store.reaped(&incarnation("a"), LONG).await.unwrap();
    assert!(node.renew("c", LONG, false, true).await.reap.is_empty());
    // Nobody of that name.
    node.store.reaped(&incarnation("z"), SHORT).await.unwrap();
    assert!(!fixture.remembers(incarnation("z").as_str()).await);
}

pub(crate) async fn who_does_not_finish_reaping_is_followed_by_another<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    node.begin("b", LONG).await;
    node.begin("a", SHORT).await;
    let mut began = Instant::now();
    let claim = wait_for("the end of a lease", SOON, async || {
        began = Instant::now();
        Some(node.renew("b", LONG, false, true).await.reap).filter(|reap| !reap.is_empty())
    });
    assert_eq!(claim.await, [incarnation("a")]);
    node.begin("c", LONG).await;
    wait_for("the claim's end", SOON, async || {
        (!node.renew("c", LONG, false, true).await.reap.is_empty()).then_some(())
    })
    .await;
    assert!(began.elapsed() >= Leases::REAP_CLAIM, "{:?}", began.elapsed());
}

pub(crate) async fn who_resigns_is_dead_sooner<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    node.begin("b", LONG).await;
    for name in ["a", "later", "now"] {
        node.begin(name, LONG).await;
    }
    node.store.note(&incarnation("a"), &[place("crew:1")]).await.unwrap();
    node.put("crew:1", "a", &[1]).await;
    node.store.resign(&incarnation("now"), Duration::ZERO, false).await.unwrap();
    node.store.resign(&incarnation("a"), SHORT, false).await.unwrap();
    // Not later than it would have ended.
    node.begin("short", SHORT).await;
    node.store.resign(&incarnation("short"), LONG, false).await.unwrap();
    death(&node, "b", false, "now").await;
    let leases = death(&node, "b", false, "a").await;
    assert!(names(&leases).contains(&"later"), "{leases:?}");
    death(&node, "b", false, "short").await;
    // Its rows wait to be reaped.
    assert_eq!(node.owners("crew:1").await, [(1, "a".to_owned())]);
    assert_eq!(node.store.noted(&incarnation("a"), None, 10).await.unwrap().0, [place("crew:1")]);
    // One that is dead does not come back by it.
    node.store.resign(&incarnation("a"), LONG, false).await.unwrap();
    assert!(node.renew("b", LONG, false, false).await.dead.contains(&incarnation("a")));
}

pub(crate) async fn who_resigns_at_once_leaves_nothing<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::connect(&fixture).await;
    node.begin("b", LONG).await;
    node.begin("a", LONG).await;
    node.store.note(&incarnation("a"), &[place("crew:1")]).await.unwrap();
    assert!(fixture.remembers(incarnation("a").as_str()).await);
    node.store.resign(&incarnation("a"), LONG, true).await.unwrap();
    let leases = node.renew("b", LONG, false, true).await;
    assert_eq!(leases, Leases { held: true, ..Leases::default() });
    assert!(!fixture.remembers(incarnation("a").as_str()).await);
}
