//! The way of events to the courier. It never waits: what finds no room is counted, and said.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use metrics::{Counter, counter};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::event::LifecycleEvent;
use crate::{limits::LIFECYCLE_EVENTS, telemetry::metrics as names};

/// Where events are left for the courier.
#[derive(Clone, Debug)]
pub(crate) struct LifecycleQueue {
    events: mpsc::Sender<LifecycleEvent>,
    dropped: Counter,
    /// Said since the queue last had room.
    overflows: Arc<AtomicBool>,
}

/// The queue and its end.
pub(crate) fn lifecycle_queue() -> (LifecycleQueue, mpsc::Receiver<LifecycleEvent>) {
    queue_of(LIFECYCLE_EVENTS)
}

pub(super) fn queue_of(events: usize) -> (LifecycleQueue, mpsc::Receiver<LifecycleEvent>) {
    let (events, receiver) = mpsc::channel(events);
    let dropped = counter!(names::LIFECYCLE_EVENTS_TOTAL, "result" => "dropped");
    (LifecycleQueue { events, dropped, overflows: Arc::default() }, receiver)
}

impl LifecycleQueue {
    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.events.max_capacity() - self.events.capacity()
    }

    /// Leaves an event, if there is room.
    pub(super) fn push(&self, event: LifecycleEvent) {
        if self.events.try_send(event).is_ok() {
            if self.overflows.load(Ordering::Relaxed) && self.overflows.swap(false, Ordering::Relaxed) {
                info!("there is room for lifecycle events again");
            }
            return;
        }
        self.dropped.increment(1);
        if !self.overflows.swap(true, Ordering::Relaxed) {
            let limit = self.events.max_capacity();
            warn!(limit, "lifecycle events are dropped: too many wait for the broker");
        }
    }
}
