//! How far a client has come on each channel of its stream, as the ids of events say it.

use fanfare_protocol::{Channel, Epoch, Position};

/// What an id begins with; another form would begin with another number.
const FORM: &str = "1;";

/// The channels of a stream in the order of its request, each with the position of the last event that was written, or
/// of the last gap that was told. Written as `1;epoch.offset,epoch.offset`; an entry is empty where the channel has no
/// history, or no position yet.
#[derive(Clone, Debug)]
pub(crate) struct Positions(Box<[Entry]>);

#[derive(Clone, Debug)]
struct Entry {
    channel: Channel,
    position: Option<Position>,
}

/// A text is no id of these channels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the last event id {id:?} is none of a stream of {channels} channels: that is \"1;\" and as many times epoch.offset, or nothing, with commas between them"
)]
pub(crate) struct MalformedId {
    id: String,
    channels: usize,
}

impl Positions {
    /// The channels at the positions of an id, or at none.
    ///
    /// # Errors
    /// [`MalformedId`] where the id is not one that a stream of as many channels has.
    pub(crate) fn new(channels: Vec<Channel>, id: Option<&str>) -> Result<Self, MalformedId> {
        let malformed = |id: &str| MalformedId { id: id.chars().take(100).collect(), channels: channels.len() };
        let mut positions = vec![None; channels.len()];
        if let Some(id) = id {
            let texts: Vec<&str> = id.strip_prefix(FORM).ok_or_else(|| malformed(id))?.split(',').collect();
            if texts.len() != channels.len() {
                return Err(malformed(id));
            }
            for (position, text) in positions.iter_mut().zip(texts) {
                *position = parse(text).ok_or_else(|| malformed(id))?;
            }
        }
        let entries = channels.into_iter().zip(positions);
        Ok(Self(entries.map(|(channel, position)| Entry { channel, position }).collect()))
    }

    /// The channels with their positions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Channel, Option<&Position>)> {
        self.0.iter().map(|entry| (&entry.channel, entry.position.as_ref()))
    }

    /// Whether this is the only channel: then every client at the same position is told the same id.
    pub(crate) fn is_only(&self, channel: &str) -> bool {
        self.0.len() == 1 && self.0[0].channel.as_str() == channel
    }

    /// The client has everything of the channel up to here. `false` where it did not ask for the channel by its request:
    /// then no id says how far it has come.
    pub(crate) fn advance(&mut self, channel: &str, to: &Position) -> bool {
        let Some(entry) = self.0.iter_mut().find(|entry| entry.channel.as_str() == channel) else { return false };
        match &mut entry.position {
            Some(position) if position.epoch == to.epoch => position.offset = to.offset,
            position => *position = Some(to.clone()),
        }
        true
    }

    /// Appends the line with the id. Nothing where no channel has a position: then the client has none to come back with.
    pub(crate) fn write_id(&self, out: &mut Vec<u8>) {
        if self.0.iter().all(|entry| entry.position.is_none()) {
            return;
        }
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(FORM.as_bytes());
        for (index, entry) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if let Some(position) = &entry.position {
                out.extend_from_slice(position.epoch.as_str().as_bytes());
                out.push(b'.');
                out.extend_from_slice(position.offset.to_string().as_bytes());
            }
        }
        out.push(b'\n');
    }
}

