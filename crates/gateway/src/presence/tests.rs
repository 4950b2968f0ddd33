//! The driver with the memory store, and what a shard's inbox makes of it.

use std::time::Duration;

use fanfare_presence::{
    Audience, ConnectionKey, KeeperConfig, Place, Query, Row, State, StoreEvents, User, memory::Memory,
};
use fanfare_protocol::{Channel, Tenant};
use fanfare_session::{Completion, OpId};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    PresenceDriver, Turnout,
    message::{Asker, PresenceRequest},
};
use crate::{
    encoding::Variant,
    hub::{
        ShardInboxReceiver,
        message::{ConnectionId, ShardId, ShardMessage, SlotId, Targets},
        shard_inbox,
    },
    websocket::Deflater,
};

const PATIENCE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(200);
const SLOT: SlotId = SlotId { index: 3, generation: 1 };
const ASKER: ConnectionId = ConnectionId { index: 5, generation: 2 };

/// A node with one shard, whose inbox the test reads.
struct Node {
    requests: mpsc::Sender<PresenceRequest>,
    inbox: ShardInboxReceiver,
    turnouts: std::sync::mpsc::Receiver<Turnout>,
    cancelled: CancellationToken,
    driver: JoinHandle<()>,
}

impl Node {
    fn start(memory: &Memory, name: &str) -> Self {
        let (store, events): (_, StoreEvents) = memory.attach();
        let (inbox, receiver) = shard_inbox(1_024);
        let (tell, turnouts) = std::sync::mpsc::channel();
        let config = KeeperConfig {
            node: name.to_owned(),
            lease: Duration::from_secs(1),
            grace: GRACE,
            batch: Duration::from_millis(10),
            max_named: 3,
            calls: 8,
            snapshot_bytes: 65_536,
        };
        let sink = Box::new(move |turnout| drop(tell.send(turnout)));
        let driver = PresenceDriver::new(config, store, vec![inbox], sink, rand::random());
        let (requests, receiver_of_requests) = mpsc::channel(64);
        let cancelled = CancellationToken::new();
        let driver = tokio::spawn(driver.run(events, receiver_of_requests, cancelled.clone()));
        Self { requests, inbox: receiver, turnouts, cancelled, driver }
    }

    async fn ask(&self, request: PresenceRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn join(&self, connection: u128, user: &str) {
        let user = User::Named(user.into());
        let row = Row { connection: ConnectionKey(connection), user, state: State::Online, info: None, since: 7 };
        self.ask(PresenceRequest::Join { place: place(), row }).await;
    }

    async fn leave(&self, connection: u128) {
        self.ask(PresenceRequest::Leave { place: place(), connection: ConnectionKey(connection) }).await;
    }

    async fn watch(&self, audience: Audience) {
        self.ask(PresenceRequest::Watch { shard: ShardId(0), slot: SLOT, place: place(), audience }).await;
    }

    async fn question(&self, audience: Option<Audience>) {
        let asker = Asker::Session { shard: ShardId(0), connection: ASKER, op: OpId(9) };
        self.ask(PresenceRequest::Ask { query: query(audience), asker }).await;
    }

    /// The answer to the one question, and the data of what is announced before it.
    async fn answer(&mut self) -> (fanfare_protocol::PresenceReply, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                ShardMessage::Completed { connection: ASKER, op: OpId(9), completion } => match completion {
                    Completion::Presence(Ok(reply)) => return (*reply, before),
                    other => panic!("{other:?}"),
                },
                message => before.push(data(&message)),
            }
        }
    }

    async fn next(&mut self) -> ShardMessage {
        let mut batch = Vec::new();
        let count = timeout(PATIENCE, self.inbox.recv_many(&mut batch, 1)).await.expect("a message in time");
        assert_eq!(count, 1);
        batch.remove(0)
    }

    async fn end(self) {
        self.cancelled.cancel();
        timeout(PATIENCE, self.driver).await.expect("it ends").unwrap();
    }
}

fn place() -> Place {
    Place { tenant: Tenant::default(), channel: Channel::parse("crew:1").unwrap() }
}

fn query(audience: Option<Audience>) -> Query {
    Query { place: place(), audience, snapshot: false, after: None, limit: 100, bytes: 65_536 }
}

