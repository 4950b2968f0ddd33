//! Members and those who watch them, on a shard.

use std::time::Duration;

use fanfare_presence::{Audience, ConnectionKey, Place, State as RowState, User};
use fanfare_protocol::{Body, Delivery, ErrorBody, ErrorCode, PresenceReply};
use fanfare_session::{Completion, PresenceWord, SlowConsumer};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

use super::{tests::Bench, *};
use crate::{
    encoding::EncodedPublication,
    hub::message::{ShardMessage, SlotId, Targets},
    limits::PRESENCE_UNSENT_REQUESTS,
    presence::message::Asker,
};

const SUBSCRIBE: &str = r#"{"id":1,"type":"subscribe","channel":"crew:1","presence":true}"#;

/// A shard, and the other end of what it tells the driver.
struct Crew {
    bench: Bench,
    driver: mpsc::Receiver<PresenceRequest>,
}

impl Crew {
    fn new() -> Self {
        Self::with(64, SlowConsumer::Disconnect)
    }

    /// The driver's inbox has so many places.
    fn with(places: usize, slow_consumer: SlowConsumer) -> Self {
        let (requests, driver) = mpsc::channel(places);
        Self { bench: Bench::with_presence(64, slow_consumer, Some(requests)), driver }
    }

    /// A client that is on no channel yet.
    async fn client(&mut self) -> TcpStream {
        self.bench.client_at(&[], None).await.0
    }

    /// The first subscriber of crew:1, and its place there.
    fn subscribe_first(&mut self, index: usize, command: &str) -> SlotId {
        self.bench.input(index, command);
        let slot = self.bench.subscribe_request();
        self.bench.tell([ShardMessage::Subscribed { slot, position: None }]);
        slot
    }

    fn request(&mut self) -> PresenceRequest {
        self.driver.try_recv().expect("a request")
    }

    fn is_quiet(&mut self) -> bool {
        self.driver.try_recv().is_err()
    }

    fn key(&self, index: usize) -> ConnectionKey {
        let state = self.bench.shard.state.borrow();
        ConnectionKey(state.connections[index].session.as_ref().unwrap().id().0)
    }

