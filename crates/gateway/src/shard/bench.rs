//! A shard without its thread, for counting instructions; see [`crate::bench`].

use std::{
    io::{ErrorKind, Read as _},
    net::TcpStream as StdTcpStream,
    time::{Duration, Instant},
};

use ahash::RandomState;
use fanfare_protocol::{Tenant, Topic};
use fanfare_session::{Access, Asked, Namespace, NamespaceTable, OpId, Start};
use tokio::net::TcpListener;

use super::{
    outbox::Piece,
    topics::{Subscribing, Waiting},
    *,
};
use crate::{
    auth::AuthConfig,
    bench::Encoded,
    hub::{
        message::{ShardMessage, SlotId, Targets},
        shard_inbox,
    },
    limits::FLUSHES_PER_YIELD,
};

/// How long sockets may take to get what was sent to them.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shard with clients that are subscribed, each by a TCP connection. It lives in a `LocalSet`.
pub struct ShardAlone {
    shard: Rc<Shard>,
    hub: mpsc::Receiver<HubRequest>,
    slots: Vec<SlotId>,
    clients: Vec<StdTcpStream>,
    got: Vec<u8>,
    _publishes: mpsc::Receiver<ClientPublish>,
}

/// What a shard finds in its inbox.
pub struct Tick(Vec<ShardMessage>);

impl Tick {
    /// Publications that came together, on one channel each.
    #[must_use]
    pub fn new(shard: &ShardAlone, publications: impl IntoIterator<Item = (usize, Encoded)>) -> Self {
        let message = |(channel, encoded): (usize, Encoded)| ShardMessage::Publication {
            targets: Targets::One(shard.slots[channel]),
            publication: encoded.0,
        };
        Self(publications.into_iter().map(message).collect())
    }
}

impl ShardAlone {
    /// One with so many channels, and so many clients on each.
    ///
    /// # Panics
    /// Where there are no sockets to be had.
    pub async fn new(channels: usize, clients: usize) -> Self {
        let (hub_requests, hub) = mpsc::channel(64);
        let (publishes, _publishes) = mpsc::channel(64);
        let shard = Shard::new(context(hub_requests, publishes), Sockets::new().expect("an event queue"));
        let mut alone = Self { shard, hub, slots: Vec::new(), clients: Vec::new(), got: vec![0; 1 << 16], _publishes };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        for channel in 0..channels {
            for _ in 0..clients {
                alone.connect(&listener, channel).await;
            }
        }
        alone
    }

