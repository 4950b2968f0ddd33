//! `publish`.

use std::borrow::Cow;

use fanfare_protocol::{Channel, Data, Envelope, ErrorBody, ErrorCode, PublishCommand};

use crate::{
    Action, PublishAction, Session, channel,
    pending::Operation,
    permission::{check_own_event, check_publish},
};

impl Session {
    /// Publishes where the namespace and the grant allow it; the reply follows the broker's answer.
    pub(crate) fn publish(&mut self, id: u64, publish: PublishCommand) {
        match self.check(&publish) {
            Ok((channel, body)) => {
                let op = self.begin(Operation::Publish { id });
                let body = body.into();
                self.act(Action::Publish(PublishAction { op, channel, body, id: publish.publication_id }));
            }
            Err(error) => self.reply(id, Err(error)),
        }
    }

    fn check(&self, publish: &PublishCommand) -> Result<(Channel, Vec<u8>), ErrorBody> {
        let bad_request = |message: String| ErrorBody::new(ErrorCode::BadRequest, message);
        self.room_for_command()?;
        let channel = channel::parse(&publish.channel, "events are published on a channel")?;
        let grant = self.grant().expect("commands run only once connected");
        check_publish(&self.config.namespaces, grant, &channel, || self.hears(&channel))?;
        check_own_event(&self.config.namespaces, &channel, &publish.event)?;
        let body = self.write_envelope(publish).map_err(bad_request)?;
        let limit = self.config.max_publication_bytes;
        if body.len() > limit {
            let message = format!("the event has {} bytes; allowed are {limit}", body.len());
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        Ok((channel, body))
    }

    /// Without a timestamp: the client's clock is not trusted, the node sets it.
    fn write_envelope(&self, publish: &PublishCommand) -> Result<Vec<u8>, String> {
        let data = publish.data.as_deref().map_or(Data::None, Data::Json);
        let envelope = Envelope {
            id: publish.publication_id.as_deref().map(Cow::Borrowed),
            key: publish.key.as_deref().map(Cow::Borrowed),
            version: publish.version,
            exclude: if publish.echo { Vec::new() } else { vec![Cow::Owned(self.id.to_string())] },
            ..Envelope::bare(&publish.event, data)
        };
        envelope.check().map_err(|error| error.to_string())?;
        let mut body = Vec::with_capacity(publish.event.len() + data_bytes(publish) + 128);
        envelope.write_json(&mut body);
        Ok(body)
    }
}

fn data_bytes(publish: &PublishCommand) -> usize {
    publish.data.as_ref().map_or(0, |data| data.get().len())
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::CommandKind;
    use serde_json::value::RawValue;

    use super::*;
    use crate::{Completion, fixture::*};

    fn body(driver: &mut Driver, publish: PublishCommand) -> (String, Option<String>) {
        driver.send(1, CommandKind::Publish(Box::new(publish)));
        match driver.actions().pop() {
            Some(Action::Publish(action)) => (String::from_utf8(action.body.to_vec()).unwrap(), action.id),
            other => panic!("not published: {other:?}"),
        }
    }

    fn refused(publish: PublishCommand) -> ErrorBody {
        let mut driver = Driver::anonymous();
        driver.send(1, CommandKind::Publish(Box::new(publish)));
        match driver.actions().pop() {
            Some(Action::Send(fanfare_protocol::ServerMessage::Reply { id: 1, outcome: Err(error) })) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn the_reply_follows_the_broker() {
        let mut driver = Driver::anonymous();
        driver.send(1, publish("open:a"));
        driver.send(2, publish("open:b"));
        assert_eq!(driver.actions(), [to_publish(1, "open:a"), to_publish(2, "open:b")]);
        driver.complete(2, published());
        driver.complete(1, Completion::Published(Err(ErrorBody::new(ErrorCode::Timeout, "no answer"))));
        assert_eq!(driver.actions(), [reply(2, live_only()), error(1, ErrorCode::Timeout, "no answer")]);
    }

    #[test]
    fn every_field_is_passed_on_and_data_byte_for_byte() {
        let data = r#"{ "$bin" : "AA==", "n":1.50 }"#;
        let publish = PublishCommand {
            event: "moved\n".into(),
            data: Some(RawValue::from_string(data.into()).unwrap()),
            key: Some("k".into()),
            version: Some(3),
            publication_id: Some("p1".into()),
            ..publication("open:a")
        };
        let (body, id) = body(&mut Driver::anonymous(), publish);
        assert_eq!(body, format!(r#"{{"event":"moved\n","data":{data},"id":"p1","key":"k","version":3}}"#));
        assert_eq!(id.as_deref(), Some("p1"));
    }

    #[test]
    fn without_echo_the_sender_is_excluded() {
        let (body, _) = body(&mut Driver::anonymous(), PublishCommand { echo: false, ..publication("open:a") });
        assert_eq!(body, format!(r#"{{"event":"e","exclude":["{ID}"]}}"#));
    }

    #[test]
    fn a_claim_or_ownership_or_a_subscription_allows_it() {
        let mut driver = Driver::with_grant(grant(&["project:*"], None));
        driver.send(1, publish("project:a"));
        driver.send(2, publish("user:alice"));
        assert_eq!(driver.actions(), [to_publish(2, "project:a"), to_publish(3, "user:alice")]);
        let mut driver = Driver::anonymous().subscribed(&["room:a", "room:b:*"]);
        driver.send(3, publish("room:a"));
        driver.send(4, publish("room:b:c"));
        driver.send(5, publish("room:b"));
        assert_eq!(
            driver.actions(),
            [
                to_publish(3, "room:a"),
                to_publish(4, "room:b:c"),
                error(5, ErrorCode::Forbidden, "publish on room:b is allowed to its subscribers only")
            ]
        );
    }

    #[test]
    fn a_subscription_in_flight_does_not_allow_it() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe("room:a"));
        driver.send(2, publish("room:a"));
        assert_eq!(
            driver.actions()[1..],
            [error(2, ErrorCode::Forbidden, "publish on room:a is allowed to its subscribers only")]
        );
    }

    #[test]
    fn what_is_refused() {
        let forbidden = |message: &str| ErrorBody::new(ErrorCode::Forbidden, message);
        let bad_request = |message: &str| ErrorBody::new(ErrorCode::BadRequest, message);
        assert_eq!(
            refused(publication("closed:a")),
            forbidden(r#"publish is not allowed to clients in namespace "closed""#)
        );
        assert_eq!(
            refused(publication("undeclared:a")),
            forbidden(r#"publish is not allowed to clients in namespace "undeclared""#)
        );
        assert_eq!(
            refused(publication("project:a")),
            forbidden("the token has no claim that allows publish on all of project:a")
        );
        assert_eq!(
            refused(publication("user:alice")),
            forbidden("publish on user:alice is allowed to its owner only: the user of user:{sub}")
        );
        assert_eq!(
            refused(publication("open:*")),
            bad_request("open:* is a pattern; events are published on a channel")
        );
        assert_eq!(
            refused(publication("")),
            bad_request("the name is empty; allowed are 1 to 8 segments joined by ':'")
        );
        // A name is quoted only when it is known to be short.
        assert_eq!(
            refused(publication(&format!("open:{}*", "x".repeat(60_000)))),
            bad_request("the name has 60006 bytes; allowed are 255")
        );
        assert_eq!(
            refused(PublishCommand { event: String::new(), ..publication("open:a") }),
            bad_request("event has 0 bytes; allowed are 1 to 255")
        );
        assert_eq!(
            refused(PublishCommand { event: "system:ping".into(), ..publication("open:a") }),
            bad_request(r#"event "system:ping" is refused: names that begin with "system:" are the node's own"#)
        );
        assert_eq!(
            refused(PublishCommand { key: Some("k".repeat(256)), ..publication("open:a") }),
            bad_request("key has 256 bytes; allowed are 0 to 255")
        );
    }

    #[test]
    fn an_event_is_limited_in_bytes() {
        let sized = |bytes: usize| {
            let data = format!("\"{}\"", "x".repeat(bytes - r#"{"event":"e","data":""}"#.len()));
            PublishCommand { data: Some(RawValue::from_string(data).unwrap()), ..publication("open:a") }
        };
        assert_eq!(body(&mut Driver::anonymous(), sized(200)).0.len(), 200);
        assert_eq!(
            refused(sized(201)),
            ErrorBody::new(ErrorCode::LimitExceeded, "the event has 201 bytes; allowed are 200")
        );
    }

    #[test]
    fn too_many_in_flight_is_for_trying_again() {
        let mut driver = Driver::anonymous();
        for id in 1..=4 {
            driver.send(id, publish("open:a"));
        }
        assert_eq!(
            driver.actions()[3..],
            [error(4, ErrorCode::RateLimit, "3 commands wait for their reply; wait for one of them")]
        );
        driver.complete(1, published());
        driver.send(5, publish("open:a"));
        assert_eq!(driver.actions(), [reply(1, live_only()), to_publish(4, "open:a")]);
    }
}
