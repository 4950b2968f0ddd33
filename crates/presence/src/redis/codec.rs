//! Rows as they are stored, changes as they are published, and what functions answer. Without IO.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use fanfare_broker::redis_link::Answer;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::keys::parse_place;
use crate::{
    ConnectionKey, Incarnation, Leases, Place, Row, RowChange, RowPage, Standing, State, User, Version, Written,
};

/// Something that no function of this library answers, publishes or stores.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {found:.120}")]
pub(super) struct Malformed {
    what: &'static str,
    found: String,
}

/// What a portion of reaping came to.
#[derive(Debug)]
pub(super) struct Portion {
    pub(super) removed: Vec<Row>,
    pub(super) vacated: bool,
    /// 0 at the end.
    pub(super) next: u64,
}

/// What of a row only nodes read.
#[derive(Serialize, Deserialize)]
struct Rest<'a> {
    /// Since when, in milliseconds.
    #[serde(rename = "t")]
    since: u64,
    /// The state; `online` where it is absent.
    #[serde(rename = "s", borrow, default, skip_serializing_if = "Option::is_none")]
    state: Option<Cow<'a, str>>,
    /// Byte for byte; `null` is there, too.
    #[serde(rename = "i", borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// How a user is named in rows and counts: a JSON string, or `~` and the connection.
pub(super) fn user_key(user: &User) -> String {
    match user {
        User::Named(name) => serde_json::to_string(&**name).expect("a string is always JSON"),
        User::Anonymous(connection) => format!("~{connection}"),
    }
}

/// What of a row only nodes read, as JSON.
pub(super) fn rest(row: &Row) -> String {
    let state = (row.state != State::Online).then(|| row.state.as_str().into());
    let rest = Rest { since: row.since, state, info: row.info.as_deref() };
    serde_json::to_string(&rest).expect("words, a number and JSON are JSON")
}

fn parse_user(key: &str) -> Option<User> {
    match key.strip_prefix('~') {
        Some(connection) => ConnectionKey::parse(connection).map(User::Anonymous),
        None => serde_json::from_str::<String>(key).ok().map(|name| User::Named(name.into())),
    }
}

/// `INCARNATION LF USER LF REST`
fn parse_row(connection: ConnectionKey, row: &[u8]) -> Result<(Incarnation, Row), Malformed> {
    let bad = |what| malformed(what, row);
    let text = std::str::from_utf8(row).map_err(|_| bad("a row is no text"))?;
    let mut parts = text.splitn(3, '\n');
    let (Some(incarnation), Some(user), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad("a row is not incarnation, user and rest"));
    };
    let incarnation = Incarnation::parse(incarnation).ok_or_else(|| bad("a row's incarnation is none"))?;
    let user = parse_user(user).ok_or_else(|| bad("a row's user is none"))?;
    let Rest { since, state, info } = serde_json::from_str(rest).map_err(|_| bad("a row's rest cannot be read"))?;
    let state = match state {
        None => State::Online,
        Some(word) => State::parse(&word).map_err(|_| bad("a row's state is none"))?,
    };
    let info = info.map(|info| info.to_owned().into());
    Ok((incarnation, Row { connection, user, state, info, since }))
}

