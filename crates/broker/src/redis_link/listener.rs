//! The task that listens: one connection, what is listened to over it, and what is told of all connections.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use redis_protocol::resp3::types::BytesFrame;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{LinkEvent, health::Health, place::Place};
use crate::{
    BrokerError,
    address::Server,
    backoff, body, limits,
    redis_cluster::connection::{
        ConnectionError, Connector, Frames, Writer, append, begin, bytes_of, encode, error_of, text_of,
    },
};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);

/// How often the server is asked whether it is there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Names in one command.
const NAMES_PER_COMMAND: usize = 1_000;

/// What the link asks for.
#[derive(Debug)]
pub(super) enum Request {
    Listen { names: Vec<Arc<str>>, answer: oneshot::Sender<Result<(), BrokerError>> },
    Unlisten(Vec<Arc<str>>),
}

pub(super) struct Listener {
    name: &'static str,
    place: Place,
    connector: Connector,
    request_timeout: Duration,
    health: watch::Receiver<Health>,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<LinkEvent>,
    /// What is listened to, and what is being asked for.
    wanted: HashSet<Arc<str>>,
    /// With which connection for functions all was well, as it was told last; None where it was not.
    told: Option<u64>,
    /// The same, of the last time that all was well.
    last_well: u64,
    connected: watch::Sender<bool>,
}

/// A connection, from its beginning to its end.
struct Live {
    server: Server,
    writer: Writer,
    /// What the server has confirmed.
    confirmed: HashSet<Arc<str>>,
    /// What is not answered yet, oldest first.
    under_way: VecDeque<UnderWay>,
    /// All that was wanted when the connection began is listened to.
    ready: bool,
    heard: Instant,
}

/// Something that was sent, up to the answer that ends it.
struct UnderWay {
    what: Asked,
    errors: Vec<String>,
    sent: Instant,
}

/// All but the last end with a PING, whose answer says that all before is answered.
enum Asked {
    /// For all that is wanted, when the connection began.
    Everything,
    /// For names, of which some were not wanted before.
    Listen {
        names: Vec<Arc<str>>,
        new: Vec<Arc<str>>,
        answer: oneshot::Sender<Result<(), BrokerError>>,
    },
    Unlisten,
    /// Whether it is there.
    Alive,
}

impl Listener {
    /// Says too whether there is a connection.
    pub(super) fn new(
        name: &'static str,
        place: Place,
        connector: Connector,
        request_timeout: Duration,
        health: watch::Receiver<Health>,
        requests: mpsc::Receiver<Request>,
        events: mpsc::Sender<LinkEvent>,
    ) -> (Self, watch::Receiver<bool>) {
        let (connected, is_connected) = watch::channel(false);
        let last_well = health.borrow().connections;
        let told = Some(last_well);
        let wanted = HashSet::new();
        let listener = Self {
            name,
            place,
            connector,
            request_timeout,
            health,
            requests,
            events,
            wanted,
            told,
            last_well,
            connected,
        };
        (listener, is_connected)
    }

