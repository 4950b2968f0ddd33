//! The function library `fanfare_presence_v1`, and how its functions are called. Without IO.

use std::time::Duration;

use bytes::Bytes;
use fanfare_broker::redis_link::{FunctionCall, FunctionLibrary};

use super::{
    codec,
    keys::{Keys, place_text},
};
use crate::{ConnectionKey, Incarnation, Leases, Place, Renewal, Row, Write};

/// The function library `fanfare_presence_v1`; ready for `FUNCTION LOAD REPLACE`. Nodes load it themselves where they may.
pub const FUNCTIONS: &str = include_str!("fanfare_presence_v1.lua");

/// What servers have to have.
pub(super) const LIBRARY: FunctionLibrary = FunctionLibrary {
    name: "fanfare_presence_v1",
    text: FUNCTIONS,
    check: "fanfare_presence_v1_check",
    check_arguments: &[],
    purpose: "presence",
    printed_by: "fanfare-gateway presence-functions",
    waits: false,
};

/// Rows that one call writes or removes, at most.
const ROWS_PER_CALL: usize = 100;

/// Bytes of rows that one call writes, at most, and what crosses the limit.
const BYTES_PER_CALL: usize = 64 * 1024;

/// Rows that one call of `reap` looks at, about. Larger hashes are looked at in portions; small ones come wholly.
const REAP_PORTION: u64 = 256;

/// How calls are made for one deployment.
#[derive(Clone, Debug)]
pub(super) struct Functions {
    pub(super) keys: Keys,
    /// All keys are at one server, so that a function sees them all.
    pub(super) one_slot: bool,
}

impl Functions {
    pub(super) fn renew(&self, renewal: &Renewal) -> FunctionCall {
        let Renewal { incarnation, lease, begin, reaps } = renewal;
        let arguments = vec![
            text(incarnation.as_str()),
            millis(*lease),
            flag(*begin),
            flag(*reaps),
            millis(Leases::REAP_CLAIM),
            millis(Leases::REAP_AGAIN_FOR),
        ];
        FunctionCall { function: "fanfare_presence_v1_renew", keys: self.keys.of_leases(), arguments }
    }

    /// `None` for nothing to be left of it.
    pub(super) fn resign(&self, incarnation: &Incarnation, after: Option<Duration>) -> FunctionCall {
        let arguments = vec![text(incarnation.as_str()), after.map_or_else(Bytes::new, millis)];
        FunctionCall { function: "fanfare_presence_v1_resign", keys: self.keys.of_leases(), arguments }
    }

    pub(super) fn reaped(&self, dead: &Incarnation, again: Duration) -> FunctionCall {
        let arguments = vec![text(dead.as_str()), millis(again), millis(Leases::REAP_AGAIN_FOR)];
        FunctionCall { function: "fanfare_presence_v1_reaped", keys: self.keys.of_leases(), arguments }
    }

    pub(super) fn lease(&self, incarnation: &Incarnation) -> FunctionCall {
        let (keys, arguments) = (vec![self.keys.leases()], vec![text(incarnation.as_str())]);
        FunctionCall { function: "fanfare_presence_v1_lease", keys, arguments }
    }

    /// At least one call, to be made one after the other. Each is bounded, and so is what it publishes.
    pub(super) fn write(&self, write: &Write) -> Vec<FunctionCall> {
        let Write { place, incarnation, puts, removes } = write;
        let mut calls = Vec::new();
        let mut call = Portion::default();
        for row in puts {
            call.put(row);
            if call.is_full() {
                calls.push(std::mem::take(&mut call));
            }
        }
        for connection in removes {
            call.removes.push(*connection);
            if call.is_full() {
                calls.push(std::mem::take(&mut call));
            }
        }
        if calls.is_empty() || !call.is_empty() {
            calls.push(call);
        }
        calls.into_iter().map(|portion| self.write_portion(place, incarnation, portion)).collect()
    }

