//! What has to hold between the parts of a shard.

use fanfare_protocol::{Dialect, ErrorBody, ErrorCode, Position, Tenant, Topic};
use fanfare_session::{Access, Asked, Namespace, NamespaceTable, SlowConsumer};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    auth::AuthConfig,
    hub::{
        message::{ShardMessage, SlotId},
        shard_inbox,
    },
    limits::GAPS_PER_TURN,
};

/// A shard without its thread, and the other ends of what it talks to.
pub(super) struct Bench {
    pub(super) shard: Rc<Shard>,
    pub(super) hub: mpsc::Receiver<HubRequest>,
    pub(super) publishes: mpsc::Receiver<ClientPublish>,
}

impl Bench {
    pub(super) fn new(outbox_pieces: usize) -> Self {
        Self::with(outbox_pieces, SlowConsumer::Disconnect)
    }

    pub(super) fn with(outbox_pieces: usize, slow_consumer: SlowConsumer) -> Self {
        Self::with_presence(outbox_pieces, slow_consumer, None)
    }

    /// A shard whose namespace `crew` has members, and signals; requests go to this driver.
    pub(super) fn with_presence(
        outbox_pieces: usize,
        slow_consumer: SlowConsumer,
        presence: Option<mpsc::Sender<PresenceRequest>>,
    ) -> Self {
        let (hub_requests, hub) = mpsc::channel(64);
        let (publishes, client_publishes) = mpsc::channel(64);
        let defaults = Namespace {
            subscribe: Access::Anyone,
            patterns: true,
            history: true,
            slow_consumer,
            ..Namespace::default()
        };
        let crew = Namespace { presence: true, signal: Access::Anyone, history: false, ..defaults };
        let seconds = std::time::Duration::from_secs;
        let session_config = SessionConfig {
            namespaces: NamespaceTable { defaults, declared: [("crew".into(), crew)].into() },
            anonymous: Some(Tenant::default()),
            connect_timeout: seconds(10),
            ping_interval: seconds(25),
            pong_timeout: seconds(10),
            token_expiring: seconds(30),
            max_subscriptions: 10_000,
            max_pending_commands: 100,
            max_malformed: 100,
            max_publication_bytes: 1 << 20,
            max_history: 100,
            idle: seconds(300),
            signal_expiry: seconds(6),
            presence_info_bytes: 1_024,
            presence_updates_per_second: 10,
            signals_per_second: 10,
            presence_page: 500,
            auto_subscribe: Vec::new(),
        };
        let context = ShardContext {
            id: ShardId(0),
            clock: Clock::start(),
            session_config: Arc::new(session_config),
            outbox_bytes: 1 << 20,
            outbox_pieces,
            message_bytes: 1 << 16,
            verifier: Arc::new(Verifier::new(&AuthConfig::default()).unwrap()),
            hub: hub_requests,
            publishes,
            reads: mpsc::channel(64).0,
            presence,
            lists_connections: None,
            lifecycle: None,
            recovery_bytes: 1 << 20,
            inbox: shard_inbox(64).0,
            main: Handle::current(),
            tasks: TaskTracker::new(),
            connections: Arc::new(AtomicUsize::new(0)),
        };
        let shard = Shard::new(context, Sockets::new().unwrap());
        Self { shard, hub, publishes: client_publishes }
    }

    /// A client that is subscribed to channels of its own, and where they are.
    async fn client(&mut self, channels: &[&str]) -> (TcpStream, Vec<SlotId>) {
        self.client_at(channels, None).await
    }

    /// The same, on channels that stand somewhere.
    pub(super) async fn client_at(&mut self, channels: &[&str], at: Option<Position>) -> (TcpStream, Vec<SlotId>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let handshake = Handshake {
            token: None,
            channels: channels.iter().map(|name| Asked { name: (*name).to_owned(), ..Asked::default() }).collect(),
        };
        let variant = Variant::new(Dialect::Json, false);
        let stream = stream.into_std().unwrap();
        self.shard.adopt(Adopted { stream, answer: None, unread: &mut [], variant, handshake });
        let slots: Vec<_> = channels.iter().map(|_| self.subscribe_request()).collect();
        self.tell(slots.iter().map(|slot| ShardMessage::Subscribed { slot: *slot, position: at.clone() }));
        (client, slots)
    }

    /// What the shard has asked the hub for.
    pub(super) fn request(&mut self) -> Result<HubRequest, mpsc::error::TryRecvError> {
        self.shard.send_requests();
        self.hub.try_recv()
    }

