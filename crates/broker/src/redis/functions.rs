//! The function library `fanfare_v1`: its text, how its functions are called, and what they answer. Without IO.
//!
//! What the functions do, and what their keys hold, stands in `fanfare_v1.lua`. All keys of one call carry the same hash
//! tag, so that a cluster has them on one node.

use std::fmt;

use bytes::Bytes;
use fanfare_protocol::{Body, Channel, Epoch, Position, RedisChannels, Tenant};
use fred::types::Value;

use super::{FUNCTIONS, library::FunctionLibrary};
use crate::{HistoryPage, HistoryRange, HistoryRead, LivePosition, Publish, Recorded, Retention, Standing};

/// A call of a function: what stands behind `FCALL`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) function: &'static str,
    /// All in one slot.
    pub(crate) keys: Vec<String>,
    pub(crate) arguments: Vec<Value>,
}

/// Whether a server loses nothing of what it has acknowledged when it ends and starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It writes to its disk before it answers, and no replica may take its place.
    Durable,
    /// It may lose something.
    Loose,
    /// It does not say.
    Unknown,
    /// It may lose something, and where the channel may have come from another server it is to say so, see [`unproven`].
    Ask,
    /// It may lose something, but the channel has come from the server with this replication id, and nothing was lost on the way.
    From(ReplicationId),
}

/// By which a server and what it has are known, from its start or its last change of role on (`master_replid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplicationId([u8; 40]);

/// How calls are made for one deployment.
#[derive(Clone, Debug)]
pub(crate) struct Functions {
    pub(crate) names: RedisChannels,
    /// Publish with SPUBLISH, as a cluster needs it.
    pub(crate) sharded: bool,
    /// How long the id of a publication is remembered, in milliseconds.
    pub(crate) dedupe_window_ms: u64,
}

/// What a publish was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) position: Position,
    /// Its id had been published before, and `position` is where that stands.
    pub(crate) duplicate: bool,
    /// Replicas that followed the server then.
    pub(crate) replicas: u64,
}

/// What the library of a server was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) revision: u64,
    /// Commands that the user may not use.
    pub(crate) missing: Vec<String>,
}

/// An answer, or a message on a live channel, that no function of this library gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {found:.80}")]
pub(crate) struct Malformed {
    what: &'static str,
    found: String,
}

/// What a function puts on a live channel.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) position: LivePosition,
    /// The server's time in milliseconds since the Unix epoch.
    pub(crate) timestamp: Option<u64>,
    pub(crate) body: Bytes,
}

impl Call {
    /// The words behind `FCALL`.
    pub(crate) fn into_arguments(self) -> Vec<Value> {
        let count = i64::try_from(self.keys.len()).expect("a call has a handful of keys");
        let mut words = Vec::with_capacity(2 + self.keys.len() + self.arguments.len());
        words.extend([Value::from_static_str(self.function), Value::from(count)]);
        words.extend(self.keys.into_iter().map(Value::from));
        words.extend(self.arguments);
        words
    }
}

impl Durability {
    fn word(self) -> Value {
        Value::from_static_str(match self {
            Self::Durable => "1",
            Self::Loose => "0",
            Self::Unknown => "",
            Self::Ask => "ask",
            Self::From(id) => return Value::from(format!("from {id}")),
        })
    }
}