/// An announcement's event and data.
fn data(message: &ShardMessage) -> Value {
    let ShardMessage::Publication { targets: Targets::One(SLOT), publication } = message else {
        panic!("{message:?}");
    };
    let event = String::from_utf8(publication.frame(Variant::Sse, &mut Deflater::new()).to_vec()).unwrap();
    let json: Value = serde_json::from_str(event.split_once("data: ").unwrap().1).unwrap();
    assert_eq!(json["channel"], "crew:1");
    let (event, mut data) = (json["event"].clone(), json["data"].clone());
    data["event"] = event;
    data
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_watches_on_another_node_is_told_who_comes_and_who_goes() {
    let memory = Memory::new();
    let (a, mut b) = (Node::start(&memory, "a"), Node::start(&memory, "b"));
    a.join(1, "alice").await;
    eventually("alice's row is written", || memory.rows().len() == 1).await;
    b.watch(Audience::Auto).await;
    b.question(Some(Audience::Auto)).await;
    let (reply, before) = b.answer().await;
    assert!(before.is_empty());
    assert_eq!((reply.users, reply.connections, reply.stale, &*reply.channel), (1, 1, false, "crew:1"));
    let members = reply.members.unwrap();
    assert_eq!((&*members[0].user_id, &*members[0].status, members[0].since), ("alice", "online", 7));
    let version = reply.version.unwrap();

    a.join(2, "bob").await;
    let joined = data(&b.next().await);
    assert_eq!((&joined["event"], &joined["userId"]), (&"presence:change".into(), &"bob".into()));
    assert_eq!((&joined["status"], &joined["version"]), (&"online".into(), &(version + 1).into()));
    let gone = Instant::now();
    a.leave(2).await;
    let left = data(&b.next().await);
    assert_eq!((&left["userId"], &left["status"]), (&"bob".into(), &"offline".into()));
    assert_eq!((&left["connections"], &left["version"]), (&0.into(), &(version + 2).into()));
    assert!(gone.elapsed() >= GRACE, "a leave waits for the grace");
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn a_service_is_answered_and_turnouts_are_told() {
    let memory = Memory::new();
    let node = Node::start(&memory, "a");
    node.join(1, "alice").await;
    let (answer, answered) = oneshot::channel();
    node.ask(PresenceRequest::Ask { query: query(None), asker: Asker::Service(answer) }).await;
    let answer = timeout(PATIENCE, answered).await.unwrap().unwrap().unwrap();
    assert_eq!((answer.users, answer.version), (1, None));
    node.leave(1).await;
    let told = tokio::task::spawn_blocking(move || {
        let told = (node.turnouts.recv_timeout(PATIENCE), node.turnouts.recv_timeout(PATIENCE));
        (told, node.cancelled, node.driver)
    });
    let ((occupied, vacated), cancelled, driver) = told.await.unwrap();
    assert!(matches!(occupied, Ok(Turnout::Occupied(at)) if at == place()));
    assert!(matches!(vacated, Ok(Turnout::Vacated(at)) if at == place()));
    cancelled.cancel();
    timeout(PATIENCE, driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn few_enough_to_be_named_again_are_told_as_one_snapshot() {
    let memory = Memory::new();
    let mut node = Node::start(&memory, "a");
    node.watch(Audience::Auto).await;
    node.question(Some(Audience::Auto)).await;
    node.answer().await;
    for connection in 0..10 {
        node.join(connection, &format!("user{connection}")).await;
    }
    let mut told = data(&node.next().await);
    while told["users"] != 10 {
        told = data(&node.next().await);
    }
    assert_eq!(told["event"], "presence:count");
    for connection in 1..10 {
        node.leave(connection).await;
    }
    while told["event"] != "presence:snapshot" {
        told = data(&node.next().await);
    }
    let version = told["version"].as_u64().unwrap();
    assert!(version > 0 && told["members"].as_array().is_some_and(|members| members[0]["userId"] == "user0"), "{told}");
    node.end().await;
}

#[tokio::test]
async fn a_node_that_goes_away_leaves_its_members_for_the_grace() {
    let memory = Memory::new();
    let (a, mut b) = (Node::start(&memory, "a"), Node::start(&memory, "b"));
    a.join(1, "alice").await;
    eventually("alice's row is written", || memory.rows().len() == 1).await;
    b.watch(Audience::Auto).await;
    b.question(Some(Audience::Auto)).await;
    b.answer().await;
    a.ask(PresenceRequest::Drain).await;
    a.leave(1).await;
    let resigned = Instant::now();
    a.end().await;
    assert_eq!(memory.rows().len(), 1, "its row stays");
    assert_eq!(memory.calls("resign"), 1);
    // Nobody came back: whoever has seen a whole lease without faults reaps.
    let left = data(&b.next().await);
    assert_eq!((&left["userId"], &left["status"]), (&"alice".into(), &"offline".into()));
    assert!(resigned.elapsed() >= GRACE);
    b.end().await;
}

#[tokio::test]
async fn without_its_store_a_node_answers_what_it_knows_and_ends_in_time() {
    let memory = Memory::new();
    let mut node = Node::start(&memory, "a");
    node.watch(Audience::Auto).await;
    node.join(1, "alice").await;
    node.question(Some(Audience::Auto)).await;
    let (reply, _) = node.answer().await;
    assert!(!reply.stale && reply.users == 1, "{reply:?}");
    memory.interrupt(0).await;
    let stale = async {
        loop {
            node.question(Some(Audience::Auto)).await;
            let (reply, _) = node.answer().await;
            if reply.stale {
                return reply;
            }
        }
    };
    let reply = timeout(PATIENCE, stale).await.unwrap();
    assert_eq!((reply.users, reply.stale), (1, true));
    memory.resume(0).await;
    let fresh = async {
        loop {
            node.question(Some(Audience::Auto)).await;
            let (reply, _) = node.answer().await;
            if !reply.stale {
                return reply.users;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, fresh).await.unwrap(), 1);
    memory.interrupt(0).await;
    let began = Instant::now();
    node.end().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