    /// What waits for a connection, as text.
    fn outbox(&self, index: usize) -> String {
        let state = self.bench.shard.state.borrow();
        let bytes: Vec<u8> = state.connections[index].outbox.pieces().iter().flat_map(|piece| piece.to_vec()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The slot that announcements go to.
    fn watch_request(&mut self, expected: Audience) -> SlotId {
        match self.request() {
            PresenceRequest::Watch { slot, audience, place, .. } if audience == expected && place == crew() => slot,
            other => panic!("{other:?}"),
        }
    }

    fn end(&self, index: usize) {
        let mut state = self.bench.shard.state.borrow_mut();
        self.bench.shard.remove(&mut state, index);
    }
}

fn crew() -> Place {
    Place { tenant: fanfare_protocol::Tenant::default(), channel: fanfare_protocol::Channel::parse("crew:1").unwrap() }
}

fn announcement(slot: SlotId, version: u64) -> ShardMessage {
    let body = Body::new(format!(r#"{{"event":"presence:change","data":{{"version":{version}}}}}"#).into_bytes());
    let envelope = body.envelope(1_024).unwrap();
    let delivery = Delivery { envelope: &envelope, channel: "crew:1", timestamp: 1, position: None };
    let mut publication = EncodedPublication::new(&delivery);
    publication.key = Some("u:alice".into());
    ShardMessage::Publication { targets: Targets::One(slot), publication: Arc::new(publication) }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_subscriber_is_a_member_that_is_told_until_it_unsubscribes() {
    run(async {
        let mut crew_1 = Crew::new();
        let _client = crew_1.client().await;
        crew_1.subscribe_first(0, SUBSCRIBE);
        let key = crew_1.key(0);
        let PresenceRequest::Join { place, row } = crew_1.request() else { panic!() };
        assert_eq!((place, row.connection, row.user), (crew(), key, User::Anonymous(key)));
        assert!(row.state == RowState::Online && row.since > 1_600_000_000_000);
        let slot = crew_1.watch_request(Audience::Auto);
        let PresenceRequest::Ask { query, asker } = crew_1.request() else { panic!() };
        assert!(query.snapshot && query.audience == Some(Audience::Auto) && query.place == crew());
        let Asker::Session { connection, op, .. } = asker else { panic!() };
        let reply = PresenceReply {
            channel: "crew:1".into(),
            users: 1,
            connections: 1,
            members: None,
            next: None,
            version: Some(4),
            stale: false,
        };
        let completion = Completion::Presence(Ok(Box::new(reply)));
        crew_1.bench.tell([ShardMessage::Completed { connection, op, completion }, announcement(slot, 5)]);
        let got = crew_1.outbox(0);
        let at = |text: &str| got.find(text).unwrap_or_else(|| panic!("{text} is not in {got}"));
        assert!(at("\"type\":\"reply\"") < at("presence:snapshot") && at("presence:snapshot") < at("presence:change"));
        assert_eq!(crew_1.bench.subscriptions(), 1, "watching is no subscription");

        crew_1.bench.input(0, r#"{"id":2,"type":"unsubscribe","channel":"crew:1"}"#);
        assert!(matches!(crew_1.request(), PresenceRequest::Unwatch { slot: own, .. } if own == slot));
        assert!(matches!(crew_1.request(), PresenceRequest::Leave { connection, .. } if connection == key));
        assert!(crew_1.is_quiet());
        crew_1.bench.tell([announcement(slot, 6)]);
        assert!(!crew_1.outbox(0).contains("\"version\":6"));
    });
}

#[test]
fn the_end_of_a_session_ends_what_it_held_and_nothing_of_others() {
    run(async {
        let mut crew_1 = Crew::new();
        let _first = crew_1.client().await;
        let _second = crew_1.client().await;
        crew_1.subscribe_first(0, r#"{"id":1,"type":"subscribe","channel":"crew:1"}"#);
        crew_1.bench.input(1, r#"{"id":1,"type":"subscribe","channel":"crew:1"}"#);
        let (first, second) = (crew_1.key(0), crew_1.key(1));
        assert!(matches!(crew_1.request(), PresenceRequest::Join { row, .. } if row.connection == first));
        let slot = crew_1.watch_request(Audience::Auto);
        assert!(matches!(crew_1.request(), PresenceRequest::Join { row, .. } if row.connection == second));
        assert!(crew_1.is_quiet(), "the second watches where the first does");
        crew_1.bench.input(0, r#"{"id":2,"type":"signal","channel":"crew:1","event":"typing:start"}"#);
        let started = crew_1.bench.publishes.try_recv().unwrap();
        assert!(started.publish.ephemeral && started.publisher.is_none());

        crew_1.end(0);
        let stopped = crew_1.bench.publishes.try_recv().unwrap();
        let body = String::from_utf8(stopped.publish.body.to_vec()).unwrap();
        assert!(body.contains("typing:stop") && body.contains(&first.to_string()), "{body}");
        assert!(matches!(crew_1.request(), PresenceRequest::Leave { connection, .. } if connection == first));
        assert!(crew_1.is_quiet());
        // Its place is another's now, who is told nothing.
        let _third = crew_1.client().await;
        crew_1.bench.tell([announcement(slot, 1)]);
        assert!(!crew_1.outbox(0).contains("presence:change"));
        assert!(crew_1.outbox(1).contains("presence:change"));
        crew_1.end(1);
        assert!(matches!(crew_1.request(), PresenceRequest::Unwatch { .. }));
    });
}

#[test]
fn who_asks_for_names_is_told_with_those_and_no_more_with_the_others() {
    run(async {
        let mut crew_1 = Crew::new();
        let _client = crew_1.client().await;
        crew_1.subscribe_first(0, r#"{"id":1,"type":"subscribe","channel":"crew:1"}"#);
        assert!(matches!(crew_1.request(), PresenceRequest::Join { .. }));
        let auto = crew_1.watch_request(Audience::Auto);
        crew_1.bench.input(0, r#"{"id":2,"type":"subscribe","channel":"crew:1","presence":"names"}"#);
        assert!(matches!(crew_1.request(), PresenceRequest::Join { .. }));
        assert!(matches!(crew_1.request(), PresenceRequest::Unwatch { slot, .. } if slot == auto));
        let names = crew_1.watch_request(Audience::Names);
        assert!(
            matches!(crew_1.request(), PresenceRequest::Ask { query, .. } if query.audience == Some(Audience::Names))
        );
        crew_1.bench.tell([announcement(auto, 1), announcement(names, 2)]);
        let got = crew_1.outbox(0);
        assert!(!got.contains("\"version\":1") && got.contains("\"version\":2"), "{got}");
    });
}

#[test]
fn a_channel_that_the_hub_ends_has_no_members_left() {
    run(async {
        let mut crew_1 = Crew::new();
        let _client = crew_1.client().await;
        let slot = crew_1.subscribe_first(0, r#"{"id":1,"type":"subscribe","channel":"crew:1"}"#);
        assert!(matches!(crew_1.request(), PresenceRequest::Join { .. }));
        crew_1.watch_request(Audience::Auto);
        let refusal = ErrorBody::new(ErrorCode::Internal, "gone");
        crew_1.bench.tell([ShardMessage::Refused { slot, refusal }]);
        assert!(matches!(crew_1.request(), PresenceRequest::Unwatch { .. }));
        assert!(matches!(crew_1.request(), PresenceRequest::Leave { .. }));
        // An interruption of everything concerns nobody who only watches.
        let mut messages = [ShardMessage::GapEverywhere { reason: "test", repair: true }].into_iter();
        crew_1.bench.shard.take_messages(&mut messages);
        assert!(!crew_1.bench.shard.has_gaps());
    });
}

#[test]
fn what_the_driver_does_not_take_waits_in_order_and_too_much_is_refused() {
    run(async {
        let mut crew_1 = Crew::with(1, SlowConsumer::Disconnect);
        let _client = crew_1.client().await;
        crew_1.subscribe_first(0, SUBSCRIBE);
        assert!(matches!(crew_1.request(), PresenceRequest::Join { .. }));
        crew_1.bench.shard.handle_timers();
        crew_1.watch_request(Audience::Auto);
        crew_1.bench.shard.handle_timers();
        assert!(matches!(crew_1.request(), PresenceRequest::Ask { .. }));
        {
            let mut state = crew_1.bench.shard.state.borrow_mut();
            let leave = || PresenceRequest::Leave { place: crew(), connection: ConnectionKey(1) };
            (0..=PRESENCE_UNSENT_REQUESTS).for_each(|_| state.presence.tell(leave()));
        }
        crew_1.bench.input(0, r#"{"id":2,"type":"presence","channel":"crew:1"}"#);
        assert!(crew_1.outbox(0).contains(r#""id":2,"type":"error","code":"UNAVAILABLE""#), "{}", crew_1.outbox(0));
        crew_1.bench.input(0, r#"{"id":3,"type":"set_presence","channel":"crew:1","state":"away"}"#);
        assert!(matches!(crew_1.bench.shard.state.borrow().connections[0].state, State::Closing(_)));
        let mut leaves = 0;
        while let Ok(request) = crew_1.driver.try_recv() {
            assert!(matches!(request, PresenceRequest::Leave { .. } | PresenceRequest::Unwatch { .. }), "{request:?}");
            leaves += usize::from(matches!(request, PresenceRequest::Leave { .. }));
            crew_1.bench.shard.state.borrow_mut().presence.send_unsent();
        }
        assert_eq!(leaves, PRESENCE_UNSENT_REQUESTS + 2, "its own too");
    });
}

#[test]
fn a_slow_client_of_a_channel_that_conflates_gets_the_newest_announcement_and_is_told_of_no_gap() {
    run(async {
        let mut crew_1 = Crew::with(64, SlowConsumer::Conflate);
        let mut client = crew_1.client().await;
        crew_1.subscribe_first(0, r#"{"id":1,"type":"subscribe","channel":"crew:1"}"#);
        assert!(matches!(crew_1.request(), PresenceRequest::Join { .. }));
        let slot = crew_1.watch_request(Audience::Auto);
        {
            let limits = crew_1.bench.shard.outbox_limits();
            let slow = &mut crew_1.bench.shard.state.borrow_mut().connections[0];
            while !slow.outbox.is_half_full(limits) {
                slow.push(b"\x89\x00".as_slice().into(), limits).unwrap();
            }
        }
        for version in 1..=200 {
            crew_1.bench.tell([announcement(slot, version)]);
        }
        let mut got = String::new();
        let mut buffer = [0; 4096];
        while !got.contains("\"version\":200}") {
            while crew_1.bench.shard.write_dirty(64) {}
            crew_1.bench.shard.state.borrow_mut().dirty.push_back(0);
            crew_1.bench.shard.state.borrow_mut().connections[0].dirty = true;
            let count = timeout(Duration::from_secs(10), client.read(&mut buffer)).await.unwrap().unwrap();
            assert!(count > 0, "{got}");
            got += &String::from_utf8_lossy(&buffer[..count]);
        }
        assert_eq!(got.matches("presence:change").count(), 1, "{got}");
        assert!(!got.contains("system:gap"), "{got}");
    });
}

#[test]
fn the_store_and_sessions_allow_the_same_words() {
    let long = "x".repeat(RowState::BYTES);
    let longer = "x".repeat(RowState::BYTES + 1);
    for word in ["online", "idle", "offline", "editing", "a-b_1", "", "Away", "a b", "ä", &long, &longer] {
        let (own, rows) = (PresenceWord::parse(word).ok(), RowState::parse(word).ok());
        assert_eq!(own.as_ref().map(PresenceWord::as_str), rows.as_ref().map(RowState::as_str), "{word:?}");
    }
}
