//! A shard's way to the presence driver. It never waits: what the driver's inbox does not take is kept in order.

use std::collections::VecDeque;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{limits::PRESENCE_UNSENT_REQUESTS, presence::message::PresenceRequest};

/// See the module.
#[derive(Debug)]
pub(super) struct PresenceLink {
    /// `None` where the node keeps no presence.
    requests: Option<mpsc::Sender<PresenceRequest>>,
    unsent: VecDeque<PresenceRequest>,
}

/// Too much waits for the driver.
#[derive(Debug)]
pub(super) struct Overloaded;

impl PresenceLink {
    pub(super) fn new(requests: Option<mpsc::Sender<PresenceRequest>>) -> Self {
        Self { requests, unsent: VecDeque::new() }
    }

    /// Whether the node keeps presence.
    pub(super) fn is_there(&self) -> bool {
        self.requests.is_some()
    }

    /// Sends something that begins or changes what is there, or asks; `Err` where more than [`PRESENCE_UNSENT_REQUESTS`] wait.
    pub(super) fn request(&mut self, request: PresenceRequest) -> Result<(), Overloaded> {
        if self.unsent.len() >= PRESENCE_UNSENT_REQUESTS {
            return Err(Overloaded);
        }
        self.tell(request);
        Ok(())
    }

    /// Sends something that has to arrive.
    pub(super) fn tell(&mut self, request: PresenceRequest) {
        if self.requests.is_some() {
            self.unsent.push_back(request);
            self.send_unsent();
        }
    }

    /// Sends what waits, as far as the driver takes it. Where it has ended, so will the node.
    pub(super) fn send_unsent(&mut self) {
        let Some(requests) = &self.requests else { return };
        while let Some(request) = self.unsent.pop_front() {
            if let Err(TrySendError::Full(request)) = requests.try_send(request) {
                return self.unsent.push_front(request);
            }
        }
        if self.unsent.capacity() > 1_024 {
            self.unsent = VecDeque::new();
        }
    }
}