impl ReplicationId {
    /// Forty hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 40] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(digits))
    }
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Functions {
    pub(crate) fn publish(&self, publish: &Publish, retention: Retention, durability: Durability) -> Call {
        let Publish { tenant, channel, body, id, .. } = publish;
        let mut keys = self.keys(tenant, channel);
        keys.push(self.names.live(tenant, channel));
        keys.extend(id.as_ref().map(|id| self.names.id_key(tenant, channel, id)));
        let arguments = vec![
            Value::Bytes(body.clone()),
            number(retention.size.into()),
            ttl(retention),
            number(self.dedupe_window_ms.max(1)),
            durability.word(),
            flag(self.sharded),
        ];
        Call { function: "fanfare_v1_publish", keys, arguments }
    }

    pub(crate) fn history(&self, read: &HistoryRead, retention: Retention, durability: Durability) -> Call {
        let (direction, offset) = match read.range {
            HistoryRange::After(offset) => ("after", number(offset)),
            HistoryRange::Before(offset) => ("before", offset.map_or_else(|| Value::from_static_str(""), number)),
        };
        let arguments = vec![
            Value::from_static_str(direction),
            offset,
            number(read.max_publications as u64),
            number(read.max_bytes as u64),
            ttl(retention),
            durability.word(),
        ];
        Call { function: "fanfare_v1_history", keys: self.keys(&read.tenant, &read.channel), arguments }
    }

    pub(crate) fn position(
        &self,
        tenant: &Tenant,
        channel: &Channel,
        retention: Retention,
        durability: Durability,
    ) -> Call {
        let arguments = vec![ttl(retention), durability.word()];
        Call { function: "fanfare_v1_position", keys: self.keys(tenant, channel), arguments }
    }

    /// What the servers have to have.
    pub(crate) fn library(&self) -> FunctionLibrary {
        FunctionLibrary {
            name: "fanfare_v1",
            text: FUNCTIONS,
            check: "fanfare_v1_check",
            check_arguments: if self.sharded { &["1"] } else { &["0"] },
            purpose: "history",
            printed_by: "fanfare redis-functions",
            waits: true,
        }
    }

    fn keys(&self, tenant: &Tenant, channel: &Channel) -> Vec<String> {
        vec![self.names.history_key(tenant, channel), self.names.meta_key(tenant, channel)]
    }
}

/// Whether the server's answer says that the library is not loaded.
pub(crate) fn is_missing(reason: &str) -> bool {
    reason.contains("Function not found")
}

/// Which server's keys these were last, where an error says that it may have been another's; see [`Durability::Ask`].
pub(crate) fn unproven(reason: &str) -> Option<ReplicationId> {
    ReplicationId::parse(reason.strip_prefix("UNPROVEN ")?.split(' ').next()?)
}

pub(crate) fn parse_publish(answer: Value) -> Result<Appended, Malformed> {
    let [offset, epoch, duplicate, replicas] = fields("the answer to a publish", answer)?;
    Ok(Appended {
        position: Position { offset: unsigned(&offset)?, epoch: epoch_of(&epoch)? },
        duplicate: unsigned(&duplicate)? == 1,
        replicas: unsigned(&replicas)?,
    })
}

pub(crate) fn parse_position(answer: Value) -> Result<Standing, Malformed> {
    let [epoch, last, first] = fields("the answer to a position", answer)?;
    let position = Position { offset: unsigned(&last)?, epoch: epoch_of(&epoch)? };
    let empty = unsigned(&first)? > position.offset;
    Ok(Standing { position, empty })
}

pub(crate) fn parse_history(answer: Value, range: HistoryRange) -> Result<HistoryPage, Malformed> {
    let [epoch, last, first, entries] = fields("the answer to a read", answer)?;
    let (last, first) = (unsigned(&last)?, unsigned(&first)?);
    let position = Position { offset: last, epoch: epoch_of(&epoch)? };
    let Value::Array(entries) = entries else { return Err(malformed("no list of entries", &entries)) };
    let mut publications = entries.into_iter().map(recorded).collect::<Result<Vec<_>, _>>()?;
    let (more, whole) = match range {
        HistoryRange::After(after) => {
            let reached = publications.last().map_or(after.max(first.saturating_sub(1)), |newest| newest.offset);
            (reached < last, after <= last && after.saturating_add(1) >= first)
        }
        HistoryRange::Before(_) => {
            publications.reverse();
            (publications.first().is_some_and(|oldest| oldest.offset > first), true)
        }
    };
    Ok(HistoryPage { publications, position, more, whole })
}

pub(crate) fn parse_check(answer: Value) -> Result<Checked, Malformed> {
    let [revision, missing] = fields("the answer to a check", answer)?;
    let Value::Array(missing) = missing else { return Err(malformed("no list of commands", &missing)) };
    let missing = missing.iter().map(|command| command.as_string().unwrap_or_default()).collect();
    Ok(Checked { revision: unsigned(&revision)?, missing })
}

