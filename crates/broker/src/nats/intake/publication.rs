//! A message as a publication of its interest.

use fanfare_protocol::{Body, SubjectError, Topic};

use super::{
    headers::Headers,
    table::{Held, Recorded, Way},
    wire::Message,
};
use crate::{
    LivePosition, Publication,
    nats::stream::{Unplaced, live_timestamp},
};
use fanfare_protocol::NatsSubjects;

/// Why a message is not a publication of the interest.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error("{0:?} is not what was subscribed to")]
    Other(String),
    #[error(transparent)]
    Unplaced(#[from] Unplaced),
}

/// What came by one of an interest's subscriptions.
pub(super) fn publication(
    held: &mut Held,
    way: Way,
    subjects: &NatsSubjects,
    message: Message,
) -> Result<Publication, Unreadable> {
    let channel = match &held.interest.topic {
        Topic::Channel(_) => None,
        Topic::Pattern(pattern) => {
            let other = || Unreadable::Other(String::from_utf8_lossy(message.subject()).into_owned());
            let subject = std::str::from_utf8(message.subject()).map_err(|_| other())?;
            let (tenant, channel) = match way {
                Way::Published => subjects.parse_publish(subject),
                Way::Recorded => subjects.parse_live(subject),
                Way::Signals => subjects.parse_signal(subject),
            }?;
            if tenant != held.interest.tenant || !pattern.matches(channel.as_str()) {
                return Err(other());
            }
            Some(channel)
        }
    };
    let headers = Headers::read(message.headers());
    let (position, timestamp) = match (way, &mut held.recorded) {
        (Way::Recorded, Some(recorded)) => {
            let timestamp = live_timestamp(&headers);
            (Some(recorded.position(&headers, timestamp)?), timestamp)
        }
        _ => (None, None),
    };
    let (event, content_type) = (headers.event.map(Box::from), headers.content_type.map(Box::from));
    let body = Body { event, content_type, bytes: message.into_payload() };
    Ok(Publication { interest: held.interest.id, channel, body, timestamp, position })
}

impl Recorded {
    fn position(&mut self, headers: &Headers<'_>, timestamp: Option<u64>) -> Result<LivePosition, Unplaced> {
        let position = self.stream.live_position(headers, timestamp, self.numbering)?;
        let offset = position.position.offset;
        if std::mem::replace(&mut self.last, offset) >= offset {
            self.stream.doubt();
        }
        Ok(position)
    }
}