    async fn connect(&mut self, listener: &TcpListener, channel: usize) {
        let address = listener.local_addr().expect("it is bound");
        let client = StdTcpStream::connect(address).expect("the listener's backlog is empty");
        client.set_nonblocking(true).expect("a socket");
        let (stream, _) = listener.accept().await.expect("one has just connected");
        let asked = Asked { name: format!("project:clx{channel:06}"), ..Asked::default() };
        let handshake = Handshake { token: None, channels: vec![asked] };
        let stream = stream.into_std().expect("it is the runtime's");
        self.shard.adopt(Adopted { stream, answer: None, unread: &mut [], variant: Variant::Json, handshake });
        self.shard.send_requests();
        if let Ok(HubRequest::Subscribe { slot, .. }) = self.hub.try_recv() {
            self.slots.push(slot);
            self.shard.take_messages(&mut [ShardMessage::Subscribed { slot, position: None }].into_iter());
        }
        self.clients.push(client);
        self.write_dirty();
        // Its task has to have been polled once, and the socket to be known to have room.
        let index = self.clients.len() - 1;
        let written = async {
            while self.shard.state.borrow().connections[index].blocked {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, written).await.expect("a socket that is empty has room");
    }

    /// A whole tick: from the inbox to the sockets.
    pub fn tick(&self, tick: &mut Tick) {
        let mut messages = tick.0.drain(..);
        self.shard.take_messages(&mut messages);
        assert_eq!(messages.len(), 0, "so much is no tick");
        self.write_dirty();
    }

    fn write_dirty(&self) {
        while self.shard.write_dirty(FLUSHES_PER_YIELD) {}
    }

    /// Puts a frame into the first connection's outbox so many times, and writes it. The frame is shared, as in a tick.
    pub fn push_and_flush(&self, piece: &SharedPiece, times: usize) {
        let mut state = self.shard.state.borrow_mut();
        let state = &mut *state;
        let connection = &mut state.connections[0];
        for _ in 0..times {
            connection.push(piece.0.clone(), self.shard.outbox_limits()).expect("the outbox has room");
        }
        let flushed = connection.flush(&mut state.metrics.delivered_bytes);
        assert_eq!(flushed, connection::Flushed::Empty, "the socket has room");
    }

    /// Has clients read until they got so many bytes together.
    ///
    /// # Panics
    /// Where a client was cut, or the bytes do not come.
    pub fn read(&mut self, bytes: usize) {
        let (mut sum, begin) = (0, Instant::now());
        while sum < bytes {
            assert!(begin.elapsed() < PATIENCE, "clients got {sum} bytes of {bytes}");
            for client in &mut self.clients {
                match client.read(&mut self.got) {
                    Ok(0) => panic!("the shard has closed a connection"),
                    Ok(count) => sum += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// A frame that connections of a shard share.
pub struct SharedPiece(Piece);

impl From<&[u8]> for SharedPiece {
    fn from(frame: &[u8]) -> Self {
        Self(frame.into())
    }
}

/// A shard's table of topics.
pub struct TopicsAlone {
    topics: ShardTopics,
    tenant: Tenant,
}

impl TopicsAlone {
    /// One with these topics.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = Topic>) -> Self {
        let tenant = Tenant::default();
        let mut topics = ShardTopics::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        for topic in names {
            let connection = ConnectionId { index: 0, generation: 0 };
            let waiting = Waiting { connection, op: OpId(0), start: Start::default(), given_up: false };
            let subscribing = topics.subscribe(&tenant, topic, waiting, || false);
            assert!(matches!(subscribing, Subscribing::First(_)), "each name stands there once");
        }
        Self { topics, tenant }
    }

    /// Whether there is a topic of that name.
    #[must_use]
    pub fn find(&self, topic: &Topic) -> bool {
        self.topics.slot(&self.tenant, topic).is_some()
    }
}

fn context(hub: mpsc::Sender<HubRequest>, publishes: mpsc::Sender<ClientPublish>) -> ShardContext {
    let defaults = Namespace { subscribe: Access::Anyone, ..Namespace::default() };
    let session_config = SessionConfig {
        namespaces: NamespaceTable { defaults, declared: [].into() },
        anonymous: Some(Tenant::default()),
        connect_timeout: PATIENCE,
        ping_interval: PATIENCE * 60,
        pong_timeout: PATIENCE,
        token_expiring: PATIENCE,
        max_subscriptions: 1,
        max_pending_commands: 1,
        max_malformed: 1,
        max_publication_bytes: fanfare_protocol::limits::PUBLICATION_BYTES,
        max_history: 1,
        idle: PATIENCE * 60,
        signal_expiry: PATIENCE,
        presence_info_bytes: 1,
        presence_updates_per_second: 1,
        signals_per_second: 1,
        presence_page: 1,
        auto_subscribe: Vec::new(),
    };
    ShardContext {
        id: ShardId(0),
        clock: Clock::start(),
        session_config: Arc::new(session_config),
        outbox_bytes: 1 << 20,
        outbox_pieces: 1_000,
        message_bytes: 1 << 16,
        verifier: Arc::new(Verifier::new(&AuthConfig::default()).expect("no keys, no mistakes")),
        hub,
        publishes,
        reads: mpsc::channel(1).0,
        presence: None,
        lists_connections: None,
        lifecycle: None,
        recovery_bytes: 1 << 20,
        inbox: shard_inbox(1).0,
        main: Handle::current(),
        tasks: TaskTracker::new(),
        connections: Arc::new(AtomicUsize::new(0)),
    }
}
