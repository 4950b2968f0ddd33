//! The task that reads what is subscribed to and follows the connection.

use std::sync::{Arc, Mutex};

use fanfare_protocol::{Body, RedisChannels};
use fred::{
    error::{Error, ErrorKind},
    interfaces::PubsubInterface as _,
    types::{Message, MessageKind, Value},
};
use tokio::{
    sync::{broadcast, watch},
    time::{Duration, MissedTickBehavior, interval, sleep},
};

use super::{
    functions::{self, Live},
    session::{Connector, Session},
    table::{Arrived, Names, Table},
};
use crate::{InterestId, Interruption, Scope, backoff, body, outlet::Outlet, unreadable::UnreadableLog};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Names in one command.
const NAMES_PER_COMMAND: usize = 1_000;

/// What the calls of the broker and the reader share.
#[derive(Debug)]
pub(super) struct Subscriptions {
    pub(super) table: Mutex<Table>,
    /// Held while subscriptions change, so that Redis hears of changes in the order in which the table has them, and no
    /// other command's answer can be taken for theirs.
    pub(super) changes: tokio::sync::Mutex<()>,
    /// None while there is no connection that has subscribed to everything.
    pub(super) session: watch::Sender<Option<Arc<Session>>>,
    /// What a call that was given up may have subscribed to. The next change ends it.
    pub(super) leftover: Mutex<Names>,
}

pub(super) struct Subscriber {
    pub(super) connector: Connector,
    pub(super) names: RedisChannels,
    pub(super) shared: Arc<Subscriptions>,
    pub(super) outlet: Outlet,
    pub(super) unreadable: UnreadableLog,
    /// Of the last few bodies, on the average.
    pub(super) usual_bytes: u64,
}

impl Subscriber {
    /// Runs until the adapter is closed.
    pub(super) async fn run(mut self, session: Arc<Session>, messages: broadcast::Receiver<Message>) {
        let closed = self.connector.closed.clone();
        let reading = async {
            let (mut session, mut messages) = (session, messages);
            loop {
                self.read(&session, &mut messages).await;
                self.shared.session.send_replace(None);
                self.outlet.interrupted(Interruption { scope: Scope::All, reason: "disconnected" });
                (session, messages) = self.connect_again().await;
                self.outlet.resumed(Scope::All);
            }
        };
        let _: Option<()> = closed.run_until_cancelled(reading).await;
        self.shared.session.send_replace(None);
    }

    /// Reads until the session has ended and nothing is left of it.
    async fn read(&mut self, session: &Session, messages: &mut broadcast::Receiver<Message>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waiting = messages.len();
            let next = next(&mut self.outlet, messages);
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    self.outlet.recover();
                    self.outlet.held_back(waiting as u64 * self.usual_bytes);
                }
                message = next => match message {
                    Ok(message) => self.deliver(message),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        // What was overwritten is older than all that is still there.
                        self.outlet.interrupted(Interruption { scope: Scope::All, reason: "lagged" });
                        self.outlet.resumed(Scope::All);
                    }
                    Err(broadcast::error::RecvError::Closed) => return session.ended().await,
                },
                () = session.ended() => break,
            }
        }
        while !messages.is_empty() {
            match next(&mut self.outlet, messages).await {
                Ok(message) => self.deliver(message),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        let bytes = match message.value {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            other => return self.unreadable.note("redis", &format_args!("a value of kind {:?}", other.kind())),
        };
        self.usual_bytes = (7 * self.usual_bytes + bytes.len() as u64) / 8;
        let arrived = match self.names.is_live(&message.channel) {
            false => Arrived { body: Body::new(body::detach(bytes)), timestamp: None, position: None },
            true => match functions::parse_live(&bytes) {
                Ok(Live { position, timestamp, body }) => {
                    Arrived { body: Body::new(body::detach(body)), timestamp, position: Some(position) }
                }
                Err(reason) => return self.unreadable.note("redis", &reason),
            },
        };
        let found = {
            let table = self.shared.table.lock().expect(UNPOISONED);
            match message.kind {
                MessageKind::PMessage => table.by_pattern(&message.channel, &arrived),
                MessageKind::Message | MessageKind::SMessage => Ok(table.by_channel(&message.channel, &arrived)),
            }
        };
        match found {
            Ok(publications) => publications.into_iter().for_each(|publication| self.outlet.publish(publication)),
            Err(reason) => self.unreadable.note("redis", &reason),
        }
    }

    /// Tries until there is a connection that is subscribed to everything.
    async fn connect_again(&mut self) -> (Arc<Session>, broadcast::Receiver<Message>) {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut tick = interval(TICK);
            let trying = async {
                sleep(backoff::pause(attempt)).await;
                let (session, messages) = self.connector.open().await?;
                self.shared.subscribe_again(&session).await.inspect_err(|_| session.end())?;
                Ok::<_, Error>((session, messages))
            };
            tokio::pin!(trying);
            let tried = loop {
                tokio::select! {
                    tried = &mut trying => break tried,
                    _ = tick.tick() => { self.outlet.recover(); }
                }
            };
            match tried {
                Ok(connected) => return connected,
                Err(error) => tracing::debug!(%error, attempt, "cannot connect to Redis"),
            }
        }
    }
}

