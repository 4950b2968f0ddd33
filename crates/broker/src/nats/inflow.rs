//! One subscription of an interest. Most have one; where a namespace has history and signals, there are two.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use async_nats::{HeaderMap, Message, Subscriber};
use fanfare_protocol::{Body, Channel, Epoch, NatsSubjects, SubjectError, Tenant, Topic};
use futures_util::Stream;

use super::stream::{Stream as History, Unplaced, live_timestamp};
use crate::{Interest, LivePosition, Publication, body::detach};

#[derive(Debug)]
pub(super) struct Inflow {
    pub(super) interest: Interest,
    /// The library's number of the subscription.
    pub(super) sid: u64,
    subscriber: Subscriber,
    way: Way,
}

/// By which way publications come.
#[derive(Debug)]
pub(super) enum Way {
    /// As they are published.
    Published,
    /// As the stream republishes them: the namespace has history.
    Recorded(Recorded),
    /// Past the stream: what is live only in a namespace with history.
    Signals,
}

/// What a subscription to republished messages needs.
#[derive(Debug)]
pub(super) struct Recorded {
    stream: Arc<History>,
    /// The numbering of what waits in the subscription. When the stream is found to be another, messages of both may wait
    /// there, which nothing but the server's time tells apart, if the server sends it.
    epoch: Epoch,
    /// The sequence that came last.
    last: AtomicU64,
}

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

impl Inflow {
    pub(super) fn new(interest: Interest, sid: u64, subscriber: Subscriber, way: Way) -> Self {
        Self { interest, sid, subscriber, way }
    }

    /// Whether it is the second of its interest.
    pub(super) fn is_second(&self) -> bool {
        matches!(self.way, Way::Signals)
    }

    fn recorded(&self) -> Option<&Recorded> {
        match &self.way {
            Way::Recorded(recorded) => Some(recorded),
            Way::Published | Way::Signals => None,
        }
    }

    /// The numbering of now, where the stream is found to be another than the one of which messages may wait here. None of
    /// them is delivered.
    pub(super) fn renumbered(&self) -> Option<Epoch> {
        let recorded = self.recorded()?;
        Some(recorded.stream.epoch()).filter(|epoch| *epoch != recorded.epoch)
    }

    /// Nothing waits here any more that is of another numbering.
    pub(super) fn renew(&mut self, epoch: Epoch) {
        if let Way::Recorded(recorded) = &mut self.way {
            recorded.epoch = epoch;
            recorded.last.store(0, Ordering::Relaxed);
        }
    }

    /// The stream that its namespace has, where it has history.
    pub(super) fn stream(&self) -> Option<&Arc<History>> {
        self.recorded().map(|recorded| &recorded.stream)
    }

    /// What was subscribed to.
    pub(super) fn subject(&self, subjects: &NatsSubjects) -> String {
        self.way.subject(subjects, &self.interest)
    }

    pub(super) fn publication(&self, subjects: &NatsSubjects, message: Message) -> Result<Publication, Unreadable> {
        let channel = match &self.interest.topic {
            Topic::Channel(_) => None,
            Topic::Pattern(pattern) => {
                let (tenant, channel) = self.way.parse(subjects, &message.subject)?;
                if tenant != self.interest.tenant || !pattern.matches(channel.as_str()) {
                    return Err(Unreadable::Other(message.subject.as_str().to_owned()));
                }
                Some(channel)
            }
        };
        let (position, timestamp) = match self.recorded() {
            None => (None, None),
            Some(recorded) => {
                let headers = message.headers.as_ref();
                let timestamp = live_timestamp(headers);
                (Some(recorded.position(headers, timestamp)?), timestamp)
            }
        };
        let header = |name| message.headers.as_ref().and_then(|headers: &HeaderMap| last(headers, name));
        let body = Body {
            event: header("Fanfare-Event"),
            content_type: header("Content-Type"),
            bytes: detach(message.payload),
        };
        Ok(Publication { interest: self.interest.id, channel, body, timestamp, position })
    }
}

impl Recorded {
    /// To be made before it is subscribed.
    pub(super) fn new(stream: Arc<History>) -> Self {
        Self { epoch: stream.epoch(), stream, last: AtomicU64::new(0) }
    }

    fn position(&self, headers: Option<&HeaderMap>, timestamp: Option<u64>) -> Result<LivePosition, Unplaced> {
        let position = self.stream.live_position(headers, timestamp, &self.epoch)?;
        let offset = position.position.offset;
        if self.last.swap(offset, Ordering::Relaxed) >= offset {
            self.stream.doubt();
        }
        Ok(position)
    }
}

impl Way {
    /// What has to be subscribed to.
    pub(super) fn subject(&self, subjects: &NatsSubjects, Interest { tenant, topic, .. }: &Interest) -> String {
        match self {
            Self::Published => subjects.interest(tenant, topic),
            Self::Recorded(_) => subjects.live_interest(tenant, topic),
            Self::Signals => subjects.signal_interest(tenant, topic),
        }
    }

    fn parse(&self, subjects: &NatsSubjects, subject: &str) -> Result<(Tenant, Channel), SubjectError> {
        match self {
            Self::Published => subjects.parse_publish(subject),
            Self::Recorded(_) => subjects.parse_live(subject),
            Self::Signals => subjects.parse_signal(subject),
        }
    }
}

impl Stream for Inflow {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        Pin::new(&mut self.subscriber).poll_next(context)
    }
}

/// Publishers may have set a header that somebody on the way set again; the last one counts.
fn last(headers: &HeaderMap, name: &'static str) -> Option<Box<str>> {
    headers.get_last(name).map(|value| value.as_str().into())
}