/// `EPOCH OFFSET PREVIOUS TIME\n` and the envelope. PREVIOUS is `-` at the beginning of an epoch that is not the channel's first;
/// TIME may be missing.
pub(crate) fn parse_live(message: &Bytes) -> Result<Live, Malformed> {
    const HEAD_BYTES: usize = Epoch::BYTES + 3 * 21;
    let bad = |what| Malformed {
        what,
        found: String::from_utf8_lossy(&message[..message.len().min(HEAD_BYTES)]).into_owned(),
    };
    let end = message.iter().take(HEAD_BYTES + 1).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| bad("a live message does not begin with a line of its position"))?;
    let head = std::str::from_utf8(&message[..end]).map_err(|_| bad("a live message's position is no text"))?;
    let decimal = |word: &str| {
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| word.parse::<u64>().ok()).flatten().ok_or_else(|| bad("a live message's position is no number"))
    };
    let words: Vec<&str> = head.split(' ').collect();
    let (&[epoch, offset, previous], time) = match words.split_at_checked(3) {
        Some((position, rest)) if rest.len() < 2 => (
            <&[&str; 3]>::try_from(position).expect("it was split after three words"),
            rest.first().map(|time| decimal(time)).transpose()?,
        ),
        _ => return Err(bad("a live message's position is not epoch, offset, previous and time")),
    };
    let epoch = Epoch::parse(epoch).map_err(|_| bad("a live message's epoch is none"))?;
    let offset = decimal(offset)?;
    let previous = if previous == "-" { None } else { Some(decimal(previous)?) };
    if previous.is_some_and(|previous| previous >= offset) || offset == 0 {
        return Err(bad("a live message does not lie behind the one before it"));
    }
    let position = LivePosition { position: Position { offset, epoch }, previous };
    Ok(Live { position, timestamp: time, body: message.slice(end + 1..) })
}

