//! What services are told of sessions.

use fanfare_protocol::{ErrorBody, Subscribed, SubscriptionOutcome};
use fanfare_session::Namespace;
use tokio::sync::mpsc;

use super::*;
use crate::{config::Config, lifecycle::queue::queue_of};

const SESSION: SessionId = SessionId(7);

/// Namespace `crew` tells both of subscriptions, `half` only their ends, all others nothing.
pub(in crate::lifecycle) fn context(events: LifecycleEvents) -> (LifecycleContext, mpsc::Receiver<LifecycleEvent>) {
    let mut config = Config::development();
    let both = LifecycleEvents::SUBSCRIBED.union(LifecycleEvents::UNSUBSCRIBED);
    let turnout = LifecycleEvents::OCCUPIED.union(LifecycleEvents::VACATED);
    for (name, events) in [("crew", both.union(turnout)), ("half", LifecycleEvents::UNSUBSCRIBED)] {
        config.namespaces.declared.insert(name.into(), Namespace { events, ..Namespace::default() });
    }
    let (queue, told) = queue_of(1_000);
    (LifecycleContext { queue, node: "n1".into(), events, config: config.session_config().into() }, told)
}

/// Events as id, or as id and reason.
pub(in crate::lifecycle) fn shown(told: &mut mpsc::Receiver<LifecycleEvent>) -> Vec<String> {
    std::iter::from_fn(|| told.try_recv().ok())
        .map(|event| {
            let lifecycle = event.to_lifecycle();
            let body: serde_json::Value = serde_json::from_slice(&lifecycle.body).unwrap();
            let id = lifecycle.id.trim_start_matches('0').to_owned();
            body["reason"].as_str().map_or(id.clone(), |reason| format!("{id} {reason}"))
        })
        .collect()
}

struct Scene {
    ledger: Ledger,
    told: mpsc::Receiver<LifecycleEvent>,
}

impl Scene {
    /// A session that connected at 100.
    fn new(events: LifecycleEvents) -> Self {
        let (context, told) = context(events);
        let mut ledger = Ledger::new(context);
        let grant = Grant { user: Some("alice".into()), ..Grant::anonymous(Tenant::parse("acme").unwrap()) };
        ledger.connected(100, SESSION, &grant);
        Self { ledger, told }
    }

    fn push(&mut self, now: u64, push: Push) {
        self.ledger.told(now, SESSION, &ServerMessage::Push(push));
    }

    fn subscribe(&mut self, now: u64, channel: &str) {
        self.push(now, Push::Subscribed(Subscribed { channel: channel.into(), ..Subscribed::default() }));
    }

    fn unsubscribe(&mut self, now: u64, channel: &str) {
        self.ledger.unsubscribed(now, SESSION, &Topic::parse(channel).unwrap());
    }

    fn revoke(&mut self, now: u64, channel: &str, code: ErrorCode) {
        self.push(now, Push::Unsubscribed { channel: channel.into(), error: ErrorBody::new(code, "so") });
    }

    fn told(&mut self) -> Vec<String> {
        shown(&mut self.told)
    }
}

fn connections() -> LifecycleEvents {
    LifecycleEvents::CONNECTED.union(LifecycleEvents::DISCONNECTED)
}

#[test]
fn a_session_is_told_from_its_beginning_to_its_end() {
    let mut scene = Scene::new(connections());
    scene.subscribe(150, "crew:1");
    scene.subscribe(150, "crew:*");
    // Told again, and of a namespace that tells nothing.
    scene.subscribe(160, "crew:1");
    scene.subscribe(160, "other:1");
    scene.ledger.settle();
    scene.unsubscribe(170, "crew:1");
    scene.unsubscribe(170, "other:1");
    scene.ledger.settle();
    assert_eq!(scene.ledger.subscription(SESSION, "crew:*"), Some(151));
    scene.ledger.session_ended(180, SESSION, "ping_timeout");
    scene.ledger.session_ended(190, SESSION, "again");
    assert_eq!(
        scene.told(),
        [
            "7:connected",
            "7:crew:1:150:subscribed",
            "7:crew:*:151:subscribed",
            "7:crew:1:150:unsubscribed client",
            "7:crew:*:151:unsubscribed ping_timeout",
            "7:disconnected ping_timeout",
        ]
    );
    assert!(scene.ledger.sessions.is_empty());
}