    fn write_portion(&self, place: &Place, incarnation: &Incarnation, portion: Portion) -> FunctionCall {
        let mut arguments =
            vec![self.keys.change(place).into(), text(incarnation.as_str()), epoch(), number(portion.rows as u64)];
        arguments.extend(portion.puts);
        arguments.extend(portion.removes.iter().map(|connection| connection.to_string().into()));
        FunctionCall { function: "fanfare_presence_v1_write", keys: self.keys.of_channel(place), arguments }
    }

    pub(super) fn reap(&self, place: &Place, dead: &Incarnation, cursor: u64) -> FunctionCall {
        let mut keys = self.keys.of_channel(place);
        if self.one_slot {
            keys.push(self.keys.leases());
        }
        let arguments =
            vec![self.keys.change(place).into(), text(dead.as_str()), epoch(), number(cursor), number(REAP_PORTION)];
        FunctionCall { function: "fanfare_presence_v1_reap", keys, arguments }
    }

    pub(super) fn read(&self, place: &Place, cursor: u64, limit: usize) -> FunctionCall {
        let arguments = vec![number(cursor), number(limit.max(1) as u64)];
        FunctionCall { function: "fanfare_presence_v1_read", keys: self.keys.rows_and_meta(place), arguments }
    }

    pub(super) fn standing(&self, place: &Place) -> FunctionCall {
        let keys = self.keys.of_channel(place);
        FunctionCall { function: "fanfare_presence_v1_stand", keys, arguments: Vec::new() }
    }

    pub(super) fn note(&self, incarnation: &Incarnation, places: &[Place]) -> FunctionCall {
        self.on_notes("fanfare_presence_v1_note", incarnation, places)
    }

    pub(super) fn unnote(&self, incarnation: &Incarnation, places: &[Place]) -> FunctionCall {
        self.on_notes("fanfare_presence_v1_unnote", incarnation, places)
    }

    /// The dead's, for what they wrote too late.
    pub(super) fn keep_notes(&self, dead: &Incarnation) -> FunctionCall {
        let (keys, arguments) = (vec![self.keys.of_node(dead)], vec![millis(Leases::REAP_AGAIN_FOR)]);
        FunctionCall { function: "fanfare_presence_v1_keep_notes", keys, arguments }
    }

    pub(super) fn unnote_all(&self, incarnation: &Incarnation) -> FunctionCall {
        self.on_notes("fanfare_presence_v1_unnote", incarnation, &[])
    }

    pub(super) fn noted(&self, incarnation: &Incarnation, cursor: u64, limit: usize) -> FunctionCall {
        let arguments = vec![number(cursor), number(limit.max(1) as u64)];
        let keys = vec![self.keys.of_node(incarnation)];
        FunctionCall { function: "fanfare_presence_v1_noted", keys, arguments }
    }

    fn on_notes(&self, function: &'static str, incarnation: &Incarnation, places: &[Place]) -> FunctionCall {
        let arguments = places.iter().map(|place| place_text(place).into()).collect();
        FunctionCall { function, keys: vec![self.keys.of_node(incarnation)], arguments }
    }

    /// Where changes of channels are published.
    pub(super) fn changes(&self, places: &[Place]) -> Vec<String> {
        places.iter().map(|place| self.keys.change(place)).collect()
    }
}

/// What one call writes.
#[derive(Debug, Default)]
struct Portion {
    rows: usize,
    bytes: usize,
    /// Connection, user and rest of each row.
    puts: Vec<Bytes>,
    removes: Vec<ConnectionKey>,
}

impl Portion {
    fn put(&mut self, row: &Row) {
        let (user, rest) = (codec::user_key(&row.user), codec::rest(row));
        self.rows += 1;
        self.bytes += user.len() + rest.len();
        self.puts.extend([row.connection.to_string().into(), user.into(), rest.into()]);
    }

    fn is_full(&self) -> bool {
        self.rows + self.removes.len() >= ROWS_PER_CALL || self.bytes >= BYTES_PER_CALL
    }

    fn is_empty(&self) -> bool {
        self.rows + self.removes.len() == 0
    }
}