/// What a function has published.
pub(super) fn parse_change(message: &Bytes) -> Result<(Version, Vec<RowChange>), Malformed> {
    const HEAD_BYTES: usize = 128;
    let bad = |what| malformed(what, &message[..message.len().min(HEAD_BYTES)]);
    let (head, mut rest) = line(message, HEAD_BYTES).ok_or_else(|| bad("a change does not begin with its version"))?;
    let (epoch, number) = head.split_once(' ').ok_or_else(|| bad("a change's version is not epoch and number"))?;
    let number = number.parse().map_err(|_| bad("a change's version is no number"))?;
    let version = Version { epoch: epoch.to_owned(), number };
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let (head, behind) = line(rest, HEAD_BYTES).ok_or_else(|| bad("a changed row has no beginning"))?;
        let connection = head.get(1..33).and_then(ConnectionKey::parse);
        let length = head.get(33..).and_then(|digits| digits.parse::<usize>().ok());
        let (Some(connection), Some(length)) = (connection, length) else {
            return Err(bad("a changed row is not connection and length"));
        };
        let (value, behind) = behind.split_at_checked(length).ok_or_else(|| bad("a changed row is cut off"))?;
        changes.push(match head.as_bytes()[0] {
            b'+' => {
                let (incarnation, row) = parse_row(connection, value)?;
                RowChange::Put(incarnation, row)
            }
            b'-' => {
                let user = std::str::from_utf8(value).ok().and_then(parse_user);
                RowChange::Removed { connection, user: user.ok_or_else(|| bad("a removed row's user is none"))? }
            }
            _ => return Err(bad("a changed row is neither written nor removed")),
        });
        rest = behind;
    }
    Ok((version, changes))
}

/// Up to the next line feed, which is within so many bytes, and what lies behind it.
fn line(bytes: &[u8], limit: usize) -> Option<(&str, &[u8])> {
    let end = bytes.iter().take(limit).position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// The answer to something that cannot but be done.
#[expect(clippy::unnecessary_wraps, reason = "it stands where other answers are parsed")]
pub(super) fn ignore(_answer: Answer) -> Result<(), Malformed> {
    Ok(())
}

pub(super) fn parse_flag(answer: Answer) -> Result<bool, Malformed> {
    match answer.as_unsigned() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(unexpected("no 0 or 1", &answer)),
    }
}

pub(super) fn parse_leases(answer: Answer) -> Result<Leases, Malformed> {
    let [held, others, dead, reap] = fields("the answer to a renewal", answer)?;
    let others = list(others)?;
    let others = others.chunks(2).map(|pair| match pair {
        [other, left] => Ok((incarnation(other)?, Duration::from_millis(unsigned(left)?))),
        _ => Err(malformed("a lease has no end", b"")),
    });
    let incarnations = |answer| list(answer)?.iter().map(incarnation).collect::<Result<Vec<_>, _>>();
    Ok(Leases {
        held: parse_flag(held)?,
        others: others.collect::<Result<_, _>>()?,
        dead: incarnations(dead)?,
        reap: incarnations(reap)?,
    })
}

pub(super) fn parse_written(answer: Answer) -> Result<Written, Malformed> {
    let [epoch, number, occupied, vacated] = fields("the answer to a write", answer)?;
    let version = version(&epoch, &number)?;
    Ok(Written { version, occupied: parse_flag(occupied)?, vacated: parse_flag(vacated)? })
}

pub(super) fn parse_page(answer: Answer) -> Result<RowPage, Malformed> {
    let [epoch, number, next, rows] = fields("the answer to a read", answer)?;
    let next = unsigned(&next)?;
    Ok(RowPage { version: version(&epoch, &number)?, rows: rows_of(&list(rows)?), next: (next != 0).then_some(next) })
}

pub(super) fn parse_standing(answer: Answer) -> Result<Standing, Malformed> {
    let [epoch, number, users, connections] = fields("the answer to a standing", answer)?;
    let version = version(&epoch, &number)?;
    Ok(Standing { version, users: unsigned(&users)?, connections: unsigned(&connections)? })
}

pub(super) fn parse_reaped(answer: Answer) -> Result<Portion, Malformed> {
    let [next, vacated, rows] = fields("the answer to a reaping", answer)?;
    let removed = rows_of(&list(rows)?).into_iter().map(|(_, row)| row).collect();
    Ok(Portion { removed, vacated: parse_flag(vacated)?, next: unsigned(&next)? })
}