    /// Runs until it is cancelled.
    pub(super) async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let (frames, mut live) = self.connect(&mut attempt).await;
            let error = match self.serve(frames, &mut live).await {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::debug!(%error, server = %live.server, "the connection that listened to Redis has ended");
            if live.ready {
                attempt = 0;
            }
            self.fail_all(live);
            self.connected.send_replace(false);
            self.tell(false).await;
        }
    }

    /// Tries until there is a connection.
    async fn connect(&mut self, attempt: &mut usize) -> (Frames, Live) {
        loop {
            let number = *attempt;
            *attempt += 1;
            let opening = async {
                if number > 0 {
                    sleep(backoff::pause(number)).await;
                }
                open(&self.place, &self.connector, self.request_timeout).await
            };
            tokio::pin!(opening);
            let opened = loop {
                tokio::select! {
                    opened = &mut opening => break opened,
                    request = self.requests.recv() => match request {
                        Some(Request::Listen { answer, .. }) => {
                            // Who does not wait any more need not be told.
                            let _ = answer.send(Err(BrokerError::Unavailable { broker: self.name }));
                        }
                        Some(Request::Unlisten(names)) => names.iter().for_each(|name| _ = self.wanted.remove(name)),
                        // The link is gone, and this task with it.
                        None => std::future::pending().await,
                    },
                }
            };
            match opened {
                Ok((server, frames, writer)) => {
                    let live = Live {
                        server,
                        writer,
                        confirmed: HashSet::new(),
                        under_way: VecDeque::new(),
                        ready: false,
                        heard: Instant::now(),
                    };
                    return (frames, live);
                }
                Err(error) => tracing::debug!(%error, attempt = number, "no connection to listen to Redis over"),
            }
        }
    }

    /// Serves a connection up to its end; `Ok` where nobody wants anything any more.
    async fn serve(&mut self, mut frames: Frames, live: &mut Live) -> io::Result<()> {
        let everything: Vec<Arc<str>> = self.wanted.iter().cloned().collect();
        self.send(live, subscribe(&everything), Asked::Everything).await?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_alive = Instant::now() + ALIVE_INTERVAL;
        loop {
            tokio::select! {
                frame = frames.next() => self.take(live, frame?).await?,
                request = self.requests.recv() => match request {
                    Some(request) => self.handle(live, request).await?,
                    None => return Ok(()),
                },
                Ok(()) = self.health.changed() => {
                    if !self.place.is_at(&live.server) {
                        return Err(io::Error::other("another server is to be listened at"));
                    }
                    self.tell(live.ready).await;
                }
                _ = tick.tick() => {
                    if live.is_silent(self.request_timeout) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    if Instant::now() >= next_alive {
                        next_alive = Instant::now() + ALIVE_INTERVAL;
                        let question = BytesMut::from(&self.place.question()[..]);
                        self.send(live, question, Asked::Alive).await?;
                    }
                }
            }
        }
    }

    async fn handle(&mut self, live: &mut Live, request: Request) -> io::Result<()> {
        match request {
            Request::Listen { names, answer } => {
                let names: Vec<Arc<str>> = names.into_iter().filter(|name| !live.confirmed.contains(name)).collect();
                let new = names.iter().filter(|name| self.wanted.insert(Arc::clone(name))).cloned().collect();
                let bytes = subscribe(&names);
                self.send(live, bytes, Asked::Listen { names, new, answer }).await
            }
            Request::Unlisten(names) => self.unlisten(live, &names).await,
        }
    }

    async fn unlisten(&mut self, live: &mut Live, names: &[Arc<str>]) -> io::Result<()> {
        let names: Vec<Arc<str>> = names.iter().filter(|name| self.wanted.remove(*name)).cloned().collect();
        // At once, so that who asks for one of them again does not rely on it.
        names.iter().for_each(|name| _ = live.confirmed.remove(name));
        match names.is_empty() {
            true => Ok(()),
            false => self.send(live, unsubscribe(&names), Asked::Unlisten).await,
        }
    }

    async fn send(&self, live: &mut Live, bytes: BytesMut, what: Asked) -> io::Result<()> {
        live.under_way.push_back(UnderWay { what, errors: Vec::new(), sent: Instant::now() });
        timeout(self.request_timeout, live.writer.write(&bytes)).await.map_err(io::Error::from)?
    }

    async fn take(&mut self, live: &mut Live, frame: BytesFrame) -> io::Result<()> {
        live.heard = Instant::now();
        let BytesFrame::Push { data, .. } = frame else { return self.take_answer(live, &frame).await };
        let (kind, name) = (data.first().and_then(text_of), data.get(1).and_then(text_of));
        match (kind, name) {
            (Some("message"), Some(name)) => {
                // Those of names that nobody wants any more may still be on their way.
                let Some(name) = self.wanted.get(name).cloned() else { return Ok(()) };
                let Some(bytes) = data.get(2).and_then(bytes_of) else { return Ok(()) };
                self.deliver(LinkEvent::Message { name, body: body::detach(bytes.clone()) }).await
            }
            (Some("subscribe"), Some(name)) => {
                if let Some(name) = self.wanted.get(name) {
                    live.confirmed.insert(Arc::clone(name));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn take_answer(&mut self, live: &mut Live, frame: &BytesFrame) -> io::Result<()> {
        let unasked = || io::Error::new(io::ErrorKind::InvalidData, "an answer that nobody asked for");
        let first = live.under_way.front_mut().ok_or_else(unasked)?;
        if let (Some(error), false) = (error_of(frame), matches!(first.what, Asked::Alive)) {
            first.errors.push(error);
            return Ok(());
        }
        let done = live.under_way.pop_front().ok_or_else(unasked)?;
        match done.what {
            Asked::Unlisten => Ok(()),
            Asked::Alive if self.place.is_well(frame) => Ok(()),
            Asked::Alive => Err(io::Error::other("the server is not a part of its cluster")),
            Asked::Everything if self.wanted.iter().all(|name| live.knows(name)) => {
                live.ready = true;
                self.connected.send_replace(true);
                self.tell(true).await;
                Ok(())
            }
            Asked::Everything => {
                let reason = done.errors.into_iter().next().unwrap_or_default();
                tracing::warn!(%reason, "Redis does not let this node listen again");
                Err(io::Error::other(reason))
            }
            Asked::Listen { names, new, answer } => {
                let confirmed = names.iter().all(|name| live.confirmed.contains(name) || !self.wanted.contains(name));
                let reason = || done.errors.into_iter().next().unwrap_or_else(|| "not confirmed".to_owned());
                let result =
                    if confirmed { Ok(()) } else { Err(BrokerError::Refused { broker: self.name, reason: reason() }) };
                // Nobody would ever end it, unless somebody else has asked for it since, who is answered next.
                let is_unwanted = !confirmed | answer.send(result).is_err();
                let unwanted: Vec<_> = new.into_iter().filter(|name| !live.is_asked_for(name)).collect();
                if is_unwanted { self.unlisten(live, &unwanted).await } else { Ok(()) }
            }
        }
    }

    async fn deliver(&mut self, event: LinkEvent) -> io::Result<()> {
        let event = match self.events.try_send(event) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Ok(()),
            Err(TrySendError::Full(event)) => event,
        };
        let waiting = timeout(limits::STALL, self.events.send(event)).await;
        let slow = |_| {
            tracing::warn!(limit = limits::LISTENED, "nobody takes what comes from Redis; listening is interrupted");
            io::Error::other("nobody takes what comes")
        };
        waiting.map(|_| ()).map_err(slow)
    }

    /// Tells what has changed. Where nobody reads, it waits: nothing that was told before is lost.
    async fn tell(&mut self, ready: bool) {
        let health = *self.health.borrow_and_update();
        let now = (ready && health.up).then_some(health.connections);
        if self.told == now {
            return;
        }
        // Who reads the events no more needs none.
        if self.told.is_some() {
            let _ = self.events.send(LinkEvent::Interrupted).await;
        }
        if let Some(connections) = now {
            let is_same = std::mem::replace(&mut self.last_well, connections) == connections;
            let _ = self.events.send(if is_same { LinkEvent::Relistened } else { LinkEvent::Resumed }).await;
        }
        self.told = now;
    }

    /// Answers what was under way over a connection that has ended.
    fn fail_all(&mut self, live: Live) {
        for asked in live.under_way {
            if let Asked::Listen { new, answer, .. } = asked.what {
                new.iter().for_each(|name| _ = self.wanted.remove(name));
                let _ = answer.send(Err(BrokerError::Unavailable { broker: self.name }));
            }
        }
    }
}

impl Live {
    fn knows(&self, name: &Arc<str>) -> bool {
        self.confirmed.contains(name) || self.is_asked_for(name)
    }

    /// Whether it is asked for by what is still under way.
    fn is_asked_for(&self, name: &Arc<str>) -> bool {
        self.under_way.iter().any(|asked| matches!(&asked.what, Asked::Listen { names, .. } if names.contains(name)))
    }

    /// Whether it owes an answer and has said nothing for so long.
    fn is_silent(&self, limit: Duration) -> bool {
        self.under_way.front().is_some_and(|first| self.heard.max(first.sent).elapsed() >= limit)
    }
}

async fn open(
    place: &Place,
    connector: &Connector,
    limit: Duration,
) -> Result<(Server, Frames, Writer), ConnectionError> {
    let nowhere = || ConnectionError::Io(io::ErrorKind::NotConnected.into());
    let server = place.choose().ok_or_else(nowhere)?;
    let (mut frames, mut writer) = connector.open(&server).await?;
    let asking = async {
        writer.write(&place.question()).await?;
        Ok::<_, io::Error>(place.is_well(&frames.next().await?))
    };
    match timeout(limit, asking).await.map_err(|_| ConnectionError::Timeout(limit))?? {
        true => Ok((server, frames, writer)),
        false => Err(ConnectionError::Refused("the server is not a part of its cluster".to_owned())),
    }
}

fn subscribe(names: &[Arc<str>]) -> BytesMut {
    commands(b"SUBSCRIBE", names)
}

fn unsubscribe(names: &[Arc<str>]) -> BytesMut {
    commands(b"UNSUBSCRIBE", names)
}

fn commands(word: &[u8], names: &[Arc<str>]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for names in names.chunks(NAMES_PER_COMMAND) {
        begin(&mut bytes, names.len() + 1);
        append(&mut bytes, word);
        names.iter().for_each(|name| append(&mut bytes, name.as_bytes()));
    }
    encode(&mut bytes, &["PING"]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use fanfare_testkit::{RedisServer, redis::Reply};
    use futures_util::poll;

    use super::*;
    use crate::{
        BrokerOptions,
        redis_link::{FunctionLibrary, RedisLink},
    };

    const LIBRARY: FunctionLibrary = FunctionLibrary {
        name: "listener_test",
        text: "#!lua name=listener_test\nlocal REVISION = 1\nredis.register_function { function_name = 'listener_test_check', \
               callback = function() return { REVISION, {} } end, flags = { 'no-writes' } }",
        check: "listener_test_check",
        check_arguments: &[],
        purpose: "a test",
        printed_by: "nothing",
        waits: false,
    };

    #[tokio::test]
    async fn who_gives_up_does_not_end_the_listening_of_who_asks_behind_it() {
        let server = RedisServer::start().await;
        let (link, mut told) = RedisLink::connect(&BrokerOptions::new(server.url()), LIBRARY).await.unwrap();
        for round in 0..20 {
            let name = format!("name {round}");
            {
                let first = link.listen(vec![name.clone()]);
                tokio::pin!(first);
                assert!(matches!(poll!(&mut first), Poll::Pending), "it was asked and is not answered");
            }
            link.listen(vec![name.clone()]).await.unwrap();
            assert_eq!(server.command(&["PUBLISH", &name, "x"]).await, Reply::Integer(1), "round {round}");
            let LinkEvent::Message { name: heard, .. } = told.recv().await.unwrap() else { panic!("round {round}") };
            assert_eq!(*heard, *name);
        }
        link.close().await;
    }
}
