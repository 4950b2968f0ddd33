//! Which names this node is subscribed to, and for whom.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use fanfare_protocol::{Body, Channel, Pattern, RedisChannels, SubjectError, Topic};

use crate::{HistoryOptions, Interest, InterestId, LivePosition, Publication};

/// The interests of a node, by the names that Redis knows.
///
/// All patterns of one namespace share one subscription, to everything in the namespace: Redis tries every glob on every
/// publication, and the client library does not say by which one a message came.
///
/// What belongs to a namespace with history has two names: one where the function publishes, with positions, and one where
/// anybody publishes past the history.
#[derive(Debug)]
pub(super) struct Table {
    names: RedisChannels,
    /// Namespaces with history.
    recorded: HashSet<Box<str>>,
    held: HashMap<InterestId, Vec<Name>>,
    channels: HashMap<Box<str>, Vec<InterestId>>,
    /// By the namespace's prefix, such as `rt:pub:acme:project:` or `rt:live:{acme:project:`.
    namespaces: HashMap<Box<str>, Vec<(Pattern, InterestId)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Channel(Box<str>),
    Namespace(Box<str>),
}

/// What came by a name.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) body: Body,
    pub(super) timestamp: Option<u64>,
    pub(super) position: Option<LivePosition>,
}

/// What to tell Redis.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) channels: Vec<String>,
    /// Globs.
    pub(super) patterns: Vec<String>,
}

impl Table {
    pub(super) fn new(names: RedisChannels, history: &HistoryOptions) -> Self {
        let recorded = history.namespaces.keys().cloned().collect();
        Self { names, recorded, held: HashMap::new(), channels: HashMap::new(), namespaces: HashMap::new() }
    }

    /// Adds interests and says what is not subscribed to yet.
    pub(super) fn add(&mut self, interests: &[Interest]) -> Names {
        let mut new = Names::default();
        for Interest { id, tenant, topic } in interests {
            let recorded = self.recorded.contains(topic.namespace());
            let names = match topic {
                Topic::Channel(channel) => {
                    let live = recorded.then(|| self.names.live(tenant, channel));
                    let names = [Some(self.names.publish(tenant, channel)), live];
                    names.into_iter().flatten().map(|name| Name::Channel(name.into())).collect::<Vec<_>>()
                }
                Topic::Pattern(pattern) => {
                    let live = recorded.then(|| self.names.live_glob(tenant, pattern));
                    let globs = [Some(self.names.glob(tenant, pattern)), live];
                    let names = globs.iter().flatten().map(|glob| namespace(glob).unwrap_or(glob).into());
                    names.map(Name::Namespace).collect()
                }
            };
            for name in &names {
                match (name, topic) {
                    (Name::Channel(name), _) => {
                        let holders = self.channels.entry(name.clone()).or_default();
                        new.channels.extend(holders.is_empty().then(|| name.to_string()));
                        holders.push(*id);
                    }
                    (Name::Namespace(name), Topic::Pattern(pattern)) => {
                        let holders = self.namespaces.entry(name.clone()).or_default();
                        new.patterns.extend(holders.is_empty().then(|| format!("{name}*")));
                        holders.push((pattern.clone(), *id));
                    }
                    (Name::Namespace(_), Topic::Channel(_)) => unreachable!("a channel has names of channels"),
                }
            }
            self.held.insert(*id, names);
        }
        new
    }

    /// Removes interests and says what nobody wants any more.
    pub(super) fn remove(&mut self, interests: impl IntoIterator<Item = InterestId>) -> Names {
        let mut unwanted = Names::default();
        for id in interests {
            for name in self.held.remove(&id).unwrap_or_default() {
                match name {
                    Name::Channel(name) => {
                        let last = drop_holder(self.channels.entry(name.clone()), |holder| *holder == id);
                        unwanted.channels.extend(last.then(|| name.into()));
                    }
                    Name::Namespace(name) => {
                        let last = drop_holder(self.namespaces.entry(name.clone()), |(_, holder)| *holder == id);
                        unwanted.patterns.extend(last.then(|| format!("{name}*")));
                    }
                }
            }
        }
        unwanted
    }

