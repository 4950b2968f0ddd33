//! The client library's connection, by which calls are made: what the library tells about it, and the task that follows it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, Event, ReconnectToServer, Server as PoolServer, ServerError, connection::State};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{JetStream, intake::Place};
use crate::limits;

/// How often the connection is looked at, beside when the library tells something.
const TICK: Duration = Duration::from_millis(100);

/// Shared between the library's callbacks, the task that follows it and the calls that wait for an answer.
#[derive(Debug)]
pub(super) struct Link {
    /// Whether there is a connection, as far as the library has said.
    up: watch::Sender<bool>,
    changed: Notify,
    /// By which of the intake's connections the library's was last led; 0 where by none since it was connected.
    led_by: AtomicU64,
}

/// What follows the library's connection.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) client: Arc<Client>,
    pub(super) link: Arc<Link>,
    pub(super) jetstream: Option<Arc<JetStream>>,
    pub(super) closed: CancellationToken,
    /// Ends when the library's tasks have ended.
    pub(super) library: mpsc::Receiver<()>,
}

impl Link {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { up: watch::Sender::new(true), changed: Notify::new(), led_by: AtomicU64::new(0) })
    }

    /// Called by the library for each event; never waits.
    pub(super) fn tell(&self, event: Event) {
        match event {
            Event::Connected => {
                self.led_by.store(0, Ordering::Relaxed);
                self.up.send_replace(true);
            }
            Event::Disconnected | Event::Closed => _ = self.up.send_replace(false),
            Event::ServerError(ServerError::Other(text)) => {
                tracing::warn!(error = text, "the NATS server reports an error");
            }
            Event::ClientError(error) => tracing::debug!(%error, "cannot connect to NATS"),
            _ => {}
        }
        self.changed.notify_one();
    }

    /// Where the library should connect: where the intake is, so that what this node publishes reaches its own interests by
    /// one server. Each of the intake's connections leads once, and is waited for a little; else the library chooses.
    pub(super) async fn beside(
        self: Arc<Self>,
        pool: Vec<PoolServer>,
        mut intake: watch::Receiver<Option<Place>>,
        closed: CancellationToken,
    ) -> Option<ReconnectToServer> {
        let led_by = self.led_by.load(Ordering::Relaxed);
        let is_new = |place: &Option<Place>| place.as_ref().is_some_and(|place| place.connection != led_by);
        let connected = async { intake.wait_for(is_new).await.ok().and_then(|place| place.clone()) };
        let Place { server, connection } =
            closed.run_until_cancelled(timeout(limits::RECONNECT_DELAY, connected)).await?.ok()??;
        self.led_by.store(connection, Ordering::Relaxed);
        let is_it = |known: &PoolServer| {
            let host = known.addr.host();
            host.trim_matches(['[', ']']) == server.host && known.addr.port() == server.port
        };
        let addr = pool.into_iter().find(is_it)?.addr;
        Some(ReconnectToServer { addr, delay: None })
    }

    /// Whether there is a connection, and when that changes.
    pub(super) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Waits until the library says that the connection is lost.
    pub(super) async fn lost(&self) {
        // The sender lives as long as this.
        let _ = self.up.subscribe().wait_for(|up| !up).await;
    }
}

impl Follower {
    /// Runs until the adapter is closed, then ends the connection.
    ///
    /// The library's events can be dropped, so its state and its count of connections are what counts; events only say
    /// when to look.
    pub(super) async fn run(self) {
        let statistics = self.client.statistics();
        let mut connects = statistics.connects.load(Ordering::Relaxed);
        let mut was_up = true;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.closed.cancelled() => break,
                () = self.link.changed.notified() => {}
                _ = tick.tick() => {}
            }
            // In this order: the count grows before the state says so.
            let up = self.client.connection_state() == State::Connected;
            let now = statistics.connects.load(Ordering::Relaxed);
            let (is_other, came_back) = (now != connects, up && (!was_up || now != connects));
            if let Some(jetstream) = &self.jetstream {
                if is_other || (was_up && !up) {
                    jetstream.requests.connection_lost();
                }
                if came_back {
                    jetstream.streams.doubt.notify_one();
                }
            }
            (connects, was_up) = (now, up);
            self.link.up.send_if_modified(|was| std::mem::replace(was, up) != up);
        }
        self.end().await;
    }

    async fn end(self) {
        let Self { client, mut library, link, .. } = self;
        let ending = async {
            if client.connection_state() == State::Connected {
                // It fails only where the library's task has ended.
                let _ = client.drain().await;
            }
            drop(client);
            let _ = library.recv().await;
        };
        if timeout(limits::CLOSE, ending).await.is_err() {
            tracing::warn!("the connection to NATS has not ended within {:?}", limits::CLOSE);
        }
        drop(link);
    }
}