fn ttl(retention: Retention) -> Value {
    number(u64::try_from(retention.ttl.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// Offsets and sizes stay far below 2^53, from where on Redis' Lua counts no more; what a client makes up may not.
fn number(number: u64) -> Value {
    const LAST: u64 = (1 << 53) - 1;
    Value::from(i64::try_from(number.min(LAST)).expect("it is below 2^53"))
}

fn flag(flag: bool) -> Value {
    Value::from_static_str(if flag { "1" } else { "0" })
}

fn recorded(entry: Value) -> Result<Recorded, Malformed> {
    let [id, body] = fields("an entry", entry)?;
    let bad = || malformed("an entry's id is not an offset and a time", &id);
    let text = id.as_str().ok_or_else(bad)?;
    let (offset, time) = text.split_once('-').ok_or_else(bad)?;
    let offset = offset.parse().map_err(|_| bad())?;
    let timestamp = Some(time.parse().map_err(|_| bad())?);
    let body = match body {
        Value::Bytes(bytes) => bytes,
        Value::String(text) => text.into_inner(),
        other => return Err(malformed("an entry's body is no bytes", &other)),
    };
    Ok(Recorded { offset, body: Body::new(crate::body::detach(body)), timestamp })
}

fn fields<const COUNT: usize>(what: &'static str, answer: Value) -> Result<[Value; COUNT], Malformed> {
    match answer {
        Value::Array(fields) => {
            <[Value; COUNT]>::try_from(fields).map_err(|fields| malformed(what, &Value::Array(fields)))
        }
        other => Err(malformed(what, &other)),
    }
}

fn unsigned(value: &Value) -> Result<u64, Malformed> {
    value.as_u64().ok_or_else(|| malformed("no number from 0", value))
}

fn epoch_of(value: &Value) -> Result<Epoch, Malformed> {
    let text = value.as_str();
    text.and_then(|text| Epoch::parse(&text).ok()).ok_or_else(|| malformed("no epoch", value))
}

fn malformed(what: &'static str, found: &Value) -> Malformed {
    Malformed { what, found: format!("{found:?}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn functions() -> Functions {
        Functions { names: RedisChannels::new("rt").unwrap(), sharded: false, dedupe_window_ms: 120_000 }
    }

    fn words(call: Call) -> String {
        call.into_arguments().iter().map(|word| word.as_string().unwrap()).collect::<Vec<_>>().join("|")
    }

    fn array(values: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(values.into_iter().collect())
    }

    const RETENTION: Retention = Retention { size: 10, ttl: Duration::from_secs(60) };

    #[test]
    fn calls_name_their_keys_and_arguments() {
        let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse("p:x").unwrap());
        let mut publish = Publish { tenant, channel, body: "{}".into(), id: None, ephemeral: false };
        let keys = "rt:hist:{acme:p:x}|rt:meta:{acme:p:x}";
        let call = |publish: &Publish| words(functions().publish(publish, RETENTION, Durability::Durable));
        let arguments = "{}|10|60000|120000|1|0";
        assert_eq!(call(&publish), format!("fanfare_v1_publish|3|{keys}|rt:live:{{acme:p:x}}|{arguments}"));
        publish.id = Some("i d}".into());
        let id = "rt:id:{acme:p:x}:i d}";
        assert_eq!(call(&publish), format!("fanfare_v1_publish|4|{keys}|rt:live:{{acme:p:x}}|{id}|{arguments}"));
        let Publish { tenant, channel, .. } = publish;
        let position = functions().position(&tenant, &channel, RETENTION, Durability::Unknown);
        assert_eq!(words(position), format!("fanfare_v1_position|2|{keys}|60000|"));
        for (range, direction) in [
            (HistoryRange::After(0), "after|0"),
            (HistoryRange::After(u64::MAX), "after|9007199254740991"),
            (HistoryRange::Before(Some(7)), "before|7"),
            (HistoryRange::Before(None), "before|"),
        ] {
            let (tenant, channel) = (tenant.clone(), channel.clone());
            let read = HistoryRead { tenant, channel, range, max_publications: 5, max_bytes: 100 };
            let call = functions().history(&read, RETENTION, Durability::Loose);
            assert_eq!(words(call), format!("fanfare_v1_history|2|{keys}|{direction}|5|100|60000|0"));
        }
        let sharded = Functions { sharded: true, ..functions() };
        assert_eq!(words(sharded.library().check_call()), "fanfare_v1_check|0|1");
    }

    #[test]
    fn answers_are_read_and_others_refused() {
        let answer = array([Value::from(7), Value::from("e"), Value::from(1), Value::from(2)]);
        let appended = parse_publish(answer).unwrap();
        assert_eq!((appended.position.offset, appended.position.epoch.as_str()), (7, "e"));
        assert!(appended.duplicate && appended.replicas == 2);
        let standing = |last: i64, first: i64| {
            parse_position(array([Value::from("e"), Value::from(last), Value::from(first)])).unwrap().empty
        };
        assert!(!standing(7, 7) && standing(7, 8));
        let checked = parse_check(array([Value::from(1), array([Value::from("xadd")])])).unwrap();
        assert_eq!((checked.revision, checked.missing), (1, vec!["xadd".to_owned()]));
        for bad in [
            Value::Null,
            array([]),
            array([Value::from(7), Value::from("e"), Value::from(1)]),
            array([Value::from(-7), Value::from("e"), Value::from(1), Value::from(2)]),
            array([Value::from(7), Value::from("e e"), Value::from(1), Value::from(2)]),
            array([Value::from(7), Value::Null, Value::from(1), Value::from(2)]),
        ] {
            assert!(parse_publish(bad.clone()).is_err(), "{bad:?}");
            assert!(parse_history(bad, HistoryRange::Before(None)).is_err());
        }
    }

    /// Offset 11 to 14 are retained of an epoch that began after 10.
    fn page(range: HistoryRange, entries: &[u64]) -> HistoryPage {
        let entry = |offset: &u64| array([Value::from(format!("{offset}-1000")), Value::from("b")]);
        let entries = array(entries.iter().map(entry));
        parse_history(array([Value::from("e"), Value::from(14), Value::from(11), entries]), range).unwrap()
    }

    #[test]
    fn a_page_is_whole_where_nothing_is_missing() {
        for (after, entries, more, whole) in [
            (10, &[11, 12, 13, 14][..], false, true),
            (10, &[11, 12], true, true),
            (9, &[11, 12, 13, 14], false, false),
            (13, &[14], false, true),
            (14, &[], false, true),
            (15, &[], false, false),
            (u64::MAX, &[], false, false),
            (0, &[11], true, false),
        ] {
            let page = page(HistoryRange::After(after), entries);
            assert_eq!((page.more, page.whole), (more, whole), "after {after}: {entries:?}");
            assert!(page.publications.iter().map(|recorded| recorded.offset).eq(entries.iter().copied()));
        }
        let expired = array([Value::from("e"), Value::from(14), Value::from(15), array([])]);
        let page_of = |after| parse_history(expired.clone(), HistoryRange::After(after)).unwrap();
        assert!(!page_of(3).more && !page_of(3).whole && page_of(14).whole);
        for (before, entries, oldest_first, more) in [
            (None, &[14, 13][..], &[13, 14][..], true),
            (Some(13), &[12, 11], &[11, 12], false),
            (Some(11), &[], &[], false),
        ] {
            let page = page(HistoryRange::Before(before), entries);
            assert_eq!((page.more, page.whole), (more, true), "before {before:?}");
            assert!(page.publications.iter().map(|recorded| recorded.offset).eq(oldest_first.iter().copied()));
        }
    }

    #[test]
    fn a_live_message_begins_with_its_position() {
        let read = |text: &'static str| parse_live(&Bytes::from_static(text.as_bytes()));
        let live = read("e-_ 7 6 1696867200000\n{\n}").unwrap();
        assert_eq!((live.position.position.offset, live.position.position.epoch.as_str()), (7, "e-_"));
        assert_eq!((live.position.previous, live.timestamp), (Some(6), Some(1_696_867_200_000)));
        assert_eq!(live.body, "{\n}");
        let first = read("e 1 0\n").unwrap();
        assert_eq!((first.position.previous, first.timestamp, first.body.len()), (Some(0), None, 0));
        assert_eq!(read("e 7 - 1\n").unwrap().position.previous, None);
        let long: &'static str = Box::leak(format!("e 7 6 {}\n", "1".repeat(200)).into_boxed_str());
        for bad in [
            "",
            "{}",
            "\n",
            "e 7\n",
            "e 7 6 1 2\n",
            "e 7 6  1\n",
            "e 7 6 1",
            "e x 6 1\n",
            "e +7 6 1\n",
            "e 7 6 x\n",
            "e 6 6 1\n",
            "e 0 - 1\n",
            "e. 7 6 1\n",
            " 7 6 1\n",
            "e 7 6 1\r\n",
            "e 18446744073709551616 6 1\n",
            long,
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(parse_live(&Bytes::from_static(b"e 7 6 \xff\n")).is_err());
    }

    #[test]
    fn whose_keys_they_were_is_asked_and_answered() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let found = unproven(&format!("UNPROVEN {id}")).unwrap();
        let (tenant, channel) = (Tenant::parse("acme").unwrap(), Channel::parse("p:x").unwrap());
        let call = |durability| words(functions().position(&tenant, &channel, RETENTION, durability));
        assert!(call(Durability::Ask).ends_with("|60000|ask"));
        assert!(call(Durability::From(found)).ends_with(&format!("|60000|from {id}")));
        for other in ["UNPROVEN", "UNPROVEN x", &format!("ERR {id}"), &format!("UNPROVEN {id}0")] {
            assert_eq!(unproven(other), None, "{other}");
        }
    }

    #[test]
    fn the_library_names_its_revision() {
        assert!(FUNCTIONS.starts_with("#!lua name=fanfare_v1\n") && functions().library().revision() >= 1);
    }
}
