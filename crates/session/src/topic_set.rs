//! The topics of one session, in as little memory as a list takes.

use fanfare_protocol::{Channel, Topic};

/// A sorted list of topics. Channels come before patterns, as `Topic` orders them.
#[derive(Debug, Default)]
pub(crate) struct TopicSet(Vec<Topic>);

impl TopicSet {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.0.iter()
    }

    pub(crate) fn contains(&self, topic: &Topic) -> bool {
        self.0.binary_search(topic).is_ok()
    }

    /// Whether a publication on `channel` belongs to one of the topics.
    pub(crate) fn matches(&self, channel: &Channel) -> bool {
        if self.contains(&Topic::Channel(channel.clone())) {
            return true;
        }
        let patterns = self.0.partition_point(|topic| !topic.is_pattern());
        self.0[patterns..].iter().any(|pattern| pattern.matches(channel.as_str()))
    }

    /// Whether the topic was not there.
    pub(crate) fn insert(&mut self, topic: Topic) -> bool {
        let Err(place) = self.0.binary_search(&topic) else { return false };
        if self.0.len() == self.0.capacity() {
            // Most sessions have one subscription or two; Vec's own first step is four.
            self.0.reserve_exact((self.0.len() / 2).max(1));
        }
        self.0.insert(place, topic);
        true
    }

    /// Whether the topic was there.
    pub(crate) fn remove(&mut self, topic: &Topic) -> bool {
        let Ok(place) = self.0.binary_search(topic) else { return false };
        self.0.remove(place);
        self.give_back();
        true
    }

    /// Takes out, in order, those that `leave` says.
    pub(crate) fn extract(&mut self, leave: impl Fn(&Topic) -> bool) -> Vec<Topic> {
        let gone: Vec<Topic> = self.0.extract_if(.., |topic| leave(topic)).collect();
        self.give_back();
        gone
    }

    fn give_back(&mut self) {
        if self.0.len() <= self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() + self.0.len() / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::parse(name).unwrap()
    }

    #[test]
    fn a_topic_is_there_once_and_in_order() {
        let mut set = TopicSet::default();
        for name in ["b", "a:*", "c", "a", "b"] {
            set.insert(topic(name));
        }
        assert!(!set.insert(topic("c")));
        assert_eq!(set.iter().map(Topic::as_str).collect::<Vec<_>>(), ["a", "b", "c", "a:*"]);
        assert!(set.contains(&topic("a:*")) && !set.contains(&topic("a:b")));
        assert!(set.remove(&topic("b")) && !set.remove(&topic("b")));
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn a_channel_matches_by_its_name_or_a_pattern() {
        let mut set = TopicSet::default();
        set.insert(topic("a:x"));
        set.insert(topic("b:**"));
        let matches = |name| set.matches(&Channel::parse(name).unwrap());
        assert!(matches("a:x") && matches("b:x:y"));
        assert!(!matches("a:y") && !matches("b"));
    }

    #[test]
    fn extracting_leaves_the_others() {
        let mut set = TopicSet::default();
        for name in ["a:1", "b:1", "a:2", "a:*"] {
            set.insert(topic(name));
        }
        assert_eq!(set.extract(|topic| topic.namespace() == "a"), [topic("a:1"), topic("a:2"), topic("a:*")]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [&topic("b:1")]);
    }

    #[test]
    fn memory_is_as_much_as_there_are_topics() {
        let mut set = TopicSet::default();
        set.insert(topic("a"));
        assert_eq!(set.0.capacity(), 1);
        for number in 0..1_000 {
            set.insert(topic(&format!("a:{number}")));
        }
        assert!(set.0.capacity() <= 1_502, "{}", set.0.capacity());
        for number in 0..1_000 {
            set.remove(&topic(&format!("a:{number}")));
        }
        assert!(set.0.capacity() <= 4, "{}", set.0.capacity());
        set.remove(&topic("a"));
        assert_eq!(set.0.capacity(), 0);
    }
}
