//! A node, as a hub is one: it holds interests and reads events.

use std::{collections::HashMap, panic::Location, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfare_broker::{
    Broker, BrokerError, BrokerEvent, Events, HistoryPage, HistoryRange, HistoryRead, Interest, InterestId,
    Publication, Publish, Published, Scope, Standing,
};
use fanfare_protocol::{Channel, Position, Tenant, Topic};
use tokio::time::timeout;

use crate::fixture::{Fixture, Outside, SOON};

pub(crate) struct Node {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) events: Events,
    /// What each interest is for, by its own name.
    topics: HashMap<InterestId, String>,
    next: u64,
}

/// Something that was delivered: by which interest, on which channel, and the body.
pub(crate) type Delivered = (String, String, Bytes);

impl Node {
    pub(crate) async fn connect(fixture: &impl Fixture) -> Self {
        Self::over(fixture.connect().await)
    }

    pub(crate) fn over((broker, events): (Arc<dyn Broker>, Events)) -> Self {
        Self { broker, events, topics: HashMap::new(), next: 0 }
    }

    /// An interest with a new id, not added yet.
    pub(crate) fn interest(&mut self, tenant: &str, topic: &str) -> Interest {
        self.next += 1;
        let id = InterestId(self.next);
        self.topics.insert(id, topic.to_owned());
        Interest { id, tenant: Tenant::parse(tenant).unwrap(), topic: Topic::parse(topic).unwrap() }
    }

    pub(crate) async fn add(&mut self, tenant: &str, topic: &str) -> InterestId {
        self.add_all(tenant, &[topic]).await[0]
    }

    pub(crate) async fn add_all(&mut self, tenant: &str, topics: &[&str]) -> Vec<InterestId> {
        let interests: Vec<Interest> = topics.iter().map(|topic| self.interest(tenant, topic)).collect();
        self.broker.add_interests(&interests).await.unwrap();
        interests.into_iter().map(|interest| interest.id).collect()
    }

    pub(crate) async fn publish(&self, channel: &str, body: impl Into<Bytes>) -> Result<(), BrokerError> {
        let publish = Publish {
            tenant: Tenant::parse("acme").unwrap(),
            channel: Channel::parse(channel).unwrap(),
            body: body.into(),
            id: None,
            ephemeral: false,
        };
        self.broker.publish(publish).await.map(drop)
    }

    /// Publishes on a channel with history and says where it stands.
    pub(crate) async fn record(&self, channel: &str, body: impl Into<Bytes>) -> Position {
        self.record_as(channel, body, None).await.unwrap().position.unwrap()
    }

    pub(crate) async fn record_as(
        &self,
        channel: &str,
        body: impl Into<Bytes>,
        id: Option<&str>,
    ) -> Result<Published, BrokerError> {
        let publish = Publish {
            tenant: Tenant::parse("acme").unwrap(),
            channel: Channel::parse(channel).unwrap(),
            body: body.into(),
            id: id.map(str::to_owned),
            ephemeral: false,
        };
        self.broker.publish(publish).await
    }

    /// Where a channel stands.
    pub(crate) async fn standing(&self, channel: &str) -> Result<Standing, BrokerError> {
        let channels = [(Tenant::parse("acme").unwrap(), Channel::parse(channel).unwrap())];
        Ok(self.broker.positions(&channels).await?.remove(0))
    }

    pub(crate) async fn read(
        &self,
        channel: &str,
        range: HistoryRange,
        max_publications: usize,
    ) -> Result<HistoryPage, BrokerError> {
        let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse(channel).unwrap());
        self.broker.history(HistoryRead { tenant, channel, range, max_publications, max_bytes: 1 << 24 }).await
    }

    #[track_caller]
    pub(crate) fn event(&mut self) -> impl Future<Output = BrokerEvent> {
        self.event_at(Location::caller())
    }

    async fn event_at(&mut self, caller: &'static Location<'static>) -> BrokerEvent {
        match timeout(SOON, self.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => panic!("the stream of events has ended (at {caller})"),
            Err(_) => panic!("waited {SOON:?} in vain for an event (at {caller})"),
        }
    }

    /// The next event, which has to be a publication.
    #[track_caller]
    pub(crate) fn publication(&mut self) -> impl Future<Output = Publication> {
        let caller = Location::caller();
        async move {
            match self.event_at(caller).await {
                BrokerEvent::Publication(publication) => publication,
                other => panic!("{other:?} instead of a publication (at {caller})"),
            }
        }
    }

    pub(crate) async fn delivered(&mut self) -> Delivered {
        let publication = self.publication().await;
        self.name(publication)
    }

    fn name(&self, publication: Publication) -> Delivered {
        let topic = self.topics[&publication.interest].clone();
        let channel = publication.channel.map_or_else(|| topic.clone(), |channel| channel.as_str().to_owned());
        (topic, channel, publication.body.bytes)
    }

    /// Everything that is delivered until marks come that are published now, from outside: what was published before has
    /// come by then, or does not come. One for each of the broker's servers, and each of them twice, since order holds per
    /// channel only: the first to come may overtake others in its batch, the second may not overtake that batch.
    pub(crate) async fn settle(&mut self, outside: &dyn Outside) -> Vec<Delivered> {
        let names = outside.marks();
        let marks = self.add_all("acme", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut delivered = Vec::new();
        for _ in 0..2 {
            for name in &names {
                assert!(outside.publish("acme", name, Bytes::from_static(b"mark")).await);
            }
            outside.flush().await;
            let mut missing = marks.clone();
            while !missing.is_empty() {
                let publication = self.publication().await;
                if marks.contains(&publication.interest) {
                    missing.retain(|mark| *mark != publication.interest);
                } else {
                    delivered.push(self.name(publication));
                }
            }
        }
        self.broker.remove_interests(&marks).await;
        delivered
    }

    /// Reads until everything is interrupted, or has resumed; says which publications came before it.
    pub(crate) async fn until(&mut self, wanted: Wanted) -> Vec<Publication> {
        let mut before = Vec::new();
        loop {
            match (self.event().await, wanted) {
                (BrokerEvent::Publication(publication), _) => before.push(publication),
                (BrokerEvent::Interrupted(interruption), Wanted::Interrupted) if interruption.scope == Scope::All => {
                    return before;
                }
                (BrokerEvent::Resumed(Scope::All), Wanted::Resumed) => return before,
                _ => {}
            }
        }
    }

    /// Closes, and checks that the stream of events ends.
    pub(crate) async fn close(mut self) {
        timeout(SOON, self.broker.close()).await.expect("close returns");
        let ended = async { while self.events.recv().await.is_some() {} };
        timeout(Duration::from_secs(1), ended).await.expect("the stream of events ends with close");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Interrupted,
    Resumed,
}

/// A body that carries a number.
pub(crate) fn numbered(number: u64) -> Bytes {
    Bytes::from(format!(r#"{{"event":"n","data":{number}}}"#))
}

/// The number in it.
pub(crate) fn number(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).unwrap();
    let number = text.rsplit(':').next().unwrap();
    number.trim_end_matches('}').trim().parse().unwrap()
}