    /// All that is subscribed to.
    pub(super) fn all(&self) -> Names {
        Names {
            channels: self.channels.keys().map(|name| name.to_string()).collect(),
            patterns: self.namespaces.keys().map(|name| format!("{name}*")).collect(),
        }
    }

    /// How many channels and patterns are subscribed to.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.channels.len(), self.namespaces.len())
    }

    /// For whom a message is that came by its channel.
    pub(super) fn by_channel(&self, name: &str, arrived: &Arrived) -> Vec<Publication> {
        let holders = self.channels.get(name).map(Vec::as_slice).unwrap_or_default();
        holders.iter().map(|id| arrived.publication(*id, None)).collect()
    }

    /// For whom a message is that came by a namespace.
    pub(super) fn by_pattern(&self, name: &str, arrived: &Arrived) -> Result<Vec<Publication>, SubjectError> {
        let Some(holders) = namespace(name).and_then(|namespace| self.namespaces.get(namespace)) else {
            return Ok(Vec::new());
        };
        let (_, channel) =
            if self.names.is_live(name) { self.names.parse_live(name)? } else { self.names.parse_publish(name)? };
        let matching = holders.iter().filter(|(pattern, _)| pattern.matches(channel.as_str()));
        Ok(matching.map(|(_, id)| arrived.publication(*id, Some(channel.clone()))).collect())
    }
}

impl Arrived {
    fn publication(&self, interest: InterestId, channel: Option<Channel>) -> Publication {
        let Self { body, timestamp, position } = self.clone();
        Publication { interest, channel, body, timestamp, position }
    }
}

impl Names {
    pub(super) fn is_empty(&self) -> bool {
        self.count() == (0, 0)
    }

    /// How many channels and patterns.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.channels.len(), self.patterns.len())
    }
}

/// `rt:pub:acme:project:` of `rt:pub:acme:project:x:y`: prefix, `pub` or `live`, tenant and namespace are one segment each.
fn namespace(name: &str) -> Option<&str> {
    let (last, _) = name.match_indices(':').nth(3)?;
    Some(&name[..=last])
}

