//! Straight to a broker, by the same adapters that nodes use, without interests.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_broker::{Broker, BrokerError, BrokerEvent, Events, Interruption, Publish};
use fanfare_protocol::{Channel, Tenant};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{Attempted, Failure, Prepared, Transport};
use crate::publication::Checked;

/// Publishes through a broker's adapter.
pub(crate) struct BrokerTransport {
    broker: Arc<dyn Broker>,
    /// Bytes of an envelope that nodes take.
    max_bytes: usize,
    /// Reads the adapter's events, which a publisher has no use for; ends with the stream.
    listening: Mutex<JoinSet<()>>,
}

impl BrokerTransport {
    pub(crate) fn new(broker: Arc<dyn Broker>, mut events: Events, max_bytes: usize) -> Self {
        let name = broker.name();
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    BrokerEvent::Interrupted(Interruption { reason, .. }) => {
                        tracing::warn!(broker = name, reason, "the connection is interrupted");
                    }
                    BrokerEvent::Resumed(_) => tracing::info!(broker = name, "the connection is back"),
                    BrokerEvent::Publication(_) => {}
                }
            }
        });
        Self { broker, max_bytes, listening: Mutex::new(listening) }
    }

    /// The publications of one channel, one after the other, so that none overtakes another. When one fails that may be
    /// tried again, those after it wait for it.
    async fn send_channel(&self, publications: Vec<(usize, &Prepared)>, until: Instant) -> Vec<(usize, Attempted)> {
        let mut outcomes = Vec::with_capacity(publications.len());
        let mut blocked = None;
        for (index, publication) in publications {
            let outcome = match &blocked {
                None => self.send_one(publication, until).await,
                Some(reason) => {
                    Err(Failure::not_accepted(format!("it waits for one before it on its channel: {reason}")))
                }
            };
            if let Err(failure) = &outcome
                && blocked.is_none()
                && failure.kind != super::FailureKind::Refused
            {
                blocked = Some(failure.reason.clone());
            }
            outcomes.push((index, outcome));
        }
        outcomes
    }

    async fn send_one(&self, publication: &Prepared, until: Instant) -> Attempted {
        let publish = Publish {
            tenant: publication.tenant.clone(),
            channel: publication.channel.clone(),
            body: publication.body.clone(),
            id: Some(publication.id.clone()),
            ephemeral: false,
        };
        match timeout_at(until, self.broker.publish(publish)).await {
            Ok(Ok(published)) => Ok(published.position),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::unknown(format!("{} did not answer in time", self.broker.name()))),
        }
    }
}

#[async_trait]
impl Transport for BrokerTransport {
    fn name(&self) -> &'static str {
        self.broker.name()
    }

    fn encode(&self, checked: &Checked) -> Result<Bytes, String> {
        let body = checked.envelope_json();
        if body.len() > self.max_bytes {
            return Err(format!("the envelope has {} bytes; allowed are {}", body.len(), self.max_bytes));
        }
        Ok(body.into())
    }

    async fn send(&self, publications: &[&Prepared], until: Instant) -> Vec<Attempted> {
        let mut channels: HashMap<(&Tenant, &Channel), Vec<(usize, &Prepared)>> = HashMap::new();
        for (index, publication) in publications.iter().enumerate() {
            channels.entry((&publication.tenant, &publication.channel)).or_default().push((index, publication));
        }
        let mut sending: FuturesUnordered<_> =
            channels.into_values().map(|channel| self.send_channel(channel, until)).collect();
        let mut outcomes: Vec<Option<Attempted>> = publications.iter().map(|_| None).collect();
        while let Some(done) = sending.next().await {
            for (index, outcome) in done {
                outcomes[index] = Some(outcome);
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("every publication is in one channel's list")).collect()
    }

    async fn close(&self) {
        self.broker.close().await;
        while self.listening.lock().await.join_next().await.is_some() {}
    }
}

