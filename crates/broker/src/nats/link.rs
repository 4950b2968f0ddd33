//! What the client library tells about its connection.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use async_nats::{Event, ServerError};
use tokio::sync::{Notify, watch};

/// The library's own queue of events holds 128 and drops the rest. Where this many slow consumers came at once, others may
/// have been dropped with them, and nobody knows which.
const MANY_SLOW: usize = 100;

/// Refused subjects that are remembered.
const MAX_REFUSALS: usize = 64;

/// Shared between the library's callback, the reader and the calls that wait for an answer.
#[derive(Debug)]
pub(super) struct Link {
    /// Whether there is a connection, as far as the library has said.
    up: watch::Sender<bool>,
    changed: Notify,
    news: Mutex<News>,
    /// Subjects that the server refused to subscribe to, the oldest first.
    refusals: Mutex<VecDeque<String>>,
}

/// What happened since it was last looked at.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Subscriptions of which something was dropped, by the library's number.
    pub(super) slow: HashSet<u64>,
    /// So many were dropped that some were perhaps not told.
    pub(super) many_slow: bool,
    /// Subscriptions were refused.
    pub(super) refused: bool,
    slow_events: usize,
}

impl Link {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            up: watch::Sender::new(true),
            changed: Notify::new(),
            news: Mutex::default(),
            refusals: Mutex::default(),
        })
    }

    /// Called by the library for each event; never waits.
    pub(super) fn tell(&self, event: Event) {
        match event {
            Event::SlowConsumer(sid) => {
                let mut news = self.news.lock().expect(UNPOISONED);
                news.slow_events += 1;
                news.slow.insert(sid);
                news.many_slow |= news.slow_events >= MANY_SLOW;
            }
            Event::Connected => _ = self.up.send_replace(true),
            Event::Disconnected | Event::Closed => _ = self.up.send_replace(false),
            Event::ServerError(ServerError::Other(text)) => {
                if let Some(subject) = refused_subject(&text) {
                    self.refuse(subject);
                }
                tracing::warn!(error = text, "the NATS server reports an error");
            }
            Event::ClientError(error) => tracing::debug!(%error, "cannot connect to NATS"),
            _ => {}
        }
        self.changed.notify_one();
    }

    fn refuse(&self, subject: &str) {
        let mut refusals = self.refusals.lock().expect(UNPOISONED);
        if refusals.len() == MAX_REFUSALS {
            refusals.pop_front();
        }
        refusals.push_back(subject.to_owned());
        self.news.lock().expect(UNPOISONED).refused = true;
    }

    /// Whether the server has refused to subscribe to a subject, as far as that is remembered.
    pub(super) fn is_refused(&self, subject: &str) -> bool {
        self.refusals.lock().expect(UNPOISONED).iter().any(|refused| refused == subject)
    }

    pub(super) fn has_refusals(&self) -> bool {
        !self.refusals.lock().expect(UNPOISONED).is_empty()
    }

    /// A subject is tried again; what was said before does not count.
    pub(super) fn forget_refusal(&self, subject: &str) {
        self.refusals.lock().expect(UNPOISONED).retain(|refused| refused != subject);
    }

    /// Corrects what events said, since they can be dropped.
    pub(super) fn set_up(&self, up: bool) {
        self.up.send_if_modified(|was| std::mem::replace(was, up) != up);
    }

    /// Waits for the next event.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What happened since the last call.
    pub(super) fn take_news(&self) -> News {
        std::mem::take(&mut *self.news.lock().expect(UNPOISONED))
    }

    /// Waits until the library says that the connection is lost.
    pub(super) async fn lost(&self) {
        // The sender lives as long as this.
        let _ = self.up.subscribe().wait_for(|up| !up).await;
    }
}

const UNPOISONED: &str = "nothing panics while it holds the news";

/// The subject in `Permissions Violation for Subscription to "rt.pub.acme.x"`.
fn refused_subject(text: &str) -> Option<&str> {
    let text = text.trim_matches(|c| c == '\'' || c == ' ');
    let kind = "permissions violation for subscription to \"";
    text.get(..kind.len()).filter(|begin| begin.eq_ignore_ascii_case(kind))?;
    text[kind.len()..].split_once('"').map(|(subject, _)| subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        let text = "Permissions Violation for Subscription to \"rt.pub.acme.x.>\"";
        assert_eq!(refused_subject(text), Some("rt.pub.acme.x.>"));
        assert_eq!(refused_subject("'Permissions Violation for Subscription to \"a\" using queue \"q\"'"), Some("a"));
        assert_eq!(refused_subject("Permissions Violation for Publish to \"a\""), None);
    }

    #[test]
    fn a_flood_of_slow_consumers_is_told_apart_from_one() {
        let link = Link::new();
        for _ in 0..MANY_SLOW - 1 {
            link.tell(Event::SlowConsumer(5));
        }
        let news = link.take_news();
        assert!(news.slow.contains(&5) && !news.many_slow);
        for _ in 0..MANY_SLOW {
            link.tell(Event::SlowConsumer(5));
        }
        assert!(link.take_news().many_slow);
        assert!(!link.take_news().many_slow);
    }
}
