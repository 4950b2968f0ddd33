//! Where a subscription may begin: `since`, `rewind` and `latest`.

use fanfare_protocol::{ErrorBody, ErrorCode, Topic};

use crate::{Session, Start, permission::no_history};

impl Session {
    /// Whether the topic has a past of which the client may ask for so much.
    pub(crate) fn check_start(&self, topic: &Topic, start: &Start) -> Result<(), ErrorBody> {
        if start.is_live() {
            return Ok(());
        }
        let what = if start.since.is_some() { "since" } else { "rewind" };
        if topic.is_pattern() {
            let message = format!("{what} is not possible: {topic} is a pattern, and positions are of one channel");
            return Err(ErrorBody::new(ErrorCode::BadRequest, message));
        }
        if !self.config.namespaces.get(topic.namespace()).history {
            return Err(no_history(what, topic.namespace()));
        }
        let (rewind, allowed) = (start.rewind, self.config.max_history);
        if usize::try_from(rewind).map_or(true, |rewind| rewind > allowed) {
            let message = format!("rewind is {rewind}; allowed are 0 to {allowed}");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        Ok(())
    }
}

/// A subscription begins once: to another start the answer would be about publications that are not its own.
pub(crate) fn begun_before(topic: &Topic) -> ErrorBody {
    let message =
        format!("{topic} is subscribed to; since, rewind and latest are for a new subscription: unsubscribe first");
    ErrorBody::new(ErrorCode::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Asked, CommandKind, Push, RecordedJson, Reply, Subscribed};

    use super::*;
    use crate::{Action, Completion, Granted, OpId, fixture::*};

    fn since(offset: u64) -> Start {
        Start { since: Some(at(offset)), rewind: 0 }
    }

    fn rewind(rewind: u32) -> Start {
        Start { since: None, rewind }
    }

    fn subscribe_from(channel: &str, start: Start) -> CommandKind {
        CommandKind::Subscribe(Asked { name: channel.into(), start, ..Asked::default() })
    }

    fn subscribe_many_from(channels: &[(&str, Start)]) -> CommandKind {
        let asked =
            |(name, start): &(&str, Start)| Asked { name: (*name).into(), start: start.clone(), ..Asked::default() };
        CommandKind::SubscribeMany { channels: channels.iter().map(asked).collect() }
    }

    fn to_subscribe_from(op: u32, name: &str, start: Start) -> Action {
        Action::Subscribe { op: OpId(op), topic: topic(name), start }
    }

    /// Everything behind offset 41: one publication.
    fn granted() -> Granted {
        let publication =
            RecordedJson::new(r#"{"event":"e","channel":"log:a","offset":42,"epoch":"e"}"#.into()).unwrap();
        Granted { position: Some(at(42)), recovered: Some(true), publications: Some(vec![publication]) }
    }

    fn made_from() -> Completion {
        Completion::Subscribed(Ok(granted()))
    }

    fn told(channel: &str) -> Subscribed {
        let Granted { position, recovered, publications } = granted();
        Subscribed { channel: channel.into(), position, recovered, publications }
    }

    fn begun(channel: &str) -> String {
        format!("{channel} is subscribed to; since, rewind and latest are for a new subscription: unsubscribe first")
    }

    #[test]
    fn the_start_goes_to_the_hub_and_what_it_gives_to_the_client() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_from("log:a", since(41)));
        driver.send(2, subscribe_from("log:b", rewind(100)));
        assert_eq!(
            driver.actions(),
            [to_subscribe_from(1, "log:a", since(41)), to_subscribe_from(2, "log:b", rewind(100))]
        );
        driver.complete(1, made_from());
        assert_eq!(driver.actions(), [reply(1, Reply::Subscribed(told("log:a")))]);
        assert!(driver.session.is_subscribed(&topic("log:a")));
    }

    #[test]
    fn the_handshake_begins_in_the_past_too() {
        let mut driver = Driver::new(config());
        let channels = vec![
            Asked { name: "log:a".into(), start: rewind(5), ..Asked::default() },
            Asked { name: "open:a".into(), start: rewind(5), ..Asked::default() },
        ];
        driver.session.handle_handshake(driver.time(), crate::Handshake { token: None, channels });
        let refused = r#"rewind is not possible: channels of namespace "open" keep no history"#;
        assert_eq!(
            driver.actions()[1..],
            [to_subscribe_from(1, "log:a", rewind(5)), push_error(Some("open:a"), ErrorCode::BadRequest, refused)]
        );
        driver.complete(1, made_from());
        assert_eq!(driver.actions(), [push(Push::Subscribed(told("log:a")))]);
    }

