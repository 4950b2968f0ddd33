//! The task that hands events to the broker, and goes on until it has taken them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanfare_broker::{Broker, BrokerError, Lifecycle};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metrics::{Counter, Gauge, counter, gauge};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{event::LifecycleEvent, lanes::Lanes};
use crate::{
    limits::{LIFECYCLE_AT_ONCE, LIFECYCLE_DRAIN_TIME, LIFECYCLE_IN_LINE},
    telemetry::metrics as names,
};

/// Before an event that was not taken is told again; doubled with every attempt.
const RETRY: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Courier {
    broker: Arc<dyn Broker>,
    events: mpsc::Receiver<LifecycleEvent>,
    lanes: Lanes<LifecycleEvent>,
    /// What is being told; it comes to its lane.
    telling: FuturesUnordered<BoxFuture<'static, u128>>,
    health: Arc<Health>,
    waiting: Gauge,
}

/// Ends the courier.
#[derive(Debug)]
pub(crate) struct CourierEnd {
    end: oneshot::Sender<Instant>,
    task: JoinHandle<()>,
}

/// How telling goes.
struct Health {
    told: Counter,
    refused: Counter,
    /// The broker did not take the last one; said once.
    failing: AtomicBool,
}

impl Courier {
    pub(crate) fn new(broker: Arc<dyn Broker>, events: mpsc::Receiver<LifecycleEvent>) -> Self {
        let count = |result: &'static str| counter!(names::LIFECYCLE_EVENTS_TOTAL, "result" => result);
        Self {
            broker,
            events,
            lanes: Lanes::new(),
            telling: FuturesUnordered::new(),
            health: Arc::new(Health {
                told: count("told"),
                refused: count("refused"),
                failing: AtomicBool::new(false),
            }),
            waiting: gauge!(names::LIFECYCLE_EVENTS_WAITING),
        }
    }

    /// Tells what comes, until it is told when to end. Then what is there by now is told, until that moment.
    pub(crate) async fn run(mut self, end: oneshot::Receiver<Instant>) {
        let mut end = end.fuse();
        let until = loop {
            tokio::select! {
                biased;
                until = &mut end => break until.unwrap_or_else(|_| Instant::now()),
                Some(lane) = self.telling.next() => self.handle_told(lane),
                Some(event) = self.events.recv(), if self.has_room() => self.take(event),
                // Whoever could end it is gone with all others.
                else => return,
            }
            self.waiting.set(self.left() as f64);
        };
        self.finish(until).await;
    }

    /// Nothing new is accepted any more.
    async fn finish(mut self, until: Instant) {
        self.events.close();
        loop {
            while self.has_room()
                && let Ok(event) = self.events.try_recv()
            {
                self.take(event);
            }
            if self.telling.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(lane) = self.telling.next() => self.handle_told(lane),
                () = sleep_until(until) => break,
            }
        }
        let left = self.left();
        self.waiting.set(0.0);
        if left > 0 {
            counter!(names::LIFECYCLE_EVENTS_TOTAL, "result" => "dropped").increment(left as u64);
            warn!(left, "lifecycle events are lost: the broker did not take them before the node's end");
        }
    }

    fn has_room(&self) -> bool {
        self.lanes.busy() < LIFECYCLE_AT_ONCE && self.lanes.waiting() < LIFECYCLE_IN_LINE
    }

    fn left(&self) -> usize {
        self.telling.len() + self.lanes.waiting() + self.events.len()
    }

    fn take(&mut self, event: LifecycleEvent) {
        let lane = event.lane();
        if let Some(event) = self.lanes.enter(lane, event) {
            self.begin(lane, &event);
        }
    }

    fn handle_told(&mut self, lane: u128) {
        if let Some(next) = self.lanes.leave(lane) {
            self.begin(lane, &next);
        }
    }

    fn begin(&mut self, lane: u128, event: &LifecycleEvent) {
        let (broker, health) = (self.broker.clone(), self.health.clone());
        let lifecycle = event.to_lifecycle();
        self.telling.push(tell(broker, health, lifecycle).map(move |()| lane).boxed());
    }
}

impl CourierEnd {
    pub(crate) fn new(end: oneshot::Sender<Instant>, task: JoinHandle<()>) -> Self {
        Self { end, task }
    }

    /// Has what waits told, until a moment, but for [`LIFECYCLE_DRAIN_TIME`] at the least.
    pub(crate) async fn finish(self, until: std::time::Instant) {
        let least = Instant::now() + LIFECYCLE_DRAIN_TIME;
        // Where it has ended already, it has nothing.
        let _ = self.end.send(least.max(until.into()));
        if self.task.await.is_err() {
            warn!("the telling of lifecycle events ended by a panic");
        }
    }
}

/// Tells one event until the broker has taken it, or has said that it never will.
async fn tell(broker: Arc<dyn Broker>, health: Arc<Health>, lifecycle: Lifecycle) {
    let mut attempts = 0;
    loop {
        match broker.tell(lifecycle.clone()).await {
            Ok(()) => return health.told(),
            Err(error) if is_final(&error) => return health.refused(&lifecycle.id, &error),
            Err(error) => health.failed(&error),
        }
        sleep(pause(attempts)).await;
        attempts += 1;
    }
}

impl Health {
    fn told(&self) {
        self.told.increment(1);
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            info!("the broker takes lifecycle events again");
        }
    }

    fn refused(&self, id: &str, error: &BrokerError) {
        self.refused.increment(1);
        warn!(id, %error, "a lifecycle event is lost: the broker refuses it");
    }

    fn failed(&self, error: &BrokerError) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            warn!(%error, "the broker does not take lifecycle events; they are told again until it does");
        }
    }
}

/// Whether it would fail again.
fn is_final(error: &BrokerError) -> bool {
    !matches!(error, BrokerError::Unavailable { .. } | BrokerError::Timeout { .. } | BrokerError::Unreachable { .. })
}

/// Half of it is chance, so that not all come at once.
fn pause(attempts: u32) -> Duration {
    let longest = RETRY.saturating_mul(1 << attempts.min(10)).min(LONGEST_RETRY);
    longest / 2 + longest.mul_f64(fastrand::f64() / 2.0)
}

#[cfg(test)]
#[path = "courier_tests.rs"]
mod tests;
