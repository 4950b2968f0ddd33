//! What services are told of channels, and of nodes that are gone.

use fanfare_presence::{ConnectionKey, State};
use fanfare_protocol::{Channel, Tenant};
use tokio::sync::mpsc;

use super::*;
use crate::lifecycle::ledger::tests::{context, shown};

fn place(channel: &str) -> Place {
    Place { tenant: Tenant::parse("acme").unwrap(), channel: Channel::parse(channel).unwrap() }
}

fn row(connection: u128, since: u64) -> Row {
    let user = User::Named("alice".into());
    Row { connection: ConnectionKey(connection), user, state: State::Online, info: None, since }
}

fn lost(channel: &str, rows: Vec<Row>) -> Turnout {
    Turnout::Lost { place: place(channel), dead: Incarnation::new("n2", 1), rows }
}

fn scene(events: LifecycleEvents) -> (Turnouts, mpsc::Receiver<LifecycleEvent>) {
    let (context, told) = context(events);
    (Turnouts::new(context), told)
}

#[test]
fn turnouts_are_told_where_they_are_wanted() {
    let (mut turnouts, mut told) = scene(LifecycleEvents::NONE);
    for turnout in [
        Turnout::Occupied(place("crew:1")),
        Turnout::Occupied(place("half:1")),
        Turnout::Vacated(place("half:1")),
        Turnout::Vacated(place("crew:1")),
        Turnout::Occupied(place("crew:1")),
    ] {
        turnouts.handle(5, turnout);
    }
    let ids = shown(&mut told);
    let kinds: Vec<_> = ids.iter().map(|id| id.rsplit(':').next().unwrap()).collect();
    assert_eq!(kinds, ["occupied", "vacated", "occupied"]);
    assert!(ids.iter().all(|id| id.starts_with("acme:crew:1:")) && ids[0] != ids[2], "{ids:?}");
}

#[test]
fn the_dead_are_told_of_once_for_each_subscription_and_once_for_each_connection() {
    let (mut turnouts, mut told) = scene(LifecycleEvents::DISCONNECTED);
    turnouts.handle(5, lost("crew:1", vec![row(1, 100), row(2, 200)]));
    turnouts.handle(6, lost("half:1", vec![row(1, 101)]));
    turnouts.handle(7, lost("other:1", vec![row(1, 102), row(3, 300)]));
    assert_eq!(
        shown(&mut told),
        [
            "1:crew:1:100:unsubscribed node_lost",
            "1:disconnected node_lost",
            "2:crew:1:200:unsubscribed node_lost",
            "2:disconnected node_lost",
            "1:half:1:101:unsubscribed node_lost",
            "3:disconnected node_lost",
        ]
    );
}

#[test]
fn it_says_on_which_node_they_were() {
    let (mut turnouts, mut told) = scene(LifecycleEvents::DISCONNECTED);
    let anonymous = Row { user: User::Anonymous(ConnectionKey(4)), ..row(4, 1) };
    turnouts.handle(5, lost("other:1", vec![anonymous]));
    let body = told.try_recv().unwrap().to_lifecycle().body;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let expected = serde_json::json!({
        "id": format!("{:032x}:disconnected", 4), "kind": "disconnected", "tenant": "acme", "node": "n2",
        "timestamp": 5, "session": format!("{:032x}", 4), "reason": "node_lost",
    });
    assert_eq!(body, expected);
}

#[test]
fn a_connection_in_its_users_place_says_whose_it_is() {
    let (mut turnouts, mut told) = scene(LifecycleEvents::DISCONNECTED);
    let tenant = Tenant::parse("acme").unwrap();
    let info = connections::ConnectionInfo { node: "n2".into(), transport: "sse".into(), user: "alice".into() };
    let (place, row) = (connections::place_of(&tenant, "alice"), connections::row(ConnectionKey(4), 1, &info));
    turnouts.handle(5, Turnout::Lost { place, dead: Incarnation::new("n2", 1), rows: vec![row] });
    let body = told.try_recv().unwrap().to_lifecycle().body;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["kind"], &body["user"]), (&"disconnected".into(), &"alice".into()));
}

#[test]
fn what_is_remembered_of_the_dead_is_bounded() {
    let (mut turnouts, mut told) = scene(LifecycleEvents::DISCONNECTED);
    for connection in 0..=LIFECYCLE_LOST_SESSIONS as u128 {
        turnouts.handle(5, lost("other:1", vec![row(connection, 1)]));
        while told.try_recv().is_ok() {}
    }
    assert_eq!((turnouts.lost.len(), turnouts.lost_order.len()), (LIFECYCLE_LOST_SESSIONS, LIFECYCLE_LOST_SESSIONS));
    assert!(!turnouts.lost.contains(&SessionId(0)));
}