/// For a channel that has none.
fn epoch() -> Bytes {
    format!("{:016x}", fastrand::u64(..)).into()
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn number(number: u64) -> Bytes {
    number.to_string().into()
}

fn millis(duration: Duration) -> Bytes {
    number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn flag(flag: bool) -> Bytes {
    Bytes::from_static(if flag { b"1" } else { b"0" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{State, User, redis::keys::parse_place};

    fn functions(one_slot: bool) -> Functions {
        Functions { keys: Keys::new("rt").unwrap(), one_slot }
    }

    fn row(connection: u128, info_bytes: usize) -> Row {
        let info = format!("\"{}\"", "x".repeat(info_bytes));
        Row {
            connection: ConnectionKey(connection),
            user: User::Named("alice".into()),
            state: State::Online,
            info: Some(serde_json::value::RawValue::from_string(info).unwrap().into()),
            since: 1,
        }
    }

    fn write(puts: Vec<Row>, removes: Vec<ConnectionKey>) -> Vec<FunctionCall> {
        let place = parse_place("acme:crew:1").unwrap();
        let write = Write { place, incarnation: Incarnation::new("a", 1), puts, removes };
        functions(true).write(&write)
    }

    fn words(call: &FunctionCall) -> Vec<String> {
        call.arguments.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
    }

    #[test]
    fn a_write_names_its_rows() {
        let calls = write(vec![row(1, 0)], vec![ConnectionKey(2)]);
        let [call] = &calls[..] else { panic!("{calls:?}") };
        let words = words(call);
        let (epoch, others) = (&words[2], [&words[..2], &words[3..]].concat());
        assert_eq!(epoch.len(), 16);
        let expected = [
            "rt:presence:change:{acme:crew:1}",
            "a.0000000000000001",
            "1",
            "00000000000000000000000000000001",
            "\"alice\"",
            r#"{"t":1,"i":""}"#,
            "00000000000000000000000000000002",
        ];
        assert_eq!(others, expected);
        assert_eq!(call.keys.len(), 3);
    }

    #[test]
    fn large_writes_are_split_by_rows_and_by_bytes() {
        let sizes = |calls: &[FunctionCall]| calls.iter().map(|call| words(call)[3].clone()).collect::<Vec<_>>();
        let many = (0..250).map(|number| row(number, 0)).collect();
        let removes = (0..60).map(ConnectionKey).collect();
        let calls = write(many, removes);
        assert_eq!(sizes(&calls), ["100", "100", "50", "0"]);
        assert_eq!(calls[2].arguments.len(), 4 + 3 * 50 + 50);
        assert_eq!(calls[3].arguments.len(), 4 + 10);
        let large = (0..4).map(|number| row(number, 40_000)).collect();
        assert_eq!(sizes(&write(large, Vec::new())), ["2", "2"]);
        assert_eq!(sizes(&write(Vec::new(), Vec::new())), ["0"]);
    }

    #[test]
    fn leases_are_seen_where_all_is_at_one_server() {
        let (place, dead) = (parse_place("acme:crew:1").unwrap(), Incarnation::new("a", 1));
        let keys = functions(true).reap(&place, &dead, 7).keys;
        assert_eq!((keys.len(), &*keys[3]), (4, "rt:presence:leases:{leases}"));
        let call = functions(false).reap(&place, &dead, 7);
        assert_eq!((call.keys.len(), &*words(&call)[3]), (3, "7"));
    }

    #[test]
    fn renewals_and_their_end() {
        let incarnation = Incarnation::new("a", 1);
        let renewal =
            Renewal { incarnation: incarnation.clone(), lease: Duration::from_secs(10), begin: true, reaps: false };
        assert_eq!(words(&functions(true).renew(&renewal))[1..], ["10000", "1", "0", "5000", "3600000"]);
        assert_eq!(words(&functions(true).resign(&incarnation, Some(Duration::from_secs(5))))[1], "5000");
        assert_eq!(words(&functions(true).resign(&incarnation, None))[1], "");
    }

    #[test]
    fn the_library_names_itself_and_its_revision() {
        assert!(FUNCTIONS.starts_with("#!lua name=fanfare_presence_v1\n") && FUNCTIONS.contains("\nlocal REVISION = "));
    }
}