    #[test]
    fn a_list_tells_each_channel_where_it_begins_before_the_reply() {
        let mut driver = Driver::anonymous();
        driver
            .send(1, subscribe_many_from(&[("log:a", since(41)), ("open:a", Start::default()), ("log:b", rewind(1))]));
        assert_eq!(
            driver.actions(),
            [
                to_subscribe_from(2, "log:a", since(41)),
                to_subscribe(3, "open:a"),
                to_subscribe_from(4, "log:b", rewind(1))
            ]
        );
        driver.complete(4, made_from());
        assert_eq!(driver.actions(), [push(Push::Subscribed(told("log:b")))]);
        driver.complete(3, made());
        assert_eq!(driver.actions(), []);
        driver.complete(2, made_from());
        assert_eq!(
            driver.actions(),
            [
                push(Push::Subscribed(told("log:a"))),
                reply(1, outcomes(&[("log:a", None), ("open:a", None), ("log:b", None)]))
            ]
        );
        assert!(driver.session.pending.is_none());
    }

    #[test]
    fn who_asks_meanwhile_gets_no_publication_twice() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_from("log:a", since(41)));
        driver.send(2, subscribe("log:a"));
        driver.send(3, subscribe_many(&["log:a", "log:a"]));
        driver.actions();
        driver.complete(1, made_from());
        assert_eq!(
            driver.actions(),
            [
                reply(1, Reply::Subscribed(told("log:a"))),
                reply(2, subscribed("log:a")),
                reply(3, outcomes(&[("log:a", None), ("log:a", None)]))
            ]
        );
        driver.send(4, subscribe("log:a"));
        assert_eq!(driver.actions(), [reply(4, subscribed("log:a"))]);
    }

    #[test]
    fn a_subscription_begins_once() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_from("log:a", since(41)));
        driver.actions();
        driver.send(2, subscribe_from("log:a", since(40)));
        driver.send(3, subscribe_many_from(&[("log:a", rewind(1))]));
        let error_of_a = (ErrorCode::BadRequest, &*begun("log:a"));
        assert_eq!(
            driver.actions(),
            [error(2, ErrorCode::BadRequest, &begun("log:a")), reply(3, outcomes(&[("log:a", Some(error_of_a))]))]
        );
        driver.complete(1, made_from());
        driver.actions();
        driver.send(4, subscribe_from("log:a", since(41)));
        assert_eq!(driver.actions(), [error(4, ErrorCode::BadRequest, &begun("log:a"))]);
        driver.send(5, unsubscribe("log:a"));
        driver.send(6, subscribe_from("log:a", since(42)));
        assert_eq!(
            driver.actions(),
            [to_unsubscribe("log:a"), reply(5, done()), to_subscribe_from(3, "log:a", since(42))]
        );
    }

    #[test]
    fn what_has_no_past_is_refused() {
        let mut driver = Driver::with_grant(grant(&[], None));
        for (id, (name, start)) in (1..).zip([
            ("log:*", since(1)),
            ("log:**", rewind(1)),
            ("open:a", since(1)),
            ("undeclared:a", since(1)),
            ("log:a", rewind(101)),
            ("log:a", Start { since: Some(at(1)), rewind: u32::MAX }),
        ]) {
            driver.send(id, subscribe_from(name, start));
        }
        assert_eq!(
            driver.actions(),
            [
                error(
                    1,
                    ErrorCode::BadRequest,
                    "since is not possible: log:* is a pattern, and positions are of one channel"
                ),
                error(
                    2,
                    ErrorCode::BadRequest,
                    "rewind is not possible: log:** is a pattern, and positions are of one channel"
                ),
                error(
                    3,
                    ErrorCode::BadRequest,
                    r#"since is not possible: channels of namespace "open" keep no history"#
                ),
                error(4, ErrorCode::Forbidden, "the token has no claim that allows subscribe on all of undeclared:a"),
                error(5, ErrorCode::LimitExceeded, "rewind is 101; allowed are 0 to 100"),
                error(6, ErrorCode::LimitExceeded, "rewind is 4294967295; allowed are 0 to 100"),
            ]
        );
    }

    #[test]
    fn the_past_needs_only_the_right_to_subscribe() {
        let mut driver = Driver::with_grant(grant(&["ledger:*"], None));
        driver.send(1, subscribe_from("ledger:a", since(1)));
        assert_eq!(driver.actions(), [to_subscribe_from(2, "ledger:a", since(1))]);
    }
}