/// One entry; the outer `None` where it is malformed.
fn parse(text: &str) -> Option<Option<Position>> {
    if text.is_empty() {
        return Some(None);
    }
    let (epoch, offset) = text.split_once('.')?;
    if !offset.bytes().all(|byte| byte.is_ascii_digit()) {
        return None; // a sign is no digit, though `parse` takes it
    }
    Some(Some(Position { offset: offset.parse().ok()?, epoch: Epoch::parse(epoch).ok()? }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channels(names: &[&str]) -> Vec<Channel> {
        names.iter().map(|name| Channel::parse(name).unwrap()).collect()
    }

    fn id_of(positions: &Positions) -> String {
        let mut out = Vec::new();
        positions.write_id(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn position(offset: u64, epoch: &str) -> Position {
        Position { offset, epoch: Epoch::parse(epoch).unwrap() }
    }

    #[test]
    fn an_id_names_every_channel_in_its_place() {
        let mut positions = Positions::new(channels(&["a:1", "b:1", "c:1"]), None).unwrap();
        assert_eq!(id_of(&positions), "");
        positions.advance("b:1", &position(7, "RT_b-17"));
        assert_eq!(id_of(&positions), "id: 1;,RT_b-17.7,\n");
        positions.advance("a:1", &position(1, "e"));
        positions.advance("b:1", &position(8, "RT_b-17"));
        assert!(!positions.advance("other:1", &position(9, "e")), "a channel that the request did not name");
        assert_eq!(id_of(&positions), "id: 1;e.1,RT_b-17.8,\n");
        positions.advance("b:1", &position(1, "new"));
        assert_eq!(id_of(&positions), "id: 1;e.1,new.1,\n");
    }

    #[test]
    fn only_the_channel_of_the_request_shares_its_id() {
        let single = Positions::new(channels(&["a:1"]), None).unwrap();
        assert!(single.is_only("a:1") && !single.is_only("user:alice"));
        assert!(!Positions::new(channels(&["a:1", "b:1"]), None).unwrap().is_only("a:1"));
    }

    #[test]
    fn a_stream_goes_on_from_an_id() {
        let positions = Positions::new(channels(&["a:1", "b:1"]), Some("1;,e.41")).unwrap();
        let got: Vec<_> = positions.iter().map(|(channel, position)| (channel.as_str(), position.cloned())).collect();
        assert_eq!(got, [("a:1", None), ("b:1", Some(position(41, "e")))]);
        assert_eq!(id_of(&positions), "id: 1;,e.41\n");
    }

    #[test]
    fn what_is_no_id_of_these_channels_is_refused() {
        for id in [
            "",
            "1",
            "1;",
            "2;a.1,b.1",
            ";a.1,b.1",
            "1;a.1",
            "1;a.1,b.1,c.1",
            "1;a,b.1",
            "1;a.,b.1",
            "1;.1,b.1",
            "1;a.-1,b.1",
            "1;a.+1,b.1",
            "1;a.1 ,b.1",
            "1;a.18446744073709551616,b.1",
            "1;a b.1,b.1",
            "1;a.1.1,b.1",
            "latest",
        ] {
            let refused = Positions::new(channels(&["a:1", "b:1"]), Some(id));
            assert!(refused.is_err(), "{id:?}: {refused:?}");
        }
        assert_eq!(
            Positions::new(channels(&["a:1"]), Some("7")).unwrap_err().to_string(),
            "the last event id \"7\" is none of a stream of 1 channels: that is \"1;\" and as many times epoch.offset, or \
             nothing, with commas between them"
        );
    }

    proptest! {
        #[test]
        fn every_id_is_read_as_it_was_written(
            entries in prop::collection::vec(prop::option::of((any::<u64>(), "[A-Za-z0-9_-]{1,64}")), 1..50),
        ) {
            let names: Vec<String> = (0..entries.len()).map(|index| format!("a:{index}")).collect();
            let channels = channels(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let mut positions = Positions::new(channels.clone(), None).unwrap();
            for (name, entry) in names.iter().zip(&entries) {
                if let Some((offset, epoch)) = entry {
                    positions.advance(name, &position(*offset, epoch));
                }
            }
            let id = id_of(&positions);
            let again = id.strip_prefix("id: ").map(str::trim_end);
            prop_assert_eq!(again.is_none(), entries.iter().all(Option::is_none));
            prop_assert_eq!(id_of(&Positions::new(channels, again).unwrap()), id);
        }

        #[test]
        fn no_text_upsets_it(text in ".{0,40}") {
            let _ = Positions::new(channels(&["a:1", "b:1"]), Some(&text));
        }
    }
}