impl Subscriptions {
    /// Takes interests out of the table; what nobody wants any more is left over.
    pub(super) fn give_up(&self, interests: &[InterestId]) {
        let unwanted = self.table.lock().expect(UNPOISONED).remove(interests.iter().copied());
        let mut leftover = self.leftover.lock().expect(UNPOISONED);
        leftover.channels.extend(unwanted.channels);
        leftover.patterns.extend(unwanted.patterns);
    }

    async fn subscribe_again(&self, session: &Arc<Session>) -> Result<(), Error> {
        let _changing = self.changes.lock().await;
        drop(std::mem::take(&mut *self.leftover.lock().expect(UNPOISONED)));
        let names = self.table.lock().expect(UNPOISONED).all();
        subscribe(session, &names, names.count()).await?;
        self.session.send_replace(Some(Arc::clone(session)));
        Ok(())
    }
}

/// Subscribes and waits until the server has confirmed it: that this connection is subscribed to `expected` channels and
/// patterns in all. The library takes a subscription for done when it is written, and may pass over its refusal.
pub(super) async fn subscribe(session: &Session, names: &Names, expected: (usize, usize)) -> Result<(), Error> {
    for channels in names.channels.chunks(NAMES_PER_COMMAND) {
        session.client.subscribe(channels.to_vec()).await?;
    }
    for patterns in names.patterns.chunks(NAMES_PER_COMMAND) {
        session.client.psubscribe(patterns.to_vec()).await?;
    }
    if session.subscriptions().await? == expected {
        return Ok(());
    }
    let name = names.channels.iter().chain(&names.patterns).next().map_or("", String::as_str);
    let reason = match names.count() {
        (1, 0) | (0, 1) => format!("no permission to subscribe to {name:?}"),
        (channels, patterns) => format!("no permission to subscribe to some of {} names", channels + patterns),
    };
    Err(Error::new(ErrorKind::Auth, reason))
}

/// Does not wait for the server.
pub(super) async fn unsubscribe(session: &Session, names: &Names) -> Result<(), Error> {
    for channels in names.channels.chunks(NAMES_PER_COMMAND) {
        session.client.unsubscribe(channels.to_vec()).await?;
    }
    for patterns in names.patterns.chunks(NAMES_PER_COMMAND) {
        session.client.punsubscribe(patterns.to_vec()).await?;
    }
    Ok(())
}

async fn next(
    outlet: &mut Outlet,
    messages: &mut broadcast::Receiver<Message>,
) -> Result<Message, broadcast::error::RecvError> {
    outlet.ready().await;
    messages.recv().await
}

pub(super) const UNPOISONED: &str = "nothing panics while it holds the table";
