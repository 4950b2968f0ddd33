//! What a client asks for: `GET /sse?channels=a,b[&rewind=N][&presence=true][&lastEventId=…]`, and `Last-Event-ID`.

use fanfare_protocol::{Channel, NameError, Position, Topic, Watch, limits};
use fanfare_session::{Asked, NamespaceTable, Start};

use super::{MalformedId, Positions};

/// A stream that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// The channels, each once, and where the client stands on them.
    pub(crate) positions: Positions,
    /// How many of the newest publications it wants first, where it does not stand anywhere.
    pub(crate) rewind: u32,
    /// Whether it wants to be told who is there.
    pub(crate) watch: Watch,
}

/// Why no stream comes of a request. Answered with 400: the same request again would not be better.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("channels is missing: name 1 to {max}, as in /sse?channels=project:1,project:2", max = limits::HANDSHAKE_CHANNELS)]
    NoChannels,
    #[error("{0} channels are named; allowed are 1 to {max}", max = limits::HANDSHAKE_CHANNELS)]
    TooManyChannels(usize),
    #[error("{0} is a pattern; a stream of server-sent events takes channels only")]
    Pattern(String),
    #[error("{name:?} is no channel: {error}")]
    Name { name: String, error: NameError },
    #[error("rewind={value:?} is no number of publications from 0 to {max}")]
    Rewind { value: String, max: usize },
    #[error("presence={0:?} is none of true, false, names")]
    Presence(String),
    #[error(transparent)]
    Id(#[from] MalformedId),
}

impl Opening {
    /// Reads the pairs of a query, and the header `Last-Event-ID`, which goes before `lastEventId` of the query: a page
    /// that reconnects by hand may give the one, and the browser then goes on with the other. `max_rewind` is the most
    /// publications that may be asked for.
    ///
    /// # Errors
    /// [`RequestError`] says what is allowed.
    pub(crate) fn parse<'a>(
        query: impl Iterator<Item = (&'a str, &'a str)>,
        last_event_id: Option<&str>,
        max_rewind: usize,
    ) -> Result<Self, RequestError> {
        let mut names: Vec<&str> = Vec::new();
        let (mut rewind, mut watch) = (0, Watch::Default);
        let mut id = None;
        for (name, value) in query {
            match name {
                "channels" => names.extend(value.split(',').filter(|name| !name.is_empty())),
                "rewind" => {
                    let allowed = value.parse().ok().filter(|rewind: &u32| *rewind as usize <= max_rewind);
                    rewind = allowed.ok_or_else(|| RequestError::Rewind { value: cut(value), max: max_rewind })?;
                }
                "presence" => {
                    watch = Watch::from_word(value).ok_or_else(|| RequestError::Presence(cut(value)))?;
                }
                "lastEventId" => id = Some(value),
                _ => {}
            }
        }
        if names.is_empty() {
            return Err(RequestError::NoChannels);
        }
        if names.len() > limits::HANDSHAKE_CHANNELS {
            return Err(RequestError::TooManyChannels(names.len()));
        }
        let mut channels: Vec<Channel> = Vec::with_capacity(names.len());
        for name in names {
            let channel = channel(name)?;
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        let id = last_event_id.or(id).filter(|id| !id.is_empty());
        Ok(Self { positions: Positions::new(channels, id)?, rewind, watch })
    }

    /// What the session is asked for. Only of channels with history can more be asked than what comes: for the others
    /// `rewind`, and a position from a time when they had one, are passed over; and `presence` where there are no members.
    pub(crate) fn asked(&self, namespaces: &NamespaceTable) -> Vec<Asked> {
        let asked = |(channel, position): (&Channel, Option<&Position>)| {
            let namespace = namespaces.get(channel.namespace());
            let watch = if namespace.presence { self.watch } else { Watch::Default };
            let start = match namespace.history {
                true => Start { since: position.cloned(), rewind: self.rewind },
                false => Start::default(),
            };
            Asked { name: channel.to_string(), start, watch }
        };
        self.positions.iter().map(asked).collect()
    }
}

fn channel(name: &str) -> Result<Channel, RequestError> {
    Channel::parse(name).map_err(|error| match Topic::parse(name) {
        Ok(_) => RequestError::Pattern(cut(name)),
        Err(_) => RequestError::Name { name: cut(name), error },
    })
}

