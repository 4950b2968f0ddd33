//! Channels with history, as the hub keeps them and as the client hears of them.

use std::collections::BTreeMap;

use fanfare_protocol::{Epoch, HistoryReply, Position, RecordedJson, Subscribed};
use fanfare_session::{Granted, Start};

/// Publications that are retained of each channel.
const RETAINED: u64 = 3;

/// What was published on each channel with history, and what the client knows of it. Offsets have no holes here.
#[derive(Default)]
pub(crate) struct Past {
    /// The newest offset of each channel.
    heads: BTreeMap<String, u64>,
    /// The offset up to which the client has everything, of each channel that it was told to be subscribed to.
    told: BTreeMap<String, u64>,
    /// What the hub has granted and the client not yet been told.
    granted: Option<(String, Granted)>,
}

pub(crate) fn at(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("e").expect("a word") }
}

fn publications(range: impl Iterator<Item = u64>) -> Vec<RecordedJson> {
    range.map(|offset| RecordedJson::new(format!("{{\"offset\":{offset}}}")).expect("JSON")).collect()
}

impl Past {
    pub(crate) fn head(&self, name: &str) -> u64 {
        self.heads.get(name).copied().unwrap_or_default()
    }

    /// Something is published; `subscribed` says whether the hub delivers it to the client.
    pub(crate) fn publish(&mut self, name: &str, subscribed: bool) {
        let head = self.head(name) + 1;
        self.heads.insert(name.to_owned(), head);
        if subscribed {
            let told = self.told.get_mut(name);
            let told = told.unwrap_or_else(|| panic!("{name}:{head} came before the subscription was told"));
            assert_eq!(head, *told + 1, "{name}: not the next one");
            *told = head;
        }
    }

    /// The hub makes a subscription.
    pub(crate) fn grant(&mut self, name: &str, start: &Start) -> Granted {
        let head = self.head(name);
        let newest = |count: u64| publications(head - count.min(RETAINED).min(head) + 1..=head);
        let granted = match &start.since {
            Some(since) if since.offset + RETAINED >= head => Granted {
                position: Some(at(head)),
                recovered: Some(true),
                publications: Some(publications(since.offset + 1..=head)),
            },
            Some(_) => Granted {
                position: Some(at(head)),
                recovered: Some(false),
                publications: Some(newest(start.rewind.into())),
            },
            None => Granted {
                position: Some(at(head)),
                recovered: None,
                publications: (start.rewind > 0).then(|| newest(start.rewind.into())),
            },
        };
        assert_eq!(self.granted, None, "the client was not told of the one before");
        self.granted = Some((name.to_owned(), granted.clone()));
        granted
    }

    pub(crate) fn page(&self, name: &str) -> HistoryReply {
        HistoryReply { publications: Vec::new(), position: at(self.head(name)), more: false, recovered: None }
    }

    /// The client is told of a subscription: for a new one exactly what was granted, and only once.
    pub(crate) fn hear(&mut self, subscribed: &Subscribed) {
        let Subscribed { channel, position, recovered, publications } = subscribed;
        match self.granted.take_if(|(name, _)| name == channel) {
            Some((_, granted)) => {
                assert_eq!((position, recovered), (&granted.position, &granted.recovered), "{channel}");
                assert_eq!(publications, &granted.publications, "{channel}");
                self.told.insert(channel.clone(), self.head(channel));
            }
            None => assert_eq!((position, recovered, publications), (&None, &None, &None), "{channel} is told twice"),
        }
    }

    /// A subscription has ended.
    pub(crate) fn end(&mut self, name: &str) {
        self.told.remove(name);
    }

    /// All that was granted has been told.
    pub(crate) fn check_told(&self) {
        assert_eq!(self.granted, None, "the client is not told");
    }
}
