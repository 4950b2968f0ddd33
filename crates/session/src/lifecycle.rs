//! What services are told of clients.

/// A set of lifecycle events that are told to services, on `rt.event.{tenant}.{kind}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LifecycleEvents(u8);

impl LifecycleEvents {
    /// None.
    pub const NONE: Self = Self(0);
    /// A session has begun. Of the node, not of a namespace.
    pub const CONNECTED: Self = Self(1);
    /// A session has ended. Of the node, not of a namespace.
    pub const DISCONNECTED: Self = Self(2);
    /// A session subscribed to a channel.
    pub const SUBSCRIBED: Self = Self(4);
    /// A session's subscription to a channel ended.
    pub const UNSUBSCRIBED: Self = Self(8);
    /// Somebody is on a channel where nobody was.
    pub const OCCUPIED: Self = Self(16);
    /// Nobody is on a channel any more.
    pub const VACATED: Self = Self(32);

    /// The words of the configuration, which are the kinds too.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("connected", Self::CONNECTED),
        ("disconnected", Self::DISCONNECTED),
        ("subscribed", Self::SUBSCRIBED),
        ("unsubscribed", Self::UNSUBSCRIBED),
        ("occupied", Self::OCCUPIED),
        ("vacated", Self::VACATED),
    ];

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set for one word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, event)| *event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_an_event_of_its_own() {
        let mut all = LifecycleEvents::NONE;
        assert!(all.is_empty());
        for (word, event) in LifecycleEvents::WORDS {
            assert_eq!(LifecycleEvents::from_word(word), Some(event));
            assert!(!all.contains(event), "{word}");
            all = all.union(event);
        }
        assert!(all.contains(LifecycleEvents::CONNECTED.union(LifecycleEvents::VACATED)));
        assert_eq!(LifecycleEvents::from_word("gone"), None);
    }
}
