//! `subscribe` and `unsubscribe`.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, NameError, Push, Reply, Subscribed, SubscriptionOutcome, Topic};

use crate::{
    Action, Session,
    pending::{Asker, Askers, NAMES_IN_FLIGHT, Operation},
    permission::check_subscribe,
};

/// How a subscription that was not refused goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// It was made before.
    Made,
    /// The asker is told when it is made, or not.
    InFlight,
}

impl Session {
    /// The command with one name.
    pub(crate) fn subscribe(&mut self, id: u64, name: &str) {
        let begun = self.room_for_subscribe(1).and_then(|()| self.begin_subscription(name, Asker::Command { id }));
        match begun {
            Ok(Begun::Made) => self.reply(id, Ok(Reply::Subscribed(Subscribed { channel: name.into() }))),
            Ok(Begun::InFlight) => {}
            Err(error) => self.reply(id, Err(error)),
        }
    }

    /// The command with a list: one reply when all outcomes are there, in the order asked for.
    pub(crate) fn subscribe_many(&mut self, id: u64, names: Vec<String>) {
        if let Err(error) = self.room_for_subscribe(names.len()) {
            return self.reply(id, Err(error));
        }
        let batch = self.next_op();
        let mut missing = 0;
        let mut outcomes = Vec::with_capacity(names.len());
        for (index, channel) in (0..).zip(names) {
            let begun = self.begin_subscription(&channel, Asker::Batch { batch, index });
            missing += usize::from(matches!(begun, Ok(Begun::InFlight)));
            outcomes.push(SubscriptionOutcome { channel, error: begun.err() });
        }
        if missing == 0 {
            self.reply(id, Ok(Reply::SubscribedMany { subscriptions: outcomes }));
        } else {
            self.pending_mut().begin_batch(batch, id, outcomes, missing);
        }
    }

    /// A name of the handshake, answered by a push.
    pub(crate) fn subscribe_for_handshake(&mut self, name: &str) {
        match self.begin_subscription(name, Asker::Handshake) {
            Ok(Begun::Made) => self.push(Push::Subscribed(Subscribed { channel: name.into() })),
            Ok(Begun::InFlight) => {}
            Err(error) => self.push(Push::Error { channel: Some(name.into()), error }),
        }
    }

    /// The hub has made a subscription, or not. The answer goes out here, so that it is before any publication.
    pub(crate) fn subscribed(&mut self, topic: Topic, askers: Askers, result: Result<(), ErrorBody>) {
        for asker in askers {
            self.answer(asker, &topic, result.clone());
        }
        if result.is_ok() {
            self.subscriptions.insert(topic);
        }
    }

    /// `unsubscribe` with one name or several: done, whether it was subscribed or not. A name that is not valid refuses
    /// the whole command.
    pub(crate) fn unsubscribe(&mut self, id: u64, names: &[String]) {
        let topics: Result<Vec<Topic>, NameError> = names.iter().map(|name| Topic::parse(name)).collect();
        let topics = match topics {
            Ok(topics) => topics,
            Err(error) => return self.refuse(id, ErrorCode::BadRequest, error.to_string()),
        };
        let given_up = ErrorBody::new(ErrorCode::BadRequest, "unsubscribed before it was made");
        for topic in topics {
            if self.subscriptions.remove(&topic) {
                self.act(Action::Unsubscribe { topic });
            } else {
                self.give_up(&topic, &given_up);
            }
        }
        self.reply(id, Ok(Reply::Done {}));
    }

    /// Ends a subscription that is being made, if it is, and answers those who asked for it.
    pub(crate) fn give_up(&mut self, topic: &Topic, error: &ErrorBody) {
        let Some(askers) = self.pending.as_mut().and_then(|pending| pending.give_up(topic)) else { return };
        self.act(Action::Unsubscribe { topic: topic.clone() });
        for asker in askers {
            self.answer(asker, topic, Err(error.clone()));
        }
        self.pending.take_if(|pending| pending.is_empty());
    }

    /// Whether one of the subscriptions gets what is published on the channel.
    pub(crate) fn hears(&self, channel: &Channel) -> bool {
        self.subscriptions.matches(channel)
    }

    fn begin_subscription(&mut self, name: &str, asker: Asker) -> Result<Begun, ErrorBody> {
        let bad_request = |error: NameError| ErrorBody::new(ErrorCode::BadRequest, error.to_string());
        let topic = Topic::parse(name).map_err(bad_request)?;
        let grant = self.grant().expect("commands run and channels are subscribed only once connected");
        check_subscribe(&self.config.namespaces, grant, &topic)?;
        if self.subscriptions.contains(&topic) {
            return Ok(Begun::Made);
        }
        if self.pending.as_mut().is_some_and(|pending| pending.join(&topic, asker)) {
            return Ok(Begun::InFlight);
        }
        let allowed = self.config.max_subscriptions;
        let making = self.pending.as_ref().map_or(0, |pending| pending.making().len());
        if self.subscriptions.len() + making >= allowed {
            let message = format!("the session has {allowed} subscriptions; more are not allowed");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        let op = self.begin(Operation::Subscribe { topic: topic.clone(), askers: Askers::from_elem(asker, 1) });
        self.act(Action::Subscribe { op, topic });
        Ok(Begun::InFlight)
    }

    fn room_for_subscribe(&self, names: usize) -> Result<(), ErrorBody> {
        let Some(pending) = &self.pending else { return Ok(()) };
        let allowed = self.config.max_pending_commands;
        if pending.in_flight() >= allowed {
            let message = format!("{allowed} commands wait for their reply; more are not allowed");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        if names > 1 && !pending.has_room_for_names(names) {
            let message = format!("over {NAMES_IN_FLIGHT} channels of lists would wait for their outcome");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        Ok(())
    }

    fn answer(&mut self, asker: Asker, topic: &Topic, result: Result<(), ErrorBody>) {
        let subscribed = || Subscribed { channel: topic.to_string() };
        match asker {
            Asker::Command { id } => {
                self.pending_mut().answered();
                self.reply(id, result.map(|()| Reply::Subscribed(subscribed())));
            }
            Asker::Handshake => self.push(match result {
                Ok(()) => Push::Subscribed(subscribed()),
                Err(error) => Push::Error { channel: Some(topic.to_string()), error },
            }),
            Asker::Batch { batch, index } => {
                if let Some(finished) = self.pending_mut().note_outcome(batch, index, result.err()) {
                    self.reply(finished.id, Ok(Reply::SubscribedMany { subscriptions: finished.outcomes }));
                }
            }
        }
    }
}
