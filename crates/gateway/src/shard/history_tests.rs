//! Channels with history on a shard: what a client gets first, what waits behind it, and what becomes of both.

use std::time::Duration;

use fanfare_protocol::{Body, Delivery, Envelope, Epoch, ErrorBody, ErrorCode, Position};
use fanfare_session::{SlowConsumer, Start};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

use super::{tests::Bench, *};
use crate::{
    encoding::EncodedPublication,
    hub::message::{Recoverer, Recovery, ShardMessage, SlotId, Targets},
};

const CHANNEL: &str = "room:1";

fn place(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("e").unwrap() }
}

/// A publication of about so many bytes.
fn sized(offset: u64, key: Option<&str>, bytes: usize) -> Arc<EncodedPublication> {
    let key = key.map_or(String::new(), |key| format!(r#","key":"{key}""#));
    let body = Body::new(format!(r#"{{"event":"e","data":"{}"{key}}}"#, "x".repeat(bytes)).into_bytes());
    let envelope: Envelope<'_> = body.envelope(1 << 20).unwrap();
    let position = place(offset);
    let delivery = Delivery { envelope: &envelope, channel: CHANNEL, timestamp: 1, position: Some(&position) };
    Arc::new(EncodedPublication::new(&delivery))
}

fn publication(offset: u64) -> Arc<EncodedPublication> {
    sized(offset, None, 1)
}

fn live(slot: SlotId, offset: u64) -> ShardMessage {
    ShardMessage::Publication { targets: Targets::One(slot), publication: publication(offset) }
}

fn recovery(offsets: impl IntoIterator<Item = u64>, bytes: usize) -> Recovery {
    let publications: Vec<_> = offsets.into_iter().map(|offset| sized(offset, None, bytes)).collect();
    let position = publications.last().and_then(|publication| publication.position.clone()).unwrap_or(place(0));
    Recovery { position, recovered: Some(true), publications }
}

impl Bench {
    /// A client that comes back with a position, on a channel that stands at 10 on this shard.
    async fn comes_back(&mut self, since: u64) -> (TcpStream, SlotId, Recoverer) {
        let (client, mut slots) = self.client_at(&[CHANNEL], None).await;
        let slot = slots.remove(0);
        self.input(0, r#"{"id":1,"type":"unsubscribe","channel":"room:1"}"#);
        assert!(matches!(self.request(), Ok(HubRequest::Unsubscribe { .. })), "{slot:?}");
        let recoverer = self.subscribes(since);
        (client, recoverer.slot, recoverer)
    }

    fn subscribes(&mut self, since: u64) -> Recoverer {
        let since = format!(r#"{{"epoch":"e","offset":{since}}}"#);
        self.input(0, &format!(r#"{{"id":2,"type":"subscribe","channel":"room:1","since":{since}}}"#));
        let slot = self.subscribe_request();
        self.tell([ShardMessage::Subscribed { slot, position: Some(place(10)) }]);
        self.recover_request()
    }

    fn recover_request(&mut self) -> Recoverer {
        match self.request() {
            Ok(HubRequest::Recover { recoverer, .. }) => recoverer,
            other => panic!("{other:?}"),
        }
    }

    /// The hub answers one who has gone, and is told that nobody wants the topic; before the answer or after it.
    fn answer_too_late(&mut self, recoverer: Recoverer) {
        let slot = recoverer.slot;
        self.tell([ShardMessage::Recovered { recoverer, result: Ok(recovery(3..=10, 1)) }, live(slot, 11)]);
        let told = self.request();
        assert!(matches!(told, Ok(HubRequest::Unsubscribe { slot: ended, .. }) if ended == slot), "{told:?}");
        assert!(self.request().is_err());
        assert_eq!(self.subscriptions(), 0);
    }

    /// Writes all that the sockets take, and reads until the client has been told this.
    async fn read_until(&self, client: &mut TcpStream, end: &str) -> String {
        let mut got = String::new();
        let mut buffer = vec![0; 1 << 16];
        let reading = async {
            while !got.contains(end) {
                self.write_all();
                let count = client.read(&mut buffer).await.unwrap();
                assert!(count > 0, "{got}");
                got += &String::from_utf8_lossy(&buffer[..count]);
            }
        };
        timeout(Duration::from_secs(10), reading).await.expect("the client is told");
        got
    }

    /// What waits is written, also where the socket had no room before: its task is not there to notice.
    fn write_all(&self) {
        while self.shard.write_dirty(64) {}
        let mut state = self.shard.state.borrow_mut();
        let blocked: Vec<usize> =
            state.connections.iter().filter(|(_, one)| one.blocked).map(|(index, _)| index).collect();
        blocked.into_iter().for_each(|index| self.shard.write(&mut state, index));
    }
}

/// The offsets in what a client has been told, in their order.
fn offsets(got: &str) -> Vec<u64> {
    let number = |text: &str| text.split(|other: char| !other.is_ascii_digit()).next().unwrap().parse().unwrap();
    got.split(r#""event":"e""#).skip(1).map(|one| number(one.split(r#""offset":"#).nth(1).unwrap())).collect()
}

#[tokio::test]
async fn what_was_missed_comes_first_in_pages_and_what_is_live_behind_it() {
    let test = async {
        let mut bench = Bench::new(1_000);
        let (mut client, slot, recoverer) = bench.comes_back(2).await;
        assert!(bench.request().is_err(), "it is asked once");
        bench.tell([live(slot, 11)]);
        // Five times the outbox.
        bench.tell([ShardMessage::Recovered { recoverer, result: Ok(recovery(3..=11, 600_000)) }, live(slot, 12)]);
        bench.tell([live(slot, 13)]);
        assert_eq!(bench.subscriptions(), 1);
        let half = 1 << 19;
        let waits = || bench.shard.state.borrow().connections[0].outbox.bytes();
        assert!(waits() <= half + 600_400, "{}", waits());
        let mut got = String::new();
        let mut buffer = vec![0; 1 << 16];
        while !got.contains(r#""offset":13"#) {
            bench.write_all();
            assert!(waits() <= half + 600_400, "{}", waits());
            let count = timeout(Duration::from_secs(10), client.read(&mut buffer)).await.expect("it goes on").unwrap();
            assert!(count > 0);
            got += &String::from_utf8_lossy(&buffer[..count]).replace(&"x".repeat(8), "");
        }
        assert_eq!(offsets(&got), (3..=13).collect::<Vec<_>>());
        assert!(got.contains(r#""recovered":true"#));
        bench.write_all();
        assert!(bench.shard.state.borrow().connections[0].aside.is_none(), "it has caught up");
        bench.tell([live(slot, 14)]);
        assert_eq!(offsets(&bench.read_until(&mut client, r#""offset":14"#).await), [14]);
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_leaves_or_is_gone_while_it_recovers_gets_nothing_and_leaves_nothing() {
    let test = async {
        let mut bench = Bench::new(1_000);
        let (mut client, _, recoverer) = bench.comes_back(2).await;
        bench.input(0, r#"{"id":3,"type":"unsubscribe","channel":"room:1"}"#);
        bench.answer_too_late(recoverer);
        bench.input(0, r#"{"id":4,"type":"ping"}"#);
        let got = bench.read_until(&mut client, r#""id":4"#).await;
        assert!(got.contains(r#""id":2,"type":"error""#), "{got}");
        assert_eq!(offsets(&got), [] as [u64; 0]);

        let recoverer = bench.subscribes(2);
        bench.shard.remove(&mut bench.shard.state.borrow_mut(), 0);
        bench.answer_too_late(recoverer);
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_leaves_while_it_catches_up_gets_no_more() {
    let test = async {
        let mut bench = Bench::new(1_000);
        let (mut client, slot, recoverer) = bench.comes_back(2).await;
        bench.tell([ShardMessage::Recovered { recoverer, result: Ok(recovery(3..=10, 600_000)) }]);
        assert!(bench.shard.state.borrow().connections[0].aside.is_some());
        bench.input(0, r#"{"id":3,"type":"unsubscribe","channel":"room:1"}"#);
        assert!(matches!(bench.request(), Ok(HubRequest::Unsubscribe { slot: ended, .. }) if ended == slot));
        bench.input(0, r#"{"id":4,"type":"ping"}"#);
        let got = bench.read_until(&mut client, r#""id":4"#).await;
        assert_eq!(offsets(&got), [] as [u64; 0], "not even the first had room in the reply");
        assert_eq!(bench.subscriptions(), 0);
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_refusal_and_an_end_reach_who_recovers() {
    let test = async {
        let mut bench = Bench::new(1_000);
        let (mut client, slot, recoverer) = bench.comes_back(2).await;
        let refusal = ErrorBody::new(ErrorCode::Unavailable, "not now");
        bench.tell([ShardMessage::Recovered { recoverer, result: Err(refusal) }]);
        let got = bench.read_until(&mut client, "not now").await;
        assert!(got.contains(r#""id":2,"type":"error","code":"UNAVAILABLE""#), "{got}");
        assert!(matches!(bench.request(), Ok(HubRequest::Unsubscribe { slot: ended, .. }) if ended == slot));

        let recoverer = bench.subscribes(2);
        let refusal = ErrorBody::new(ErrorCode::Internal, "the end");
        bench.tell([ShardMessage::Refused { slot: recoverer.slot, refusal }]);
        let got = bench.read_until(&mut client, "the end").await;
        assert!(got.contains(r#""id":2,"type":"error","code":"INTERNAL""#), "{got}");
        bench.tell([ShardMessage::Recovered { recoverer, result: Ok(recovery(3..=10, 1)) }]);
        assert_eq!(bench.subscriptions(), 0);
        assert!(bench.request().is_err());
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_shard_that_could_not_keep_up_asks_for_what_it_missed_and_delivers_it_once() {
    let test = async {
        let mut bench = Bench::new(1_000);
        let (mut client, slots) = bench.client_at(&[CHANNEL], Some(place(10))).await;
        let slot = slots[0];
        bench.tell([live(slot, 11), ShardMessage::GapEverywhere { reason: "test", repair: true }]);
        let asked = bench.request();
        let Ok(HubRequest::Recover { recoverer, start, .. }) = asked else { panic!("{asked:?}") };
        assert_eq!((recoverer.session, start), (None, Start { since: Some(place(11)), rewind: 0 }));
        bench.tell([live(slot, 14)]);
        bench.tell([ShardMessage::Recovered { recoverer, result: Ok(recovery(12..=14, 1)) }, live(slot, 15)]);
        let got = bench.read_until(&mut client, r#""offset":15"#).await;
        assert_eq!(offsets(&got), [11, 12, 13, 14, 15]);
        assert!(!got.contains("system:gap"), "{got}");
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_publication_of_a_channel_and_a_pattern_comes_once_and_in_order() {
    let test = async {
        let mut bench = Bench::new(1_000);
        let (mut client, _, recoverer) = bench.comes_back(2).await;
        let channel = recoverer.slot;
        bench.input(0, r#"{"id":3,"type":"subscribe","channel":"room:*"}"#);
        let pattern = bench.subscribe_request();
        bench.tell([ShardMessage::Subscribed { slot: pattern, position: None }]);
        bench.tell([ShardMessage::Recovered { recoverer, result: Ok(recovery(3..=10, 600_000)) }]);
        let targets = Targets::Several([pattern, channel].into());
        bench.tell([ShardMessage::Publication { targets, publication: publication(11) }]);
        let got = bench.read_until(&mut client, r#""offset":11"#).await;
        assert_eq!(offsets(&got), (3..=11).collect::<Vec<_>>());
        let targets = Targets::Several([pattern, channel].into());
        bench.tell([ShardMessage::Publication { targets, publication: publication(12) }, live(channel, 13)]);
        assert_eq!(offsets(&bench.read_until(&mut client, r#""offset":13"#).await), [12, 13]);
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_slow_client_of_a_conflating_namespace_gets_the_newest_of_each_key() {
    let test = async {
        let mut bench = Bench::with(1_000, SlowConsumer::Conflate);
        let (mut client, slots) = bench.client_at(&[CHANNEL], Some(place(0))).await;
        let told = |offset, key, bytes| ShardMessage::Publication {
            targets: Targets::One(slots[0]),
            publication: sized(offset, Some(key), bytes),
        };
        // More than half the outbox waits: what follows is kept aside.
        bench.tell([told(1, "a", 600_000)]);
        bench.tell([told(2, "a", 1)]);
        bench.tell([told(3, "b", 1)]);
        bench.tell([told(4, "a", 1)]);
        let got = bench.read_until(&mut client, r#""offset":4"#).await;
        assert_eq!(offsets(&got), [1, 3, 4]);
        let gap = got.find("system:gap").expect("something is left out, and told");
        assert!(got[gap..].contains(r#""reason":"conflated""#) && gap < got.find(r#""offset":3"#).unwrap());
        bench.tell([told(5, "a", 1)]);
        assert_eq!(offsets(&bench.read_until(&mut client, r#""offset":5"#).await), [5], "it keeps up again");
    };
    tokio::task::LocalSet::new().run_until(test).await;
}