fn failure(error: &BrokerError) -> Failure {
    match error {
        BrokerError::Unavailable { .. } | BrokerError::Unreachable { .. } => Failure::not_accepted(error.to_string()),
        BrokerError::Timeout { .. } => Failure::unknown(error.to_string()),
        BrokerError::TooLarge { .. }
        | BrokerError::Refused { .. }
        | BrokerError::Configuration { .. }
        | BrokerError::NoHistory { .. }
        | BrokerError::NoPatterns { .. } => Failure::refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex, time::Duration};

    use tokio::sync::mpsc;

    use fanfare_broker::{Interest, InterestId, Lifecycle, Published};

    use super::*;
    use crate::{Publication, transport::FailureKind};

    /// Answers by script, and writes down what it was asked.
    #[derive(Default)]
    struct Script {
        answers: Mutex<VecDeque<BrokerError>>,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Broker for Script {
        fn name(&self) -> &'static str {
            "script"
        }

        async fn publish(&self, publish: Publish) -> Result<Published, BrokerError> {
            let id = publish.id.expect("every publication has an id");
            let stays_open = id == "stuck";
            let fails = id.starts_with("fails");
            self.asked.lock().unwrap().push(format!("{}/{} {id}", publish.tenant, publish.channel));
            if stays_open {
                std::future::pending::<()>().await;
            }
            // Another channel's publications get their turn in between.
            tokio::task::yield_now().await;
            if fails { Err(self.answers.lock().unwrap().pop_front().unwrap()) } else { Ok(Published::default()) }
        }

        async fn tell(&self, _: Lifecycle) -> Result<(), BrokerError> {
            unreachable!("a publisher tells nothing of connections")
        }

        async fn add_interests(&self, _: &[Interest]) -> Result<(), BrokerError> {
            unreachable!("a publisher has no interests")
        }

        async fn remove_interests(&self, _: &[InterestId]) {
            unreachable!("a publisher has no interests")
        }

        async fn close(&self) {}
    }

    fn transport(broker: Arc<dyn Broker>, max_bytes: usize) -> BrokerTransport {
        let (_, events) = mpsc::channel(1);
        BrokerTransport::new(broker, events, max_bytes)
    }

    async fn send(answers: Vec<BrokerError>, items: &[(&str, &str)]) -> (Vec<Result<(), FailureKind>>, Vec<String>) {
        let script = Arc::new(Script { answers: Mutex::new(answers.into()), ..Script::default() });
        let transport = transport(Arc::clone(&script) as Arc<dyn Broker>, 1_000);
        let prepared: Vec<Prepared> = items
            .iter()
            .map(|(channel, id)| Prepared {
                tenant: Tenant::default(),
                channel: Channel::parse(channel).unwrap(),
                id: (*id).into(),
                body: Bytes::new(),
            })
            .collect();
        let borrowed: Vec<&Prepared> = prepared.iter().collect();
        let outcomes = transport.send(&borrowed, Instant::now() + Duration::from_secs(1)).await;
        let kinds = outcomes.into_iter().map(|outcome| outcome.map(drop).map_err(|failure| failure.kind)).collect();
        let asked = std::mem::take(&mut *script.asked.lock().unwrap());
        (kinds, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_a_failure_on_its_channel_waits_and_other_channels_go_on() {
        let away = BrokerError::Unavailable { broker: "script" };
        let items = [("a", "1"), ("a", "fails"), ("b", "2"), ("a", "3"), ("b", "4")];
        let (outcomes, mut asked) = send(vec![away], &items).await;
        assert_eq!(outcomes, [Ok(()), Err(FailureKind::NotAccepted), Ok(()), Err(FailureKind::NotAccepted), Ok(())],);
        asked.sort();
        assert_eq!(asked, ["default/a 1", "default/a fails", "default/b 2", "default/b 4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_good_holds_nothing_up() {
        let large = BrokerError::TooLarge { broker: "script", bytes: 2, limit: 1 };
        let no = BrokerError::Refused { broker: "script", reason: "no".into() };
        let (outcomes, _) = send(vec![large, no], &[("a", "fails"), ("a", "fails2"), ("a", "1")]).await;
        assert_eq!(outcomes, [Err(FailureKind::Refused), Err(FailureKind::Refused), Ok(())]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_not_known_and_stops_its_channel_in_time() {
        let timeout = BrokerError::Timeout { broker: "script", waited: Duration::from_secs(1) };
        let (outcomes, asked) = send(vec![timeout], &[("a", "stuck"), ("a", "1"), ("b", "fails")]).await;
        assert_eq!(outcomes, [Err(FailureKind::Unknown), Err(FailureKind::NotAccepted), Err(FailureKind::Unknown)]);
        assert_eq!(asked.len(), 2, "{asked:?}");
    }

    #[tokio::test]
    async fn a_body_that_no_node_takes_is_not_sent() {
        let script: Arc<dyn Broker> = Arc::new(Script::default());
        let transport = transport(script, 40);
        let encode = |data: &str| {
            let publication = Publication::new("a", "x").id("i").raw_data(data).unwrap();
            transport.encode(&publication.check(&Tenant::default()).unwrap())
        };
        assert_eq!(encode("1").unwrap(), r#"{"event":"x","data":1,"id":"i"}"#);
        assert_eq!(encode("1234567890123").unwrap_err(), "the envelope has 43 bytes; allowed are 40");
    }
}