#[test]
fn only_what_is_wanted_is_told() {
    let mut scene = Scene::new(LifecycleEvents::NONE);
    scene.subscribe(150, "half:1");
    scene.unsubscribe(160, "half:1");
    scene.ledger.settle();
    scene.subscribe(170, "half:2");
    scene.ledger.session_ended(180, SESSION, "draining");
    assert_eq!(scene.told(), ["7:half:1:150:unsubscribed client", "7:half:2:170:unsubscribed draining"]);
}

#[test]
fn a_list_of_channels_tells_those_that_were_subscribed() {
    let mut scene = Scene::new(LifecycleEvents::NONE);
    let outcome = |channel: &str, error| SubscriptionOutcome { channel: channel.into(), error };
    let refused = Some(ErrorBody::new(ErrorCode::Forbidden, "no"));
    let subscriptions = vec![outcome("crew:1", None), outcome("crew:2", refused)];
    let reply = ServerMessage::Reply { id: 1, outcome: Ok(Reply::SubscribedMany { subscriptions }) };
    scene.ledger.told(150, SESSION, &reply);
    assert_eq!(scene.told(), ["7:crew:1:150:subscribed"]);
}

#[test]
fn the_same_channel_again_is_another_subscription() {
    let mut scene = Scene::new(LifecycleEvents::NONE);
    for _ in 0..2 {
        scene.subscribe(150, "crew:1");
        scene.unsubscribe(150, "crew:1");
    }
    scene.subscribe(140, "crew:1"); // the clock was set back
    let told = scene.told();
    assert_eq!(
        told,
        [
            "7:crew:1:150:subscribed",
            "7:crew:1:150:unsubscribed client",
            "7:crew:1:151:subscribed",
            "7:crew:1:151:unsubscribed client",
            "7:crew:1:152:subscribed",
        ]
    );
}

#[test]
fn why_a_subscription_was_taken_away_is_told() {
    let mut scene = Scene::new(LifecycleEvents::NONE);
    for (n, channel) in (1..).zip(["crew:1", "crew:2", "crew:3", "crew:4"]) {
        scene.subscribe(n, channel);
    }
    scene.told();
    // The session gives it up and then says why; the hub's end is only said.
    scene.unsubscribe(10, "crew:1");
    scene.revoke(10, "crew:1", ErrorCode::Forbidden);
    scene.revoke(11, "crew:2", ErrorCode::Internal);
    // Of another than the one that was given up.
    scene.unsubscribe(12, "crew:3");
    scene.revoke(12, "crew:4", ErrorCode::Forbidden);
    scene.revoke(13, "crew:9", ErrorCode::Forbidden);
    assert_eq!(
        scene.told(),
        [
            "7:crew:1:1:unsubscribed permission_withdrawn",
            "7:crew:2:2:unsubscribed broker_refused",
            "7:crew:3:3:unsubscribed client",
            "7:crew:4:4:unsubscribed permission_withdrawn",
        ]
    );
}

#[test]
fn who_is_not_connected_is_not_told_of() {
    let mut scene = Scene::new(connections());
    scene.told();
    let stranger = SessionId(9);
    scene.ledger.unsubscribed(1, stranger, &Topic::parse("crew:1").unwrap());
    scene.ledger.session_ended(1, stranger, "connect_timeout");
    assert_eq!(scene.told(), Vec::<String>::new());
}

#[test]
fn a_close_has_a_word_for_services() {
    for (code, word) in [
        (CloseCode::Normal, "client_closed"),
        (CloseCode::MessageTooBig, "protocol_error"),
        (CloseCode::PingTimeout, "ping_timeout"),
        (CloseCode::TokenExpired, "token_expired"),
        (CloseCode::SlowConsumer, "slow_consumer"),
        (CloseCode::Draining, "draining"),
    ] {
        assert_eq!(reason_of(code), word);
    }
}
