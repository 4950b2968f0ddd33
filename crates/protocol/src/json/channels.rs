//! Which channels a command names, and where it wants them to begin.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{fields, presence::decode_watch, quoted};
use crate::{Asked, CommandKind, Epoch, HistoryCommand, HistoryRange, Position, Start, Watch, limits};

/// `unsubscribe`.
#[derive(Deserialize)]
struct Names {
    channel: Option<String>,
    channels: Option<Vec<String>>,
}

/// `subscribe`, and an entry of its list.
#[derive(Deserialize)]
struct SubscribeFields<'a> {
    channel: Option<String>,
    #[serde(borrow)]
    channels: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    rewind: Option<u32>,
    latest: Option<bool>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct HistoryFields<'a> {
    channel: String,
    limit: Option<u32>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(borrow)]
    before: Option<&'a RawValue>,
}

pub(super) fn unsubscribe(text: &str) -> Result<CommandKind, String> {
    let Names { channel, channels } = fields("unsubscribe", text)?;
    match (channel, channels) {
        (Some(channel), None) => Ok(CommandKind::Unsubscribe { channel }),
        (None, Some(channels)) if !channels.is_empty() => Ok(CommandKind::UnsubscribeMany { channels }),
        _ => Err(one_or_many("unsubscribe")),
    }
}

pub(super) fn subscribe(text: &str) -> Result<CommandKind, String> {
    let SubscribeFields { channel, channels, since, rewind, latest, presence } = fields("subscribe", text)?;
    let rewind = decode_rewind(rewind, latest)?;
    let watch = presence.map(decode_watch).transpose()?.unwrap_or_default();
    match (channel, channels) {
        (Some(name), None) => {
            let start = Start {
                since: since.map(|raw| decode_position("since", raw)).transpose()?,
                rewind: rewind.unwrap_or(0),
            };
            Ok(CommandKind::Subscribe(Asked { name, start, watch }))
        }
        (None, Some(channels)) if !channels.is_empty() => {
            if since.is_some() {
                let text = "subscribe: since is of one channel; with a list it belongs in its entries: \
                            {\"channels\":[{\"channel\":…,\"since\":…}]}";
                return Err(text.to_owned());
            }
            let asked =
                channels.into_iter().map(|raw| decode_entry(raw.get(), rewind, watch)).collect::<Result<_, _>>()?;
            Ok(CommandKind::SubscribeMany { channels: asked })
        }
        _ => Err(one_or_many("subscribe")),
    }
}

pub(super) fn history(text: &str) -> Result<CommandKind, String> {
    let HistoryFields { channel, limit, since, before } = fields("history", text)?;
    let range = match (since, before) {
        (Some(since), None) => HistoryRange::Since(decode_position("since", since)?),
        (None, before) => HistoryRange::Before(before.map(|raw| decode_position("before", raw)).transpose()?),
        (Some(_), Some(_)) => return Err("history: since and before are given; allowed is one of them".to_owned()),
    };
    let limit = limit.unwrap_or(limits::HISTORY_PUBLICATIONS);
    Ok(CommandKind::History(Box::new(HistoryCommand { channel, range, limit })))
}

/// An entry of a list: a name, or an object with it.
fn decode_entry(text: &str, rewind: Option<u32>, watch: Watch) -> Result<Asked, String> {
    match text.as_bytes().first() {
        Some(b'"') => {
            let name = fields("subscribe: channels", text)?;
            Ok(Asked { name, start: Start { since: None, rewind: rewind.unwrap_or(0) }, watch })
        }
        Some(b'{') => {
            let entry: SubscribeFields<'_> = fields("subscribe: channels", text)?;
            let (Some(name), None) = (entry.channel, entry.channels) else {
                return Err("subscribe: channels: an object in the list must have channel, a string".to_owned());
            };
            let own = decode_rewind(entry.rewind, entry.latest)?;
            let since = entry.since.map(|raw| decode_position("since", raw)).transpose()?;
            let watch = entry.presence.map(decode_watch).transpose()?.unwrap_or(watch);
            Ok(Asked { name, start: Start { since, rewind: own.or(rewind).unwrap_or(0) }, watch })
        }
        _ => Err(format!(
            "subscribe: channels: an entry must be a string or an object such as {{\"channel\":\"a:b\",\"since\":…}}, \
             not {}",
            quoted(text)
        )),
    }
}

/// `latest` is `rewind: 1`, and `latest: false` nothing; `None` where neither is given.
fn decode_rewind(rewind: Option<u32>, latest: Option<bool>) -> Result<Option<u32>, String> {
    match (rewind, latest) {
        (Some(_), Some(true)) => {
            Err("subscribe: rewind and latest are given; allowed is one of them: latest is rewind 1".to_owned())
        }
        (rewind @ Some(_), _) => Ok(rewind),
        (None, latest) => Ok(latest.map(u32::from)),
    }
}

fn decode_position(name: &str, raw: &RawValue) -> Result<Position, String> {
    // serde reads a struct from a list of its values too; a position has names.
    let position = raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok()).flatten();
    position.ok_or_else(|| {
        format!(
            "{name} must be a position as the node gave it, {{\"offset\":41,\"epoch\":\"…\"}}: offset a whole number, \
             epoch 1 to {} of A-Z a-z 0-9 _ -; it is {}",
            Epoch::BYTES,
            quoted(raw.get())
        )
    })
}

fn one_or_many(name: &str) -> String {
    format!("{name}: either channel (a string) or channels (a list that is not empty) must be given")
}
