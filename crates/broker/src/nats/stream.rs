//! The streams that keep history, and which numbering each of them is at; and the one that keeps lifecycle events.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use fanfare_protocol::{Channel, Epoch, NatsSubjects, Position, Topic};
use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use super::{
    api::{StreamInfo, milliseconds},
    intake::Headers,
    stream_config::StreamConfig,
};
use crate::{HistoryOptions, LivePosition};

/// How long history is read message by message after a consumer did harm or no good: a message in the stream may be one that
/// the library gives up the connection for, which would come again with every read; or consumers are given to a server that
/// is away.
const WARY: Duration = Duration::from_secs(60);

/// The streams of this node's namespaces with history.
#[derive(Debug)]
pub(super) struct Streams {
    by_namespace: HashMap<Box<str>, Arc<Stream>>,
    /// Where this node tells lifecycle events.
    events: Option<Arc<Stream>>,
    /// Whether that one is there. Without it they are published to whoever listens.
    has_events: AtomicBool,
    told_no_events: AtomicBool,
    /// Whether this node creates and updates them.
    pub(super) managed: bool,
    /// Something happened by which a stream may have become another.
    pub(super) doubt: Arc<Notify>,
}

/// The stream of one namespace, or that of lifecycle events, whose numbering nobody asks for.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    epoch: RwLock<Epoch>,
    /// How often the epoch has changed; changed before it.
    numbering: AtomicU32,
    /// The numbering is another than the one that interests have heard of.
    renumbered: AtomicBool,
    /// The highest sequence that was seen.
    highest: AtomicU64,
    /// When the stream was made anew, in milliseconds since the Unix epoch; 0 where it is the one of the start.
    made_anew: AtomicU64,
    wary_until: RwLock<Option<Instant>>,
    doubt: Arc<Notify>,
}

/// Why a message does not say where it stands.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unplaced {
    #[error("the header {0} is missing or no number, so that no stream has republished it")]
    Header(&'static str),
    #[error("it names the stream {0:?}, which is not the one of its namespace")]
    Stream(String),
    #[error("its stream was made anew, and it may be of the one before")]
    Former,
}

impl Streams {
    pub(super) fn new(subjects: &NatsSubjects, options: &HistoryOptions, tells: bool) -> Self {
        let doubt = Arc::new(Notify::new());
        let made = |config| Arc::new(Stream::new(config, Arc::clone(&doubt)));
        let stream = |namespace: &str, retention| made(StreamConfig::new(subjects, namespace, retention, options));
        let by_namespace = options
            .namespaces
            .iter()
            .map(|(namespace, retention)| (namespace.clone(), stream(namespace, *retention)))
            .collect();
        let events = tells.then(|| made(StreamConfig::events(subjects, options)));
        Self {
            by_namespace,
            events,
            has_events: AtomicBool::new(false),
            told_no_events: AtomicBool::new(false),
            managed: options.manage_streams,
            doubt,
        }
    }

    /// Those that keep history.
    pub(super) fn recorded(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.by_namespace.values()
    }

    /// All that are to be there.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.recorded().chain(&self.events)
    }

    /// The one of lifecycle events, where this node tells them.
    pub(super) fn events(&self) -> Option<&Arc<Stream>> {
        self.events.as_ref()
    }

    /// The same where it is known to be there.
    pub(super) fn present_events(&self) -> Option<&Arc<Stream>> {
        self.events().filter(|_| self.has_events.load(Ordering::Relaxed))
    }

    /// The stream of lifecycle events is there, or is not, and why. The latter is said once.
    pub(super) fn set_events(&self, found: Result<(), String>) {
        let Some(stream) = &self.events else { return };
        let was = self.has_events.swap(found.is_ok(), Ordering::Relaxed);
        match found {
            Ok(()) if !was => tracing::info!(stream = stream.name(), "lifecycle events are kept by a stream"),
            Err(reason) if was || !self.told_no_events.swap(true, Ordering::Relaxed) => tracing::warn!(
                reason,
                "no stream keeps lifecycle events: they are published to whoever listens, and lost to services that are away"
            ),
            _ => {}
        }
    }

    /// The stream of a channel's namespace; `None` where it is live only.
    pub(super) fn of_channel(&self, channel: &Channel) -> Option<&Arc<Stream>> {
        self.by_namespace.get(channel.namespace())
    }

    /// The stream that takes all that matches a topic: its namespace is literal.
    pub(super) fn of_topic(&self, topic: &Topic) -> Option<&Arc<Stream>> {
        let name = topic.as_str();
        self.by_namespace.get(name.split_once(':').map_or(name, |(namespace, _)| namespace))
    }
}

