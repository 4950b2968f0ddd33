//! The JSON dialect: reading a client's frame, writing a node's.

mod channels;
mod presence;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    ClientMessage, Command, CommandKind, DecodeError, ErrorBody, PublishCommand, Push, ServerMessage, limits,
    plain::is_plain,
};

/// The command types that a client may send, for error texts.
const TYPES: &str = "connect, subscribe, unsubscribe, publish, history, presence, set_presence, signal, \
                     refresh, ping, pong";

/// Reads a client's text frame: one object, or an array of them. `each` gets every element in order; one that is no
/// command does not disturb the others.
pub fn decode_frame(text: &str, mut each: impl FnMut(Result<ClientMessage, DecodeError>)) {
    if !text.trim_start().starts_with('[') {
        return each(decode_object(text));
    }
    match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(objects) if objects.is_empty() || objects.len() > limits::COMMANDS_PER_FRAME => {
            each(Err(wrong_count(objects.len())));
        }
        Ok(objects) => objects.into_iter().for_each(|object| each(decode_object(object.get()))),
        Err(error) => each(Err(DecodeError::bad_request(None, format!("the frame is not JSON: {error}")))),
    }
}

/// Appends a reply or push as one JSON object.
pub fn write_message(message: &ServerMessage, out: &mut Vec<u8>) {
    match message {
        ServerMessage::Reply { id, outcome: Ok(result) } => {
            write(out, &ReplyWire { id: *id, r#type: "reply", result });
        }
        ServerMessage::Reply { id, outcome: Err(error) } => write(out, &ErrorWire { id: *id, r#type: "error", error }),
        ServerMessage::Push(Push::PresenceSnapshot(snapshot)) => presence::write_snapshot(out, snapshot),
        ServerMessage::Push(push) => write(out, push),
    }
}

/// Appends a string with its quotes and escapes.
pub(crate) fn write_str(out: &mut Vec<u8>, text: &str) {
    // Nearly every name is plain, and then this is one copy.
    if is_plain(text.as_bytes()) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        write(out, text);
    }
}

/// Appends a field that is not the first: `name` with its quotes, the comma before it and the colon behind it.
pub(crate) fn write_str_field(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(name.as_bytes());
        write_str(out, value);
    }
}

/// The same for a number.
pub(crate) fn write_u64_field(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    if let Some(value) = value {
        out.extend_from_slice(name.as_bytes());
        write(out, &value);
    }
}

/// The answer to a frame of no commands, or of too many.
pub(crate) fn wrong_count(count: usize) -> DecodeError {
    let message = format!("the frame has {count} commands; allowed are 1 to {}", limits::COMMANDS_PER_FRAME);
    DecodeError::bad_request(None, message)
}

/// The id of a command of which nothing else is read.
pub(crate) fn command_id(text: &str) -> Option<u64> {
    let head: Head<'_> = serde_json::from_str(text).ok()?;
    decode_id(head.id?.get()).ok()
}

pub(crate) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("our own types have string keys, and a Vec takes every byte");
}

#[derive(Serialize)]
struct ReplyWire<'a> {
    id: u64,
    r#type: &'static str,
    result: &'a crate::Reply,
}

#[derive(Serialize)]
struct ErrorWire<'a> {
    id: u64,
    r#type: &'static str,
    #[serde(flatten)]
    error: &'a ErrorBody,
}

/// What every command has; read first, so that an error in the rest can be answered by id.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ConnectFields {
    token: Option<String>,
}

#[derive(Deserialize)]
struct PublishFields {
    channel: String,
    event: String,
    #[serde(default, deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    key: Option<String>,
    version: Option<u64>,
    publication_id: Option<String>,
    echo: Option<bool>,
}

/// A `null` is data too; an `Option` alone would take it for nothing.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct PingFields {
    active: Option<bool>,
}

#[derive(Deserialize)]
struct RefreshFields {
    token: String,
}

pub(crate) fn decode_object(text: &str) -> Result<ClientMessage, DecodeError> {
    if text.starts_with('[') {
        // serde reads a struct from a list of its values too; a command has names.
        return Err(DecodeError::bad_request(None, "the frame is no JSON object: it is an array in an array"));
    }
    let head: Head<'_> = serde_json::from_str(text)
        .map_err(|error| DecodeError::bad_request(None, format!("the frame is no JSON object: {error}")))?;
    let id = head.id.map(|raw| decode_id(raw.get())).transpose()?;
    let name: String = match head.r#type {
        Some(raw) => serde_json::from_str(raw.get())
            .map_err(|_| DecodeError::bad_request(id, format!("type must be a string, not {}", quoted(raw.get()))))?,
        None => return Err(DecodeError::bad_request(id, format!("type is missing; allowed are {TYPES}"))),
    };
    if name == "pong" {
        return Ok(ClientMessage::Pong);
    }
    let missing = || {
        let message =
            format!("id is missing in {:?}; it must be an integer from 0 to {}", quoted(&name), limits::COMMAND_ID);
        DecodeError::bad_request(None, message)
    };
    let id = id.ok_or_else(missing)?;
    let kind = decode_kind(&name, text).map_err(|message| DecodeError::bad_request(Some(id), message))?;
    Ok(ClientMessage::Command(Command { id, kind }))
}

fn decode_id(raw: &str) -> Result<u64, DecodeError> {
    raw.parse().ok().filter(|id| *id <= limits::COMMAND_ID).ok_or_else(|| {
        let message = format!("id must be an integer from 0 to {}", limits::COMMAND_ID);
        DecodeError::bad_request(None, message)
    })
}

fn decode_kind(name: &str, text: &str) -> Result<CommandKind, String> {
    match name {
        "connect" => fields(name, text).map(|ConnectFields { token }| CommandKind::Connect { token }),
        "subscribe" => channels::subscribe(text),
        "unsubscribe" => channels::unsubscribe(text),
        "history" => channels::history(text),
        "publish" => fields(name, text).map(|fields: PublishFields| {
            CommandKind::Publish(Box::new(PublishCommand {
                channel: fields.channel,
                event: fields.event,
                data: fields.data,
                key: fields.key,
                version: fields.version,
                publication_id: fields.publication_id,
                echo: fields.echo.unwrap_or(true),
            }))
        }),
        "refresh" => fields(name, text).map(|RefreshFields { token }| CommandKind::Refresh { token }),
        "presence" => presence::presence(text),
        "set_presence" => presence::set_presence(text),
        "signal" => presence::signal(text),
        "ping" => {
            fields(name, text).map(|PingFields { active }| CommandKind::Ping { active: active.unwrap_or_default() })
        }
        _ => Err(format!("type {:?} is not known; allowed are {TYPES}", quoted(name))),
    }
}

/// As much of what a client sent as an error quotes.
fn quoted(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

fn fields<'a, T: Deserialize<'a>>(name: &str, text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))
}
