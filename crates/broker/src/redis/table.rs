//! Which names this node is subscribed to, and for whom.

use std::collections::{HashMap, hash_map::Entry};

use fanfare_protocol::{Body, Pattern, RedisChannels, SubjectError, Topic};

use crate::{Interest, InterestId, Publication};

/// The interests of a node, by the names that Redis knows.
///
/// All patterns of one namespace share one subscription, to everything in the namespace: Redis tries every glob on every
/// publication, and the client library does not say by which one a message came.
#[derive(Debug)]
pub(super) struct Table {
    names: RedisChannels,
    held: HashMap<InterestId, Name>,
    channels: HashMap<Box<str>, Vec<InterestId>>,
    /// By the namespace's prefix, such as `rt:pub:acme:project:`.
    namespaces: HashMap<Box<str>, Vec<(Pattern, InterestId)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Channel(Box<str>),
    Namespace(Box<str>),
}

/// What to tell Redis.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) channels: Vec<String>,
    /// Globs.
    pub(super) patterns: Vec<String>,
}

impl Table {
    pub(super) fn new(names: RedisChannels) -> Self {
        Self { names, held: HashMap::new(), channels: HashMap::new(), namespaces: HashMap::new() }
    }

    /// Adds interests and says what is not subscribed to yet.
    pub(super) fn add(&mut self, interests: &[Interest]) -> Names {
        let mut new = Names::default();
        for Interest { id, tenant, topic } in interests {
            let name = match topic {
                Topic::Channel(channel) => {
                    let name = self.names.publish(tenant, channel).into_boxed_str();
                    let holders = self.channels.entry(name.clone()).or_default();
                    if holders.is_empty() {
                        new.channels.push(name.to_string());
                    }
                    holders.push(*id);
                    Name::Channel(name)
                }
                Topic::Pattern(pattern) => {
                    let glob = self.names.glob(tenant, pattern);
                    let name: Box<str> = namespace(&glob).unwrap_or(&glob).into();
                    let holders = self.namespaces.entry(name.clone()).or_default();
                    if holders.is_empty() {
                        new.patterns.push(format!("{name}*"));
                    }
                    holders.push((pattern.clone(), *id));
                    Name::Namespace(name)
                }
            };
            self.held.insert(*id, name);
        }
        new
    }

    /// Removes interests and says what nobody wants any more.
    pub(super) fn remove(&mut self, interests: impl IntoIterator<Item = InterestId>) -> Names {
        let mut unwanted = Names::default();
        for id in interests {
            let Some(name) = self.held.remove(&id) else { continue };
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
    pub(super) fn by_channel(&self, name: &str, body: &Body) -> Vec<Publication> {
        let holders = self.channels.get(name).map(Vec::as_slice).unwrap_or_default();
        let publication = |id: &InterestId| Publication {
            interest: *id,
            channel: None,
            body: body.clone(),
            timestamp: None,
            position: None,
        };
        holders.iter().map(publication).collect()
    }

    /// For whom a message is that came by a namespace.
    pub(super) fn by_pattern(&self, name: &str, body: &Body) -> Result<Vec<Publication>, SubjectError> {
        let Some(holders) = namespace(name).and_then(|namespace| self.namespaces.get(namespace)) else {
            return Ok(Vec::new());
        };
        let (_, channel) = self.names.parse_publish(name)?;
        let matching = holders.iter().filter(|(pattern, _)| pattern.matches(channel.as_str()));
        let publication = |(_, id): &(Pattern, InterestId)| Publication {
            interest: *id,
            channel: Some(channel.clone()),
            body: body.clone(),
            timestamp: None,
            position: None,
        };
        Ok(matching.map(publication).collect())
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

/// `rt:pub:acme:project:` of `rt:pub:acme:project:x:y`: prefix, `pub`, tenant and namespace are one segment each.
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
    use fanfare_protocol::Tenant;

    use super::*;

    fn table() -> Table {
        Table::new(RedisChannels::new("rt").unwrap())
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
        let body = Body::new("x");
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
}