impl Stream {
    fn new(config: StreamConfig, doubt: Arc<Notify>) -> Self {
        // Nothing is asked before the first connection has learnt the real one.
        let epoch = epoch(&config.name, "");
        Self {
            config,
            epoch: RwLock::new(epoch),
            numbering: AtomicU32::new(0),
            renumbered: AtomicBool::new(false),
            highest: AtomicU64::new(0),
            made_anew: AtomicU64::new(0),
            wary_until: RwLock::new(None),
            doubt,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Which numbering the stream is at, as far as is known.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch.read().expect(UNPOISONED).clone()
    }

    /// Which of the numberings that it has had, in a few bytes.
    pub(super) fn numbering(&self) -> u32 {
        self.numbering.load(Ordering::Acquire)
    }

    pub(super) fn position(&self, offset: u64) -> Position {
        Position { offset, epoch: self.epoch() }
    }

    /// Takes the numbering from what the leader said. Where it is another, those who are interested will be told.
    pub(super) fn learn(&self, info: &StreamInfo) -> Epoch {
        let now = epoch(self.name(), &info.created);
        let mut epoch = self.epoch.write().expect(UNPOISONED);
        if *epoch != now {
            tracing::warn!(stream = self.name(), created = info.created, "the stream is not the one it was");
            self.numbering.fetch_add(1, Ordering::AcqRel);
            *epoch = now.clone();
            self.made_anew.store(milliseconds(&info.created).unwrap_or_default(), Ordering::Relaxed);
            drop(epoch);
            self.highest.store(0, Ordering::Relaxed);
            self.renumbered.store(true, Ordering::Relaxed);
            self.doubt.notify_one();
        }
        now
    }

    /// As [`learn`](Self::learn), at start, when nobody is interested yet.
    pub(super) fn begin(&self, info: &StreamInfo) {
        *self.epoch.write().expect(UNPOISONED) = epoch(self.name(), &info.created);
    }

    /// Whether the numbering has changed since this was asked.
    pub(super) fn take_renumbered(&self) -> bool {
        self.renumbered.swap(false, Ordering::Relaxed)
    }

    /// The stream may not be the one it was; it will be looked at.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// The highest sequence that was seen.
    pub(super) fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    pub(super) fn saw(&self, sequence: u64) {
        self.highest.fetch_max(sequence, Ordering::Relaxed);
    }

    /// A connection was lost while a consumer delivered, or none could be made.
    pub(super) fn be_wary(&self) {
        *self.wary_until.write().expect(UNPOISONED) = Some(Instant::now() + WARY);
    }

    pub(super) fn is_wary(&self) -> bool {
        self.wary_until.read().expect(UNPOISONED).is_some_and(|until| Instant::now() < until)
    }

    /// Where a republished message stands that came by a subscription of this numbering, and that the stream took then, in
    /// milliseconds since the Unix epoch. Publishers can send these headers too; the stream's own are the last.
    ///
    /// What the stream before this one has republished has no place: its sequences mean nothing in the numbering of now.
    pub(super) fn live_position(
        &self,
        headers: &Headers<'_>,
        timestamp: Option<u64>,
        numbering: u32,
    ) -> Result<LivePosition, Unplaced> {
        let number =
            |name, text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).ok_or(Unplaced::Header(name));
        let stream = headers.stream.ok_or(Unplaced::Header("Nats-Stream"))?;
        if stream != self.name() {
            return Err(Unplaced::Stream(stream.to_owned()));
        }
        // In this order: the number changes before the epoch.
        let epoch = self.epoch();
        let made_anew = self.made_anew.load(Ordering::Relaxed);
        if self.numbering() != numbering || timestamp.is_some_and(|timestamp| timestamp < made_anew) {
            return Err(Unplaced::Former);
        }
        let offset = number("Nats-Sequence", headers.sequence)?;
        // The last one that is still retained: 0 says nothing about what was there.
        let previous = Some(number("Nats-Last-Sequence", headers.last_sequence)?).filter(|previous| *previous != 0);
        self.saw(offset);
        Ok(LivePosition { position: Position { offset, epoch }, previous })
    }
}

/// When the stream took a republished message. Servers before 2.12 or so do not say.
pub(super) fn live_timestamp(headers: &Headers<'_>) -> Option<u64> {
    milliseconds(headers.time_stamp?)
}

const UNPOISONED: &str = "nothing panics while it holds the epoch";

