//! The ids of recent publications.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::retained::ChannelKey;

/// The id of a publication on its channel.
type IdKey = Arc<(ChannelKey, Box<str>)>;

/// Which ids were published, and at which offset, for as long as the window says.
#[derive(Debug)]
pub(super) struct Ids {
    window: Duration,
    limit: usize,
    offsets: HashMap<IdKey, u64>,
    /// Oldest first.
    order: VecDeque<(Instant, IdKey)>,
}

impl Ids {
    /// `limit` is how many ids are remembered at most; the oldest go first.
    pub(super) fn new(window: Duration, limit: usize) -> Self {
        Self { window, limit, offsets: HashMap::new(), order: VecDeque::new() }
    }

    /// The offset of the publication that had this id on the channel.
    pub(super) fn find(&self, channel: &ChannelKey, id: &str) -> Option<u64> {
        self.offsets.get(&(Arc::clone(channel), Box::from(id))).copied()
    }

    /// Remembers an id that is not known. Says whether another one had to be forgotten for it before its time.
    pub(super) fn insert(&mut self, now: Instant, channel: &ChannelKey, id: &str, offset: u64) -> bool {
        let key = Arc::new((Arc::clone(channel), Box::from(id)));
        self.offsets.insert(Arc::clone(&key), offset);
        self.order.push_back((now, key));
        let over = self.order.len() > self.limit;
        if over {
            self.forget_oldest();
        }
        over
    }

    /// Forgets those whose window is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(at, _)| now.duration_since(*at) >= self.window) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.offsets.remove(&key);
        }
    }
}