pub(super) fn parse_noted(answer: Answer) -> Result<(Vec<Place>, Option<u64>), Malformed> {
    let [next, places] = fields("the answer to a reading of notes", answer)?;
    let next = unsigned(&next)?;
    // As with rows: nobody would reap what the others name.
    let place = |noted: Answer| {
        let place = noted.as_text().and_then(parse_place).ok_or_else(|| unexpected("a note is no channel", &noted));
        place.inspect_err(|error| tracing::warn!(%error, "a note of presence in Redis cannot be read")).ok()
    };
    let places = list(places)?.into_iter().filter_map(place).collect();
    Ok((places, (next != 0).then_some(next)))
}

/// Connections and rows, one after the other. One that cannot be read is somebody else's, and is passed over: it would hold up all
/// others.
fn rows_of(answers: &[Answer]) -> Vec<(Incarnation, Row)> {
    let read = |pair: &[Answer]| match pair {
        [connection, Answer::Bytes(row)] => {
            let parsed = connection.as_text().and_then(ConnectionKey::parse);
            let connection = parsed.ok_or_else(|| unexpected("a row's key is no connection", connection))?;
            parse_row(connection, row)
        }
        _ => Err(malformed("a connection has no row", b"")),
    };
    let readable =
        |pair| read(pair).inspect_err(|error| tracing::warn!(%error, "a row of presence in Redis cannot be read")).ok();
    answers.chunks(2).filter_map(readable).collect()
}

fn fields<const COUNT: usize>(what: &'static str, answer: Answer) -> Result<[Answer; COUNT], Malformed> {
    let fields = match answer {
        Answer::List(fields) => fields,
        other => return Err(unexpected(what, &other)),
    };
    <[Answer; COUNT]>::try_from(fields).map_err(|fields| unexpected(what, &Answer::List(fields)))
}

fn list(answer: Answer) -> Result<Vec<Answer>, Malformed> {
    match answer {
        Answer::List(parts) => Ok(parts),
        other => Err(unexpected("no list", &other)),
    }
}

fn unsigned(answer: &Answer) -> Result<u64, Malformed> {
    answer.as_unsigned().ok_or_else(|| unexpected("no number from 0", answer))
}

fn incarnation(answer: &Answer) -> Result<Incarnation, Malformed> {
    answer.as_text().and_then(Incarnation::parse).ok_or_else(|| unexpected("no incarnation", answer))
}

fn version(epoch: &Answer, number: &Answer) -> Result<Version, Malformed> {
    let text = epoch.as_text().ok_or_else(|| unexpected("no epoch", epoch))?;
    Ok(Version { epoch: text.to_owned(), number: unsigned(number)? })
}

fn unexpected(what: &'static str, found: &Answer) -> Malformed {
    Malformed { what, found: format!("{found:?}") }
}