/// A word for a stream's incarnation: FNV-1a of its name and of when it was created.
fn epoch(name: &str, created: &str) -> Epoch {
    // As a number, where it can be read: how a time is written is up to the server.
    let since = humantime::parse_rfc3339(created).ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let created = since.map_or_else(|| created.to_owned(), |since| since.as_nanos().to_string());
    let hash = [name, "\n", &created]
        .iter()
        .flat_map(|text| text.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Epoch::parse(&format!("{hash:016x}")).expect("16 hexadecimal digits are an epoch")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Retention;

    fn stream() -> Arc<Stream> {
        let retention = Retention { size: 10, ttl: Duration::from_secs(60) };
        let options =
            HistoryOptions { namespaces: [("a".into(), retention)].into_iter().collect(), ..HistoryOptions::default() };
        let streams = Streams::new(&NatsSubjects::new("rt").unwrap(), &options, false);
        assert!(streams.of_topic(&Topic::parse("a:**").unwrap()).is_some());
        assert!(streams.of_topic(&Topic::parse("a").unwrap()).is_some());
        assert!(streams.of_topic(&Topic::parse("ab:c").unwrap()).is_none());
        Arc::clone(streams.of_channel(&Channel::parse("a:b").unwrap()).unwrap())
    }

    const STREAM: &str = "Nats-Stream";
    const SEQUENCE: &str = "Nats-Sequence";
    const LAST_SEQUENCE: &str = "Nats-Last-Sequence";

    /// Where a message with these headers stands.
    fn place(
        stream: &Stream,
        pairs: &[(&str, &str)],
        timestamp: Option<u64>,
        numbering: u32,
    ) -> Result<LivePosition, Unplaced> {
        let lines: String = pairs.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let block = format!("NATS/1.0\r\n{lines}\r\n");
        stream.live_position(&Headers::read(block.as_bytes()), timestamp, numbering)
    }

    #[test]
    fn the_last_of_each_header_counts() {
        let stream = stream();
        let forged = [(STREAM, "other"), (SEQUENCE, "900"), (LAST_SEQUENCE, "899")];
        let own = [(STREAM, "RT_a"), (SEQUENCE, "7"), (LAST_SEQUENCE, "3")];
        let both = place(&stream, &[forged, own].concat(), None, stream.numbering()).unwrap();
        assert_eq!((both.position.offset, both.previous), (7, Some(3)));
        let first = [own[0], own[1], (LAST_SEQUENCE, "0")];
        assert_eq!(place(&stream, &first, None, stream.numbering()).unwrap().previous, None);
        assert_eq!(stream.highest(), 7);
    }

    #[test]
    fn what_no_stream_has_republished_is_not_placed() {
        let stream = stream();
        let place = |pairs: &[_]| place(&stream, pairs, None, stream.numbering());
        assert_eq!(place(&[]), Err(Unplaced::Header(STREAM)));
        let other = [(STREAM, "RT_b"), (SEQUENCE, "7"), (LAST_SEQUENCE, "3")];
        assert_eq!(place(&other), Err(Unplaced::Stream("RT_b".to_owned())));
        assert_eq!(place(&[(STREAM, "RT_a"), (SEQUENCE, "x"), (LAST_SEQUENCE, "3")]), Err(Unplaced::Header(SEQUENCE)));
        assert_eq!(place(&[(STREAM, "RT_a"), (SEQUENCE, "7")]), Err(Unplaced::Header(LAST_SEQUENCE)));
    }

    #[test]
    fn what_the_stream_before_has_republished_is_not_placed() {
        let stream = stream();
        let message = [(STREAM, "RT_a"), (SEQUENCE, "5000"), (LAST_SEQUENCE, "4999")];
        let place = |timestamp, numbering| place(&stream, &message, timestamp, numbering);
        let former = stream.numbering();
        assert_eq!(place(Some(1), former).unwrap().position, stream.position(5_000));
        let info = json!({
            "config": {}, "created": "2026-11-21T16:00:00.5Z", "state": { "first_seq": 1, "last_seq": 3 },
        });
        stream.learn(&serde_json::from_value(info).unwrap());
        assert_eq!(place(None, former), Err(Unplaced::Former));
        assert_eq!(stream.highest(), 0);
        // It waited in the server, or came by another way.
        let created = 1_795_276_800_500;
        assert_eq!(place(Some(created - 1), stream.numbering()), Err(Unplaced::Former));
        assert_eq!(place(Some(created), stream.numbering()).unwrap().position, stream.position(5_000));
        assert_eq!(place(None, stream.numbering()).unwrap().position, stream.position(5_000));
    }

    #[test]
    fn an_epoch_is_of_one_incarnation() {
        let one = epoch("RT_a", "2026-11-21T16:00:00.5Z");
        assert_eq!(one, epoch("RT_a", "2026-11-21T16:00:00.500000000Z"));
        assert_ne!(one, epoch("RT_a", "2026-11-21T16:00:00.500000001Z"));
        assert_ne!(one, epoch("RT_b", "2026-11-21T16:00:00.5Z"));
    }
}