/// Says whether that was the last one.
fn drop_holder<T>(entry: Entry<'_, Box<str>, Vec<T>>, is_it: impl Fn(&T) -> bool) -> bool {
    let Entry::Occupied(mut entry) = entry else { return false };
    entry.get_mut().retain(|holder| !is_it(holder));
    let last = entry.get().is_empty();
    if last {
        entry.remove();
    }
    last
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanfare_protocol::{Epoch, Position, Tenant};

    use super::*;
    use crate::Retention;

    /// Namespace `h` has history.
    fn table() -> Table {
        let mut history = HistoryOptions::default();
        history.namespaces.insert("h".into(), Retention { size: 1, ttl: Duration::from_secs(1) });
        Table::new(RedisChannels::new("rt").unwrap(), &history)
    }

    fn arrived(offset: Option<u64>) -> Arrived {
        let position = |offset| Position { offset, epoch: Epoch::parse("e").unwrap() };
        let position = offset.map(|offset| LivePosition { position: position(offset), previous: None });
        Arrived { body: Body::new("x"), timestamp: offset, position }
    }

    fn interest(id: u64, topic: &str) -> Interest {
        Interest { id: InterestId(id), tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse(topic).unwrap() }
    }

    fn names(channels: &[&str], patterns: &[&str]) -> Names {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Names { channels: owned(channels), patterns: owned(patterns) }
    }

    #[test]
    fn a_name_is_subscribed_to_once_and_given_up_by_the_last() {
        let mut table = table();
        let added = table.add(&[interest(1, "a:x"), interest(2, "a:x"), interest(3, "a:*"), interest(4, "a:x:**")]);
        assert_eq!(added, names(&["rt:pub:acme:a:x"], &["rt:pub:acme:a:*"]));
        assert_eq!(table.add(&[interest(5, "a:*")]), Names::default());
        assert_eq!(table.all(), added);
        assert!(table.remove([1, 3, 4, 9].map(InterestId)).is_empty());
        assert_eq!(table.remove([2, 5].map(InterestId)), added);
        assert!(table.all().is_empty() && table.held.is_empty());
    }

    #[test]
    fn each_message_finds_those_who_want_it() {
        let mut table = table();
        table.add(&[
            interest(1, "a:x"),
            interest(2, "a:*"),
            interest(3, "a:**"),
            interest(4, "a:*:y"),
            interest(5, "b:*"),
        ]);
        let ids = |publications: Vec<Publication>| publications.iter().map(|p| p.interest.0).collect::<Vec<_>>();
        let body = arrived(None);
        assert_eq!(ids(table.by_channel("rt:pub:acme:a:x", &body)), [1]);
        assert!(ids(table.by_channel("rt:pub:other:a:x", &body)).is_empty());
        let by_pattern = |name: &str| table.by_pattern(name, &body).map(ids);
        assert_eq!(by_pattern("rt:pub:acme:a:x").unwrap(), [2, 3]);
        assert_eq!(by_pattern("rt:pub:acme:a:x:y").unwrap(), [3, 4]);
        assert!(by_pattern("rt:pub:other:a:x").unwrap().is_empty());
        assert!(by_pattern("rt:pub:acme").unwrap().is_empty());
        assert!(by_pattern("rt:pub:acme:a:not a name").is_err());
        assert_eq!(table.by_pattern("rt:pub:acme:a:x", &body).unwrap()[0].channel.as_ref().unwrap().as_str(), "a:x");
    }
    #[test]
    fn a_namespace_with_history_has_two_names() {
        let mut table = table();
        let added = table.add(&[interest(1, "h:x"), interest(2, "h:*"), interest(3, "h:*:y"), interest(4, "hh:x")]);
        let channels = ["rt:pub:acme:h:x", "rt:live:{acme:h:x}", "rt:pub:acme:hh:x"];
        assert_eq!(added, names(&channels, &["rt:pub:acme:h:*", "rt:live:{acme:h:*"]));
        assert_eq!(table.count(), (3, 2));
        let said = |publications: Vec<Publication>| {
            let said = |p: Publication| (p.interest.0, p.timestamp, p.position.map(|at| at.position.offset));
            publications.into_iter().map(said).collect::<Vec<_>>()
        };
        assert_eq!(said(table.by_channel("rt:live:{acme:h:x}", &arrived(Some(7)))), [(1, Some(7), Some(7))]);
        assert_eq!(said(table.by_channel("rt:pub:acme:h:x", &arrived(None))), [(1, None, None)]);
        let by_pattern = |name: &str| table.by_pattern(name, &arrived(Some(7)));
        assert_eq!(said(by_pattern("rt:live:{acme:h:x}").unwrap()), [(2, Some(7), Some(7))]);
        assert_eq!(said(by_pattern("rt:live:{acme:h:x:y}").unwrap()), [(3, Some(7), Some(7))]);
        assert_eq!(by_pattern("rt:live:{acme:h:x}").unwrap()[0].channel.as_ref().unwrap().as_str(), "h:x");
        assert!(by_pattern("rt:live:{other:h:x}").unwrap().is_empty());
        for name in ["rt:live:{acme:h:x", "rt:live:{acme:h:}", "rt:live:{acme:h:x}}", "rt:live:{acme:h:a b}"] {
            assert!(by_pattern(name).is_err(), "{name}");
        }
        assert!(table.remove([1, 3].map(InterestId)).channels == channels[..2]);
        assert_eq!(
            table.remove([2, 4].map(InterestId)),
            names(&channels[2..], &["rt:pub:acme:h:*", "rt:live:{acme:h:*"])
        );
        assert!(table.all().is_empty() && table.held.is_empty());
    }
}
