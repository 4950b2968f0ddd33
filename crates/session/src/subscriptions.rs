//! `subscribe` and `unsubscribe`.

use fanfare_protocol::{
    Channel, ErrorBody, ErrorCode, NameError, Push, Reply, Subscribed, SubscriptionOutcome, Topic, Watch,
};

use crate::{
    Action, Asked, Granted, Session, Time,
    pending::{Asker, Askers, NAMES_IN_FLIGHT, Operation},
    permission::check_subscribe,
    start::begun_before,
};

/// How a subscription that was not refused goes on.
enum Begun {
    /// It was made before.
    Made(Topic),
    /// The asker is told when it is made, or not.
    InFlight,
}

impl Session {
    /// The command with one name.
    pub(crate) fn subscribe(&mut self, id: u64, asked: Asked) {
        let begun = self.room_for_subscribe(1).and_then(|()| self.begin_subscription(&asked, Asker::Command { id }));
        match begun {
            Ok(Begun::Made(topic)) => {
                self.reply(id, Ok(Reply::Subscribed(made_before(asked.name))));
                self.watch_again(&topic, asked.watch);
            }
            Ok(Begun::InFlight) => {}
            Err(error) => self.reply(id, Err(error)),
        }
    }

    /// The command with a list: one reply when all outcomes are there, in the order asked for.
    pub(crate) fn subscribe_many(&mut self, id: u64, channels: Vec<Asked>) {
        if let Err(error) = self.room_for_subscribe(channels.len()) {
            return self.reply(id, Err(error));
        }
        let batch = self.next_op();
        let mut missing = 0;
        let mut outcomes = Vec::with_capacity(channels.len());
        for (index, asked) in (0..).zip(channels) {
            let begun = self.begin_subscription(&asked, Asker::Batch { batch, index });
            missing += usize::from(matches!(begun, Ok(Begun::InFlight)));
            if let Ok(Begun::Made(topic)) = &begun {
                if asks_for_snapshot(asked.watch) {
                    self.push(Push::Subscribed(made_before(asked.name.clone())));
                }
                self.watch_again(topic, asked.watch);
            }
            outcomes.push(SubscriptionOutcome { channel: asked.name, error: begun.err() });
        }
        if missing == 0 {
            self.reply(id, Ok(Reply::SubscribedMany { subscriptions: outcomes }));
        } else {
            self.pending_mut().begin_batch(batch, id, outcomes, missing);
        }
    }

    /// A name of the handshake, answered by a push.
    pub(crate) fn subscribe_for_handshake(&mut self, asked: Asked) {
        match self.begin_subscription(&asked, Asker::Handshake) {
            Ok(Begun::Made(topic)) => {
                self.push(Push::Subscribed(made_before(asked.name)));
                self.watch_again(&topic, asked.watch);
            }
            Ok(Begun::InFlight) => {}
            Err(error) => self.push(Push::Error { channel: Some(asked.name), error }),
        }
    }

