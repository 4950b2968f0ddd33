//! One interest's subscription.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use async_nats::{HeaderMap, Message, Subscriber};
use fanfare_protocol::{Body, Channel, NatsSubjects, Pattern, SubjectError, Tenant, Topic};
use futures_util::Stream;

use crate::{Interest, Publication, body::detach};

#[derive(Debug)]
pub(super) struct Inflow {
    pub(super) interest: Interest,
    /// The library's number of the subscription.
    pub(super) sid: u64,
    subscriber: Subscriber,
}

/// Why a message is not a publication of the interest.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Subject(#[from] SubjectError),
    #[error("{0:?} is not what was subscribed to")]
    Other(String),
}

impl Inflow {
    pub(super) fn new(interest: Interest, sid: u64, subscriber: Subscriber) -> Self {
        Self { interest, sid, subscriber }
    }

    pub(super) fn publication(&self, subjects: &NatsSubjects, message: Message) -> Result<Publication, Unreadable> {
        let channel = match &self.interest.topic {
            Topic::Channel(_) => None,
            Topic::Pattern(pattern) => {
                Some(wanted_channel(subjects, &self.interest.tenant, pattern, &message.subject)?)
            }
        };
        let header = |name| message.headers.as_ref().and_then(|headers: &HeaderMap| last(headers, name));
        let body = Body {
            event: header("Fanfare-Event"),
            content_type: header("Content-Type"),
            bytes: detach(message.payload),
        };
        Ok(Publication { interest: self.interest.id, channel, body, timestamp: None, position: None })
    }
}

impl Stream for Inflow {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        Pin::new(&mut self.subscriber).poll_next(context)
    }
}

fn wanted_channel(
    subjects: &NatsSubjects,
    tenant: &Tenant,
    pattern: &Pattern,
    subject: &str,
) -> Result<Channel, Unreadable> {
    let (of, channel) = subjects.parse_publish(subject)?;
    if of == *tenant && pattern.matches(channel.as_str()) {
        Ok(channel)
    } else {
        Err(Unreadable::Other(subject.to_owned()))
    }
}

/// Publishers may have set a header that somebody on the way set again; the last one counts.
fn last(headers: &HeaderMap, name: &'static str) -> Option<Box<str>> {
    headers.get_last(name).map(|value| value.as_str().into())
}