    pub(super) fn subscribe_request(&mut self) -> SlotId {
        match self.request() {
            Ok(HubRequest::Subscribe { slot, .. }) => slot,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn tell(&self, messages: impl IntoIterator<Item = ShardMessage>) {
        let mut messages = messages.into_iter();
        self.shard.take_messages(&mut messages);
        assert!(messages.next().is_none());
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.shard.state.borrow().topics.subscriptions()
    }

    /// What a client sent, as if read from its socket.
    pub(super) fn input(&self, index: usize, text: &str) {
        let text = format!("{text:<126}"); // so that all have a length of two bytes
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend([0; 4]); // a mask that changes nothing
        frame.extend(text.as_bytes());
        let mut state = self.shard.state.borrow_mut();
        self.shard.take_input(&mut state, index, &mut frame, self.shard.context.clock.now());
    }
}

#[tokio::test]
async fn an_overflow_between_an_unsubscribe_and_its_action_leaves_no_place_behind() {
    let test = async {
        let mut bench = Bench::new(8);
        let (_client, slots) = bench.client(&["room:1"]).await;
        assert_eq!(bench.subscriptions(), 1);
        let mut commands: Vec<String> = (1..=16).map(|id| format!(r#"{{"id":{id},"type":"ping"}}"#)).collect();
        commands.push(r#"{"id":17,"type":"unsubscribe","channel":"room:1"}"#.into());
        bench.input(0, &format!("[{}]", commands.join(",")));
        assert!(matches!(bench.shard.state.borrow().connections[0].state, State::Closing(_)), "its outbox overflowed");
        assert_eq!(bench.subscriptions(), 0);
        assert!(matches!(bench.request(), Ok(HubRequest::Unsubscribe { slot, .. }) if slot == slots[0]));
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_topic_that_the_hub_ends_is_told_and_gone() {
    let test = async {
        let mut bench = Bench::new(64);
        let (mut client, slots) = bench.client(&["room:1", "room:2"]).await;
        let refusal = ErrorBody::new(ErrorCode::Internal, "gone");
        bench.tell([ShardMessage::Refused { slot: slots[0], refusal }]);
        assert_eq!(bench.subscriptions(), 1);
        while bench.shard.write_dirty(64) {}
        let mut got = String::new();
        let mut buffer = [0; 1024];
        while !got.contains("system:unsubscribed") {
            let count = client.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{got}");
            got += &String::from_utf8_lossy(&buffer[..count]);
        }
        assert!(got.ends_with(r#""channel":"room:1","code":"INTERNAL","message":"gone","retryable":true}}"#), "{got}");
        let topic = Topic::parse("room:1").unwrap();
        assert!(!bench.shard.state.borrow_mut().session(0).unwrap().is_subscribed(&topic));
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_gap_of_everything_is_told_a_part_at_a_time_and_before_what_follows() {
    let test = async {
        let channels: Vec<String> = (0..50).map(|number| format!("room:{number}")).collect();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        let mut bench = Bench::new(100_000);
        let (_client, mut slots) = bench.client(&channels).await;
        while slots.len() <= GAPS_PER_TURN {
            let id = slots.len();
            bench.input(0, &format!(r#"{{"id":{id},"type":"subscribe","channel":"room:{id}"}}"#));
            let slot = bench.subscribe_request();
            bench.tell([ShardMessage::Subscribed { slot, position: None }]);
            slots.push(slot);
        }
        let refusal = ErrorBody::new(ErrorCode::Internal, "gone");
        let gap = ShardMessage::GapEverywhere { reason: "test", repair: false };
        let mut messages = vec![gap, ShardMessage::Refused { slot: slots[0], refusal }].into_iter();
        bench.shard.take_messages(&mut messages);
        assert!(bench.shard.has_gaps());
        bench.shard.take_messages(&mut messages);
        assert_eq!(bench.shard.state.borrow().gaps.len(), 1);
        bench.shard.take_messages(&mut messages);
        assert!(!bench.shard.has_gaps());
        assert_eq!(bench.subscriptions(), slots.len(), "what follows has waited");
        bench.shard.take_messages(&mut messages);
        assert_eq!(bench.subscriptions(), slots.len() - 1);
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

fn stands_at(offset: u64) -> fanfare_protocol::Position {
    fanfare_protocol::Position { offset, epoch: fanfare_protocol::Epoch::parse("e").unwrap() }
}

#[tokio::test]
async fn one_that_overflows_does_not_take_the_topic_from_those_behind_it() {
    let test = async {
        let mut bench = Bench::new(8);
        let (_slow, _) = bench.client(&[]).await;
        let (_other, _) = bench.client(&[]).await;
        let subscribe = r#"{"id":99,"type":"subscribe","channel":"room:1"}"#;
        bench.input(0, subscribe);
        {
            let limits = bench.shard.outbox_limits();
            let slow = &mut bench.shard.state.borrow_mut().connections[0];
            while slow.push(b"x".as_slice().into(), limits).is_ok() {}
        }
        bench.input(1, subscribe);
        let slot = bench.subscribe_request();
        let before = bench.shard.state.borrow().connections[1].outbox.bytes();
        bench.tell([ShardMessage::Subscribed { slot, position: Some(stands_at(4)) }]);
        assert!(matches!(bench.shard.state.borrow().connections[0].state, State::Closing(_)), "its outbox overflowed");
        assert!(bench.shard.state.borrow().connections[1].outbox.bytes() > before, "the other is answered");
        assert_eq!(bench.subscriptions(), 1, "and subscribed");
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_gap_does_not_hide_what_a_broken_topic_misses() {
    let test = async {
        let mut bench = Bench::new(64);
        let (_client, _) = bench.client(&[]).await;
        bench.input(0, r#"{"id":1,"type":"subscribe","channel":"room:1"}"#);
        let slot = bench.subscribe_request();
        bench.tell([ShardMessage::Subscribed { slot, position: Some(stands_at(10)) }]);
        let missed = Some(fanfare_protocol::Missed { from: stands_at(20), to: stands_at(30) });
        let mut messages = [ShardMessage::GapEverywhere { reason: "node_overloaded", repair: true }].into_iter();
        bench.shard.take_messages(&mut messages);
        assert!(matches!(bench.request(), Ok(HubRequest::Recover { .. })));
        bench.tell([ShardMessage::Gap { slot, reason: "not_retained", missed }]);
        let mut state = bench.shard.state.borrow_mut();
        let stands = state.topics.get_mut(slot).unwrap().history.as_ref().unwrap().position();
        assert_eq!(stands.offset, 10, "the repair is from there");
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

fn positioned(offset: u64) -> Arc<crate::encoding::EncodedPublication> {
    let body = fanfare_protocol::Body::new(&br#"{"event":"x"}"#[..]);
    let envelope = body.envelope(1_024).unwrap();
    let position = stands_at(offset);
    let delivery =
        fanfare_protocol::Delivery { envelope: &envelope, channel: "room:1", timestamp: 0, position: Some(&position) };
    Arc::new(crate::encoding::EncodedPublication::new(&delivery))
}

#[tokio::test]
async fn who_is_subscribed_twice_gets_what_was_repaired_once() {
    use crate::hub::message::{Recovery, Targets};
    let test = async {
        let mut bench = Bench::new(64);
        let (_client, _) = bench.client(&[]).await;
        bench.input(
            0,
            r#"[{"id":1,"type":"subscribe","channel":"room:1"},{"id":2,"type":"subscribe","channel":"room:2"}]"#,
        );
        // The second stands for a pattern: to the shard it is the same.
        let (exact, pattern) = (bench.subscribe_request(), bench.subscribe_request());
        bench.tell([
            ShardMessage::Subscribed { slot: exact, position: Some(stands_at(10)) },
            ShardMessage::Subscribed { slot: pattern, position: None },
        ]);
        let mut messages = [ShardMessage::GapEverywhere { reason: "node_overloaded", repair: true }].into_iter();
        bench.shard.take_messages(&mut messages);
        while bench.shard.has_gaps() {
            bench.shard.take_messages(&mut [].into_iter());
        }
        let Ok(HubRequest::Recover { recoverer, .. }) = bench.request() else { panic!() };
        let publication = |offset| ShardMessage::Publication {
            targets: Targets::Several([exact, pattern].into()),
            publication: positioned(offset),
        };
        let recovery = Recovery {
            position: stands_at(12),
            recovered: Some(true),
            publications: vec![positioned(11), positioned(12)],
        };
        bench.tell([publication(12), ShardMessage::Recovered { recoverer, result: Ok(recovery) }, publication(13)]);
        let state = bench.shard.state.borrow();
        let bytes: Vec<u8> = state.connections[0].outbox.pieces().iter().flat_map(|piece| piece.to_vec()).collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let offsets: Vec<&str> = text.split("\"offset\":").skip(1).map(|rest| &rest[..2]).collect();
        assert_eq!(offsets, ["10", "11", "12", "13"], "the first is the reply's");
    };
    tokio::task::LocalSet::new().run_until(test).await;
}