    /// The hub has made a subscription, or not. The answer goes out here, so that it is before any publication.
    ///
    /// The first who asked gets what it asked for. Others who asked meanwhile, for nothing of the past, are answered as if
    /// they had asked after it.
    pub(crate) fn subscribed(
        &mut self,
        now: Time,
        (topic, askers, watch): (Topic, Askers, Watch),
        result: Result<Granted, ErrorBody>,
    ) {
        match result {
            Ok(granted) => {
                let mut first = Some(granted);
                for asker in askers {
                    self.answer(asker, &topic, watch, Ok(first.take().unwrap_or_default()));
                }
                self.subscriptions.insert(topic.clone());
                self.join(now, &topic, watch);
            }
            Err(error) => {
                for asker in askers {
                    self.answer(asker, &topic, watch, Err(error.clone()));
                }
                self.leave(&topic);
            }
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
                self.leave(&topic);
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
        self.leave(topic);
        self.act(Action::Unsubscribe { topic: topic.clone() });
        for asker in askers {
            self.answer(asker, topic, Watch::Default, Err(error.clone()));
        }
        self.pending.take_if(|pending| pending.is_empty());
    }

    /// Whether one of the subscriptions gets what is published on the channel.
    pub(crate) fn hears(&self, channel: &Channel) -> bool {
        self.subscriptions.matches(channel)
    }

    fn begin_subscription(&mut self, asked: &Asked, asker: Asker) -> Result<Begun, ErrorBody> {
        let Asked { name, start, watch } = asked;
        let bad_request = |error: NameError| ErrorBody::new(ErrorCode::BadRequest, error.to_string());
        let topic = Topic::parse(name).map_err(bad_request)?;
        let grant = self.grant().expect("commands run and channels are subscribed only once connected");
        check_subscribe(&self.config.namespaces, grant, &topic)?;
        self.check_start(&topic, start)?;
        self.check_watch(&topic, *watch)?;
        if self.subscriptions.contains(&topic) {
            return if start.is_live() { Ok(Begun::Made(topic)) } else { Err(begun_before(&topic)) };
        }
        if self.pending.as_ref().is_some_and(|pending| pending.is_making(&topic)) {
            if !start.is_live() {
                return Err(begun_before(&topic));
            }
            self.pending_mut().join(&topic, asker, *watch);
            return Ok(Begun::InFlight);
        }
        let allowed = self.config.max_subscriptions;
        let making = self.pending.as_ref().map_or(0, |pending| pending.making().len());
        if self.subscriptions.len() + making >= allowed {
            let message = format!("the session has {allowed} subscriptions; more are not allowed");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        let askers = Askers::from_elem(asker, 1);
        let op = self.begin(Operation::Subscribe { topic: topic.clone(), askers, watch: *watch });
        self.act(Action::Subscribe { op, topic, start: start.clone() });
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

    fn answer(&mut self, asker: Asker, topic: &Topic, watch: Watch, result: Result<Granted, ErrorBody>) {
        let subscribed = |granted: Granted| Subscribed {
            channel: topic.to_string(),
            position: granted.position,
            recovered: granted.recovered,
            publications: granted.publications,
        };
        match asker {
            Asker::Command { id } => {
                self.pending_mut().answered();
                self.reply(id, result.map(|granted| Reply::Subscribed(subscribed(granted))));
            }
            Asker::Handshake => self.push(match result {
                Ok(granted) => Push::Subscribed(subscribed(granted)),
                Err(error) => Push::Error { channel: Some(topic.to_string()), error },
            }),
            Asker::Batch { batch, index } => {
                // The list's reply may come after publications of this channel: where they have an order, the client has to
                // know first where they begin. It may come after the snapshot too.
                let error = match result {
                    Ok(granted) => {
                        if granted.position.is_some() || asks_for_snapshot(watch) {
                            self.push(Push::Subscribed(subscribed(granted)));
                        }
                        None
                    }
                    Err(error) => Some(error),
                };
                if let Some(finished) = self.pending_mut().note_outcome(batch, index, error) {
                    self.reply(finished.id, Ok(Reply::SubscribedMany { subscriptions: finished.outcomes }));
                }
            }
        }
    }
}

fn asks_for_snapshot(watch: Watch) -> bool {
    matches!(watch, Watch::Snapshot | Watch::Names)
}

/// The answer to who is subscribed already: what it has got of the channel, the client knows itself.
fn made_before(channel: String) -> Subscribed {
    Subscribed { channel, ..Subscribed::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Completion, SessionConfig, fixture::*};

    fn failed(code: ErrorCode, message: &str) -> Completion {
        Completion::Subscribed(Err(ErrorBody::new(code, message)))
    }

    #[test]
    fn the_reply_follows_the_hub() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe("open:a"));
        assert_eq!(driver.actions(), [to_subscribe(1, "open:a")]);
        assert!(!driver.session.is_subscribed(&topic("open:a")));
        driver.complete(1, made());
        assert_eq!(driver.actions(), [reply(1, subscribed("open:a"))]);
        assert!(driver.session.is_subscribed(&topic("open:a")));
        driver.send(2, subscribe("open:b"));
        driver.complete(2, failed(ErrorCode::Unavailable, "the broker is away"));
        assert_eq!(driver.actions()[1..], [error(2, ErrorCode::Unavailable, "the broker is away")]);
        assert!(!driver.session.is_subscribed(&topic("open:b")));
    }

    #[test]
    fn what_may_not_be_is_refused_without_the_hub() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe("open:"));
        driver.send(2, subscribe("project:a"));
        driver.send(3, subscribe("undeclared:*"));
        driver.send(4, subscribe("user:alice"));
        driver.send(5, subscribe("open:a*"));
        assert_eq!(
            driver.actions(),
            [
                error(1, ErrorCode::BadRequest, "segment 1 has 0 bytes; allowed are 1 to 64"),
                error(2, ErrorCode::Forbidden, "the token has no claim that allows subscribe on all of project:a"),
                error(
                    3,
                    ErrorCode::Forbidden,
                    r#"undeclared:* is a pattern, and patterns are not allowed in namespace "undeclared""#
                ),
                error(
                    4,
                    ErrorCode::Forbidden,
                    "subscribe on user:alice is allowed to its owner only: the user of user:{sub}"
                ),
                error(
                    5,
                    ErrorCode::BadRequest,
                    "a wildcard is not allowed here; '*' stands for one whole segment and '**' for the rest at the end, never for the namespace"
                ),
            ]
        );
    }

    #[test]
    fn a_claim_allows_a_channel_and_the_user_owns_one() {
        let mut driver = Driver::with_grant(grant(&["project:*"], None));
        driver.send(1, subscribe("project:*"));
        driver.send(2, subscribe("user:alice"));
        assert_eq!(driver.actions(), [to_subscribe(2, "project:*"), to_subscribe(3, "user:alice")]);
    }

    #[test]
    fn subscribing_again_succeeds_without_the_hub() {
        let mut driver = Driver::anonymous().subscribed(&["open:a"]);
        driver.send(1, subscribe("open:a"));
        driver.send(2, subscribe_many(&["open:a", "open:a"]));
        assert_eq!(
            driver.actions(),
            [reply(1, subscribed("open:a")), reply(2, outcomes(&[("open:a", None), ("open:a", None)]))]
        );
    }

    #[test]
    fn subscribing_again_joins_what_is_in_flight() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe("open:a"));
        driver.send(2, subscribe("open:a"));
        driver.send(3, subscribe_many(&["open:a", "open:a"]));
        assert_eq!(driver.actions(), [to_subscribe(1, "open:a")]);
        driver.complete(1, made());
        assert_eq!(
            driver.actions(),
            [
                reply(1, subscribed("open:a")),
                reply(2, subscribed("open:a")),
                reply(3, outcomes(&[("open:a", None), ("open:a", None)]))
            ]
        );
        assert!(driver.session.pending.is_none());
    }

    #[test]
    fn a_list_has_one_reply_in_the_order_asked_for() {
        let mut driver = Driver::anonymous().subscribed(&["open:made"]);
        driver.send(1, subscribe_many(&["open:b", "project:x", "open:made", "a b", "open:a"]));
        // The list itself took one op, 2.
        assert_eq!(driver.actions(), [to_subscribe(3, "open:b"), to_subscribe(4, "open:a")]);
        driver.complete(4, made());
        assert_eq!(driver.actions(), []);
        driver.complete(3, failed(ErrorCode::Timeout, "late"));
        assert_eq!(
            driver.actions(),
            [reply(
                1,
                outcomes(&[
                    ("open:b", Some((ErrorCode::Timeout, "late"))),
                    (
                        "project:x",
                        Some((
                            ErrorCode::Forbidden,
                            "the token has no claim that allows subscribe on all of project:x"
                        ))
                    ),
                    ("open:made", None),
                    (
                        "a b",
                        Some((
                            ErrorCode::BadRequest,
                            "' ' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"
                        ))
                    ),
                    ("open:a", None),
                ])
            )]
        );
    }

    #[test]
    fn subscriptions_made_and_in_flight_are_limited() {
        let limit = "the session has 4 subscriptions; more are not allowed";
        let mut driver = Driver::anonymous().subscribed(&["open:a", "open:b"]);
        driver.send(1, subscribe("open:c"));
        driver.send(2, subscribe_many(&["open:d", "open:e", "open:a"]));
        driver.actions();
        driver.send(3, subscribe("open:f"));
        assert_eq!(driver.actions(), [error(3, ErrorCode::LimitExceeded, limit)]);
        driver.complete(3, made());
        driver.complete(5, made());
        assert_eq!(
            driver.actions(),
            [
                reply(1, subscribed("open:c")),
                reply(
                    2,
                    outcomes(&[
                        ("open:d", None),
                        ("open:e", Some((ErrorCode::LimitExceeded, limit))),
                        ("open:a", None)
                    ])
                )
            ]
        );
        driver.send(4, unsubscribe("open:a"));
        driver.send(5, subscribe("open:f"));
        assert_eq!(driver.actions(), [to_unsubscribe("open:a"), reply(4, done()), to_subscribe(6, "open:f")]);
    }

    #[test]
    fn commands_in_flight_are_limited() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe("open:a"));
        driver.send(2, subscribe("open:a"));
        driver.send(3, subscribe_many(&["open:a", "open:b"]));
        driver.actions();
        driver.send(4, subscribe("open:a"));
        driver.send(5, subscribe_many(&["open:c"]));
        let limit = "3 commands wait for their reply; more are not allowed";
        assert_eq!(
            driver.actions(),
            [error(4, ErrorCode::LimitExceeded, limit), error(5, ErrorCode::LimitExceeded, limit)]
        );
        driver.complete(1, made());
        assert_eq!(driver.actions().len(), 2);
        driver.send(6, subscribe("open:a"));
        assert_eq!(driver.actions(), [reply(6, subscribed("open:a"))]);
    }

    #[test]
    fn names_in_flight_are_limited_but_one_list_is_let_through() {
        let config = SessionConfig { max_subscriptions: 1, max_pending_commands: 9, ..config() };
        let mut driver = Driver::new(config);
        let names = vec!["open:a"; NAMES_IN_FLIGHT + 1];
        driver.send(1, subscribe_many(&names));
        driver.send(2, subscribe_many(&["open:a", "open:a"]));
        driver.send(3, subscribe("open:a"));
        assert_eq!(
            driver.actions(),
            [
                to_subscribe(2, "open:a"),
                error(2, ErrorCode::LimitExceeded, "over 16384 channels of lists would wait for their outcome")
            ]
        );
        driver.complete(2, made());
        assert_eq!(driver.actions().len(), 2);
        driver.send(4, subscribe_many(&["open:a", "open:a"]));
        assert_eq!(driver.actions().len(), 1);
    }

    #[test]
    fn unsubscribing_is_done_whether_it_was_subscribed_or_not() {
        let mut driver = Driver::anonymous().subscribed(&["open:a", "open:*"]);
        driver.send(1, unsubscribe("open:a"));
        driver.send(2, unsubscribe("open:a"));
        driver.send(
            3,
            fanfare_protocol::CommandKind::UnsubscribeMany { channels: strings(&["open:b", "open:*", "open:*"]) },
        );
        assert_eq!(
            driver.actions(),
            [to_unsubscribe("open:a"), reply(1, done()), reply(2, done()), to_unsubscribe("open:*"), reply(3, done())]
        );
        assert_eq!(driver.session.topics().count(), 0);
    }

    #[test]
    fn unsubscribing_from_an_impossible_name_does_nothing_at_all() {
        let mut driver = Driver::anonymous().subscribed(&["open:a"]);
        let channels = strings(&["open:a", "open:"]);
        driver.send(1, fanfare_protocol::CommandKind::UnsubscribeMany { channels });
        assert_eq!(driver.actions(), [error(1, ErrorCode::BadRequest, "segment 1 has 0 bytes; allowed are 1 to 64")]);
        assert!(driver.session.is_subscribed(&topic("open:a")));
    }

    #[test]
    fn unsubscribing_gives_up_what_is_in_flight() {
        let mut driver = Driver::anonymous();
        let given_up = (ErrorCode::BadRequest, "unsubscribed before it was made");
        driver.send(1, subscribe("open:a"));
        driver.send(2, subscribe_many(&["open:a", "open:b"]));
        driver.send(3, unsubscribe("open:a"));
        assert_eq!(
            driver.actions(),
            [
                to_subscribe(1, "open:a"),
                to_subscribe(3, "open:b"),
                to_unsubscribe("open:a"),
                error(1, given_up.0, given_up.1),
                reply(3, done())
            ]
        );
        driver.complete(1, made());
        assert_eq!(driver.actions(), []);
        assert!(!driver.session.is_subscribed(&topic("open:a")));
        driver.complete(3, made());
        assert_eq!(driver.actions(), [reply(2, outcomes(&[("open:a", Some(given_up)), ("open:b", None)]))]);
        driver.send(4, subscribe("open:a"));
        assert_eq!(driver.actions(), [to_subscribe(4, "open:a")]);
    }

    #[test]
    fn unsubscribing_gives_up_a_channel_of_the_handshake() {
        let mut driver = Driver::new(config());
        driver.shake(None, &["open:a"]);
        driver.actions();
        driver.send(1, unsubscribe("open:a"));
        assert_eq!(
            driver.actions(),
            [
                to_unsubscribe("open:a"),
                push_error(Some("open:a"), ErrorCode::BadRequest, "unsubscribed before it was made"),
                reply(1, done())
            ]
        );
    }
}