fn malformed(what: &'static str, found: &[u8]) -> Malformed {
    Malformed { what, found: String::from_utf8_lossy(found).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(connection: u128, user: User, state: &str, info: Option<&str>) -> Row {
        let info = info.map(|info| RawValue::from_string(info.to_owned()).unwrap().into());
        Row { connection: ConnectionKey(connection), user, state: State::parse(state).unwrap(), info, since: 7 }
    }

    fn rows() -> Vec<Row> {
        vec![
            row(1, User::Named("alice".into()), "online", None),
            row(2, User::Named("a\nb~\"\u{1F600}".into()), "editing", Some("{ \"a\":\n [1] }")),
            row(3, User::Named("~".into()), "idle", Some("null")),
            row(u128::MAX, User::Anonymous(ConnectionKey(u128::MAX)), "online", Some("\"\\n\"")),
        ]
    }

    fn stored(row: &Row) -> String {
        format!("a.0000000000000001\n{}\n{}", user_key(&row.user), rest(row))
    }

    fn bytes(text: &str) -> Answer {
        Answer::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        for row in rows() {
            let (incarnation, read) = parse_row(row.connection, stored(&row).as_bytes()).unwrap();
            assert_eq!((incarnation.as_str(), &read), ("a.0000000000000001", &row));
        }
        assert_eq!(rest(&rows()[0]), r#"{"t":7}"#);
        for bad in ["", "a.1", "a.1\n\"x\"", "a.1\nx\n{\"t\":1}", "a.1\n\"x\"\n{}", "a b\n\"x\"\n{\"t\":1}"] {
            assert!(parse_row(ConnectionKey(1), bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn changes_are_read_as_they_were_published() {
        let mut message = "00ff 12\n".to_owned();
        for row in rows() {
            let value = stored(&row);
            message += &format!("+{}{}\n{value}", row.connection, value.len());
            let user = user_key(&row.user);
            message += &format!("-{}{}\n{user}", row.connection, user.len());
        }
        let (version, changes) = parse_change(&message.clone().into()).unwrap();
        assert_eq!(version, Version { epoch: "00ff".to_owned(), number: 12 });
        let incarnation = Incarnation::new("a", 1);
        let expected: Vec<RowChange> = rows()
            .into_iter()
            .flat_map(|row| {
                let removed = RowChange::Removed { connection: row.connection, user: row.user.clone() };
                [RowChange::Put(incarnation.clone(), row), removed]
            })
            .collect();
        assert_eq!(changes, expected);
        // Cut anywhere but between two rows, it is none.
        let whole = (0..message.len()).filter(|end| parse_change(&message.as_bytes()[..*end].to_vec().into()).is_ok());
        assert_eq!(whole.count(), expected.len());
        for bad in ["1\n", "e x\n", "e 1\n*00000000000000000000000000000001\u{0}1\nx", "e 1\n+1\n"] {
            assert!(parse_change(&Bytes::from_static(bad.as_bytes())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn answers_are_read_and_others_refused() {
        let answer = Answer::List(vec![
            Answer::Integer(1),
            Answer::List(vec![bytes("b.1"), Answer::Integer(900)]),
            Answer::List(vec![bytes("c.1"), bytes("d.1")]),
            Answer::List(vec![bytes("d.1")]),
        ]);
        let leases = parse_leases(answer).unwrap();
        let incarnation = |text| Incarnation::parse(text).unwrap();
        assert_eq!(leases.others, [(incarnation("b.1"), Duration::from_millis(900))]);
        assert_eq!((leases.dead.len(), leases.reap), (2, vec![incarnation("d.1")]));
        let written = Answer::List(vec![bytes(""), Answer::Integer(0), Answer::Integer(0), Answer::Integer(1)]);
        let written = parse_written(written).unwrap();
        assert_eq!((written.version.number, written.occupied, written.vacated), (0, false, true));
        for bad in [Answer::Nothing, Answer::List(Vec::new()), bytes("x")] {
            assert!(parse_leases(bad.clone()).is_err() && parse_page(bad.clone()).is_err(), "{bad:?}");
            assert!(parse_written(bad.clone()).is_err() && parse_noted(bad).is_err());
        }
    }

    #[test]
    fn a_note_that_cannot_be_read_is_passed_over() {
        let notes = Answer::List(vec![bytes("acme:crew:1"), bytes("acme"), Answer::Integer(1), bytes("acme:crew:2")]);
        let (places, next) = parse_noted(Answer::List(vec![bytes("17"), notes])).unwrap();
        assert_eq!(places, ["acme:crew:1", "acme:crew:2"].map(|text| parse_place(text).unwrap()));
        assert_eq!(next, Some(17));
    }

    #[test]
    fn a_row_that_cannot_be_read_is_passed_over() {
        let good = &rows()[0];
        let rows = Answer::List(vec![
            bytes("not a connection"),
            bytes("x"),
            bytes(&good.connection.to_string()),
            bytes(&stored(good)),
            bytes(&good.connection.to_string()),
            bytes("x"),
        ]);
        let page = parse_page(Answer::List(vec![bytes("e"), Answer::Integer(3), bytes("0"), rows])).unwrap();
        assert_eq!(page.rows, [(Incarnation::new("a", 1), good.clone())]);
        assert_eq!((page.version.number, page.next), (3, None));
    }
}
