//! All logs of one run, and their check.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    ClientLog, Delivered, Kind, Position, PublisherLog, Report, Rules, Subscribed, Summary, Violation,
    client_log::Event,
    order::{Conflict, Order, Place},
    publisher_log::{Attempt, Outcome},
    walk::walk,
};

/// Collects the logs of one run. See the [crate's page](crate).
#[derive(Debug, Default)]
pub struct Run {
    rules: BTreeMap<String, Rules>,
    attempts: Attempts,
    clients: Vec<ClientLog>,
    retained: BTreeMap<String, Retained>,
}

/// The broker's history of a channel.
#[derive(Debug)]
struct Retained {
    /// When it was read.
    at: Duration,
    publications: Vec<(Arc<str>, Position)>,
}

/// All publications, by channel and id.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    channels: HashMap<Box<str>, HashMap<Arc<str>, Attempt>>,
}

/// What the check has found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Violation>,
    pub(crate) summary: Summary,
}

impl Run {
    /// A run without logs.
    pub fn new() -> Self {
        Self::default()
    }

    /// What holds on the channels of a namespace. Each that is used needs its rules.
    #[must_use]
    pub fn rules(mut self, namespace: &str, rules: Rules) -> Self {
        self.rules.insert(namespace.to_owned(), rules);
        self
    }

    /// Adds what a publisher did.
    ///
    /// # Panics
    /// Where another one sent other data under the same id, which is the test's own fault.
    pub fn publisher(&mut self, log: PublisherLog) {
        for ((channel, id), attempt) in log.attempts {
            self.attempts.add(channel, id, attempt);
        }
    }

    /// Adds what a client received.
    pub fn client(&mut self, log: ClientLog) {
        self.clients.push(log);
    }

    /// Adds all that the broker retains of a channel, oldest first, as it was read when nothing was published any more.
    pub fn retained(
        &mut self,
        at: Duration,
        channel: &str,
        publications: impl IntoIterator<Item = (String, Position)>,
    ) {
        let publications = publications.into_iter().map(|(id, position)| (id.into(), position)).collect();
        self.retained.insert(channel.to_owned(), Retained { at, publications });
    }

    /// Checks everything.
    ///
    /// # Errors
    /// All that is wrong.
    ///
    /// # Panics
    /// Where a channel is used whose namespace has no rules.
    pub fn check(self) -> Result<Summary, Report> {
        let mut findings = Findings::default();
        let orders = self.orders(&mut findings);
        self.check_retained(&orders, &mut findings);
        self.count_publications(&orders, &mut findings.summary);
        findings.summary.clients = self.clients.len();
        for client in &self.clients {
            findings.summary.disconnects += client.disconnects;
            for (channel, log) in &client.channels {
                walk(&client.name, channel, &log.events, &orders[&**channel], &self.attempts, self.rules_of(channel))
                    .into_findings(&mut findings);
            }
        }
        let Findings { violations, summary } = findings;
        if violations.is_empty() { Ok(summary) } else { Err(Report { violations, summary }) }
    }

    fn rules_of(&self, channel: &str) -> &Rules {
        let namespace = channel.split(':').next().unwrap_or_default();
        self.rules.get(namespace).unwrap_or_else(|| panic!("the namespace of {channel} has no rules"))
    }

    /// Puts together what is on each channel, from all who know: answers with an epoch, then the broker's history and the
    /// clients, then answers without an epoch.
    fn orders(&self, findings: &mut Findings) -> HashMap<&str, Order> {
        let mut orders: HashMap<&str, Order> = HashMap::new();
        let channels = self.attempts.channels.keys().map(|channel| &**channel);
        let seen = self.clients.iter().flat_map(|client| client.channels.keys().map(String::as_str));
        for channel in channels.chain(seen).chain(self.retained.keys().map(String::as_str)) {
            orders.entry(channel).or_insert_with(|| self.order(channel, findings));
        }
        orders
    }

    fn order(&self, channel: &str, findings: &mut Findings) -> Order {
        let mut order = Order::default();
        let mut claim = |client: Option<&str>, id: &Arc<str>, position: &Position, order: &mut Order| {
            let Some(attempt) = self.attempts.get(channel, id) else { return };
            let place = Place { id: Arc::clone(id), begun: attempt.begun, bytes: attempt.bytes };
            if let Err(conflict) = order.claim(position, place) {
                let detail = match conflict {
                    Conflict::Taken(other) => format!("{id} is at {position}, and so is {other}"),
                    Conflict::Elsewhere(other) => format!("{id} is at {position}, and also at {other}"),
                };
                findings.add(Kind::Conflict, client, channel, detail, Vec::new());
            }
        };
        let answers = || {
            self.attempts.of(channel).filter_map(|(id, attempt)| match &attempt.outcome {
                Outcome::Accepted(places) => Some((id, places)),
                Outcome::Unknown | Outcome::Refused => None,
            })
        };
        for (id, places) in answers() {
            for (offset, epoch) in places {
                if let Some(epoch) = epoch {
                    claim(None, id, &Position { offset: *offset, epoch: Arc::clone(epoch) }, &mut order);
                }
            }
        }
        for (id, position) in self.retained.get(channel).into_iter().flat_map(|retained| &retained.publications) {
            claim(None, id, position, &mut order);
        }
        for client in &self.clients {
            for delivered in client.channels.get(channel).into_iter().flat_map(|log| &log.events).flat_map(deliveries) {
                if let Some(position) = &delivered.position {
                    claim(Some(&client.name), &delivered.id, position, &mut order);
                }
            }
        }
        for (id, places) in answers() {
            for offset in places.iter().filter(|(_, epoch)| epoch.is_none()).map(|(offset, _)| *offset) {
                let known = order.position(id).map(|position| Arc::clone(&position.epoch));
                // A client's position names the numbering of a channel on which nothing arrived at all.
                let epoch = known
                    .or_else(|| order.epochs().last().map(|epoch| Arc::clone(epoch)))
                    .or_else(|| self.any_epoch(channel))
                    .unwrap_or_else(|| "unknown".into());
                claim(None, id, &Position { offset, epoch }, &mut order);
            }
        }
        order
    }

