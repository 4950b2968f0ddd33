//! `publish`.

use std::borrow::Cow;

use fanfare_protocol::{Channel, Data, Envelope, ErrorBody, ErrorCode, PublishCommand};

use crate::{Action, PublishAction, Session, pending::Operation, permission::check_publish};

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
        let allowed = self.config.max_pending_commands;
        if self.pending.as_ref().is_some_and(|pending| pending.in_flight() >= allowed) {
            let message = format!("{allowed} commands wait for their reply; wait for one of them");
            return Err(ErrorBody::new(ErrorCode::RateLimit, message));
        }
        if publish.channel.contains('*') {
            return Err(bad_request(format!("{:?} is a pattern; events are published on a channel", publish.channel)));
        }
        let channel = Channel::parse(&publish.channel).map_err(|error| bad_request(error.to_string()))?;
        let grant = self.grant().expect("commands run only once connected");
        check_publish(&self.config.namespaces, grant, &channel, || self.hears(&channel))?;
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
