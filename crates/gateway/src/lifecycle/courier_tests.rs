//! Events on their way to a broker that takes them, or does not.

use std::sync::Mutex;

use async_trait::async_trait;
use fanfare_broker::{Interest, InterestId, Publish, Published, memory::Memory};
use fanfare_protocol::Tenant;
use fanfare_session::SessionId;
use fanfare_testkit::wait_for;

use super::*;
use crate::lifecycle::{
    LifecycleQueue,
    event::{What, Who},
    queue::queue_of,
};

fn event(session: u128, since: u64) -> LifecycleEvent {
    let who = Who { session: SessionId(session), user: None };
    let what = What::Subscribed { who, channel: "crew:1".into(), since };
    LifecycleEvent { tenant: Tenant::default(), node: "n1".into(), timestamp: 1, what }
}

/// Session and number, of an id.
fn read(id: &str) -> (u128, u64) {
    let parts: Vec<_> = id.split(':').collect();
    (u128::from_str_radix(parts[0], 16).unwrap(), parts[3].parse().unwrap())
}

/// Answers each event by what stands for its session, as often; then takes it.
#[derive(Default)]
struct Scripted {
    answers: Mutex<Vec<(u128, BrokerError)>>,
    taken: Mutex<Vec<(u128, u64)>>,
}

#[async_trait]
impl Broker for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn publish(&self, _: Publish) -> Result<Published, BrokerError> {
        unreachable!("events are told")
    }

    async fn tell(&self, lifecycle: Lifecycle) -> Result<(), BrokerError> {
        let (session, number) = read(&lifecycle.id);
        let mut answers = self.answers.lock().unwrap();
        if let Some(at) = answers.iter().position(|(of, _)| *of == session) {
            return Err(answers.remove(at).1);
        }
        self.taken.lock().unwrap().push((session, number));
        Ok(())
    }

    async fn add_interests(&self, _: &[Interest]) -> Result<(), BrokerError> {
        unreachable!("events are told")
    }

    async fn remove_interests(&self, _: &[InterestId]) {
        unreachable!("events are told")
    }

    async fn close(&self) {}
}

fn away() -> BrokerError {
    BrokerError::Unavailable { broker: "scripted" }
}

fn start(broker: Arc<dyn Broker>) -> (LifecycleQueue, CourierEnd) {
    let (queue, events) = queue_of(100_000);
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(Courier::new(broker, events).run(ended));
    (queue, CourierEnd::new(end, task))
}

/// Generous: the machine may be busy.
const WITHIN: Duration = Duration::from_secs(20);

fn within(duration: Duration) -> std::time::Instant {
    std::time::Instant::now() + duration
}

#[tokio::test]
async fn one_that_fails_holds_up_its_own_session_only_and_nothing_is_lost() {
    let broker = Arc::new(Scripted::default());
    let timeout = BrokerError::Timeout { broker: "scripted", waited: Duration::from_secs(5) };
    broker.answers.lock().unwrap().extend([(1, away()), (1, timeout), (1, away())]);
    let (queue, end) = start(broker.clone());
    for number in 1..=3 {
        queue.push(event(1, number));
        queue.push(event(2, number));
    }
    end.finish(within(WITHIN)).await;
    let taken = std::mem::take(&mut *broker.taken.lock().unwrap());
    assert_eq!(taken, [(2, 1), (2, 2), (2, 3), (1, 1), (1, 2), (1, 3)]);
}

#[tokio::test]
async fn what_the_broker_refuses_is_given_up() {
    let broker = Arc::new(Scripted::default());
    let refused = BrokerError::Refused { broker: "scripted", reason: "no".to_owned() };
    broker.answers.lock().unwrap().push((1, refused));
    let (queue, end) = start(broker.clone());
    queue.push(event(1, 1));
    queue.push(event(1, 2));
    end.finish(within(WITHIN)).await;
    assert_eq!(*broker.taken.lock().unwrap(), [(1, 2)]);
}

#[tokio::test]
async fn a_broker_that_comes_back_gets_all_in_the_order_of_each_session() {
    const SESSIONS: u128 = 600; // more than are told at one time
    const EACH: u64 = 5;
    const ALL: usize = 3_000;
    let memory = Memory::new();
    let (broker, _events) = memory.attach();
    memory.interrupt(0).await;
    let (queue, end) = start(broker);
    for number in 1..=EACH {
        for session in 0..SESSIONS {
            queue.push(event(session, number));
        }
    }
    // Until nothing more is begun.
    wait_for("the first to be told in vain", WITHIN, async || (queue.len() <= ALL - LIFECYCLE_AT_ONCE).then_some(()))
        .await;
    assert_eq!(memory.told(), []);
    memory.resume(0).await;
    end.finish(within(WITHIN)).await;
    let told: Vec<_> = memory.told().iter().map(|lifecycle| read(&lifecycle.id)).collect();
    assert_eq!(told.len() as u128, SESSIONS * u128::from(EACH));
    for session in 0..SESSIONS {
        let numbers = told.iter().filter(|(of, _)| *of == session).map(|(_, number)| *number);
        assert!(numbers.eq(1..=EACH), "session {session}");
    }
}

#[tokio::test]
async fn a_broker_that_stays_away_does_not_keep_the_node_from_ending() {
    let memory = Memory::new();
    let (broker, _events) = memory.attach();
    memory.interrupt(0).await;
    let (queue, end) = start(broker);
    (0..1_000).for_each(|session| queue.push(event(session, 1)));
    let began = Instant::now();
    end.finish(within(Duration::ZERO)).await;
    let took = began.elapsed();
    // It had its least time, and not much more.
    assert!((LIFECYCLE_DRAIN_TIME..LIFECYCLE_DRAIN_TIME + WITHIN).contains(&took), "{took:?}");
    // It takes nothing any more, and whoever still tells is not kept either.
    queue.push(event(1, 2));
    assert_eq!(memory.told(), []);
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let (queue, mut events) = queue_of(2);
    (1..=3).for_each(|number| queue.push(event(1, number)));
    assert_eq!((events.recv().await, events.recv().await), (Some(event(1, 1)), Some(event(1, 2))));
    assert!(events.try_recv().is_err());
    queue.push(event(1, 4));
    assert_eq!(events.recv().await, Some(event(1, 4)));
}

#[test]
fn pauses_grow_and_differ() {
    assert!((RETRY / 2..=RETRY).contains(&pause(0)));
    for attempts in [10, 50, u32::MAX] {
        assert!((LONGEST_RETRY / 2..=LONGEST_RETRY).contains(&pause(attempts)));
    }
    assert!((0..50).map(|_| pause(20)).collect::<std::collections::HashSet<_>>().len() > 10);
}