    /// The epoch that a client was told when it subscribed.
    fn any_epoch(&self, channel: &str) -> Option<Arc<str>> {
        let events = self.clients.iter().filter_map(|client| client.channels.get(channel)).flat_map(|log| &log.events);
        let mut epochs = events.filter_map(|(_, event)| match event {
            Event::Subscribed(Subscribed { position, .. }) => position.as_ref(),
            _ => None,
        });
        epochs.next().map(|position| Arc::clone(&position.epoch))
    }

    /// What was accepted and is not too old has to be in the broker's history, and nothing twice.
    fn check_retained(&self, orders: &HashMap<&str, Order>, findings: &mut Findings) {
        for (channel, Retained { at, publications }) in &self.retained {
            let rules = self.rules_of(channel);
            for pair in publications.windows(2) {
                if pair[0].1.epoch == pair[1].1.epoch && pair[0].1.offset >= pair[1].1.offset {
                    let detail =
                        format!("the history has {} at {} before {} at {}", pair[0].0, pair[0].1, pair[1].0, pair[1].1);
                    findings.add(Kind::Disorder, None, channel, detail, Vec::new());
                }
            }
            let order = &orders[channel.as_str()];
            let Some(epoch) = order.epochs().pop() else { continue };
            let numbering = order.numbering(epoch).expect("the order has its epochs");
            let held: HashSet<_> = publications.iter().map(|(id, _)| id).collect();
            for (offset, place) in numbering.behind(0).filter(|(_, place)| !held.contains(&place.id)) {
                if let Err(reason) = rules.trimmed(numbering, offset, *at) {
                    let detail = format!("{} at {offset} is not in the history, but {reason}", place.id);
                    findings.add(Kind::LostByBroker, None, channel, detail, Vec::new());
                }
            }
        }
    }

    fn count_publications(&self, orders: &HashMap<&str, Order>, summary: &mut Summary) {
        for (channel, attempts) in &self.attempts.channels {
            for (id, attempt) in attempts {
                match attempt.outcome {
                    Outcome::Accepted(_) => summary.accepted += 1,
                    Outcome::Refused => summary.refused += 1,
                    Outcome::Unknown => {
                        summary.unknown += 1;
                        summary.unknown_published += usize::from(orders[&**channel].position(id).is_some());
                    }
                }
            }
        }
    }
}

fn deliveries((_, event): &(Duration, Event)) -> &[Delivered] {
    match event {
        Event::Subscribed(subscribed) => &subscribed.publications,
        Event::Delivered(delivered) => std::slice::from_ref(delivered),
        Event::Gap(_) | Event::Unsubscribed | Event::Disconnected => &[],
    }
}

impl Attempts {
    fn add(&mut self, channel: Box<str>, id: Box<str>, attempt: Attempt) {
        let channel = self.channels.entry(channel).or_default();
        let id: Arc<str> = id.into();
        let Some(own) = channel.get_mut(&id) else {
            channel.insert(id, attempt);
            return;
        };
        assert_eq!(own.body, attempt.body, "{id} was sent with different data");
        own.begun = own.begun.min(attempt.begun);
        own.outcome = match (std::mem::replace(&mut own.outcome, Outcome::Unknown), attempt.outcome) {
            (Outcome::Accepted(mut places), Outcome::Accepted(more)) => {
                places.extend(more);
                Outcome::Accepted(places)
            }
            (Outcome::Accepted(places), _) | (_, Outcome::Accepted(places)) => Outcome::Accepted(places),
            (Outcome::Refused, Outcome::Refused) => Outcome::Refused,
            _ => Outcome::Unknown,
        };
    }

    pub(crate) fn get(&self, channel: &str, id: &str) -> Option<&Attempt> {
        self.channels.get(channel)?.get(id)
    }

    /// A channel on which this id was published.
    pub(crate) fn channel_of(&self, id: &str) -> Option<&str> {
        self.channels.iter().find(|(_, attempts)| attempts.contains_key(id)).map(|(channel, _)| &**channel)
    }

    fn of(&self, channel: &str) -> impl Iterator<Item = (&Arc<str>, &Attempt)> {
        self.channels.get(channel).into_iter().flatten()
    }
}

impl Findings {
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        client: Option<&str>,
        channel: &str,
        detail: String,
        context: Vec<String>,
    ) {
        let (client, channel) = (client.map(str::to_owned), channel.to_owned());
        self.violations.push(Violation { kind, client, channel, detail, context });
    }
}
