//! Up to where channels were printed, over all connections.

use std::collections::HashMap;

use fanfare_protocol::{Epoch, Pattern};
use fanfare_publisher::Position;
use serde_json::{Value, json};

/// The channels that were asked for, each with the position up to which everything was printed, where it has one.
#[derive(Debug)]
pub(crate) struct Positions {
    /// In the order asked for.
    channels: Vec<String>,
    known: HashMap<String, Position>,
    rewind: Option<u32>,
}

impl Positions {
    /// `since` is the position of the one channel; `rewind` how many of the newest are wanted of each.
    ///
    /// # Errors
    /// Says what cannot be asked for and what can.
    pub(crate) fn new(channels: Vec<String>, since: Option<Position>, rewind: Option<u32>) -> Result<Self, String> {
        let pattern = channels.iter().find(|channel| is_pattern(channel));
        if let Some(pattern) = pattern.filter(|_| since.is_some() || rewind.is_some()) {
            return Err(format!("--since and --rewind are for channels; {pattern:?} is a pattern"));
        }
        let known = match (since, channels.as_slice()) {
            (None, _) => HashMap::new(),
            (Some(position), [channel]) => [(channel.clone(), position)].into(),
            (Some(_), channels) => {
                return Err(format!("--since is a position of one channel; {} channels are given", channels.len()));
            }
        };
        Ok(Self { channels, known, rewind })
    }

    /// What `channels` of a subscribe command says.
    pub(crate) fn wanted(&self) -> Value {
        let wanted = |channel: &String| {
            let position = self.known.get(channel);
            if position.is_none() && self.rewind.is_none() {
                return json!(channel);
            }
            let mut wanted = json!({ "channel": channel });
            if let Some(Position { offset, epoch }) = position {
                wanted["since"] = json!({ "epoch": epoch.as_str(), "offset": offset });
            }
            if let Some(rewind) = self.rewind {
                wanted["rewind"] = json!(rewind);
            }
            wanted
        };
        self.channels.iter().map(wanted).collect()
    }

    /// Moves a channel to a position. Says whether it had not been there.
    pub(crate) fn advance(&mut self, channel: &str, position: Position) -> bool {
        if !self.channels.iter().any(|wanted| wanted == channel) {
            return true;
        }
        if self.known.get(channel).is_some_and(|known| known == &position || position.is_before(known)) {
            return false;
        }
        self.known.insert(channel.to_owned(), position);
        true
    }

    /// Whether what comes while there is no connection can be had afterwards, on all channels.
    pub(crate) fn all_known(&self) -> bool {
        self.channels.iter().all(|channel| self.known.contains_key(channel))
    }
}

/// Reads `EPOCH.OFFSET`.
pub(crate) fn parse(text: &str) -> Result<Position, String> {
    let (epoch, offset) = text.rsplit_once('.').ok_or("EPOCH.OFFSET is allowed, such as b7f2.41")?;
    let offset = offset.parse().map_err(|error| format!("the offset {offset:?}: {error}"))?;
    let epoch = Epoch::parse(epoch).map_err(|error| error.to_string())?;
    Ok(Position { offset, epoch })
}

fn is_pattern(channel: &str) -> bool {
    channel.contains('*') && Pattern::parse(channel).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_channel_with_a_position_is_asked_for_from_there() {
        let mut positions = Positions::new(channels(&["a", "b:*"]), None, None).unwrap();
        assert_eq!(positions.wanted(), json!(["a", "b:*"]));
        assert!(positions.advance("a", parse("e.5").unwrap()));
        assert!(positions.advance("b:x", parse("e.5").unwrap()), "of a pattern nothing is kept");
        assert!(!positions.all_known());
        assert_eq!(positions.wanted(), json!([{ "channel": "a", "since": { "epoch": "e", "offset": 5 } }, "b:*"]));
        let positions = Positions::new(channels(&["a", "b"]), None, Some(3)).unwrap();
        assert_eq!(positions.wanted(), json!([{ "channel": "a", "rewind": 3 }, { "channel": "b", "rewind": 3 }]));
        let positions = Positions::new(channels(&["a"]), Some(parse("e.1").unwrap()), Some(3)).unwrap();
        let since = json!({ "epoch": "e", "offset": 1 });
        assert_eq!(positions.wanted(), json!([{ "channel": "a", "since": since, "rewind": 3 }]));
        assert!(positions.all_known());
    }

    #[test]
    fn what_was_printed_is_known_within_its_epoch() {
        let mut positions = Positions::new(channels(&["a"]), None, None).unwrap();
        let come: Vec<bool> =
            ["e.5", "e.5", "e.4", "e.6", "f.1", "f.1"].map(|at| positions.advance("a", parse(at).unwrap())).into();
        assert_eq!(come, [true, false, false, true, true, false]);
    }

    #[test]
    fn a_position_is_an_epoch_and_an_offset() {
        assert_eq!(parse("b7-f_2.41").unwrap(), Position { offset: 41, epoch: Epoch::parse("b7-f_2").unwrap() });
        for (text, says) in
            [("b7f2", "EPOCH.OFFSET"), ("a.b", "offset \"b\""), (".1", "epoch is"), ("a b.1", "epoch is")]
        {
            assert!(parse(text).unwrap_err().contains(says), "{text}");
        }
    }
}