/// As much of what a client sent as an error quotes.
fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::Epoch;
    use fanfare_session::Namespace;

    use super::*;

    fn parse(query: &[(&'static str, &str)], id: Option<&str>) -> Result<Opening, RequestError> {
        Opening::parse(query.iter().copied(), id, 1_000)
    }

    fn refused(query: &[(&'static str, &str)], id: Option<&str>) -> String {
        parse(query, id).unwrap_err().to_string()
    }

    fn names(opening: &Opening) -> Vec<&str> {
        opening.positions.iter().map(|(channel, _)| channel.as_str()).collect()
    }

    #[test]
    fn channels_are_taken_in_their_order_and_once() {
        let opening = parse(&[("channels", "b:1,a:1,,b:1"), ("token", "t"), ("channels", "c:1")], None).unwrap();
        assert_eq!(names(&opening), ["b:1", "a:1", "c:1"]);
        assert_eq!(opening.rewind, 0);
    }

    #[test]
    fn the_header_goes_before_the_query_and_an_empty_one_says_nothing() {
        let offset = |query: &[(&'static str, &str)], id| {
            let opening = parse(query, id).unwrap();
            opening.positions.iter().next().and_then(|(_, position)| position.map(|position| position.offset))
        };
        let query: &[_] = &[("channels", "a:1"), ("lastEventId", "1;e.1")];
        assert_eq!(offset(query, None), Some(1));
        assert_eq!(offset(query, Some("1;e.2")), Some(2));
        assert_eq!(offset(&[("channels", "a:1")], Some("")), None);
    }

    #[test]
    fn what_cannot_be_streamed_is_refused() {
        assert!(refused(&[], None).starts_with("channels is missing"));
        assert!(refused(&[("channels", ",")], None).starts_with("channels is missing"));
        let many: Vec<String> = (0..51).map(|index| format!("a:{index}")).collect();
        assert_eq!(refused(&[("channels", &many.join(","))], None), "51 channels are named; allowed are 1 to 50");
        assert!(parse(&[("channels", &many[..50].join(","))], None).is_ok());
        let pattern = "a:* is a pattern; a stream of server-sent events takes channels only";
        assert_eq!(refused(&[("channels", "b:1,a:*")], None), pattern);
        assert!(refused(&[("channels", "a:b c")], None).starts_with("\"a:b c\" is no channel: "));
        for rewind in ["x", "-1", "1001", "4294967296", ""] {
            assert_eq!(
                refused(&[("channels", "a:1"), ("rewind", rewind)], None),
                format!("rewind={rewind:?} is no number of publications from 0 to 1000")
            );
        }
        let presence = refused(&[("channels", "a:1"), ("presence", "yes")], None);
        assert_eq!(presence, "presence=\"yes\" is none of true, false, names");
        assert!(refused(&[("channels", "a:1")], Some("1;a.1,b.1")).starts_with("the last event id"));
    }

    #[test]
    fn who_is_there_is_asked_where_there_are_members() {
        let crew = Namespace { presence: true, ..Namespace::default() };
        let namespaces = NamespaceTable { declared: [("crew".into(), crew)].into(), ..NamespaceTable::default() };
        let watches = |word| {
            let query = [("channels", "crew:1,news:1"), ("presence", word)];
            let asked = parse(&query, None).unwrap().asked(&namespaces);
            asked.into_iter().map(|asked| asked.watch).collect::<Vec<_>>()
        };
        assert_eq!(watches("true"), [Watch::Snapshot, Watch::Default]);
        assert_eq!(watches("names"), [Watch::Names, Watch::Default]);
        assert_eq!(watches("false"), [Watch::Off, Watch::Default]);
    }

    #[test]
    fn history_is_asked_for_where_it_is_kept() {
        let kept = Namespace { history: true, ..Namespace::default() };
        let namespaces = NamespaceTable { declared: [("kept".into(), kept)].into(), ..NamespaceTable::default() };
        let query = [("channels", "kept:1,live:1,kept:2"), ("rewind", "3")];
        let asked = parse(&query, Some("1;e.5,e.6,")).unwrap().asked(&namespaces);
        let since = Position { offset: 5, epoch: Epoch::parse("e").unwrap() };
        let expected = [
            ("kept:1", Start { since: Some(since), rewind: 3 }),
            ("live:1", Start::default()),
            ("kept:2", Start { since: None, rewind: 3 }),
        ];
        assert_eq!(asked, expected.map(|(name, start)| Asked { name: name.into(), start, ..Asked::default() }));
    }
}
